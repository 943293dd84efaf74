//! What the scheduler calls: by subject and state to the step that is next.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use super::Engine;
use super::allocate::Allocation;
use super::courtesy::Courtesy;
use crate::allocator::Rules;
use crate::blueprint::{DAEMON_FACT, Registry};
use crate::clock::{Micros, micros};
use crate::error::Result;
use crate::model::id::{BlueprintId, Subject};
use crate::model::task::{MAX_FAILURES, backoff};
use crate::model::{Blueprint, Kind, LeaseSpec, LeaseState, ResourceState, Shares, StringMap};
use crate::scheduler::Steps;
use crate::store::{Along, Baton, Claim, Committed, Next, Scope, Tx};

/// The engine's side of the scheduler.
pub(super) struct EngineSteps(pub(super) Arc<Engine>);

#[async_trait]
impl Steps for EngineSteps {
    async fn step(&self, claim: &Claim, next: Option<Scope>, lost: CancellationToken) -> Result<Committed> {
        let outcome = match &claim.subject {
            Subject::Lease(id) => self.0.step_lease(claim, id, next, lost).await,
            Subject::Resource(id) => self.0.step_resource(claim, id, next, lost).await,
            Subject::Blueprint(id) => self.0.step_blueprint(claim, id, next).await,
        };
        match outcome.as_ref().err().and_then(|error| error.metadata.get(DAEMON_FACT)) {
            Some(home) => {
                self.0.store.hand_over(claim, home).await?;
                Ok(Committed::Done(None))
            }
            None => outcome,
        }
    }

    async fn stumble(&self, claim: &Claim, error: &str, panicked: bool) -> Result<()> {
        let (failures, error, subject) = (claim.failures, error.to_owned(), claim.subject.clone());
        let breaks = panicked && failures + 1 >= MAX_FAILURES;
        self.0
            .store
            .commit_step(claim, None, move |tx| {
                let (error, subject) = (error.clone(), subject.clone());
                Box::pin(async move {
                    if breaks {
                        break_subject(tx, subject, "BUILD_FAILED", &error).await?;
                    }
                    Ok((retry(tx, failures, error), Baton::Pass))
                })
            })
            .await
            .map(|_| ())
    }

    async fn poisoned(&self, subject: &Subject) -> Result<()> {
        let subject = subject.clone();
        let message = "its task was at work each time that its daemon died, too often; `drydock task retry` gives it another life";
        self.0.store.write(move |tx| Box::pin(break_subject(tx, subject.clone(), "POISONED", message))).await
    }
}

/// Allocation is decided and written in one transaction, which may be that of the step before.
pub(super) struct Allocations(pub(super) KindRules);

#[async_trait]
impl Along for Allocations {
    async fn takes(&self, tx: &mut Tx, subject: &Subject) -> Result<bool> {
        let Subject::Lease(id) = subject else { return Ok(false) };
        let Some(lease) = tx.find_lease(id).await? else { return Ok(false) };
        // Of another pool than the one that is held it is left to whoever comes with free hands: else two who have a pool each
        // would wait for the other's.
        Ok(lease.state == LeaseState::Pending && tx.may_take_pool(&lease.spec.resource_type))
    }

    async fn step(&self, tx: &mut Tx, claim: &Claim) -> Result<(Next, Baton)> {
        let Subject::Lease(id) = &claim.subject else { return Ok((Next::Again, Baton::Pass)) };
        let allocation = Allocation { rules: self.0.clone(), worker: claim.worker.clone() };
        allocation.step(tx, id).await
    }
}

/// A step that failed is tried again after a while with full jitter.
pub(super) fn retry(tx: &Tx, failures: i64, error: String) -> Next {
    Next::Retry { waits: Vec::new(), until: later(tx, failures), error }
}

pub(super) fn later(tx: &Tx, failures: i64) -> Micros {
    tx.now() + micros(backoff(failures, fastrand::f64()))
}

async fn break_subject(tx: &mut Tx, subject: Subject, reason: &str, message: &str) -> Result<()> {
    match subject {
        Subject::Lease(id) => {
            let Some(before) = tx.find_lease(&id).await? else { return Ok(()) };
            if before.state.is_live() {
                super::lease::end(tx, &before, LeaseState::Broken, reason, message, "drydock").await?;
            }
        }
        Subject::Resource(id) => {
            let Some(before) = tx.find_resource(&id).await? else { return Ok(()) };
            if before.state.is_live() {
                super::resource::end(tx, &before, ResourceState::Broken, reason, message, true).await?;
            }
        }
        Subject::Blueprint(_) => {}
    }
    Ok(())
}

