//! What the scheduler calls: by subject and state to the step that is next.

use std::sync::Arc;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use super::Engine;
use super::narrate::Told;
use crate::allocator::Rules;
use crate::blueprint::Registry;
use crate::clock::{Micros, micros};
use crate::error::Result;
use crate::model::id::Subject;
use crate::model::task::backoff;
use crate::model::{Blueprint, Kind, LeaseSpec, LeaseState, ResourceState};
use crate::scheduler::Steps;
use crate::store::{Baton, Claim, Committed, Next, Scope, Tx};

/// The engine's side of the scheduler.
pub(super) struct EngineSteps(pub(super) Arc<Engine>);

#[async_trait]
impl Steps for EngineSteps {
    async fn step(&self, claim: &Claim, next: Option<Scope>, lost: CancellationToken) -> Result<Committed> {
        match &claim.subject {
            Subject::Lease(id) => self.0.step_lease(claim, id, next, lost).await,
            Subject::Resource(id) => self.0.step_resource(claim, id, next, lost).await,
        }
    }

    async fn stumble(&self, claim: &Claim, error: &str) -> Result<()> {
        let (failures, error) = (claim.failures, error.to_owned());
        self.0
            .store
            .commit_step(claim, None, move |tx| {
                let error = error.clone();
                Box::pin(async move { Ok((retry(tx, failures, error), Baton::Pass)) })
            })
            .await
            .map(|_| ())
    }

    async fn poisoned(&self, subject: &Subject) -> Result<()> {
        let subject = subject.clone();
        self.0.store.write(move |tx| Box::pin(break_poisoned(tx, subject.clone()))).await
    }
}

/// A step that failed is tried again after a while with full jitter.
pub(super) fn retry(tx: &Tx, failures: i64, error: String) -> Next {
    Next::Retry { waits: Vec::new(), until: later(tx, failures), error }
}

pub(super) fn later(tx: &Tx, failures: i64) -> Micros {
    tx.now() + micros(backoff(failures, fastrand::f64()))
}

async fn break_poisoned(tx: &mut Tx, subject: Subject) -> Result<()> {
    let message = "its task has killed its daemon 5 times; `drydock task retry` gives it another life";
    match subject {
        Subject::Lease(id) => {
            let Some(before) = tx.find_lease(&id).await? else { return Ok(()) };
            if before.state.is_live() {
                super::lease::end(tx, &before, LeaseState::Broken, "POISONED", message, "drydock").await?;
            }
        }
        Subject::Resource(id) => {
            let Some(before) = tx.find_resource(&id).await? else { return Ok(()) };
            if before.state.is_live() {
                let mut after = before.clone();
                after.state = ResourceState::Broken;
                after.state_reason = "POISONED".to_owned();
                after.state_message = message.to_owned();
                after.end_time = Some(tx.now());
                after.permanent = true;
                tx.put_resource(&before, &after).await?;
                tx.event(Told::by_drydock("resource.broken", message).because("POISONED").of_resource(&after, &[]))
                    .await?;
            }
        }
    }
    Ok(())
}

/// The kinds, as the allocator knows them.
pub(super) struct KindRules(pub(super) Registry);

impl Rules for KindRules {
    fn kind(&self, name: &str) -> Option<&'static Kind> {
        self.0.find(name).map(|kind| kind.describe())
    }

    fn admits(&self, blueprint: &Blueprint, spec: &LeaseSpec) -> Result<(), String> {
        let Some(kind) = self.0.find(&blueprint.kind) else { return Err(format!("no kind {:?}", blueprint.kind)) };
        kind.admit(&blueprint.config, &spec.attributes).map(|_| ()).map_err(|error| error.message)
    }
}
