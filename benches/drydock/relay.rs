//! The least that a tonic server needs to send a child's output on: what `Exec` is compared with. It runs in a process of
//! its own, as the daemon does.

use std::pin::Pin;
use std::process::Stdio;

use anyhow::Result;
use drydock::proto::v1;
use drydock::proto::v1::command_service_server::{CommandService, CommandServiceServer};
use futures::{Stream, StreamExt as _};
use tokio::net::UnixListener;
use tokio::process::Command;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::io::ReaderStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};

/// The word that makes this binary the relay.
pub(crate) const ROLE: &str = "relay";
/// As large as the chunks of `Exec`.
const CHUNK: usize = 64 * 1024;

type Frames<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

struct Relay;

#[tonic::async_trait]
impl CommandService for Relay {
    type ExecStream = Frames<v1::ExecResponse>;
    type ExecInteractiveStream = Frames<v1::ExecInteractiveResponse>;

    async fn exec(&self, request: Request<v1::ExecRequest>) -> Result<Response<Self::ExecStream>, Status> {
        let argv = request.into_inner().command.unwrap_or_default().argv;
        let (program, arguments) = argv.split_first().ok_or_else(|| Status::invalid_argument("argv is empty"))?;
        let mut child = Command::new(program).args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let stdout = child.stdout.take().ok_or_else(|| Status::internal("no stdout"))?;
        let frames = ReaderStream::with_capacity(stdout, CHUNK).map(move |data| {
            // The child lives as long as its output.
            let _ = &child;
            let output = v1::ProcessOutput { data: data?, ..v1::ProcessOutput::default() };
            Ok(v1::ExecResponse { frame: Some(v1::exec_response::Frame::Output(output)) })
        });
        Ok(Response::new(Box::pin(frames)))
    }

    async fn exec_interactive(
        &self,
        _request: Request<Streaming<v1::ExecInteractiveRequest>>,
    ) -> Result<Response<Self::ExecInteractiveStream>, Status> {
        Err(Status::unimplemented("only Exec"))
    }
}

/// Serves until it is killed. The windows are the daemon's: with tonic's own it would be no rival.
pub(crate) async fn serve(socket: &str) -> Result<()> {
    let listener = UnixListener::bind(socket)?;
    Server::builder()
        .initial_stream_window_size(1024 * 1024)
        .initial_connection_window_size(8 * 1024 * 1024)
        .max_frame_size(drydock::rpc::limits::MAX_FRAME)
        .add_service(CommandServiceServer::new(Relay))
        .serve_with_incoming(UnixListenerStream::new(listener))
        .await?;
    Ok(())
}
