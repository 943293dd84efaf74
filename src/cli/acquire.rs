//! Asking for a lease and waiting for it: shared by `lease acquire` and `run`.

use std::time::Duration;

use super::connect::{Daemon, soon, within};
use super::exit::{FAILURE, Failure, Result, TRY_AGAIN};
use super::interrupt::Interrupt;
use super::objects;
use super::trace::{Sink, Trace};
use super::words;
use crate::error::Reason;
use crate::proto::v1;
use crate::proto::v1::lease::State;

/// Longest wait of one call; longer ones are repeated.
const CALL: Duration = Duration::from_mins(10);
/// What the daemon may take to note that a queue time-out passed.
const GRACE: Duration = Duration::from_secs(5);

/// What is asked for.
#[derive(Debug, Clone, clap::Args)]
pub struct Demand {
    /// The resource type, for example host or working-copy.
    #[arg(value_name = "TYPE")]
    pub resource_type: String,
    /// The rest.
    #[command(flatten)]
    pub details: Details,
}

/// What is asked for, beside the type.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Details {
    /// An attribute of the resource; may be repeated.
    #[arg(long = "attr", value_name = "K=V", value_parser = words::pair)]
    attributes: Vec<(String, String)>,
    /// A label of your own for the lease; may be repeated.
    #[arg(long = "label", value_name = "K=V", value_parser = words::pair)]
    labels: Vec<(String, String)>,
    /// A label that the resource must carry; may be repeated.
    #[arg(long = "match", value_name = "K=V", value_parser = words::pair)]
    matches: Vec<(String, String)>,
    /// An allowed blueprint, by id or name; may be repeated [default: all enabled ones].
    #[arg(long = "blueprint", value_name = "B")]
    blueprints: Vec<String>,
    /// Life counted from ACTIVE, such as 90s, 5m, 1h [default: the blueprint's].
    #[arg(long, value_name = "D", value_parser = words::duration)]
    ttl: Option<Duration>,
    /// Higher is sooner, -100 to 100.
    #[arg(long, value_name = "N", default_value_t = 0, allow_hyphen_values = true, value_parser = clap::value_parser!(i32).range(-100..=100))]
    priority: i32,
    /// No other lease on its resource, however many that takes.
    #[arg(long)]
    exclusive: bool,
    /// No lease with this label on its resource; may be repeated.
    #[arg(long = "apart-from", value_name = "K=V", value_parser = words::pair)]
    apart_from: Vec<(String, String)>,
    /// Asking again with the same id answers with the same lease.
    #[arg(long, value_name = "R")]
    request_id: Option<String>,
}

impl Demand {
    /// The request; it does not wait.
    ///
    /// # Errors
    /// 64 for a key that is there twice.
    pub fn request(&self, queue_timeout: Option<Duration>) -> Result<v1::AcquireLeaseRequest> {
        self.details.request(&self.resource_type, queue_timeout)
    }
}

impl Details {
    /// The request; it does not wait.
    ///
    /// # Errors
    /// 64 for a key that is there twice.
    pub fn request(&self, resource_type: &str, queue_timeout: Option<Duration>) -> Result<v1::AcquireLeaseRequest> {
        Ok(v1::AcquireLeaseRequest {
            resource_type: resource_type.to_owned(),
            attributes: words::map("--attr", &self.attributes)?,
            blueprints: self.blueprints.clone(),
            resource_labels: words::map("--match", &self.matches)?,
            ttl: self.ttl.map(words::proto),
            queue_timeout: queue_timeout.map(words::proto),
            wait: None,
            priority: self.priority,
            labels: words::map("--label", &self.labels)?,
            exclusive: self.exclusive,
            apart_from: words::map("--apart-from", &self.apart_from)?,
            request_id: self.request_id.clone().unwrap_or_default(),
        })
    }
}

/// Queues the lease. It does not wait, so that its id is known, and can be given back, whatever comes.
///
/// # Errors
/// Those of the door.
pub async fn place(daemon: &Daemon, mut request: v1::AcquireLeaseRequest) -> Result<v1::Lease> {
    if daemon.has_others() && request.request_id.is_empty() {
        // The next daemon may be asked for what the one before has already queued.
        request.request_id = fresh_id()?;
    }
    present(daemon.leases().acquire_lease(soon(request)).await?.into_inner().lease)
}

fn fresh_id() -> Result<String> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)
        .map_err(|error| Failure::new(FAILURE, "INTERNAL", format!("no random numbers: {error}")))?;
    Ok(bytes.iter().fold("cli-".to_owned(), |text, byte| text + &format!("{byte:02x}")))
}

/// Waits until the lease is ACTIVE, has ended, or `patience` is over (`None`: for ever), and answers with its state then.
///
/// # Errors
/// 130 or 143 when interrupted.
pub async fn settle(
    daemon: &Daemon,
    lease: v1::Lease,
    patience: Option<Duration>,
    trace: Option<Sink>,
    interrupt: &Interrupt,
) -> Result<v1::Lease> {
    let trace = trace.map(|sink| Trace::start(daemon.clone(), &lease, sink));
    let settled = interrupt.or(reach(daemon, lease, State::Active, patience)).await;
    if let Some(trace) = trace {
        trace.finish().await;
    }
    settled
}

