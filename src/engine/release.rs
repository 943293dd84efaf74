//! Giving leases back, and keeping them.

use std::sync::Arc;
use std::time::Duration;

use super::narrate::Told;
use super::{Caller, Engine, LeaseView, RequestKey, caller, expired};
use crate::clock::{Micros, micros};
use crate::error::{Error, Reason, Result};
use crate::model::filter::Filter;
use crate::model::id::{LeaseId, Subject};
use crate::model::{Lease, LeaseState};
use crate::store::{ListQuery, Scope, Tx};

/// Leases that one call releases at most.
const MAX_RELEASED: usize = 10_000;

impl Engine {
    /// Ends a lease; answers when RELEASED is durable or, with `wait`, when nothing of it is left. Ended already is fine; an
    /// admin's `force` gives the clean-up of such a one up.
    ///
    /// # Errors
    /// `LEASE_NOT_FOUND`; `LEASE_IN_USE` when others sit on it, unless `force`.
    pub async fn release_lease(
        self: &Arc<Self>,
        caller: &Caller,
        id: &str,
        comment: &str,
        force: bool,
        key: Option<RequestKey>,
        wait: Duration,
    ) -> Result<LeaseView> {
        let patience = self.after(wait);
        self.in_time(wait, Box::pin(self.release_and_wait(caller, id, comment, force, key, patience))).await
    }

    async fn release_and_wait(
        self: &Arc<Self>,
        caller: &Caller,
        id: &str,
        comment: &str,
        force: bool,
        key: Option<RequestKey>,
        patience: Micros,
    ) -> Result<LeaseView> {
        let lease = self.find_own_lease(caller, id).await?;
        let request = key.map(|key| key.of(caller));
        // Only of one that had ended before: force ends a live one, and is no word about its clean-up.
        let gives_up = force && caller.admin && lease.state.has_ended();
        let (id, actor, comment) = (lease.id, caller.principal.clone(), comment.to_owned());
        let seat = self.scheduler().ok().and_then(|scheduler| scheduler.seat());
        let has_seat = seat.is_some();
        // Whoever gives back sees to the clean-up, as whoever asks sees to what it needs: else those who release faster than
        // the workers clean up would fill the pool with what nobody has any more.
        let worker = format!("{}/door", self.daemon.id);
        let (store, root) = (self.store.clone(), lease.root_id.clone());
        let commit = async move {
            store
                .write(move |tx| {
                    let (id, actor, comment, request) = (id.clone(), actor.clone(), comment.clone(), request.clone());
                    let worker = worker.clone();
                    Box::pin(async move {
                        if let Some(request) = &request
                            && tx.seen(request).await?.is_some()
                        {
                            return Ok((tx.get_lease(&id).await?, None));
                        }
                        let mut lease = release(tx, &id, force, &comment, &actor).await?;
                        if gives_up {
                            lease = super::quarantine::give_up_by_id(tx, &id, &actor).await?;
                        }
                        if let Some(request) = &request {
                            tx.remember(request, id.as_str()).await?;
                        }
                        let root = Scope::Root(lease.root_id.clone());
                        let claim = if has_seat { tx.take(&root, &worker).await? } else { None };
                        Ok((lease, claim))
                    })
                })
                .await
        };
        let lease = match seat {
            Some(seat) => seat.commit(root, commit).await?,
            None => commit.await?.0,
        };
        self.wait_for(lease, LeaseState::Destroyed, patience).await
    }

    /// Releases all live root leases of the caller that match, queued ones too.
    ///
    /// # Errors
    /// `LEASE_IN_USE` for the first that others sit on, unless `force`; then none is released.
    pub async fn release_leases(
        &self,
        caller: &Caller,
        filter: Filter,
        comment: &str,
        force: bool,
        validate_only: bool,
        key: Option<RequestKey>,
    ) -> Result<Vec<LeaseId>> {
        let request = key.map(|key| key.of(caller));
        if let Some(request) = &request
            && let Some(object) = self.store.seen(request).await?
        {
            return Ok(object.split(' ').filter_map(LeaseId::parse).collect());
        }
        let matching = self.matching(caller, filter).await?;
        if validate_only {
            return Ok(matching);
        }
        let (actor, comment) = (caller.principal.clone(), comment.to_owned());
        self.store
            .write(move |tx| {
                let (matching, actor, comment, request) =
                    (matching.clone(), actor.clone(), comment.clone(), request.clone());
                Box::pin(async move {
                    if let Some(request) = &request
                        && let Some(object) = tx.seen(request).await?
                    {
                        return Ok(object.split(' ').filter_map(LeaseId::parse).collect());
                    }
                    for id in &matching {
                        release(tx, id, force, &comment, &actor).await?;
                    }
                    if let Some(request) = &request {
                        let ids: Vec<&str> = matching.iter().map(LeaseId::as_str).collect();
                        tx.remember(request, &ids.join(" ")).await?;
                    }
                    Ok(matching)
                })
            })
            .await
    }

