//! `CommandService`: requests into the words of `interface::command`, frames out of them.

use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use tonic::{Request, Response, Status, Streaming};

use super::caller;
use super::convert::time::{span, timestamp};
use crate::clock::SharedClock;
use crate::engine::{Caller, Engine, Opened};
use crate::error::{Error, Result};
use crate::host::Exit;
use crate::interface::command::{
    EndReason, ExecSpec, Execution, Exited, Frame, Input, Inputs, MAX_STDIN, OutputStream, Payload, bytes_of, exec,
};
use crate::proto::v1;
use crate::proto::v1::command_service_server::CommandService;
use crate::proto::v1::exec_interactive_request::Frame as InputFrame;
use crate::proto::v1::process_exited::{Outcome, Reason as WireReason};
use crate::proto::v1::{exec_interactive_response, exec_response};

const INTERFACE: &str = "command";

type Frames<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// `drydock.v1.CommandService`.
pub struct CommandRpc {
    engine: Arc<Engine>,
    clock: SharedClock,
}

impl CommandRpc {
    /// `clock` tells when a process was born.
    #[must_use]
    pub fn new(engine: Arc<Engine>, clock: SharedClock) -> Self {
        Self { engine, clock }
    }

    async fn start(&self, caller: &Caller, request: v1::ExecRequest, inputs: Option<Inputs>) -> Result<Execution> {
        let lease_id = request.lease_id.clone();
        let spec = spec(request)?;
        spec.validate()?;
        let Opened { place, ended, .. } = self.engine.open(caller, &lease_id, INTERFACE).await?;
        exec(&place, &lease_id, spec, inputs, ended, self.clock.now()).await
    }
}

#[tonic::async_trait]
impl CommandService for CommandRpc {
    type ExecStream = Frames<v1::ExecResponse>;
    type ExecInteractiveStream = Frames<v1::ExecInteractiveResponse>;

    async fn exec(&self, request: Request<v1::ExecRequest>) -> Result<Response<Self::ExecStream>, Status> {
        let caller = caller(&request)?;
        let execution = self.start(&caller, request.into_inner(), None).await?;
        Ok(Response::new(Box::pin(exec_frames(execution))))
    }

    async fn exec_interactive(
        &self,
        request: Request<Streaming<v1::ExecInteractiveRequest>>,
    ) -> Result<Response<Self::ExecInteractiveStream>, Status> {
        let caller = caller(&request)?;
        let mut frames = request.into_inner();
        let Some(InputFrame::Start(start)) = frames.message().await?.and_then(|message| message.frame) else {
            return Err(Error::invalid("the first frame must be start, with what to run").into());
        };
        let inputs = inputs(frames);
        let execution = self.start(&caller, start, Some(inputs)).await?;
        Ok(Response::new(Box::pin(interactive_frames(execution))))
    }
}

/// What a request asks for.
fn spec(request: v1::ExecRequest) -> Result<ExecSpec> {
    let command = request.command.ok_or_else(|| Error::invalid("command is missing; set command.argv"))?;
    let stdin = match (request.stdin.is_empty(), request.stdin_text.is_empty()) {
        (false, false) => return Err(Error::invalid("both stdin and stdin_text are set; set one")),
        (true, _) => bytes_of(request.stdin_text),
        (false, true) => request.stdin,
    };
    Ok(ExecSpec {
        argv: command.argv,
        shell: command.shell,
        cwd: command.cwd,
        env: command.env,
        secret_env: command.secret_env,
        timeout: span("command.timeout", command.timeout.as_ref())?,
        kill_grace: span("command.kill_grace", command.kill_grace.as_ref())?,
        merge_stderr: command.merge_stderr,
        stdin,
        check: request.check,
        text: request.text,
    })
}

/// A caller's frames after the first.
fn inputs(frames: Streaming<v1::ExecInteractiveRequest>) -> Inputs {
    Box::pin(frames.map(|frame| match frame {
        Ok(message) => input(message),
        Err(status) => Err(Error::invalid("a frame of the caller cannot be read").because(status)),
    }))
}

