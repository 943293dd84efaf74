//! Health: what is registered is looked at now and then, one look at a time for each; what is found is written down, and
//! those who wait are told in the same commit.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;

use super::boxes::REGISTERED;
use super::narrate::Told;
use super::{Caller, Engine, ResourceView};
use crate::blueprint::{Condition, Examination, Urgency};
use crate::clock::{Micros, micros};
use crate::error::{Result, report};
use crate::model::id::ResourceId;
use crate::model::{Resource, ResourceState, StringMap};
use crate::store::{News, Tx, pool_of};

/// How often the keeper looks for what was newly registered.
const ROUND: Duration = Duration::from_secs(2);
/// How often it looks while nothing is registered; the news tell of the first.
const IDLE_ROUND: Duration = Duration::from_secs(30);
/// First pause before a sick one is looked at again; doubled each time, up to the interval.
const AGAIN: Duration = Duration::from_secs(1);

/// When a resource is due, and how often in a row it was found sick.
#[derive(Debug, Clone, Copy)]
struct Turn {
    due: Micros,
    sick: u32,
}

/// Looks after what is registered until the engine stops.
pub(super) async fn keep(engine: Arc<Engine>) {
    let kinds: Vec<_> = engine.registry.iter().filter(|kind| kind.registered().is_some()).cloned().collect();
    if kinds.is_empty() {
        return;
    }
    let mut turns: HashMap<ResourceId, Turn> = HashMap::new();
    let mut looking: FuturesUnordered<BoxFuture<'_, (ResourceId, Option<Turn>)>> = FuturesUnordered::new();
    let mut under_way = BTreeSet::new();
    let mut news = engine.store.news();
    let mut wake = engine.clock.now();
    let mut idle = false;
    loop {
        let alarms = futures::future::select_all(kinds.iter().map(|kind| {
            Box::pin(async move {
                match kind.registered() {
                    Some(registered) => registered.alarms().taken().await,
                    None => std::future::pending().await,
                }
            })
        }));
        tokio::select! {
            () = engine.stop.cancelled() => return,
            (suspects, _, _) = alarms => {
                for (id, urgency) in suspects {
                    // A look that is under way, or comes soon since it is sick, will tell; it rings by itself, too.
                    let told = under_way.contains(&id) || turns.get(&id).is_some_and(|turn: &Turn| turn.sick > 0);
                    if urgency == Urgency::Changed || !told {
                        turns.insert(id, Turn { due: engine.clock.now(), sick: 0 });
                    }
                }
            }
            Some((id, next)) = looking.next(), if !looking.is_empty() => {
                under_way.remove(&id);
                match next {
                    // An alarm that rang meanwhile stands.
                    Some(turn) => {
                        let earlier = turns.get(&id).copied().filter(|rung: &Turn| rung.due < turn.due);
                        turns.insert(id, earlier.unwrap_or(turn));
                    }
                    None => { turns.remove(&id); }
                }
            }
            () = registration(&mut news), if idle => {}
            () = engine.clock.sleep_until(wake) => {}
        }
        let now = engine.clock.now();
        match engine.due(&mut turns, &under_way, now).await {
            Ok((none, due)) => {
                idle = none;
                for (resource, sick) in due {
                    if under_way.insert(resource.id.clone()) {
                        // It has its turn: what rings from now on is news.
                        turns.remove(&resource.id);
                        looking.push(Box::pin(Arc::clone(&engine).take_turn(resource, sick)));
                    }
                }
            }
            Err(error) => {
                idle = false;
                tracing::warn!(error = %report(&error), "cannot look after what is registered; trying again");
            }
        }
        let waiting = turns.iter().filter(|(id, _)| !under_way.contains(*id)).map(|(_, turn)| turn.due);
        let round = if idle { IDLE_ROUND } else { ROUND };
        wake = waiting.min().unwrap_or(Micros::MAX).clamp(now + 1, now + micros(round));
    }
}