/// The kinds and shares, as the allocator knows them.
#[derive(Clone)]
pub(super) struct KindRules {
    pub(super) registry: Registry,
    pub(super) shares: Arc<Shares>,
    pub(super) courtesy: Arc<Courtesy>,
    /// What blueprints said of attributes: a decision asks for each who waits and each that there is, and some read a whole document
    /// to answer.
    asked: Arc<Mutex<Asked>>,
}

/// By blueprint, with its version: attributes, and what it said.
type Asked = HashMap<BlueprintId, (i64, BTreeMap<StringMap, Result<(), String>>)>;
/// Answers that are kept of one blueprint.
const KEPT: usize = 256;

impl KindRules {
    pub(super) fn new(registry: Registry, shares: Arc<Shares>, courtesy: Arc<Courtesy>) -> Self {
        Self { registry, shares, courtesy, asked: Arc::default() }
    }
}

impl Rules for KindRules {
    fn kind(&self, name: &str) -> Option<&'static Kind> {
        self.registry.find(name).map(|kind| kind.describe())
    }

    fn admits(&self, blueprint: &Blueprint, spec: &LeaseSpec) -> Result<(), String> {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let (version, said) = asked.entry(blueprint.id.clone()).or_default();
        if *version != blueprint.version || said.len() > KEPT {
            *version = blueprint.version;
            said.clear();
        }
        if let Some(answer) = said.get(&spec.attributes) {
            return answer.clone();
        }
        let Some(kind) = self.registry.find(&blueprint.kind) else {
            return Err(format!("no kind {:?}", blueprint.kind));
        };
        let answer = kind.admit(&blueprint.config, &spec.attributes).map(|_| ()).map_err(|error| error.message);
        said.insert(spec.attributes.clone(), answer.clone());
        answer
    }

    fn shares(&self) -> &Shares {
        &self.shares
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use serde_json::{Value, json};

    use super::*;
    use crate::blueprint::{Blueprint as KindOf, Context, Endpoint, Step, storage};
    use crate::model::{Breaker, Limits};

    /// Counts what it is asked.
    struct Counting(Arc<AtomicUsize>);

    #[async_trait]
    impl KindOf for Counting {
        fn describe(&self) -> &'static Kind {
            &storage::KIND
        }

        fn admit(&self, _config: &Value, attributes: &StringMap) -> Result<StringMap> {
            self.0.fetch_add(1, Ordering::Relaxed);
            Ok(attributes.clone())
        }

        async fn build(&self, _ctx: &Context) -> Step {
            Step::done()
        }

        async fn destroy(&self, _ctx: &Context) -> Step {
            Step::done()
        }

        fn endpoint(&self, _ctx: &Context, _interface: &str) -> Option<Endpoint> {
            None
        }
    }

    #[test]
    fn a_blueprint_is_asked_once_for_the_same_attributes() {
        let asked = Arc::new(AtomicUsize::new(0));
        let registry = Registry::new(vec![Arc::new(Counting(Arc::clone(&asked)))]);
        let rules = KindRules::new(registry, Arc::default(), Arc::default());
        let mut blueprint = Blueprint {
            id: BlueprintId::new(0),
            name: "one".to_owned(),
            kind: storage::KIND.kind.to_owned(),
            resource_type: "storage".to_owned(),
            config: json!({}),
            labels: StringMap::new(),
            enabled: true,
            limits: Limits::default(),
            breaker: Breaker::default(),
            create_time: 0,
            update_time: 0,
            version: 1,
        };
        let big = LeaseSpec { attributes: [("quota".to_owned(), "1GiB".to_owned())].into(), ..LeaseSpec::default() };
        for _ in 0..9 {
            assert_eq!(rules.admits(&blueprint, &LeaseSpec::default()), Ok(()));
            assert_eq!(rules.clone().admits(&blueprint, &big), Ok(()));
        }
        assert_eq!(asked.load(Ordering::Relaxed), 2);
        blueprint.version += 1;
        assert_eq!(rules.admits(&blueprint, &big), Ok(()));
        assert_eq!(asked.load(Ordering::Relaxed), 3, "it may say something else now");
    }
}