fn input(message: v1::ExecInteractiveRequest) -> Result<Input> {
    let data = |data: Bytes| {
        if data.len() > MAX_STDIN {
            return Err(Error::invalid(format!("a frame has {} bytes of stdin; at most {MAX_STDIN}", data.len())));
        }
        Ok(Input::Data(data))
    };
    match message.frame {
        Some(InputFrame::Stdin(bytes)) => data(bytes),
        Some(InputFrame::StdinText(text)) => data(bytes_of(text)),
        Some(InputFrame::StdinEof(_)) => Ok(Input::Eof),
        Some(InputFrame::Signal(number)) => Ok(Input::Signal(number)),
        Some(InputFrame::Start(_)) => Err(Error::invalid("a second start; one call runs one command")),
        None => Err(Error::invalid("a frame without content, or with content that this release does not know")),
    }
}

/// The frames of `Exec`.
fn exec_frames(execution: Execution) -> impl Stream<Item = Result<v1::ExecResponse, Status>> + Send {
    use exec_response::Frame as Wire;
    execution.map(|frame| {
        let frame = match frame? {
            Frame::Started(it) => Wire::Started(started(&it)),
            Frame::Output(it) => Wire::Output(output(it)),
            Frame::Exited(it) => Wire::Exited(exited(&it)),
            Frame::Heartbeat => Wire::Heartbeat(v1::ProcessHeartbeat {}),
        };
        Ok(v1::ExecResponse { frame: Some(frame) })
    })
}

/// The frames of `ExecInteractive`.
fn interactive_frames(execution: Execution) -> impl Stream<Item = Result<v1::ExecInteractiveResponse, Status>> + Send {
    use exec_interactive_response::Frame as Wire;
    execution.map(|frame| {
        let frame = match frame? {
            Frame::Started(it) => Wire::Started(started(&it)),
            Frame::Output(it) => Wire::Output(output(it)),
            Frame::Exited(it) => Wire::Exited(exited(&it)),
            Frame::Heartbeat => Wire::Heartbeat(v1::ProcessHeartbeat {}),
        };
        Ok(v1::ExecInteractiveResponse { frame: Some(frame) })
    })
}

fn started(it: &crate::interface::command::Started) -> v1::ProcessStarted {
    v1::ProcessStarted {
        process_id: it.process_id.to_string(),
        pid: it.pid,
        start_time: Some(timestamp(it.start_time)),
    }
}

fn output(it: crate::interface::command::Output) -> v1::ProcessOutput {
    let stream = match it.stream {
        OutputStream::Stdout => v1::OutputStream::Stdout,
        OutputStream::Stderr => v1::OutputStream::Stderr,
    };
    let (data, text) = match it.payload {
        Payload::Data(data) => (data, String::new()),
        Payload::Text(text) => (Bytes::new(), text),
    };
    v1::ProcessOutput { stream: stream.into(), offset: wire(it.offset), data, text }
}

fn exited(it: &Exited) -> v1::ProcessExited {
    let outcome = match it.exit {
        Exit::Code(code) => Outcome::ExitCode(code),
        // The enum has the numbers of Linux; others go as they are.
        Exit::Signal(number) => Outcome::Signal(number),
    };
    let reason = match it.reason {
        EndReason::Exited => WireReason::Exited,
        EndReason::Signaled => WireReason::Signaled,
        EndReason::Timeout => WireReason::Timeout,
        EndReason::Cancelled => WireReason::Cancelled,
        EndReason::LeaseEnded => WireReason::LeaseEnded,
    };
    v1::ProcessExited {
        outcome: Some(outcome),
        reason: reason.into(),
        stdout_bytes: wire(it.stdout_bytes),
        stderr_bytes: wire(it.stderr_bytes),
    }
}

fn wire(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
