//! What a lease that waits tells its reader: why as of now, not as of its last step, at which place, and until when.

use super::outlook::{HOLDS, Outlook};
use super::{Engine, LeaseView};
use crate::allocator::eta::{self, Eta};
use crate::allocator::{Decision, Plan};
use crate::clock::Micros;
use crate::error::Result;
use crate::model::id::{LeaseId, ResourceId};
use crate::model::{Event, Lease, LeaseState, Waiting};

/// An estimate that moves less than this is the same one.
const STEADY: Micros = 2_000_000;

impl Engine {
    /// Tells the metrics what the blueprints are called.
    pub(super) async fn name_blueprints(&self) -> Result<()> {
        for blueprint in self.store.all_blueprints().await? {
            self.store.metrics().name(blueprint.id.as_str(), &blueprint.name);
        }
        Ok(())
    }

    /// Fills in why the lease waits, and its estimate; a position that is known is kept.
    pub(super) async fn present(&self, view: &mut LeaseView) -> Result<()> {
        let lease = &view.lease;
        if !matches!(lease.state, LeaseState::Pending | LeaseState::Acquired) {
            return Ok(());
        }
        let outlook = self.outlook(&lease.spec.resource_type).await?;
        if queues(lease) {
            let place = || outlook.place(&lease.id).and_then(|place| i64::try_from(place).ok());
            let position = match view.queue_position.or_else(place) {
                Some(position) => position,
                None => self.store.queue_position(lease).await?,
            };
            let waiting = self.why(lease, position, &outlook).await?;
            view.eta = outlook.eta(usize::try_from(position).unwrap_or(1), self.clock.now());
            view.queue_position = Some(position);
            view.lease.waiting = waiting;
        } else {
            view.eta = self.eta_of_served(lease, &outlook).await?;
        }
        Ok(())
    }

    /// Place and estimate of a lease in a list, by what is known of its pool already or read once for all of them.
    pub(super) async fn present_in_list(&self, view: &mut LeaseView) -> Result<()> {
        if !queues(&view.lease) {
            return Ok(());
        }
        let outlook = self.outlook(&view.lease.spec.resource_type).await?;
        let Some(place) = outlook.place(&view.lease.id) else { return Ok(()) };
        view.eta = outlook.eta(place, self.clock.now());
        view.queue_position = i64::try_from(place).ok();
        if let Some(known) = outlook.known(&view.lease.id) {
            view.lease.waiting = Some(known);
        }
        Ok(())
    }

    async fn why(&self, lease: &Lease, position: i64, outlook: &Outlook) -> Result<Option<Waiting>> {
        let now = self.clock.now();
        let stored = || lease.waiting.clone().map(|waiting| with_ahead(waiting, position));
        // It has just been looked at when it was queued.
        if now - lease.create_time < HOLDS {
            return Ok(stored());
        }
        if let Some(known) = outlook.known(&lease.id) {
            return Ok(Some(with_ahead(known, position)));
        }
        if !outlook.may_look() {
            return Ok(stored());
        }
        let Some(waiting) = self.decision(lease).await?.waiting else { return Ok(stored()) };
        let waiting = self.only_of_owner(&lease.owner, waiting).await?;
        outlook.learn(&lease.id, now, &waiting);
        Ok(Some(waiting))
    }

    /// Of the ids it is blocked on, those that are the owner's business.
    async fn only_of_owner(&self, owner: &str, mut waiting: Waiting) -> Result<Waiting> {
        let mut own = Vec::new();
        for id in std::mem::take(&mut waiting.blocked_by) {
            let is_own = match (LeaseId::parse(&id), ResourceId::parse(&id)) {
                (Some(lease), _) => self.store.find_lease(&lease).await?.is_some_and(|lease| lease.owner == owner),
                (None, Some(of)) => self.store.find_resource(&of).await?.is_some_and(|of| of.owner == owner),
                (None, None) => true,
            };
            if is_own {
                own.push(id);
            }
        }
        waiting.blocked_by = own;
        Ok(waiting)
    }

    /// For a lease for which something is being built, or that is being set up.
    async fn eta_of_served(&self, lease: &Lease, outlook: &Outlook) -> Result<Option<Eta>> {
        let now = self.clock.now();
        if let Some(of) = &lease.allocating {
            let Some(resource) = self.store.find_resource(of).await? else { return Ok(None) };
            let since = now - lease.build_time.unwrap_or(resource.create_time);
            return self.eta_of_build(resource.blueprint_id.as_str(), since, outlook).await;
        }
        let (Some(blueprint), Some(acquired)) = (&lease.blueprint_id, lease.acquire_time) else { return Ok(None) };
        let name = self.store.find_blueprint(blueprint.as_str()).await?.map(|blueprint| blueprint.name);
        Ok(eta::set_up(&outlook.turns, blueprint, name.as_deref().unwrap_or_default(), now - acquired))
    }

    async fn eta_of_build(&self, blueprint: &str, elapsed: Micros, outlook: &Outlook) -> Result<Option<Eta>> {
        let found = self.store.find_blueprint(blueprint).await?;
        Ok(found.and_then(|found| eta::build(&outlook.turns, &found.id, &found.name, elapsed)))
    }