/// Returns when something was registered, or may have been.
async fn registration(news: &mut Receiver<Arc<News>>) {
    loop {
        match news.recv().await {
            Ok(told) if !told.events.iter().any(|event| event.kind == REGISTERED) => {}
            Ok(_) | Err(RecvError::Lagged(_)) => return,
            // The store is gone, and the engine stops.
            Err(RecvError::Closed) => return std::future::pending().await,
        }
    }
}

impl Engine {
    /// Whether nothing is registered, and what is to be looked at now. What is new has its first turn at some time within its interval.
    async fn due(
        &self,
        turns: &mut HashMap<ResourceId, Turn>,
        under_way: &BTreeSet<ResourceId>,
        now: Micros,
    ) -> Result<(bool, Vec<(Resource, u32)>)> {
        let mut due = Vec::new();
        let mut intervals = HashMap::new();
        let live = self.store.registered_resources().await?;
        let none = live.is_empty();
        let active = live
            .into_iter()
            .filter(|resource| resource.state == ResourceState::Active && !under_way.contains(&resource.id));
        for resource in active {
            let turn = if let Some(turn) = turns.get(&resource.id) {
                *turn
            } else {
                let interval = if let Some(interval) = intervals.get(&resource.blueprint_id) {
                    *interval
                } else {
                    let interval = self.interval(&resource).await?;
                    intervals.insert(resource.blueprint_id.clone(), interval);
                    interval
                };
                let turn = Turn { due: now + jittered(interval), sick: 0 };
                turns.insert(resource.id.clone(), turn);
                turn
            };
            if turn.due <= now {
                due.push((resource, turn.sick));
            }
        }
        Ok((none, due))
    }

    async fn interval(&self, resource: &Resource) -> Result<Duration> {
        let (record, kind) = self.blueprint_of(resource).await?;
        Ok(kind.registered().map_or(ROUND, |registered| registered.interval(&record)))
    }

    /// One look; when the next is due, or `None` when there is nothing to look at any more.
    async fn take_turn(self: Arc<Self>, resource: Resource, sick: u32) -> (ResourceId, Option<Turn>) {
        let id = resource.id.clone();
        let turn = match self.look_after(resource).await {
            Ok(None) => None,
            Ok(Some((interval, true))) => Some(Turn { due: self.clock.now() + jittered(interval), sick: 0 }),
            Ok(Some((interval, false))) => {
                let pause = AGAIN.saturating_mul(2_u32.saturating_pow(sick.min(16))).min(interval);
                Some(Turn { due: self.clock.now() + jittered(pause), sick: sick.saturating_add(1) })
            }
            Err(error) => {
                tracing::warn!(resource = %id, error = %report(&error), "the health check failed; trying again");
                Some(Turn { due: self.clock.now() + micros(ROUND), sick })
            }
        };
        (id, turn)
    }

    async fn look_after(&self, resource: Resource) -> Result<Option<(Duration, bool)>> {
        let Some(resource) = self.store.find_resource(&resource.id).await? else { return Ok(None) };
        if resource.state != ResourceState::Active {
            return Ok(None);
        }
        let (record, kind) = self.blueprint_of(&resource).await?;
        let Some(registered) = kind.registered() else { return Ok(None) };
        let interval = registered.interval(&record);
        if resource.is_blocked() {
            // Nothing is sent to it, and nothing but a new pin sets it free.
            return Ok(Some((interval, true)));
        }
        let ctx = self.context(&resource, record, None, None, CancellationToken::new()).await?;
        let found = tokio::select! {
            found = registered.examine(&ctx, false) => found,
            () = self.stop.cancelled() => return Ok(None),
        };
        let well = found.condition.is_none();
        self.note_health(&resource, found, "drydock").await?;
        Ok(Some((interval, well)))
    }

