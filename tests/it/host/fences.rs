//! What comes late in the name of a lease that has ended: the machine refuses it, and nothing of it is to be seen.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;

use drydock::error::{Error, Reason};
use drydock::host::fence::Fence;
use drydock::host::guard::Guard;
use drydock::host::{Command, Place, Process};
use drydock::interface::filesystem::{Begun, Filesystem, Finish, WriteStart, files};
use drydock::model::id::ResourceId;
use tokio::time::timeout;

use super::{Machine, Shell, Yard, everywhere, sshd};
use crate::place::{argv, lives};
use crate::queue::kit::{PATIENCE, eventually};

everywhere!(
    what_comes_late_is_let_in_nowhere,
    who_is_let_in_while_it_is_fenced_off_is_found,
    what_is_on_a_machine_is_not_changed_late,
    files_are_not_changed_late,
    a_write_meets_a_fence_and_is_whole_or_not_there,
    who_takes_a_step_over_shuts_the_one_before_out,
    what_is_being_launched_is_waited_for,
);

fn fence(yard: &Yard, epoch: i64) -> Fence {
    Fence { holder: yard.lease.clone(), epoch }
}

fn behind(yard: &Yard, epoch: i64) -> Place {
    yard.place.clone().behind(fence(yard, epoch))
}

fn command(yard: &Yard, words: &[&str], cwd: &Path) -> Command {
    let argv = words.iter().map(|word| (*word).to_owned()).collect();
    Command { argv, cwd: cwd.to_owned(), lease_id: yard.lease.clone(), ..Command::default() }
}

async fn clean_up(yard: &Yard, epoch: i64) {
    yard.host.fence_off(&fence(yard, epoch)).await.unwrap();
    yard.host.end_strays(&yard.lease).await.unwrap();
    yard.host.remove_folder(&yard.place.root).await.unwrap();
}

fn refused<T>(what: Result<T, Error>) {
    let error = what.map(drop).unwrap_err();
    assert_eq!(error.reason, Reason::LeaseNotActive, "{error}");
}

async fn exec(yard: &Yard, place: Place) -> Result<(), Error> {
    let yard =
        Yard { place, host: yard.host.clone(), lease: yard.lease.clone(), data: tempfile::tempdir().unwrap(), ..*yard };
    let execution = yard.exec(argv(&["touch", "here"]), None).await?;
    timeout(PATIENCE, crate::place::listen(execution)).await.unwrap();
    Ok(())
}

async fn what_comes_late_is_let_in_nowhere(yard: Yard) {
    let root = &yard.place.root;
    let beside = yard.data.path().join("beside");
    exec(&yard, behind(&yard, 1)).await.unwrap();
    assert!(root.join("here").exists());
    clean_up(&yard, 1).await;

    let late = behind(&yard, 1);
    refused(exec(&yard, late.clone()).await);
    refused(files(&late).await);
    refused(late.host.make_folder(root).await);
    let touch = command(&yard, &["touch", &beside.to_string_lossy()], Path::new("/"));
    refused(late.host.spawn(touch.clone()).await);
    refused(late.host.launch(touch.clone(), &yard.data.path().join("log")).await);
    // Not even in the name of another lease that goes by way of it.
    let through = late.clone().behind(Fence { holder: "lease_z".to_owned(), epoch: 1 });
    refused(through.host.spawn(touch.clone()).await);
    assert!(!root.exists() && !beside.exists());

    // Acquired anew, it comes in again; and a late clean-up of the epoch before takes nothing away.
    exec(&yard, behind(&yard, 2)).await.unwrap();
    yard.host.fence_off(&fence(&yard, 1)).await.unwrap();
    exec(&yard, behind(&yard, 2)).await.unwrap();
    assert!(root.join("here").exists());
    refused(late.host.spawn(touch).await);
    clean_up(&yard, 2).await;
    refused(exec(&yard, behind(&yard, 2)).await);
}

/// Whichever of the two comes first: there is no gap between them.
async fn who_is_let_in_while_it_is_fenced_off_is_found(yard: Yard) {
    for epoch in 1..=4 {
        let place = behind(&yard, epoch);
        let sleep = command(&yard, &["sleep", "1000"], Path::new("/"));
        place.host.make_folder(&yard.place.root).await.unwrap();
        // Again and again until it is refused: what is let in last comes close to the clean-up.
        let start = async || {
            let mut let_in: Vec<Process> = Vec::new();
            loop {
                match place.host.spawn(sleep.clone()).await {
                    Ok(process) => let_in.push(process),
                    Err(error) => {
                        assert_eq!(error.reason, Reason::LeaseNotActive, "{error}");
                        return let_in;
                    }
                }
                assert!(let_in.len() < 100, "it is never refused");
                // A start on this machine waits for nothing: the others shall have their turn.
                tokio::task::yield_now().await;
            }
        };
        let (one, two, ()) = tokio::join!(start(), start(), clean_up(&yard, epoch));
        let let_in: Vec<Process> = one.into_iter().chain(two).collect();
        for process in &let_in {
            let ended = timeout(Duration::from_secs(20), process.control.wait()).await;
            assert!(ended.is_ok(), "{} outlived the clean-up", process.pid);
            assert!(!lives(i32::try_from(process.pid).unwrap()));
        }
        assert!(!yard.place.root.exists());
    }
}

