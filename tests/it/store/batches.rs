//! Operations that share a commit and nothing else.

use drydock::error::{Error, Reason};
use drydock::model::slot::Slot;
use futures::future::join_all;

use super::ground::{Ground, lease};
use crate::queue::kit::eventually;

pub(super) async fn a_failing_operation_leaves_the_others_of_its_batch_committed(ground: Ground) {
    let holder: drydock::model::id::Subject = lease().id.into();
    let operation = |number: i64| {
        let holder = holder.clone();
        ground.store.write(move |tx| {
            let holder = holder.clone();
            Box::pin(async move {
                tx.take_slots(&holder, 1, &[Slot { scope: "a".to_owned(), place: number }]).await?;
                if number % 7 == 3 {
                    return Err(Error::new(Reason::Internal, format!("no {number}")));
                }
                Ok(number)
            })
        })
    };
    let results = join_all((0..200).map(operation)).await;
    for (number, result) in (0_i64..).zip(results) {
        if number % 7 == 3 {
            assert_eq!(result.unwrap_err().message, format!("no {number}"));
        } else {
            assert_eq!(result.unwrap(), number);
        }
    }
    let written: Vec<String> = ground.store.slots().await.unwrap().into_iter().map(|(key, _)| key).collect();
    let expected: Vec<String> = (0..200).filter(|number| number % 7 != 3).map(|number| format!("a/{number}")).collect();
    assert_eq!(written, expected);
}

pub(super) async fn an_operation_that_panics_is_an_error_of_its_caller_alone(ground: Ground) {
    let lease = lease();
    let id = lease.id.clone();
    let panics = ground.store.write::<(), _>(move |tx| {
        let lease = lease.clone();
        Box::pin(async move {
            tx.insert_lease(&lease).await?;
            panic!("a bug in here");
        })
    });
    let others = join_all((0..20).map(|_| async { ground.insert(&super::ground::lease()).await }));
    let (panicked, others) = tokio::join!(panics, others);
    let error = panicked.unwrap_err();
    assert_eq!(error.reason, Reason::Internal);
    assert!(error.message.contains("a bug in here"), "{error}");
    assert!(ground.store.find_lease(&id).await.unwrap().is_none());
    for other in others {
        assert!(ground.store.find_lease(&other.id).await.unwrap().is_some());
    }
    let at_once = ground.store.write::<(), _>(|_| panic!("before there is a future")).await.unwrap_err();
    assert!(at_once.message.contains("before there is a future"), "{at_once}");
    ground.insert(&super::ground::lease()).await;
}

pub(super) async fn a_caller_that_leaves_takes_nothing_back(ground: Ground) {
    let store = ground.store.clone();
    let lease = lease();
    let id = lease.id.clone();
    let (begun, mut has_begun) = tokio::sync::mpsc::unbounded_channel();
    let (go_on, going) = tokio::sync::watch::channel(false);
    let call = tokio::spawn(async move {
        store
            .write(move |tx| {
                let (lease, begun, mut going) = (lease.clone(), begun.clone(), going.clone());
                Box::pin(async move {
                    let _ = begun.send(());
                    going.wait_for(|go| *go).await.map_err(|e| Error::internal("the test has ended", e))?;
                    tx.insert_lease(&lease).await
                })
            })
            .await
    });
    has_begun.recv().await.unwrap();
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
    go_on.send(true).unwrap();
    eventually("it is written all the same", async || ground.store.find_lease(&id).await.unwrap()).await;
}

pub(super) async fn a_look_that_writes_leaves_nothing(ground: Ground) {
    let wanted = lease();
    let id = wanted.id.clone();
    let look = ground.store.look(move |tx| {
        let wanted = wanted.clone();
        Box::pin(async move { tx.insert_lease(&wanted).await })
    });
    let beside = lease();
    let (look, other) = tokio::join!(look, ground.insert(&beside));
    assert_eq!(look.unwrap_err().reason, Reason::Internal);
    assert!(ground.store.find_lease(&id).await.unwrap().is_none());
    assert!(ground.store.find_lease(&other.id).await.unwrap().is_some());
}
