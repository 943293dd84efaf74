//! What comes late in the name of a lease that has ended: the machine refuses it, and nothing of it is to be seen.

use std::path::Path;
use std::time::Duration;

use drydock::error::{Error, Reason};
use drydock::host::fence::Fence;
use drydock::host::{Command, Place, Process};
use drydock::interface::filesystem::files;
use tokio::time::timeout;

use super::{Machine, Shell, Yard, everywhere, sshd};
use crate::place::{argv, lives};
use crate::queue::kit::PATIENCE;

everywhere!(what_comes_late_is_let_in_nowhere, who_is_let_in_while_it_is_fenced_off_is_found);

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