/// Those that go by way of a script, and by the keeper's.
async fn what_is_on_a_machine_is_not_changed_late(yard: Yard) {
    // Of nobody else on this machine.
    let owner = ResourceId::new(1).to_string();
    let folder = yard.host.data_dir().join("resources/site.httpd");
    let (old, new) = (behind(&yard, 1), behind(&yard, 2));
    new.host.make_folder(&folder).await.unwrap();
    let (site, long) = (folder.join("site.json"), "x".repeat(20_000));
    old.host.write_text(&site, "one").await.unwrap();
    let server = Command { lease_id: owner.clone(), ..command(&yard, &["sleep", "1000"], Path::new("/")) };
    let pid = new.host.launch(server, &folder.join("log")).await.unwrap();
    yard.host.fence_off(&fence(&yard, 1)).await.unwrap();

    refused(old.host.write_text(&site, "two").await);
    refused(old.host.write_text(&site, &long).await);
    refused(old.host.stop(pid, &owner, Duration::ZERO).await);
    refused(old.host.end_strays(&owner).await);
    refused(old.host.remove_folder(&folder).await);
    assert!(new.host.is_running(pid, &owner).await);
    assert_eq!(old.host.read_text(&site).await.unwrap().as_deref(), Some("one"), "reading is nobody's loss");
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 2, "a temporary file is left");

    new.host.write_text(&site, &long).await.unwrap();
    assert_eq!(new.host.read_text(&site).await.unwrap(), Some(long));
    new.host.stop(pid, &owner, Duration::ZERO).await.unwrap();
    new.host.end_strays(&owner).await.unwrap();
    new.host.remove_folder(&folder).await.unwrap();
    assert!(!lives(i32::try_from(pid).unwrap()) && !folder.exists());
}

/// A folder that stays when its lease goes, as a webroot's does, and calls that were under way.
async fn files_are_not_changed_late(yard: Yard) {
    let (old, new) = (behind(&yard, 1), behind(&yard, 2));
    let late = match files(&old).await {
        Err(error) if error.reason == Reason::InterfaceNotSupported => return,
        files => files.unwrap(),
    };
    let filesystem = Filesystem::default();
    let begin = async |place: &Place, path: &str| {
        let start = WriteStart { lease_id: yard.lease.clone(), path: path.into(), ..WriteStart::default() };
        match filesystem.begin(place, start).await.unwrap() {
            Begun::Open(upload) => upload,
            Begun::Complete(_) => panic!("it was not begun"),
        }
    };
    let mut done = begin(&old, "kept").await;
    done.write(0, b"first").await.unwrap();
    filesystem.finish(done, &Finish::default()).await.unwrap();
    late.make_directory(Path::new("tree/below"), 0o755, true).await.unwrap();
    let mut under_way = begin(&old, "kept").await;
    under_way.write(0, b"late").await.unwrap();
    yard.host.fence_off(&fence(&yard, 1)).await.unwrap();

    refused(filesystem.finish(under_way, &Finish::default()).await);
    let path = Path::new;
    refused(late.rename(path("kept"), path("moved"), true).await);
    refused(late.rename(path("kept"), path("moved"), false).await);
    refused(late.remove(path("kept"), false).await);
    refused(late.remove(path("tree/below"), false).await);
    refused(late.remove(path("tree"), true).await);
    refused(late.make_directory(path("more"), 0o755, false).await);
    refused(late.make_directory(path("tree/more/still"), 0o755, true).await);
    refused(late.append(path("made"), 0).await.map(drop));
    assert_eq!(late.stat(path("kept"), false).await.unwrap().size, 5, "looking is nobody's loss");
    // Nothing is to be seen of them; what the upload had is gone soon, and by itself.
    let names = || {
        let mut names: Vec<_> =
            std::fs::read_dir(&yard.place.root).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort_unstable();
        names
    };
    eventually("the temporary file goes", async || (names() == ["kept", "tree"]).then_some(())).await;
    assert_eq!(std::fs::read(yard.path("kept")).unwrap(), b"first");
    assert!(yard.path("tree/below").is_dir());

    let mut next = begin(&new, "kept").await;
    next.write(0, b"second").await.unwrap();
    filesystem.finish(next, &Finish::default()).await.unwrap();
    assert_eq!(std::fs::read(yard.path("kept")).unwrap(), b"second");
    let files = files(&new).await.unwrap();
    files.rename(path("kept"), path("tree/kept"), true).await.unwrap();
    files.remove(path("tree"), true).await.unwrap();
    assert!(names().is_empty());
}