    async fn matching(&self, caller: &Caller, filter: Filter) -> Result<Vec<LeaseId>> {
        let mut query =
            ListQuery { filter: Some(filter), owner: Some(caller.principal.clone()), after: None, limit: 499 };
        let mut matching = Vec::new();
        loop {
            let page = self.store.list_leases(&query, false).await?;
            let more = page.len() == 500;
            query.after = page.last().map(|lease| lease.id.to_string());
            matching.extend(page.into_iter().filter(|lease| lease.state.is_live()).map(|lease| lease.id));
            if matching.len() > MAX_RELEASED {
                return Err(Error::invalid(format!("the filter matches more than {MAX_RELEASED} leases; narrow it")));
            }
            if !more {
                return Ok(matching);
            }
        }
    }

    /// Sets `expire_time` to now + ttl, at most `max_ttl` from now; may shorten.
    ///
    /// # Errors
    /// `LEASE_EXPIRED`, `LEASE_NOT_ACTIVE`; `INVALID_ARGUMENT` for a sub-lease.
    pub async fn renew_lease(&self, caller: &Caller, id: &str, ttl: Option<Duration>) -> Result<LeaseView> {
        let lease = self.find_own_lease(caller, id).await?;
        if lease.parent.is_some() {
            return Err(Error::invalid(format!("{id} is a sub-lease; it lives as long as the resource that needs it")));
        }
        self.active_lease(&lease.id).await?;
        let (id, actor) = (lease.id, caller.principal.clone());
        let lease = self
            .store
            .write(move |tx| {
                let (id, actor) = (id.clone(), actor.clone());
                Box::pin(async move { renew(tx, &id, ttl, &actor).await })
            })
            .await?;
        self.view(lease).await
    }
}

async fn renew(tx: &mut Tx, id: &LeaseId, ttl: Option<Duration>, actor: &str) -> Result<Lease> {
    let before = tx.find_lease(id).await?.ok_or_else(|| caller::lease_not_found(id.as_str()))?;
    let now = tx.now();
    if before.state != LeaseState::Active {
        return Err(Error::new(Reason::LeaseNotActive, format!("the lease {id} has ended meanwhile")));
    }
    if before.expire_time.is_some_and(|at| at <= now) {
        return Err(expired(id));
    }
    let mut after = before.clone();
    let span = ttl.map(micros).or(before.ttl).unwrap_or(before.max_ttl).min(before.max_ttl);
    after.expire_time = Some(now + span);
    after.renew_time = Some(now);
    tx.put_lease(&before, &after).await?;
    after.version += 1;
    let told = Told::by_drydock("lease.renewed", format!("renewed for {} s", span / 1_000_000)).by(actor);
    tx.event(told.of_lease(&after, &[])).await?;
    // Its timer is set anew by its own step.
    tx.wake_task(&Subject::from(id.clone())).await?;
    Ok(after)
}

async fn release(tx: &mut Tx, id: &LeaseId, force: bool, comment: &str, actor: &str) -> Result<Lease> {
    let lease = tx.find_lease(id).await?.ok_or_else(|| caller::lease_not_found(id.as_str()))?;
    if lease.state.has_ended() {
        return Ok(lease);
    }
    if !force {
        let mut users: Vec<String> = Vec::new();
        for user in tx.placed_on(id).await?.into_iter().filter_map(|resource| resource.made_for) {
            if tx.find_lease(&user).await?.is_some_and(|user| user.state.is_live()) {
                users.push(user.to_string());
            }
        }
        if let Some((parent, _)) = &lease.parent {
            users.push(parent.to_string());
        }
        if !users.is_empty() {
            return Err(Error::new(
                Reason::LeaseInUse,
                format!("the lease {id} is in use by {}; release them first, or use force", users.join(", ")),
            )
            .with("used_by", users.join(" ")));
        }
    }
    let reason = match lease.state {
        _ if lease.owner != actor => "REVOKED",
        LeaseState::Pending => "CANCELLED",
        _ => "RELEASED_BY_CALLER",
    };
    let message =
        if comment.is_empty() { format!("released by {actor}") } else { format!("released by {actor}: {comment}") };
    super::lease::end(tx, &lease, LeaseState::Released, reason, &message, actor).await?;
    tx.get_lease(id).await
}
