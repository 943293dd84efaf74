//! Commands: started on the lease's host, watched, and ended with all that they started.
//!
//! Two tasks serve a command beside the reader of its frames: the steward, who alone decides when it must end, so that
//! a reader who stalls delays nothing, and the one who feeds its stdin.

mod execution;
mod spec;
mod stdin;
mod steward;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use bytes::Bytes;
use futures::stream::BoxStream;
use tokio_util::sync::CancellationToken;

pub use self::execution::{EndReason, Execution, Exited, Frame, Output, OutputStream, Payload, Started};
pub use self::spec::{ExecSpec, MAX_STDIN};
pub use self::stdin::Input;

use self::steward::{Graces, Steward};
use crate::clock::Micros;
use crate::error::Result;
use crate::host::{Control, Place};
use crate::model::id::ProcessId;

/// What comes while a command runs; its end is the end of stdin.
pub type Inputs = BoxStream<'static, Result<Input>>;

/// Starts a command for a lease. `ended` is cancelled when the lease ends; `now` is its time of birth.
///
/// The tree is killed when the answer is dropped before its last frame.
///
/// # Errors
/// `INVALID_ARGUMENT` for what no host can start, `PATH_OUTSIDE_ROOT`, `FILE_NOT_FOUND` and `NOT_A_DIRECTORY` for the
/// working directory, `HOST_UNREACHABLE` when nothing was started.
pub async fn exec(
    place: &Place,
    lease_id: &str,
    spec: ExecSpec,
    inputs: Option<Inputs>,
    ended: CancellationToken,
    now: Micros,
) -> Result<Execution> {
    spec.validate()?;
    place.host.make_folder(&place.root).await?;
    let process_id = ProcessId::new(now);
    let mut command = spec.command(place, lease_id, &process_id).await?;
    let stdin = spec.stdin.clone();
    command.stdin = inputs.is_some() || !stdin.is_empty();
    let process = place.host.spawn(command).await?;

    let control: Arc<dyn Control> = Arc::from(process.control);
    let gone = CancellationToken::new();
    // From here on, whoever drops this future or what it answers ends the tree.
    let guard = gone.clone().drop_guard();
    let signalled = Arc::new(AtomicU64::new(0));
    let (steward, reports) = Steward::new(
        Arc::clone(&control),
        Graces::new(spec.timeout, spec.kill_grace),
        gone.clone(),
        ended,
        Arc::clone(&signalled),
    );
    let fault = steward.fault();
    tokio::spawn(steward.run());
    if let Some(pipe) = process.stdin {
        let feed = stdin::feed(pipe, stdin, inputs, control, signalled, fault);
        tokio::spawn(async move { gone.run_until_cancelled_owned(feed).await });
    }
    let started = Started { process_id, pid: process.pid, start_time: now };
    Ok(Execution::new(started, process.stdout, process.stderr, reports, guard, &spec))
}

/// Bytes of a text, without a copy.
#[must_use]
pub fn bytes_of(text: String) -> Bytes {
    Bytes::from(text.into_bytes())
}
