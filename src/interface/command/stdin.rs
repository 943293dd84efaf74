//! Feeding a command's stdin, at the pace at which it reads.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures::StreamExt as _;
use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;

use super::Inputs;
use crate::error::{Error, Result};
use crate::host::Control;

/// What is taken from the caller ahead of what the command has read: enough that a signal gets past a little stdin.
const AHEAD: usize = 256 * 1024;

/// A caller's word to a running command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// More stdin.
    Data(Bytes),
    /// No more stdin.
    Eof,
    /// To the whole group, by its number on the host.
    Signal(i32),
}

/// Feeds until there is no more to come. A caller's mistake goes to `fault`; a command that does not read is none.
pub(super) async fn feed(
    pipe: Box<dyn AsyncWrite + Send + Unpin>,
    first: Bytes,
    mut inputs: Option<Inputs>,
    control: Arc<dyn Control>,
    signalled: Arc<AtomicU64>,
    fault: mpsc::Sender<Error>,
) {
    let mut pipe = Some(pipe);
    let mut waiting = VecDeque::from([first]);
    let mut eof = inputs.is_none();
    loop {
        waiting.retain(|data| !data.is_empty());
        if waiting.is_empty() && eof {
            // Closing it is how the command learns.
            pipe = None;
        }
        if inputs.is_none() && (waiting.is_empty() || pipe.is_none()) {
            return;
        }
        let ahead: usize = waiting.iter().map(Bytes::len).sum();
        let write = async {
            match (&mut pipe, waiting.front_mut()) {
                (Some(pipe), Some(data)) => pipe.write_buf(data).await,
                _ => std::future::pending().await,
            }
        };
        let read = async {
            match &mut inputs {
                Some(inputs) if ahead < AHEAD => inputs.next().await,
                _ => std::future::pending().await,
            }
        };
        let input = tokio::select! {
            written = write => {
                if written.is_err() {
                    // It closed its stdin or is gone. What comes now goes nowhere, as it would in a shell.
                    pipe = None;
                    waiting.clear();
                }
                continue;
            }
            input = read => input,
        };
        let taken = match input {
            None => {
                inputs = None;
                eof = true;
                Ok(())
            }
            Some(Ok(Input::Data(_))) if eof => Err(Error::invalid("a frame with stdin came after stdin_eof")),
            Some(Ok(Input::Data(data))) => {
                if pipe.is_some() {
                    waiting.push_back(data);
                }
                Ok(())
            }
            Some(Ok(Input::Eof)) => {
                eof = true;
                Ok(())
            }
            Some(Ok(Input::Signal(number))) => send(&*control, &signalled, number).await,
            Some(Err(error)) => Err(error),
        };
        if let Err(error) = taken {
            // Only the first one counts.
            let _ = fault.try_send(error);
            return;
        }
    }
}

async fn send(control: &dyn Control, signalled: &AtomicU64, number: i32) -> Result<()> {
    // Noted first: the command may be dead by the time the call is back.
    if let Ok(bit) = u32::try_from(number) {
        signalled.fetch_or(1_u64.checked_shl(bit).unwrap_or(0), Ordering::Relaxed);
    }
    control.signal(number).await
}