    /// The estimate for what the allocator would do now.
    pub(super) async fn eta_of_plan(
        &self,
        lease: &Lease,
        decision: &Decision,
        position: Option<i64>,
    ) -> Result<Option<Eta>> {
        let outlook = self.outlook(&lease.spec.resource_type).await?;
        match &decision.plan {
            Plan::Build { blueprint, .. } => self.eta_of_build(blueprint.id.as_str(), 0, &outlook).await,
            Plan::Adopt { resource, .. } => {
                let since = self.clock.now() - resource.create_time;
                self.eta_of_build(resource.blueprint_id.as_str(), since, &outlook).await
            }
            Plan::Await(_) => self.eta_of_served(lease, &outlook).await,
            Plan::Park => {
                let position = position.and_then(|position| usize::try_from(position).ok()).unwrap_or(1);
                Ok(outlook.eta(position, self.clock.now()))
            }
            Plan::Take { .. } | Plan::Gone => Ok(None),
        }
    }
}

fn queues(lease: &Lease) -> bool {
    lease.state == LeaseState::Pending && lease.allocating.is_none()
}

/// The words of an earlier look name how many were ahead then.
fn with_ahead(mut waiting: Waiting, position: i64) -> Waiting {
    const AHEAD: &str = " ahead in the queue";
    if let Some(head) = waiting.message.strip_suffix(AHEAD)
        && let Some((head, number)) = head.rsplit_once("; ")
        && number.bytes().all(|byte| byte.is_ascii_digit())
    {
        waiting.message = match position - 1 {
            ..=0 => head.to_owned(),
            ahead => format!("{head}; {ahead}{AHEAD}"),
        };
    }
    waiting
}

/// When a watch looks at its waiting lease again: when something happened in its pool, at most once a second.
#[derive(Debug)]
pub(super) struct Pulse {
    pool: String,
    waits: bool,
    /// Words, position and the time of the median, as last told.
    told: (Option<Waiting>, Option<i64>, Option<Micros>),
    looked: Micros,
    /// When to look again.
    pub(super) due: Option<Micros>,
}

impl Pulse {
    /// For a watch that tells this view first.
    pub(super) fn of(view: &LeaseView, now: Micros) -> Self {
        let pool = view.lease.spec.resource_type.clone();
        let mut pulse = Self { pool, waits: false, told: (None, None, None), looked: now, due: None };
        pulse.tells(view, now);
        pulse
    }

    /// What happened anywhere.
    pub(super) fn hears(&mut self, events: &[Event]) {
        let concerns = |event: &Event| {
            event.kind.starts_with("blueprint.") || event.details.get("resource_type") == Some(&self.pool)
        };
        if self.waits && self.due.is_none() && events.iter().any(concerns) {
            self.due = Some(self.looked + HOLDS);
        }
    }

    /// A view is told; whether it says anything new of the wait.
    pub(super) fn tells(&mut self, view: &LeaseView, now: Micros) -> bool {
        let middle = view.eta.as_ref().map(|eta| now + eta.p50);
        let moved = match (self.told.2, middle) {
            (Some(before), Some(after)) => (before - after).abs() > STEADY.max((after - now) / 10),
            (before, after) => before.is_some() != after.is_some(),
        };
        let new = moved || self.told.0 != view.lease.waiting || self.told.1 != view.queue_position;
        if new {
            self.told = (view.lease.waiting.clone(), view.queue_position, middle);
        }
        self.waits = matches!(view.lease.state, LeaseState::Pending | LeaseState::Acquired);
        (self.looked, self.due) = (now, None);
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::StringMap;

    #[test]
    fn only_what_happens_in_its_pool_makes_a_watch_look_again() {
        let event = |kind: &str, pool: &str| Event {
            seq: 1,
            id: String::new(),
            time: 0,
            kind: kind.to_owned(),
            reason: String::new(),
            message: String::new(),
            actor: String::new(),
            subjects: Vec::new(),
            root_id: None,
            owner: String::new(),
            details: StringMap::from([("resource_type".to_owned(), pool.to_owned())]),
        };
        let (told, pool) = ((None, None, None), "host".to_owned());
        let mut pulse = Pulse { pool, waits: true, told, looked: 7, due: None };
        pulse.hears(&[event("lease.released", "port")]);
        assert_eq!(pulse.due, None);
        pulse.hears(&[event("lease.released", "port"), event("lease.released", "host")]);
        assert_eq!(pulse.due, Some(7 + HOLDS));
        (pulse.due, pulse.waits) = (None, false);
        pulse.hears(&[event("lease.released", "host")]);
        assert_eq!(pulse.due, None, "what does not wait is told by its own events");
    }

    #[test]
    fn the_number_ahead_is_that_of_now() {
        let words = |message: &str, position| {
            let waiting = Waiting { message: message.to_owned(), ..Waiting::default() };
            with_ahead(waiting, position).message
        };
        assert_eq!(words("a: 1 of 1; 7 ahead in the queue", 3), "a: 1 of 1; 2 ahead in the queue");
        assert_eq!(words("a: 1 of 1; 7 ahead in the queue", 1), "a: 1 of 1");
        assert_eq!(words("a: 1 of 1", 4), "a: 1 of 1");
        assert_eq!(words("it is; far ahead in the queue", 4), "it is; far ahead in the queue");
    }
}
