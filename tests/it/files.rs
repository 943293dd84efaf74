//! Files of a lease: paths that cannot leave the root, and writes that are seen whole or not at all.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::time::Duration;

use drydock::error::{Error, Reason};
use drydock::host::Host as _;
use drydock::host::files::EntryType;
use drydock::interface::command::Payload;
use drydock::interface::filesystem::{
    Begun, Filesystem, Finish, Upload, WriteStart, list, make_directory, read, remove, rename, stat,
};
use futures::{StreamExt as _, TryStreamExt as _};
use sha2::{Digest as _, Sha256};

use crate::place::{Ground, soon, until};

/// Each test on this machine's files as they are, over sftp, and over the sftp of a real sshd.
macro_rules! on_all {
    ($($test:ident),+ $(,)?) => {
        mod local {
            $(#[tokio::test] async fn $test() { super::$test(crate::place::Ground::new()).await; })+
        }
        mod sftp {
            $(#[tokio::test] async fn $test() { super::$test(crate::place::Ground::over_sftp()).await; })+
        }
        mod ssh {
            $(
                #[tokio::test]
                async fn $test() {
                    super::$test(crate::place::Ground::over_ssh().await).await;
                }
            )+
        }
    };
}

on_all!(
    a_write_is_seen_when_it_is_whole,
    what_is_not_finished_leaves_nothing,
    an_upload_goes_on_where_it_was,
    only_what_may_be_replaced_is_replaced,
    no_path_leaves_the_root,
    a_file_is_read_in_part_and_as_text,
    listings_go_by_name_page_by_page,
    directories_are_made_moved_and_removed,
    a_quota_holds_for_what_is_written,
);

fn to(ground: &Ground, path: &str) -> WriteStart {
    WriteStart { lease_id: ground.lease.clone(), path: path.into(), ..WriteStart::default() }
}

async fn open(files: &Filesystem, ground: &Ground, start: WriteStart) -> Result<Box<Upload>, Error> {
    match files.begin(&ground.place, start).await? {
        Begun::Open(upload) => Ok(upload),
        Begun::Complete(_) => panic!("complete already"),
    }
}

async fn write(files: &Filesystem, ground: &Ground, start: WriteStart, data: &[u8]) -> Result<String, Error> {
    let mut upload = open(files, ground, start).await?;
    upload.write(0, data).await?;
    Ok(files.finish(upload, &Finish::default()).await?.etag)
}

fn names(ground: &Ground) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(&ground.place.root)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn reason<T>(result: Result<T, Error>) -> Reason {
    result.err().expect("an error").reason
}

async fn a_write_is_seen_when_it_is_whole(ground: Ground) {
    let files = Filesystem::default();
    let mut upload = open(&files, &ground, to(&ground, "a")).await.unwrap();
    upload.write(0, b"one").await.unwrap();
    upload.write(3, b"two").await.unwrap();
    assert!(!ground.path("a").exists());
    let entry =
        files.finish(upload, &Finish { size: Some(6), sha256: Sha256::digest(b"onetwo").to_vec() }).await.unwrap();
    assert_eq!((entry.path.as_os_str(), entry.size, entry.mode), (OsStr::new("a"), 6, 0o644));
    assert_eq!(fs::read(ground.path("a")).unwrap(), b"onetwo");
    assert_eq!(names(&ground), ["a"]);

    // The old mode stays, or the one asked for comes.
    fs::set_permissions(ground.path("a"), fs::Permissions::from_mode(0o751)).unwrap();
    write(&files, &ground, to(&ground, "a"), b"x").await.unwrap();
    assert_eq!(stat(&ground.place, Path::new("a"), false).await.unwrap().mode, 0o751);
    write(&files, &ground, WriteStart { mode: 0o600, ..to(&ground, "a") }, b"y").await.unwrap();
    assert_eq!(stat(&ground.place, Path::new("a"), false).await.unwrap().mode, 0o600);
}

async fn what_is_not_finished_leaves_nothing(ground: Ground) {
    let files = Filesystem::default();
    let mut upload = open(&files, &ground, to(&ground, "a")).await.unwrap();
    upload.write(0, b"half").await.unwrap();
    assert_eq!(upload.suspend().await.unwrap(), 0);
    until("the end of the temporary file", || names(&ground).is_empty()).await;
    for finish in [Finish { size: Some(5), ..Finish::default() }, Finish { sha256: vec![0; 32], ..Finish::default() }] {
        let mut upload = open(&files, &ground, to(&ground, "a")).await.unwrap();
        upload.write(0, b"half").await.unwrap();
        assert_eq!(reason(files.finish(upload, &finish).await), Reason::ChecksumMismatch);
        until("the end of the temporary file", || names(&ground).is_empty()).await;
    }
}

async fn an_upload_goes_on_where_it_was(ground: Ground) {
    let start = || WriteStart { upload_id: "up-1".to_owned(), ..to(&ground, "d/a") };
    {
        let files = Filesystem::default();
        assert_eq!(reason(open(&files, &ground, start()).await), Reason::FileNotFound);
        assert_eq!(reason(files.progress(&ground.place, &ground.lease, "up-1").await), Reason::UploadNotFound);
        let begin = WriteStart { make_parents: true, ..start() };
        let mut upload = open(&files, &ground, begin).await.unwrap();
        upload.write(0, b"first ").await.unwrap();
        assert_eq!(upload.suspend().await.unwrap(), 6);
    }
    // As after a restart: nothing is remembered.
    let files = Filesystem::default();
    let progress = files.progress(&ground.place, &ground.lease, "up-1").await.unwrap();
    assert_eq!((progress.committed_size, progress.complete), (6, false));
    let mut upload = open(&files, &ground, start()).await.unwrap();
    let error = upload.write(0, b"again").await.unwrap_err();
    assert_eq!((error.reason, error.metadata["committed_size"].as_str()), (Reason::OffsetUnavailable, "6"));

    // The client comes back while the server still holds the old call.
    let newer = upload.newer();
    let (mut second, ()) = tokio::join!(async { open(&files, &ground, start()).await.unwrap() }, async {
        soon("the word to stop", newer.cancelled()).await;
        drop(upload);
    });
    assert_eq!(second.position(), 6);
    second.write(6, b"second").await.unwrap();
    let finish = Finish { size: Some(12), sha256: Sha256::digest(b"first second").to_vec() };
    files.finish(second, &finish).await.unwrap();
    assert_eq!(fs::read(ground.path("d/a")).unwrap(), b"first second");
    let progress = files.progress(&ground.place, &ground.lease, "up-1").await.unwrap();
    assert_eq!((progress.committed_size, progress.complete), (12, true));
    assert!(matches!(files.begin(&ground.place, start()).await.unwrap(), Begun::Complete(entry) if entry.size == 12));
    assert_eq!(
        reason(open(&files, &ground, WriteStart { path: "other".into(), ..start() }).await),
        Reason::InvalidArgument
    );
    for bad in ["a/b", "..\0", &"x".repeat(65)] {
        assert_eq!(reason(files.progress(&ground.place, &ground.lease, bad).await), Reason::InvalidArgument);
    }
}

async fn only_what_may_be_replaced_is_replaced(ground: Ground) {
    let files = Filesystem::default();
    let etag = write(&files, &ground, WriteStart { create_only: true, ..to(&ground, "a") }, b"1").await.unwrap();
    let again = WriteStart { create_only: true, ..to(&ground, "a") };
    assert_eq!(reason(write(&files, &ground, again, b"2").await), Reason::FileExists);
    let same = |etag: &str| WriteStart { if_etag: etag.to_owned(), ..to(&ground, "a") };
    let newer = write(&files, &ground, same(&etag), b"3").await.unwrap();
    assert_eq!(reason(write(&files, &ground, same(&etag), b"4").await), Reason::EtagMismatch);
    // Of two that began on the same version, one wins.
    let mut one = open(&files, &ground, same(&newer)).await.unwrap();
    let mut two = open(&files, &ground, same(&newer)).await.unwrap();
    one.write(0, b"one").await.unwrap();
    two.write(0, b"two").await.unwrap();
    let unchecked = Finish::default();
    let (one, two) = tokio::join!(files.finish(one, &unchecked), files.finish(two, &unchecked));
    assert_eq!(usize::from(one.is_ok()) + usize::from(two.is_ok()), 1);
    make_directory(&ground.place, Path::new("d"), 0, false).await.unwrap();
    assert_eq!(reason(write(&files, &ground, to(&ground, "d"), b"5").await), Reason::IsADirectory);
    assert_eq!(reason(write(&files, &ground, to(&ground, ""), b"6").await), Reason::InvalidArgument);
    assert_eq!(
        reason(write(&files, &ground, WriteStart { mode: 0o1777, ..to(&ground, "b") }, b"").await),
        Reason::InvalidArgument
    );
    // A link is replaced, wherever it leads.
    symlink("/etc/passwd", ground.path("link")).unwrap();
    write(&files, &ground, to(&ground, "link"), b"mine").await.unwrap();
    assert_eq!(fs::read(ground.path("link")).unwrap(), b"mine");
}

async fn no_path_leaves_the_root(ground: Ground) {
    let files = Filesystem::default();
    let place = &ground.place;
    write(&files, &ground, to(&ground, "in"), b"x").await.unwrap();
    fs::write(ground.place.root.with_file_name("secret"), "s").unwrap();
    symlink("../secret", ground.path("link")).unwrap();
    symlink("..", ground.path("up")).unwrap();
    symlink("/", ground.path("all")).unwrap();
    make_directory(place, Path::new("d"), 0, false).await.unwrap();
    assert!(stat(place, Path::new("d/../in"), false).await.is_ok());
    for path in [
        "..",
        "../secret",
        "/etc/passwd",
        "/",
        "d/../../secret",
        "link",
        "up/secret",
        "all/etc/passwd",
        "up",
        "d/../..",
    ] {
        let path = Path::new(path);
        assert_eq!(reason(stat(place, path, true).await), Reason::PathOutsideRoot, "{}", path.display());
        let ended = ground.ended.clone();
        let read = read(place, path, 0, 0, false, ended).await.map(|_| ());
        assert_eq!(reason(read), Reason::PathOutsideRoot, "{}", path.display());
    }
    for path in ["../new", "/tmp/new", "up/new", "all/tmp/new", "d/../../new"] {
        let start = WriteStart { make_parents: true, ..to(&ground, path) };
        assert_eq!(reason(write(&files, &ground, start, b"x").await), Reason::PathOutsideRoot, "{path}");
        let path = Path::new(path);
        assert_eq!(reason(make_directory(place, path, 0, true).await), Reason::PathOutsideRoot);
        assert_eq!(reason(rename(place, Path::new("in"), path, true).await), Reason::PathOutsideRoot);
        assert_eq!(reason(remove(place, path, true, false).await), Reason::PathOutsideRoot);
        assert_eq!(reason(list(place, path.parent().unwrap(), 1, None, 10).await), Reason::PathOutsideRoot);
    }
    assert_eq!(reason(stat(place, Path::new("a\0b"), false).await), Reason::InvalidArgument);
    let long = "x".repeat(300);
    assert_eq!(reason(stat(place, Path::new(&long), false).await), Reason::InvalidArgument);
    // What leads out can be seen and removed, not followed.
    let link = stat(place, Path::new("link"), false).await.unwrap();
    assert_eq!((link.kind, link.symlink_target.as_deref()), (EntryType::Symlink, Some(OsStr::new("../secret"))));
    remove(place, Path::new("all"), true, false).await.unwrap();
    assert!(Path::new("/etc/passwd").exists());
    for root in ["", ".", "d/.."] {
        assert_eq!(reason(remove(place, Path::new(root), true, false).await), Reason::InvalidArgument, "{root}");
    }
}

async fn a_file_is_read_in_part_and_as_text(ground: Ground) {
    let files = Filesystem::default();
    let data: Vec<u8> = (0..300_000_u32).map(|at| (at % 251) as u8).collect();
    write(&files, &ground, to(&ground, "a"), &data).await.unwrap();
    for (offset, length) in [(0, 0), (1, 0), (299_999, 0), (300_000, 0), (65_535, 2), (0, 300_000), (10, 1_000_000)] {
        let (entry, parts) =
            read(&ground.place, Path::new("a"), offset, length, false, ground.ended.clone()).await.unwrap();
        assert_eq!(entry.size, 300_000);
        let mut at = offset;
        let mut got = Vec::new();
        for part in parts.try_collect::<Vec<_>>().await.unwrap() {
            let Payload::Data(piece) = part.payload else { panic!("text was not asked for") };
            assert!(part.offset == at && !piece.is_empty() && piece.len() <= 65_536);
            at += piece.len() as u64;
            got.extend_from_slice(&piece);
        }
        let end = if length == 0 { 300_000 } else { (offset + length).min(300_000) };
        assert!(got == data[usize::try_from(offset).unwrap()..usize::try_from(end).unwrap()]);
    }
    let past = read(&ground.place, Path::new("a"), 300_001, 0, false, ground.ended.clone()).await.map(|_| ());
    assert_eq!(reason(past), Reason::OffsetUnavailable);
    let root = read(&ground.place, Path::new("."), 0, 0, false, ground.ended.clone()).await.map(|_| ());
    assert_eq!(reason(root), Reason::IsADirectory);
    rustix::fs::mknodat(rustix::fs::CWD, ground.path("fifo"), rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0)
        .unwrap();
    let fifo =
        soon("an answer", read(&ground.place, Path::new("fifo"), 0, 0, false, ground.ended.clone())).await.map(|_| ());
    assert_eq!(reason(fifo), Reason::InvalidArgument);

    let text = "ä€".repeat(30_000) + "\u{FFFD}";
    let mut raw = "ä€".repeat(30_000).into_bytes();
    raw.push(0xE2);
    fs::write(ground.path("text"), raw).unwrap();
    let (_, parts) = read(&ground.place, Path::new("text"), 0, 0, true, ground.ended.clone()).await.unwrap();
    let parts: Vec<_> = parts.try_collect().await.unwrap();
    let got: String = parts
        .into_iter()
        .map(|part| match part.payload {
            Payload::Text(text) => text,
            Payload::Data(_) => panic!("text was asked for"),
        })
        .collect();
    assert!(got == text);

    ground.ended.cancel();
    let (_, parts) = read(&ground.place, Path::new("a"), 0, 0, false, ground.ended.clone()).await.unwrap();
    assert_eq!(reason(Box::pin(parts).next().await.unwrap()), Reason::LeaseNotActive);
}

async fn listings_go_by_name_page_by_page(ground: Ground) {
    let place = &ground.place;
    assert!(list(place, Path::new(""), 0, None, 10).await.unwrap().is_empty());
    for folder in ["b", "b/c", "b/c/d"] {
        make_directory(place, Path::new(folder), 0, false).await.unwrap();
    }
    for file in ["a", "b/x", "b/c/y", "b/c/d/z", "e"] {
        fs::write(ground.path(file), file).unwrap();
    }
    fs::write(ground.place.root.join(OsStr::from_bytes(b"caf\xE9")), "").unwrap();
    let paths = async |depth, after: Option<&str>, limit| {
        let found = list(place, Path::new(""), depth, after.map(OsStr::new), limit).await.unwrap();
        found.iter().map(|entry| entry.path.to_string_lossy().into_owned()).collect::<Vec<_>>()
    };
    assert_eq!(paths(0, None, 10).await, ["a", "b", "caf\u{FFFD}", "e"]);
    assert_eq!(paths(2, None, 10).await, ["a", "b", "b/c", "b/x", "caf\u{FFFD}", "e"]);
    assert_eq!(paths(9, Some("b/c"), 3).await, ["b/c/d", "b/c/d/z", "b/c/y"]);
    let below = list(place, Path::new("b/c"), 1, None, 10).await.unwrap();
    assert_eq!(below.iter().map(|entry| entry.path.to_str().unwrap()).collect::<Vec<_>>(), ["b/c/d", "b/c/y"]);
    assert_eq!(reason(list(place, Path::new("a"), 1, None, 10).await), Reason::NotADirectory);
    assert_eq!(reason(list(place, Path::new("no"), 1, None, 10).await), Reason::FileNotFound);
    assert_eq!(reason(list(place, Path::new(""), 1000, None, 10).await), Reason::InvalidArgument);
}

async fn directories_are_made_moved_and_removed(ground: Ground) {
    let place = &ground.place;
    let path = Path::new;
    let made = make_directory(place, path("a/b/c"), 0o777, true).await.unwrap();
    assert_eq!((made.kind, made.mode), (EntryType::Directory, 0o777));
    make_directory(place, path("a/b/c"), 0, true).await.unwrap();
    assert_eq!(reason(make_directory(place, path("a/b/c"), 0, false).await), Reason::FileExists);
    assert_eq!(reason(make_directory(place, path("x/y"), 0, false).await), Reason::FileNotFound);
    fs::write(ground.path("f"), "f").unwrap();
    assert_eq!(reason(make_directory(place, path("f/y"), 0, true).await), Reason::NotADirectory);
    assert_eq!(reason(remove(place, path("a"), false, false).await), Reason::DirectoryNotEmpty);
    assert_eq!(reason(remove(place, path("no"), false, false).await), Reason::FileNotFound);
    remove(place, path("no"), false, true).await.unwrap();
    assert_eq!(reason(rename(place, path("f"), path("a"), false).await), Reason::FileExists);
    assert_eq!(reason(rename(place, path("f"), path("a"), true).await), Reason::IsADirectory);
    assert_eq!(reason(rename(place, path("no"), path("g"), true).await), Reason::FileNotFound);
    assert_eq!(reason(rename(place, path("a"), path("a/b/x"), true).await), Reason::InvalidArgument);
    assert_eq!(rename(place, path("f"), path("a/g"), false).await.unwrap().path, "a/g");
    for folder in ["a/b/c", "a/b", "a"] {
        fs::set_permissions(ground.path(folder), fs::Permissions::from_mode(0o500)).unwrap();
    }
    remove(place, path("a"), true, false).await.unwrap();
    assert!(names(&ground).is_empty());
}

async fn a_quota_holds_for_what_is_written(mut ground: Ground) {
    ground.place.quota = Some(1000);
    let files = Filesystem::default();
    write(&files, &ground, to(&ground, "a"), &[0; 600]).await.unwrap();
    assert_eq!(reason(write(&files, &ground, to(&ground, "b"), &[0; 401]).await), Reason::NoSpace);
    until("the end of the temporary file", || names(&ground) == ["a"]).await;
    // Two at once do not get past it either.
    let mut one = open(&files, &ground, to(&ground, "b")).await.unwrap();
    let mut two = open(&files, &ground, to(&ground, "c")).await.unwrap();
    one.write(0, &[0; 300]).await.unwrap();
    two.write(0, &[0; 300]).await.unwrap();
    let finish = Finish::default();
    let one = files.finish(one, &finish).await;
    let left = if one.is_ok() { 3 } else { 2 };
    until("the end of the temporary file", || names(&ground).len() == left).await;
    let two = files.finish(two, &finish).await;
    // Which of them depends on how far the other's bytes were.
    let (done, refused): (Vec<_>, Vec<_>) = [one, two].into_iter().partition(Result::is_ok);
    assert_eq!((done.len(), refused.len()), (1, 1));
    assert!(refused.into_iter().all(|refused| reason(refused) == Reason::NoSpace));
    until("the end of the temporary file", || names(&ground).len() == 2).await;
    assert_eq!(ground.host.used_bytes(&ground.place.root).await.unwrap(), 900);
}

#[tokio::test]
async fn the_hosts_own_files() {
    let ground = Ground::new();
    let host = &ground.host;
    let file = ground.data.path().join("state/note");
    host.make_folder(file.parent().unwrap()).await.unwrap();
    assert_eq!(host.read_text(&file).await.unwrap(), None);
    host.write_text(&file, "one").await.unwrap();
    host.write_text(&file, "two").await.unwrap();
    assert_eq!(host.read_text(&file).await.unwrap().as_deref(), Some("two"));
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(file.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o700);
    assert!(host.free_bytes(ground.data.path()).await.unwrap() > 0);
    assert_eq!(host.used_bytes(file.parent().unwrap()).await.unwrap(), 3);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    assert!(!host.port_is_free(listener.local_addr().unwrap().port()).await);
    host.remove_folder(file.parent().unwrap()).await.unwrap();
    assert!(!file.exists());
    assert!(tokio::time::timeout(Duration::from_secs(1), host.remove_folder(Path::new("/"))).await.unwrap().is_err());
}
