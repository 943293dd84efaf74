//! Callers: each wants a berth, uses it by way of whichever daemon answers, and gives it back; again and again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use drydock::proto::v1::exec_response::Frame;
use drydock::proto::v1::lease::State;
use drydock::proto::v1::{AcquireLeaseRequest, Command, ExecRequest, Lease, ReleaseLeaseRequest};
use tokio::time::{Instant, interval, timeout};
use tonic::{Request, Status};
use tonic_types::StatusExt as _;

use super::daemon::Api;

/// The longest that a call waits for a lease.
const WAIT: Duration = Duration::from_secs(4);
/// A daemon that does not answer by then is given up, for another: later than it gives itself up on a silent database, on a machine that has
/// other things to do.
const ANSWER: Duration = Duration::from_secs(6);
/// Without an answer of any daemon for so long, something is wrong.
const PATIENCE: Duration = Duration::from_mins(2);

/// What callers share.
pub(super) struct Crowd {
    pub(super) daemons: Vec<Api>,
    pub(super) stop: AtomicBool,
    pub(super) done: AtomicU64,
    pub(super) uses: AtomicU64,
    /// How calls failed, by reason.
    pub(super) failures: Mutex<BTreeMap<String, u64>>,
    /// Leases that did not become ACTIVE, and why.
    pub(super) broken: Mutex<Vec<String>>,
}

impl Crowd {
    pub(super) fn new(daemons: Vec<Api>) -> Arc<Self> {
        Arc::new(Self {
            daemons,
            stop: AtomicBool::new(false),
            done: AtomicU64::new(0),
            uses: AtomicU64::new(0),
            failures: Mutex::default(),
            broken: Mutex::default(),
        })
    }

    pub(super) fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn failed(&self, what: &str, status: &Status) {
        let reason = status.get_details_error_info().map_or_else(|| format!("{:?}", status.code()), |info| info.reason);
        *self.failures.lock().unwrap().entry(format!("{what} {reason}")).or_default() += 1;
    }

    /// One of the daemons, or the same again.
    fn any(&self) -> &Api {
        &self.daemons[fastrand::usize(..self.daemons.len())]
    }
}

fn span(span: Duration) -> Option<prost_types::Duration> {
    Some(span.try_into().unwrap())
}

/// A call that is given up when no answer comes.
async fn within<T>(limit: Duration, call: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    timeout(limit, call).await.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer")))
}

/// One caller, until it is over.
pub(super) async fn caller(crowd: Arc<Crowd>, number: usize) {
    for round in 0.. {
        if crowd.is_over() {
            return;
        }
        one(&crowd, number, &format!("caller-{number}-{round}")).await;
    }
}

async fn one(crowd: &Crowd, number: usize, request_id: &str) {
    let wanted = AcquireLeaseRequest {
        resource_type: "berth".to_owned(),
        request_id: request_id.to_owned(),
        wait: span(WAIT),
        ttl: span(Duration::from_mins(10)),
        ..AcquireLeaseRequest::default()
    };
    let mut patience = Instant::now();
    let lease = loop {
        let call = async { crowd.any().leases().acquire_lease(wanted.clone()).await };
        match within(WAIT + ANSWER, call).await {
            Ok(answer) => {
                patience = Instant::now();
                let lease = answer.into_inner().lease.unwrap();
                // When it is over some of them go on waiting, and most give it up.
                let gives_up = crowd.is_over() && !number.is_multiple_of(5);
                if gives_up || !matches!(lease.state(), State::Pending | State::Acquired) {
                    break lease;
                }
            }
            Err(status) => {
                crowd.failed("acquire", &status);
                assert!(patience.elapsed() < PATIENCE * 2, "nobody takes {request_id}: {status}");
                breathe().await;
            }
        }
    };
    match lease.state() {
        State::Active => {
            for _ in 0..fastrand::usize(1..4) {
                make_use(crowd, &lease).await;
            }
        }
        State::Pending | State::Acquired => {}
        state => crowd.broken.lock().unwrap().push(format!("{state:?} {}: {}", lease.id, lease.state_message)),
    }
    release(crowd, &lease.id).await;
    crowd.done.fetch_add(1, Ordering::Relaxed);
}

async fn make_use(crowd: &Crowd, lease: &Lease) {
    let argv =
        ["sh", "-c", r#"exec "$HOME/tell" use "$1" "$2""#, "sh", &lease.facts["holder"], &lease.epoch.to_string()];
    let request = ExecRequest {
        lease_id: lease.id.clone(),
        command: Some(Command { argv: argv.map(str::to_owned).to_vec(), ..Command::default() }),
        ..ExecRequest::default()
    };
    let call = async {
        let mut frames = crowd.any().commands().exec(request).await?.into_inner();
        let mut exited = false;
        while let Some(frame) = frames.message().await? {
            exited |= matches!(frame.frame, Some(Frame::Exited(_)));
        }
        if exited { Ok(()) } else { Err(Status::data_loss("it ended without a word")) }
    };
    match within(WAIT, call).await {
        Ok(()) => drop(crowd.uses.fetch_add(1, Ordering::Relaxed)),
        Err(status) => crowd.failed("exec", &status),
    }
}

/// Gives back, until somebody has taken it.
async fn release(crowd: &Crowd, lease: &str) {
    let request = ReleaseLeaseRequest {
        lease_id: lease.to_owned(),
        request_id: format!("release-{lease}"),
        ..ReleaseLeaseRequest::default()
    };
    let patience = Instant::now();
    loop {
        let daemon = crowd.any();
        let call = async { daemon.leases().release_lease(Request::new(request.clone())).await };
        match within(ANSWER, call).await {
            Ok(_) => return,
            Err(status) => {
                crowd.failed("release", &status);
                assert!(patience.elapsed() < PATIENCE, "nobody takes {lease} back: {status}");
                breathe().await;
            }
        }
    }
}

/// Nobody asks without a pause where nobody answers.
async fn breathe() {
    let mut ticks = interval(Duration::from_millis(20 + fastrand::u64(..100)));
    ticks.tick().await;
    ticks.tick().await;
}
