//! Settings of a daemon: flags beat environment beat `--config` beat `/etc/drydock/drydock.toml`.

use std::path::PathBuf;

/// Settings of a daemon, resolved.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Absolute; made 0700 when missing.
    pub data_dir: PathBuf,
    /// The unix socket; its folder is made 0700 when missing.
    pub socket: PathBuf,
    /// Loopback TCP addresses, for example `127.0.0.1:7420`; port 0 takes a free one.
    pub listen: Vec<String>,
    /// `--tokens FILE`; without it, `listen` makes one admin token in `token` in the data folder.
    pub tokens: Option<PathBuf>,
    /// `sqlite:PATH`; default `drydock.db` in the data folder.
    pub database: String,
    /// Workers of the queue, at least 1.
    pub workers: usize,
    /// How long ended leases and events are kept.
    pub retention: std::time::Duration,
    /// Whether the local host and the stock kinds become blueprints on first start.
    pub stock_blueprints: bool,
    /// The slow sweep of the queue; only tests switch it off.
    pub sweep: bool,
    /// This binary, for the supervisor and the built-in web server.
    pub executable: PathBuf,
}
