//! Why a lease waits, or what would happen to a request: the allocator's own plan, printed.

use std::collections::HashSet;

use super::picture::{picture, pictures, together};
use super::steps::KindRules;
use super::{Acquire, Caller, Engine};
use crate::allocator::eta::Eta;
use crate::allocator::{self, Decision, Plan, Together, Verdict, plan_together};
use crate::error::{Reason, Result};
use crate::model::id::{LeaseId, ResourceId};
use crate::model::{Lease, LeaseState, Waiting};
use crate::store::Tx;

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
    /// Until it is ACTIVE; only when enough is known.
    pub eta: Option<Eta>,
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
            let view = self.view(lease).await?;
            return Ok(Explanation { waiting: view.lease.waiting, eta: view.eta, ..Explanation::default() });
        }
        let mut decision = self.decision(&lease).await?;
        let queues = matches!(decision.plan, Plan::Park);
        let position = if queues { Some(self.store.queue_position(&lease).await?) } else { None };
        if queues && let Some(reclaim) = self.explain_reclaim(&lease).await? {
            decision.waiting = Some(reclaim);
        }
        if !caller.admin {
            self.narrow(caller, &mut decision).await?;
        }
        let eta = self.eta_of_plan(&lease, &decision, position).await?;
        let never_reason = match decision.plan {
            Plan::Gone => format!("no blueprint that could make this {} is left", lease.spec.resource_type),
            _ => String::new(),
        };
        Ok(Explanation {
            remedies: remedies(caller, &lease, &decision),
            waiting: decision.waiting,
            queue_position: position,
            eta,
            verdicts: decision.verdicts,
            never_reason,
        })
    }
}

impl Engine {
    /// What would be decided now; as one of a gang when it is in one.
    pub(super) async fn decision(&self, lease: &Lease) -> Result<Decision> {
        let (lease, rules) = (lease.clone(), self.rules());
        self.store
            .look(move |tx| {
                let (lease, rules) = (lease.clone(), rules.clone());
                Box::pin(async move {
                    if let Some(decision) = decision_together(tx, &lease, &rules).await? {
                        return Ok(decision);
                    }
                    let view = picture(tx, &lease, &rules).await?;
                    Ok(allocator::plan(&lease, &view, &rules))
                })
            })
            .await
    }

    /// What others hold is not named to who is no admin: their leases and resources stay as numbers in the messages.
    async fn narrow(&self, caller: &Caller, decision: &mut Decision) -> Result<()> {
        let ids = decision.verdicts.iter().flat_map(|verdict| verdict.blocked_by.iter().chain([&verdict.resource_id]));
        let ids = ids.chain(decision.waiting.iter().flat_map(|waiting| &waiting.blocked_by));
        let mut seen = HashSet::new();
        for id in ids.collect::<HashSet<_>>() {
            let own = match (LeaseId::parse(id), ResourceId::parse(id)) {
                (Some(holder), _) => self.store.find_lease(&holder).await?.is_some_and(|it| caller.sees(&it.owner)),
                (None, Some(of)) => {
                    let owned = |it: crate::model::Resource| caller.sees(&it.owner);
                    self.store.find_resource(&of).await?.is_some_and(owned)
                }
                (None, None) => true,
            };
            if own {
                seen.insert(id.clone());
            }
        }
        for verdict in &mut decision.verdicts {
            verdict.blocked_by.retain(|id| seen.contains(id));
            if !seen.contains(&verdict.resource_id) {
                verdict.resource_id.clear();
            }
        }
        if let Some(waiting) = &mut decision.waiting {
            waiting.blocked_by.retain(|id| seen.contains(id));
        }
        Ok(())
    }
}

/// For one of a gang: its own part when all can go, else what keeps the first of them, and so all.
async fn decision_together(tx: &mut Tx, lease: &Lease, rules: &KindRules) -> Result<Option<Decision>> {
    let Some(gang) = &lease.gang else { return Ok(None) };
    let mut members = tx.gang(gang).await?;
    members.retain(|member| member.state == LeaseState::Pending);
    let Some(own) = members.iter().position(|member| member.id == lease.id).filter(|_| members.len() > 1) else {
        return Ok(None);
    };
    let mut views = pictures(tx, members.iter(), rules).await?;
    Ok(Some(match plan_together(&members, &mut views, rules) {
        Together::Go(mut decisions) => decisions.swap_remove(own),
        Together::Wait(_, decision) => {
            let waiting = decision.waiting.clone().map(|waiting| together(members.len(), waiting));
            Decision { waiting, ..*decision }
        }
    }))
}

fn remedies(caller: &Caller, lease: &Lease, decision: &Decision) -> Vec<String> {
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
        // What only an admin can do is no remedy for the others.
        let for_admins = matches!(verdict.reason, "PAUSED" | "DISABLED" | "DRAINING" | "UNHEALTHY" | "OTHER_OWNER")
            || (verdict.reason == "LIMIT_REACHED" && verdict.resource_id.is_empty());
        if for_admins && !caller.admin {
            continue;
        }
        match verdict.reason {
            "LIMIT_REACHED" if verdict.resource_id.is_empty() => {
                say(format!("raise limits.max_resources of the blueprint {name} ({})", verdict.message));
            }
            "LIMIT_REACHED" => {
                if let Some(holder) = verdict.blocked_by.first() {
                    say(format!("release {holder}, or wait for it: it holds a place on {}", verdict.resource_id));
                }
            }
            "PAUSED" => say(format!("end the pause of {name}: drydock blueprint enable {name}")),
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