    /// Looks whether a resource is alive, now; a dead one breaks.
    pub async fn check_resource(&self, caller: &Caller, id: &str) -> Result<(ResourceView, Vec<String>, Duration)> {
        let resource = self.find_seen_resource(caller, id).await?;
        let (record, kind) = self.blueprint_of(&resource).await?;
        let registered = kind.registered();
        let waits = registered.is_some() && resource.state == ResourceState::Pending;
        if resource.state != ResourceState::Active && !waits {
            let finding = format!("it is {}; only ACTIVE resources can be checked", resource.state.as_str());
            return Ok((self.view_resource(resource).await?, vec![finding], Duration::ZERO));
        }
        let begun = tokio::time::Instant::now();
        let ctx = self.context(&resource, record, None, None, CancellationToken::new()).await?;
        if let Some(registered) = registered {
            let found = registered.examine(&ctx, true).await;
            let (latency, findings) = (begun.elapsed(), found.findings.clone());
            let after = self.note_health(&resource, found, &caller.principal).await?;
            return Ok((self.view_resource(after).await?, findings, latency));
        }
        let health = kind.check(&ctx).await;
        let latency = begun.elapsed();
        let (findings, dead) = (Arc::new(health.findings), health.dead);
        let told = Arc::clone(&findings);
        let after = self
            .change_resource(caller, resource, None, move |tx, resource| {
                resource.check_time = Some(tx.now());
                resource.problem = told.join("; ");
                if dead && resource.state.is_live() {
                    resource.state = ResourceState::Broken;
                    resource.state_reason = "RESOURCE_BROKEN".to_owned();
                    resource.state_message = resource.problem.clone();
                    resource.end_time = Some(tx.now());
                }
                Ok("resource.checked")
            })
            .await?;
        Ok((after, findings.to_vec(), latency))
    }

    /// Writes what an examination of `seen` has found.
    async fn note_health(&self, seen: &Resource, found: Examination, actor: &str) -> Result<Resource> {
        let (id, attributes, actor) = (seen.id.clone(), Arc::new(seen.attributes.clone()), actor.to_owned());
        let found = Arc::new(found);
        self.store
            .write(move |tx| {
                let (id, attributes, found, actor) =
                    (id.clone(), Arc::clone(&attributes), Arc::clone(&found), actor.clone());
                Box::pin(async move { note(tx, &id, &attributes, &found, &actor).await })
            })
            .await
    }
}

/// Writes what was found, unless it was found of something else than what is registered now.
async fn note(
    tx: &mut Tx,
    id: &ResourceId,
    attributes: &StringMap,
    found: &Examination,
    actor: &str,
) -> Result<Resource> {
    let before = tx.get_resource(id).await?;
    if !before.state.is_live() || before.attributes != *attributes {
        return Ok(before);
    }
    tx.note_check(id, tx.now()).await?;
    // A key that has changed stands against it until one is pinned again.
    if before.is_blocked() {
        return tx.get_resource(id).await;
    }
    let problem = found.condition.as_ref().map(Condition::problem).unwrap_or_default();
    let had = before.condition();
    let learned = before.state == ResourceState::Active && !found.facts.is_empty();
    if !learned && (before.problem == problem || (problem.is_empty() && had.is_none())) {
        return tx.get_resource(id).await;
    }
    let mut after = Resource { problem: problem.clone(), check_time: Some(tx.now()), ..before.clone() };
    if learned {
        after.facts.extend(found.facts.clone());
    }
    let turned = had != after.condition();
    tx.put_resource(&before, &after).await?;
    if turned {
        let told = match &found.condition {
            Some(condition) => Told::by_drydock("resource.unhealthy", condition.message.clone())
                .because(condition.reason.as_str())
                .by(actor)
                .of_resource(&after, &[]),
            None => Told::by_drydock("resource.healthy", "it can be used again").by(actor).of_resource(&after, &[]),
        };
        tx.event(told).await?;
        // Those who wait are told: that it is back, or why they wait.
        tx.wake_pool(&pool_of(&after.resource_type), None).await?;
    }
    tx.get_resource(id).await
}

/// Between four fifths and six fifths of a span.
fn jittered(span: Duration) -> Micros {
    micros(span.mul_f64(0.8 + 0.4 * fastrand::f64()))
}