/// What was written before the fence is taken away behind it, and does not come back.
async fn a_write_meets_a_fence_and_is_whole_or_not_there(yard: Yard) {
    let folder = yard.host.data_dir().join("resources");
    yard.host.make_folder(&folder).await.unwrap();
    let file = folder.join("note");
    for epoch in 1..=4 {
        let place = behind(&yard, epoch);
        let write = async || {
            for round in 0..500 {
                match place.host.write_text(&file, &round.to_string()).await {
                    Ok(()) => tokio::task::yield_now().await,
                    Err(error) => return assert_eq!(error.reason, Reason::LeaseNotActive, "{error}"),
                }
            }
            panic!("it is never refused");
        };
        let fence_off = async {
            yard.host.fence_off(&fence(&yard, epoch)).await.unwrap();
            if let Err(error) = std::fs::remove_file(&file) {
                assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{error}");
            }
        };
        tokio::join!(write(), write(), fence_off);
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0);
    }
}

async fn who_takes_a_step_over_shuts_the_one_before_out(yard: Yard) {
    // Of nobody else on this machine.
    let (resource, another) = (ResourceId::new(1).to_string(), ResourceId::new(1).to_string());
    let old = Guard::of_step(&resource, 3, false).place(yard.place.clone());
    let new = Guard::of_step(&resource, 4, true).place(yard.place.clone());
    let other = Guard::of_step(&another, 1, true).place(yard.place.clone());
    let folder = yard.host.data_dir().join("resources/res_a");
    old.host.make_folder(&folder).await.unwrap();
    let sleep = command(&yard, &["sleep", "1000"], Path::new("/"));
    let begun = old.host.spawn(sleep.clone()).await.unwrap();
    let strange = other.host.spawn(sleep.clone()).await.unwrap();
    let server = old.host.launch(sleep.clone(), &folder.join("log")).await.unwrap();
    assert!(lives(i32::try_from(begun.pid).unwrap()));

    // Whatever it does first.
    new.host.write_text(&folder.join("note"), "new").await.unwrap();
    assert!(timeout(PATIENCE, begun.control.wait()).await.is_ok(), "the step before goes on");
    refused(old.host.write_text(&folder.join("note"), "old").await);
    refused(old.host.spawn(sleep.clone()).await);
    refused(old.host.launch(sleep.clone(), &folder.join("log")).await);
    refused(old.host.make_folder(&folder).await);
    refused(old.host.remove_folder(&folder).await);
    refused(old.host.end_strays(&yard.lease).await);
    refused(old.host.stop(server, &yard.lease, Duration::ZERO).await);
    assert_eq!(std::fs::read_to_string(folder.join("note")).unwrap(), "new");

    // It comes back to what is its own, and leaves the others alone.
    let own = new.host.spawn(sleep).await.unwrap();
    new.host.make_folder(&folder.join("more")).await.unwrap();
    for pid in [own.pid, strange.pid, server] {
        assert!(lives(i32::try_from(pid).unwrap()), "{pid}");
    }
    new.host.end_strays(&yard.lease).await.unwrap();
    new.host.remove_folder(&folder).await.unwrap();
    assert!(!lives(i32::try_from(server).unwrap()));
}

/// Where a launch stops between its look at the fence and its program's start: at a second fence, which is a pipe.
async fn what_is_being_launched_is_waited_for(yard: Yard) {
    if !yard.remote {
        // It holds a lock meanwhile.
        return;
    }
    let place = behind(&yard, 1).behind(Fence { holder: "lease_pipe".to_owned(), epoch: 1 });
    place.host.make_folder(&yard.place.root).await.unwrap();
    let pipe = yard.host.data_dir().join("fences/lease_pipe");
    std::fs::create_dir_all(pipe.parent().unwrap()).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    // Opened without waiting, which works as soon as somebody is about to read.
    let nonblock = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let reader = async |what| {
        let open = || std::fs::File::options().write(true).custom_flags(nonblock).open(&pipe).ok();
        eventually(what, async || open()).await
    };
    let sleep = command(&yard, &["sleep", "1000"], Path::new("/"));
    let log = yard.data.path().join("log");
    let launching = {
        let (host, sleep, log) = (place.host.clone(), sleep.clone(), log.clone());
        tokio::spawn(async move { host.launch(sleep, &log).await })
    };
    // The first look is whether it can be started at all.
    writeln!(reader("the first look").await, "0").unwrap();
    let launches = yard.host.data_dir().join("launches");
    eventually("it is about to start", async || {
        std::fs::read_dir(&launches).is_ok_and(|all| all.count() == 1).then_some(())
    })
    .await;
    let mut looks = reader("the second look").await;
    let (host, off) = (yard.host.clone(), fence(&yard, 1));
    let lease = yard.lease.clone();
    let mut cleaning = tokio::spawn(async move {
        host.fence_off(&off).await?;
        host.end_strays(&lease).await
    });
    let waited = timeout(Duration::from_millis(300), &mut cleaning).await;
    assert!(waited.is_err(), "it waits for nothing: {waited:?}");
    writeln!(looks, "0").unwrap();
    drop(looks);
    cleaning.await.unwrap().unwrap();
    let begun = timeout(PATIENCE, launching).await.unwrap().unwrap();
    if let Ok(pid) = begun {
        assert!(!lives(i32::try_from(pid).unwrap()), "{pid} outlived the clean-up");
    }
    assert_eq!(std::fs::read_dir(&launches).unwrap().count(), 0);
    refused(behind(&yard, 1).host.launch(sleep, &log).await);
}
