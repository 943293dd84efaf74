//! Whether a machine has sftp. It accepts the channel in any case, and says later, on stderr, that there is no such
//! subsystem; so the first time the server is greeted.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use super::link::Channel;
use crate::error::{Error, Reason, Result};

/// How long a server may take to start.
const STARTS: Duration = Duration::from_secs(10);
/// `SSH_FXP_INIT`, version 3.
const INIT: [u8; 9] = [0, 0, 0, 5, 1, 0, 0, 0, 3];
/// `SSH_FXP_VERSION`.
const VERSION: u8 = 2;
/// A longer answer than this is none: it is text of a login shell.
const LONGEST: u32 = 64 * 1024;

/// Says hello to an sftp server, and leaves.
pub(super) async fn greet(mut channel: Channel, host: &str) -> Result<()> {
    let mut head = [0_u8; 5];
    let hello = async {
        channel.stdin.write_all(&INIT).await?;
        channel.stdout.read_exact(&mut head).await
    };
    match timeout(STARTS, hello).await {
        Ok(Ok(_)) => {}
        Ok(Err(_)) => {
            let mut said = Vec::new();
            let _ = timeout(STARTS, channel.stderr.take(1024).read_to_end(&mut said)).await;
            let said = String::from_utf8_lossy(&said);
            let message = format!(
                "{host} has no sftp: add `Subsystem sftp internal-sftp` to its sshd_config (it says: {})",
                said.trim().escape_default()
            );
            return Err(Error::new(Reason::InterfaceNotSupported, message));
        }
        Err(_) => {
            let message = format!("the sftp server of {host} does not answer within {} s", STARTS.as_secs());
            return Err(Error::new(Reason::HostUnreachable, message).retry_after(Duration::from_secs(1)));
        }
    }
    let length = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
    if head[4] != VERSION || length > LONGEST {
        let message = format!(
            "the login shell of {host} prints before sftp begins ({:?} …): let ~/.bashrc print only in interactive shells, or \
             use `Subsystem sftp internal-sftp`",
            String::from_utf8_lossy(&head)
        );
        return Err(Error::new(Reason::InterfaceNotSupported, message));
    }
    Ok(())
}
