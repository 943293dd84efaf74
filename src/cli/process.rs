//! Running a command on a lease with its output on ours: shared by `exec`, `run` and `quickstart`.

use std::pin::Pin;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Status};
use tonic_types::StatusExt as _;

use super::connect::Daemon;
use super::exit::{FAILURE, Failure, Result};
use super::interrupt::Interrupt;
use crate::proto::v1;
use crate::proto::v1::process_exited::Outcome;

/// Read from stdin at once; the API takes up to 1 MiB.
const CHUNK: usize = 64 * 1024;
/// Chunks of stdin on their way: a command that reads slowly slows its source.
const IN_FLIGHT: usize = 4;

/// One frame of either call.
#[derive(Debug)]
enum Frame {
    Output(v1::ProcessOutput),
    Exited(v1::ProcessExited),
    /// Started, alive, or of a newer daemon.
    Other,
}

type Frames = Pin<Box<dyn Stream<Item = Result<Frame, Status>> + Send>>;

/// Runs the command and copies its output to ours; answers with how it ended, whatever its exit code.
///
/// Without `input` a signal cancels the call, which kills the command. With it, signals are passed on.
///
/// # Errors
/// Drydock's own failures, 130 and 143.
pub async fn run(
    daemon: &Daemon,
    request: v1::ExecRequest,
    input: bool,
    interrupt: &Interrupt,
) -> Result<v1::ProcessExited> {
    if !input {
        let frames = daemon.commands().exec(Request::new(request)).await?.into_inner();
        let frames: Frames = Box::pin(frames.map(|frame| frame.map(Frame::from)));
        return interrupt.or(copy(frames)).await;
    }
    let (send, requests) = mpsc::channel(IN_FLIGHT);
    // There is room: nothing was sent yet.
    let _ = send.send(frame(v1::exec_interactive_request::Frame::Start(request))).await;
    let frames = daemon.commands().exec_interactive(ReceiverStream::new(requests)).await?.into_inner();
    let stdin = tokio::spawn(feed(send.clone()));
    let frames: Frames = Box::pin(frames.map(|frame| frame.map(Frame::from)));
    let passing_on = async {
        let signal = i32::from(interrupt.heard().await);
        let _ = send.send(frame(v1::exec_interactive_request::Frame::Signal(signal))).await;
        std::future::pending::<std::convert::Infallible>().await
    };
    let ended = tokio::select! {
        ended = copy(frames) => ended,
        never = passing_on => match never {},
    };
    stdin.abort();
    ended
}

/// What the command's end means as an exit code: its own, or 128+n for a signal.
#[must_use]
pub fn code(exited: &v1::ProcessExited) -> u8 {
    match exited.outcome {
        Some(Outcome::ExitCode(code)) => u8::try_from(code & 0xff).unwrap_or(u8::MAX),
        Some(Outcome::Signal(number)) => u8::try_from(128 + (number & 0x7f)).unwrap_or(u8::MAX),
        None => FAILURE,
    }
}

/// Why a command did not end by itself, for people; `None` when it did.
#[must_use]
pub fn cut_short(exited: &v1::ProcessExited) -> Option<&'static str> {
    use v1::process_exited::Reason;
    match exited.reason() {
        Reason::Timeout => Some("its timeout passed, so the command was killed"),
        Reason::LeaseEnded => Some("the lease ended, so the command was killed"),
        Reason::Cancelled => Some("the command was cancelled"),
        Reason::Unspecified | Reason::Exited | Reason::Signaled => None,
    }
}

fn frame(frame: v1::exec_interactive_request::Frame) -> v1::ExecInteractiveRequest {
    v1::ExecInteractiveRequest { frame: Some(frame) }
}

impl From<v1::ExecResponse> for Frame {
    fn from(response: v1::ExecResponse) -> Self {
        use v1::exec_response::Frame::{Exited, Output};
        match response.frame {
            Some(Output(output)) => Self::Output(output),
            Some(Exited(exited)) => Self::Exited(exited),
            _ => Self::Other,
        }
    }
}

impl From<v1::ExecInteractiveResponse> for Frame {
    fn from(response: v1::ExecInteractiveResponse) -> Self {
        use v1::exec_interactive_response::Frame::{Exited, Output};
        match response.frame {
            Some(Output(output)) => Self::Output(output),
            Some(Exited(exited)) => Self::Exited(exited),
            _ => Self::Other,
        }
    }
}

/// Copies our stdin to the command's, to its end.
async fn feed(send: mpsc::Sender<v1::ExecInteractiveRequest>) {
    let mut stdin = tokio::io::stdin();
    loop {
        let mut chunk = bytes::BytesMut::with_capacity(CHUNK);
        // An unreadable stdin is an ended one for the command.
        let Ok(1..) = stdin.read_buf(&mut chunk).await else {
            let _ = send.send(frame(v1::exec_interactive_request::Frame::StdinEof(v1::StdinEof {}))).await;
            return;
        };
        if send.send(frame(v1::exec_interactive_request::Frame::Stdin(chunk.freeze()))).await.is_err() {
            return;
        }
    }
}

/// Copies output until the command's end.
async fn copy(mut frames: Frames) -> Result<v1::ProcessExited> {
    let (mut stdout, mut stderr) = (tokio::io::stdout(), tokio::io::stderr());
    let mut exited = None;
    while let Some(frame) = frames.next().await {
        match frame {
            Ok(Frame::Output(output)) => {
                let data = if output.data.is_empty() { output.text.as_bytes() } else { &output.data[..] };
                let (written, what) = if output.stream() == v1::OutputStream::Stderr {
                    (write(&mut stderr, data).await, "stderr")
                } else {
                    (write(&mut stdout, data).await, "stdout")
                };
                written.map_err(|error| Failure::io(what, &error))?;
            }
            Ok(Frame::Exited(end)) => exited = Some(end),
            Ok(Frame::Other) => {}
            // With `check` an error follows the end; the exit code says the same.
            Err(_) if exited.is_some() => break,
            // The daemon's own refusals and failures carry a reason.
            Err(status) if status.get_details_error_info().is_none() => break,
            Err(status) => return Err(status.into()),
        }
    }
    exited.ok_or_else(|| {
        Failure::new(FAILURE, "OUTCOME_UNKNOWN", "the link was lost while the command ran; nobody knows how it ended")
    })
}

async fn write(to: &mut (impl tokio::io::AsyncWrite + Unpin), data: &[u8]) -> std::io::Result<()> {
    to.write_all(data).await?;
    to.flush().await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(outcome: Outcome) -> u8 {
        code(&v1::ProcessExited { outcome: Some(outcome), ..v1::ProcessExited::default() })
    }

    #[test]
    fn exit_codes_pass_and_signals_are_added_to_128() {
        for (exit, expected) in [(0, 0), (1, 1), (127, 127), (254, 254), (255, 255)] {
            assert_eq!(ended(Outcome::ExitCode(exit)), expected);
        }
        assert_eq!(ended(Outcome::Signal(v1::Signal::Kill.into())), 137);
        assert_eq!(ended(Outcome::Signal(v1::Signal::Term.into())), 143);
    }

    #[test]
    fn an_end_that_was_not_the_commands_own_is_told() {
        let mut exited = v1::ProcessExited::default();
        assert_eq!(cut_short(&exited), None);
        exited.set_reason(v1::process_exited::Reason::LeaseEnded);
        assert!(cut_short(&exited).is_some());
    }
}
