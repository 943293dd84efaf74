//! A command run to its end, on any host.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use super::{Host, Ran, Run};
use crate::error::Result;

/// stdout that is kept.
const KEEP: usize = 1024 * 1024;
/// stderr that is kept, from its end.
const TAIL: usize = 2048;
/// From TERM to KILL when the time is over.
const GRACE: Duration = Duration::from_secs(1);
/// Who still holds a pipe this long after the process's end, without a word, has nothing more to say.
const SILENCE: Duration = Duration::from_millis(200);

/// Runs a command on `host`; its tree is gone when this returns or is dropped.
///
/// # Errors
/// As [`Host::spawn`] and [`Control::wait`](super::Control::wait).
pub async fn run(host: &dyn Host, run: Run) -> Result<Ran> {
    let mut command = run.command;
    command.stdin |= !run.input.is_empty();
    let mut process = host.spawn(command).await?;
    let mut kept = Kept { stdout: Vec::new(), tail: Vec::new() };
    let worked = timeout(run.timeout, async {
        let stdin = process.stdin.take();
        let input = async {
            if let Some(mut stdin) = stdin {
                // A program need not read what it is given.
                let _ = stdin.write_all(&run.input).await;
                let _ = stdin.shutdown().await;
            }
            std::future::pending::<()>().await;
        };
        let output = async {
            tokio::join!(
                pump(&mut process.stdout, &mut kept.stdout, first),
                pump_optional(process.stderr.as_mut(), &mut kept.tail)
            )
        };
        let mut output = std::pin::pin!(output);
        let mut input = std::pin::pin!(input);
        let mut drained = false;
        let exit = loop {
            tokio::select! {
                exit = process.control.wait() => break exit,
                _ = &mut output, if !drained => drained = true,
                () = &mut input => {}
            }
        };
        if !drained {
            let _ = timeout(SILENCE, output).await;
        }
        exit
    })
    .await;
    let exit = if let Ok(exit) = worked {
        process.control.end(Duration::ZERO).await;
        Some(exit?)
    } else {
        process.control.end(GRACE).await;
        None
    };
    Ok(Ran { exit, stdout: kept.stdout, stderr_tail: repaired_tail(&kept.tail, TAIL) })
}

struct Kept {
    stdout: Vec<u8>,
    tail: Vec<u8>,
}

fn first(kept: &mut Vec<u8>, data: &[u8]) {
    let room = KEEP - kept.len();
    kept.extend_from_slice(&data[..data.len().min(room)]);
}

/// Appends to what is kept of an end: at most `limit` bytes, and as many again before they are cut off.
pub fn keep_tail(kept: &mut Vec<u8>, data: &[u8], limit: usize) {
    kept.extend_from_slice(&data[data.len().saturating_sub(limit)..]);
    if kept.len() > 2 * limit {
        kept.drain(..kept.len() - limit);
    }
}

/// The last at most `limit` bytes, as UTF-8 without half characters.
#[must_use]
pub fn repaired_tail(kept: &[u8], limit: usize) -> String {
    let mut from = kept.len().saturating_sub(limit);
    if from > 0 {
        // Not in the middle of a character.
        from += kept[from..].iter().take(3).take_while(|byte| (0x80..0xC0).contains(*byte)).count();
    }
    let text = String::from_utf8_lossy(&kept[from..]);
    let start = text.ceil_char_boundary(text.len().saturating_sub(limit));
    text[start..].to_owned()
}

async fn pump_optional(from: Option<&mut Box<dyn AsyncRead + Send + Unpin>>, kept: &mut Vec<u8>) {
    if let Some(from) = from {
        pump(from, kept, |kept, data| keep_tail(kept, data, TAIL)).await;
    }
}

async fn pump(from: &mut (dyn AsyncRead + Send + Unpin), kept: &mut Vec<u8>, keep: impl Fn(&mut Vec<u8>, &[u8])) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        keep(kept, &buffer[..length]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tail_holds_whole_characters_and_no_more_than_the_limit() {
        let text = "ä".repeat(2000);
        let tail = repaired_tail(text.as_bytes(), 2047);
        assert_eq!(tail, "ä".repeat(1023));
        assert!(repaired_tail(&[0xFF; 5000], 2048).len() <= 2048);
        assert_eq!(repaired_tail(b"short", 2048), "short");
        let mut kept = Vec::new();
        for _ in 0..1000 {
            keep_tail(&mut kept, b"0123456789", 16);
        }
        assert!(kept.len() <= 32 && kept.ends_with(b"6789"));
    }
}
