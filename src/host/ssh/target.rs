//! Which machine, as whom, and how it proves that it is the one.

use std::path::PathBuf;

/// A machine to be reached over ssh. Two equal targets are the same link.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Target {
    /// The id of the host's resource: names the link in control files and messages.
    pub id: String,
    /// A name or an address.
    pub address: String,
    /// TCP, 22 when nothing else is said.
    pub port: u16,
    /// Whom to be there.
    pub user: String,
    /// A private key, absolute; `None` leaves it to the agent.
    pub identity_file: Option<PathBuf>,
    /// Its certificate, absolute.
    pub certificate_file: Option<PathBuf>,
    /// The agent's socket, absolute; `None` uses none.
    pub identity_agent: Option<PathBuf>,
    /// `[user@]host[:port]`, through which the machine is reached.
    pub jump: Option<String>,
    /// A file of ssh's own configuration for names, addresses and jump hosts, absolute.
    pub ssh_config: Option<PathBuf>,
    /// The pinned host keys, each `ssh-ed25519 AAAA…`: nothing is sent to a machine that has none of them.
    pub host_keys: Vec<String>,
}
