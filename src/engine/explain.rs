//! Why a lease waits, or what would happen to a request: the allocator's own plan, printed.

use super::{Acquire, Caller, Engine};
use crate::allocator::{self, Decision, Plan, Verdict};
use crate::error::{Reason, Result};
use crate::model::{Lease, LeaseState, Waiting};

/// What to explain.
#[derive(Debug, Clone, PartialEq)]
pub enum ExplainSubject {
    /// A lease that exists.
    Lease(String),
    /// A request that is not made.
    Ask(Acquire),
}

/// The plan as the allocator sees it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Explanation {
    /// As in the lease; `None` when it would not wait.
    pub waiting: Option<Waiting>,
    /// 1 is next; only while it would queue.
    pub queue_position: Option<i64>,
    /// In the order tried.
    pub verdicts: Vec<Verdict>,
    /// What would let it go on, best first.
    pub remedies: Vec<String>,
    /// Why it can never be served; empty when it can.
    pub never_reason: String,
}

impl Engine {
    /// Explains; nothing is written.
    ///
    /// # Errors
    /// `LEASE_NOT_FOUND`; door errors of a request, but `CAPACITY_NEVER`, which is the explanation.
    pub async fn explain_lease(&self, caller: &Caller, subject: ExplainSubject) -> Result<Explanation> {
        let lease = match subject {
            ExplainSubject::Lease(id) => self.find_own_lease(caller, &id).await?,
            ExplainSubject::Ask(ask) => match self.admit(caller, &ask).await {
                Ok(admitted) => admitted.lease,
                Err(error) if matches!(error.reason, Reason::CapacityNever | Reason::NoBlueprint) => {
                    return Ok(Explanation { never_reason: error.message, ..Explanation::default() });
                }
                Err(error) => return Err(error),
            },
        };
        if lease.state != LeaseState::Pending {
            return Ok(Explanation { waiting: lease.waiting, ..Explanation::default() });
        }
        let view = self.store.pool_view(&lease).await?;
        let decision = allocator::plan(&lease, &view, &self.rules());
        let queues = matches!(decision.plan, Plan::Park);
        let position = if queues { Some(self.store.queue_position(&lease).await?) } else { None };
        let never_reason = match decision.plan {
            Plan::Gone => format!("no blueprint that could make this {} is left", lease.spec.resource_type),
            _ => String::new(),
        };
        Ok(Explanation {
            remedies: remedies(&lease, &decision),
            waiting: decision.waiting,
            queue_position: position,
            verdicts: decision.verdicts,
            never_reason,
        })
    }
}

fn remedies(lease: &Lease, decision: &Decision) -> Vec<String> {
    let mut remedies = Vec::new();
    let mut say = |line: String| {
        if !remedies.contains(&line) {
            remedies.push(line);
        }
    };
    if !matches!(decision.plan, Plan::Park) {
        return remedies;
    }
    for verdict in &decision.verdicts {
        let name = &verdict.blueprint_name;
        match verdict.reason {
            "LIMIT_REACHED" if verdict.resource_id.is_empty() => {
                say(format!("raise limits.max_resources of the blueprint {name} ({})", verdict.message));
            }
            "LIMIT_REACHED" => {
                if let Some(holder) = verdict.blocked_by.first() {
                    say(format!("release {holder}, or wait for it: it holds a place on {}", verdict.resource_id));
                }
            }
            "DISABLED" => say(format!("enable the blueprint {name}: drydock blueprint enable {name}")),
            "DRAINING" => {
                say(format!("undrain {}: drydock resource undrain {}", verdict.resource_id, verdict.resource_id));
            }
            "UNHEALTHY" => say(format!("mend {}: {}", verdict.resource_id, verdict.message)),
            "OTHER_OWNER" => say(format!("let the resources of {name} serve several owners: limits.shared")),
            "QUEUED" => say(format!("give {} a higher priority than {} to pass those ahead", lease.id, lease.priority)),
            _ => {}
        }
    }
    remedies
}
