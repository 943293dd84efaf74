//! Slots: the one arbiter.

use drydock::error::Reason;
use drydock::model::id::{LeaseId, Subject};
use drydock::model::slot::Slot;
use drydock::store::{Baton, Committed, Next};
use futures::future::join_all;

use super::ground::{Ground, lease};
use crate::queue::kit::NOON;

fn slot(scope: &str, place: i64) -> Slot {
    Slot { scope: scope.to_owned(), place }
}

fn holder() -> Subject {
    LeaseId::new(NOON).into()
}

async fn take(ground: &Ground, holder: &Subject, slots: &[Slot]) -> drydock::error::Result<()> {
    let (holder, slots) = (holder.clone(), slots.to_vec());
    ground
        .store
        .write(move |tx| {
            let (holder, slots) = (holder.clone(), slots.clone());
            Box::pin(async move { tx.take_slots(&holder, 1, &slots).await })
        })
        .await
}

pub(super) async fn a_slot_has_one_holder(ground: Ground) {
    let (one, two) = (holder(), holder());
    take(&ground, &one, &[slot("a", 0)]).await.unwrap();
    for rival in [&one, &two] {
        let refused = take(&ground, rival, &[slot("a", 0)]).await.unwrap_err();
        assert_eq!(refused.reason, Reason::EtagMismatch);
    }
    take(&ground, &two, &[slot("a", 1), slot("b", 0)]).await.unwrap();
    let all = ground.store.slots().await.unwrap();
    let expected = [("a/0", &one), ("a/1", &two), ("b/0", &two)];
    assert_eq!(all, expected.map(|(key, holder)| (key.to_owned(), holder.to_string())));
}

pub(super) async fn all_slots_or_none(ground: Ground) {
    let (one, two) = (holder(), holder());
    take(&ground, &one, &[slot("a", 1)]).await.unwrap();
    take(&ground, &two, &[slot("a", 0), slot("a", 1), slot("a", 2)]).await.unwrap_err();
    assert_eq!(ground.store.slots().await.unwrap(), [("a/1".to_owned(), one.to_string())]);
}

pub(super) async fn slots_go_back_by_holder_and_by_scope(ground: Ground) {
    let (one, two) = (holder(), holder());
    take(&ground, &one, &[slot("a", 0), slot("b", 0)]).await.unwrap();
    take(&ground, &two, &[slot("a", 1)]).await.unwrap();
    let of_one = one.clone();
    let freed = ground
        .store
        .write(move |tx| {
            let holder = of_one.clone();
            Box::pin(async move { tx.free_slots(&holder, Some("a")).await })
        })
        .await
        .unwrap();
    assert_eq!((freed, ground.store.slots_of(&one).await.unwrap()), (vec!["a".to_owned()], vec![slot("b", 0)]));
    let freed = ground
        .store
        .write(move |tx| {
            let holder = one.clone();
            Box::pin(async move { tx.free_slots(&holder, None).await })
        })
        .await
        .unwrap();
    assert_eq!(freed, ["b"]);
    assert_eq!(ground.store.slots().await.unwrap(), [("a/1".to_owned(), two.to_string())]);
}

pub(super) async fn a_lost_fence_takes_nothing(ground: Ground) {
    let lease = ground.insert(&lease()).await;
    let stale = ground.claim().await.unwrap();
    ground.store.reap(true).await.unwrap();
    let fresh = ground.claim().await.unwrap();
    assert!(fresh.attempt > stale.attempt);
    for (claim, expected) in [(&stale, Committed::FenceLost), (&fresh, Committed::Done(None))] {
        let before = lease.clone();
        let committed = ground
            .store
            .commit_step(claim, None, move |tx| {
                let lease = before.clone();
                Box::pin(async move {
                    tx.take_slots(&lease.id.clone().into(), 1, &[slot("a", 0)]).await?;
                    let before = tx.get_lease(&lease.id).await?;
                    let mut after = before.clone();
                    after.epoch += 1;
                    tx.put_lease(&before, &after).await?;
                    Ok((Next::Again, Baton::Pass))
                })
            })
            .await
            .unwrap();
        assert_eq!(committed, expected);
        let written = usize::from(expected != Committed::FenceLost);
        assert_eq!(ground.store.slots().await.unwrap().len(), written);
        let epoch = ground.store.find_lease(&lease.id).await.unwrap().unwrap().epoch;
        assert_eq!(epoch, i64::try_from(written).unwrap());
    }
}

pub(super) async fn the_last_place_goes_to_one_of_many(ground: Ground) {
    let rivals: Vec<Subject> = (0..100).map(|_| holder()).collect();
    let last = [slot("a", 0)];
    let taken = join_all(rivals.iter().map(|rival| take(&ground, rival, &last))).await;
    assert_eq!(taken.iter().filter(|result| result.is_ok()).count(), 1);
    let winner = rivals[taken.iter().position(Result::is_ok).unwrap()].to_string();
    assert_eq!(ground.store.slots().await.unwrap(), [("a/0".to_owned(), winner)]);
}
