//! Drydock's own folders on a machine, and its ports.

use std::os::unix::fs::{PermissionsExt as _, symlink};

use drydock::error::Reason;

use super::{Machine, Shell, Yard, everywhere, sshd};

everywhere!(
    texts_come_back_as_they_were,
    what_cannot_be_read_or_written_is_told,
    read_only_trees_go_and_links_are_not_followed,
    what_is_not_below_the_data_folder_stays,
    bytes_are_counted,
    ports_that_listen_are_seen,
);

async fn texts_come_back_as_they_were(yard: Yard) {
    let folder = yard.host.data_dir().join("o'dd \"$x\" é\n*");
    yard.host.make_folder(&folder).await.unwrap();
    yard.host.make_folder(&folder).await.unwrap();
    assert_eq!(folder.metadata().unwrap().permissions().mode() & 0o777, 0o700);
    let file = folder.join("-n it's");
    assert_eq!(yard.host.read_text(&file).await.unwrap(), None);
    let long = "0123456789abcde\n".repeat(20_000);
    for text in ["", "x", "\n\n", "no end", "it's $x `y` \\ \\n %s\n", "ä€😀\u{1}\n", "a\0b", &long] {
        yard.host.write_text(&file, text).await.unwrap();
        assert_eq!(yard.host.read_text(&file).await.unwrap().as_deref(), Some(text));
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1, "nothing temporary is left");
    }
}

async fn what_cannot_be_read_or_written_is_told(yard: Yard) {
    let data = yard.host.data_dir();
    let folder = data.join("folder");
    yard.host.make_folder(&folder).await.unwrap();
    assert_eq!(yard.host.read_text(&folder).await.unwrap_err().reason, Reason::Internal);
    std::fs::write(folder.join("bytes"), [0xFF, 0xFE]).unwrap();
    assert_eq!(yard.host.read_text(&folder.join("bytes")).await.unwrap_err().reason, Reason::Internal);
    let missing = yard.host.write_text(&data.join("no/such"), "x").await.unwrap_err();
    assert_eq!(missing.reason, Reason::FileNotFound, "{missing}");
    let onto = yard.host.write_text(&folder, "x").await.unwrap_err();
    assert_eq!(onto.reason, Reason::IsADirectory, "{onto}");
    let below = yard.host.make_folder(&folder.join("bytes/x")).await.unwrap_err();
    assert_eq!(below.reason, Reason::NotADirectory, "{below}");
    let nowhere = yard.host.make_folder(std::path::Path::new("/proc/x")).await.unwrap_err();
    assert!(matches!(nowhere.reason, Reason::FileNotFound | Reason::PermissionDenied), "{nowhere}");
}

async fn read_only_trees_go_and_links_are_not_followed(yard: Yard) {
    let data = yard.host.data_dir();
    let precious = data.join("precious");
    yard.host.make_folder(&precious).await.unwrap();
    std::fs::write(precious.join("kept"), "x").unwrap();
    let lease = data.join("leases/a");
    std::fs::create_dir_all(lease.join("deep/er")).unwrap();
    std::fs::write(lease.join("deep/er/-f\n"), "x").unwrap();
    symlink(&precious, lease.join("deep/link")).unwrap();
    for folder in ["deep/er", "deep", ""] {
        std::fs::set_permissions(lease.join(folder), std::fs::Permissions::from_mode(0o500)).unwrap();
    }
    yard.host.remove_folder(&lease).await.unwrap();
    assert!(!lease.exists() && precious.join("kept").exists());
    yard.host.remove_folder(&lease).await.unwrap();
    yard.host.remove_folder(&data.join("never/was")).await.unwrap();
}

async fn what_is_not_below_the_data_folder_stays(yard: Yard) {
    let data = yard.host.data_dir().to_owned();
    yard.host.make_folder(&data).await.unwrap();
    for path in [data.clone(), data.join("../other"), "/".into(), "/no/such".into(), data.join("a/../..")] {
        assert_eq!(yard.host.remove_folder(&path).await.unwrap_err().reason, Reason::Internal, "{}", path.display());
    }
    let outside = tempfile::tempdir().unwrap();
    std::fs::create_dir(outside.path().join("x")).unwrap();
    symlink(outside.path(), data.join("way-out")).unwrap();
    yard.host.remove_folder(&data.join("way-out/x")).await.unwrap_err();
    assert!(outside.path().join("x").exists());
    yard.host.remove_folder(&data.join("way-out")).await.unwrap();
    assert!(outside.path().join("x").exists() && !data.join("way-out").exists());
}

async fn bytes_are_counted(yard: Yard) {
    let folder = yard.host.data_dir().join("counted");
    yard.host.make_folder(&folder.join("b c")).await.unwrap();
    assert_eq!(yard.host.used_bytes(&folder).await.unwrap(), 0);
    std::fs::write(folder.join("one"), vec![0; 100_000]).unwrap();
    std::fs::write(folder.join("b c/-two\n"), vec![0; 23]).unwrap();
    symlink("1234567", folder.join("link")).unwrap();
    assert_eq!(yard.host.used_bytes(&folder).await.unwrap(), 100_030);
    assert_eq!(yard.host.used_bytes(&folder.join("no")).await.unwrap_err().reason, Reason::Internal);
    assert!(yard.host.free_bytes(&folder).await.unwrap() > 1024 * 1024);
    assert_eq!(yard.host.free_bytes(&folder.join("no")).await.unwrap_err().reason, Reason::Internal);
}

async fn ports_that_listen_are_seen(yard: Yard) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    assert!(!yard.host.port_is_free(port).await);
    // The local host wants an answer in HTTP.
    assert_eq!(yard.host.answers("127.0.0.1", port).await, yard.remote);
    drop(listener);
    // A process that another test is just starting may hold it for a moment.
    let mut tick = tokio::time::interval(std::time::Duration::from_millis(5));
    crate::place::soon("the port's release", async {
        while !yard.host.port_is_free(port).await {
            tick.tick().await;
        }
    })
    .await;
    assert!(!yard.host.answers("127.0.0.1", port).await);
}