/// Waits until the lease is in `until` or a later state, or `patience` is over.
///
/// # Errors
/// Those of the daemon.
pub async fn reach(
    daemon: &Daemon,
    mut lease: v1::Lease,
    until: State,
    patience: Option<Duration>,
) -> Result<v1::Lease> {
    let end = patience.and_then(|patience| tokio::time::Instant::now().checked_add(patience));
    while !has_reached(&lease, until) {
        let left = end.map_or(CALL, |end| end.saturating_duration_since(tokio::time::Instant::now())).min(CALL);
        if left.is_zero() {
            break;
        }
        let request =
            v1::WaitLeaseRequest { lease_id: lease.id.clone(), until: until.into(), timeout: Some(words::proto(left)) };
        match daemon.leases().wait_lease(within(left, request)).await {
            Ok(answer) => lease = present(answer.into_inner().lease)?,
            // For the time that is left, with the next one.
            Err(status) if daemon.goes_on(&status).await => {}
            Err(status) => return Err(status.into()),
        }
    }
    Ok(lease)
}

/// The states are numbered in the order of a life.
fn has_reached(lease: &v1::Lease, until: State) -> bool {
    lease.state() as i32 >= until as i32
}

/// How long to wait for a lease that itself gives up after `queue_timeout`: long enough to learn that it did.
#[must_use]
pub fn patience(wait: Duration, queue_timeout: Option<Duration>) -> Duration {
    if queue_timeout.is_some_and(|timeout| timeout <= wait) { wait.saturating_add(GRACE) } else { wait }
}

/// `Ok` for an ACTIVE lease, else why it is none.
///
/// # Errors
/// 75 when it was not served in time, 1 when it failed or was ended by someone.
pub fn served(lease: v1::Lease) -> Result<v1::Lease> {
    let id = &lease.id;
    let why = match (lease.state_message.as_str(), &lease.waiting) {
        ("", Some(waiting)) => objects::waiting(waiting),
        (message, _) => message.to_owned(),
    };
    match lease.state() {
        State::Active => Ok(lease),
        State::Unspecified | State::Pending | State::Acquired => Err(Failure::new(
            TRY_AGAIN,
            "NOT_ACTIVE_IN_TIME",
            format!(
                "{id} still waits ({why}); `drydock lease wait {id}` goes on waiting, `drydock lease release {id}` gives up"
            ),
        )),
        State::Released | State::Broken | State::Destroyed => {
            let code = if lease.state_reason == "QUEUE_TIMEOUT" { TRY_AGAIN } else { FAILURE };
            let reason = if lease.state_reason.is_empty() { "LEASE_ENDED" } else { &lease.state_reason };
            Err(Failure::new(code, reason, format!("{id}: {why}")))
        }
    }
}

/// Gives a lease back; that it is gone already is fine.
///
/// # Errors
/// Those of the daemon.
pub async fn release(daemon: &Daemon, lease_id: &str, comment: &str) -> Result<()> {
    let request = v1::ReleaseLeaseRequest {
        lease_id: lease_id.to_owned(),
        comment: comment.to_owned(),
        ..v1::ReleaseLeaseRequest::default()
    };
    match daemon.leases().release_lease(soon(request)).await {
        Ok(_) => Ok(()),
        Err(status) => {
            let failure = Failure::from(status);
            if failure.is(Reason::LeaseNotFound) { Ok(()) } else { Err(failure) }
        }
    }
}

/// The lease of an answer; every answer has one.
///
/// # Errors
/// `INTERNAL` for one that has none.
pub fn present<T>(object: Option<T>) -> Result<T> {
    object.ok_or_else(|| Failure::new(FAILURE, "INTERNAL", "the daemon's answer holds nothing"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(state: State, reason: &str) -> v1::Lease {
        v1::Lease {
            id: "lease_1".to_owned(),
            state: state.into(),
            state_reason: reason.to_owned(),
            ..v1::Lease::default()
        }
    }

    #[test]
    fn only_an_active_lease_is_served_and_lateness_has_its_code() {
        assert!(served(lease(State::Active, "")).is_ok());
        assert_eq!(served(lease(State::Pending, "")).unwrap_err().code, 75);
        assert_eq!(served(lease(State::Released, "QUEUE_TIMEOUT")).unwrap_err().code, 75);
        let broken = served(lease(State::Broken, "BUILD_FAILED")).unwrap_err();
        assert_eq!((broken.code, broken.reason.as_str()), (1, "BUILD_FAILED"));
    }

    #[test]
    fn the_wait_outlasts_a_queue_timeout_of_the_same_length() {
        let five = Duration::from_secs(5);
        assert!(patience(five, Some(five)) > five);
        assert_eq!(patience(five, None), five);
        assert_eq!(patience(five, Some(five * 2)), five);
    }
}
