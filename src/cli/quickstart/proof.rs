//! That nothing of a lease is left: by what the daemon says, and by what is to be seen on the machine.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::cli::connect::{Daemon, soon};
use crate::cli::exit::{FAILURE, Failure, Result};
use crate::proto::v1;

/// Resources are taken down after their lease is gone.
const PATIENCE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(50);
const PAGE: i32 = 500;
const HOST: &str = "host";

/// All that a lease held while it was ACTIVE.
#[derive(Debug)]
pub(super) struct Holdings {
    root: String,
    leases: BTreeSet<String>,
    resources: BTreeSet<String>,
    addresses: BTreeSet<(String, u16)>,
}

impl Holdings {
    /// Asks for them.
    ///
    /// # Errors
    /// Those of the daemon.
    pub(super) async fn of(daemon: &Daemon, root: &str) -> Result<Self> {
        let leases = tree(daemon, root).await?;
        let port = |lease: &v1::Lease| {
            let port = lease.facts.get("port")?.parse().ok()?;
            Some((lease.facts.get("address").cloned().unwrap_or_else(|| "127.0.0.1".to_owned()), port))
        };
        Ok(Self {
            root: root.to_owned(),
            addresses: leases.iter().filter_map(port).collect(),
            leases: leases.iter().map(|lease| lease.id.clone()).collect(),
            resources: leases
                .iter()
                .filter(|lease| lease.resource_type != HOST)
                .map(|lease| lease.resource_id.clone())
                .collect(),
        })
    }

    /// One line per thing that was looked for and not found.
    ///
    /// # Errors
    /// What is left.
    pub(super) async fn prove_gone(&self, daemon: &Daemon, data_dir: &Path) -> Result<Vec<String>> {
        let deadline = Instant::now() + PATIENCE;
        let mut ticks = interval(POLL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let left = self.left(daemon, data_dir).await?;
            if left.is_empty() {
                break;
            }
            if Instant::now() > deadline {
                return Err(Failure::new(FAILURE, "INTERNAL", format!("this is left: {}", left.join("; "))));
            }
        }
        let ports: Vec<_> = self.addresses.iter().map(|(_, port)| port.to_string()).collect();
        Ok(vec![
            format!(
                "{} leases and {} resources are DESTROYED; no lease is on the host",
                self.leases.len(),
                self.resources.len()
            ),
            format!("no folder of them under {}", data_dir.display()),
            "no process of theirs is running".to_owned(),
            format!("nobody listens on port {}", ports.join(", ")),
        ])
    }

    async fn left(&self, daemon: &Daemon, data_dir: &Path) -> Result<Vec<String>> {
        let mut left = Vec::new();
        for lease in tree(daemon, &self.root).await? {
            if lease.state() != v1::lease::State::Destroyed {
                left.push(format!("{} is {}", lease.id, lease.state().as_str_name()));
            }
        }
        let request = v1::ListResourcesRequest { page_size: PAGE, ..v1::ListResourcesRequest::default() };
        for resource in daemon.resources().list_resources(soon(request)).await?.into_inner().resources {
            if resource.resource_type == HOST && resource.lease_count > 0 {
                left.push(format!("{} leases are on {}", resource.lease_count, resource.id));
            }
            if resource.resource_type != HOST && resource.state() != v1::resource::State::Destroyed {
                left.push(format!("{} is {}", resource.id, resource.state().as_str_name()));
            }
        }
        left.extend(folders(&data_dir.join("leases"), &self.leases));
        left.extend(folders(&data_dir.join("resources"), &self.resources));
        left.extend(processes(&self.leases));
        for (address, port) in &self.addresses {
            if TcpStream::connect((address.as_str(), *port)).await.is_ok() {
                left.push(format!("someone listens on {address}:{port}"));
            }
        }
        Ok(left)
    }
}

async fn tree(daemon: &Daemon, root: &str) -> Result<Vec<v1::Lease>> {
    let request = v1::ListLeasesRequest {
        page_size: PAGE,
        filter: format!("root_lease_id = \"{root}\""),
        show_sub_leases: true,
        ..v1::ListLeasesRequest::default()
    };
    Ok(daemon.leases().list_leases(soon(request)).await?.into_inner().leases)
}

/// Entries that are named after one of the ids.
fn folders(folder: &Path, ids: &BTreeSet<String>) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let named = entries.filter(|entry| {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        ids.iter().any(|id| !id.is_empty() && name.contains(id.as_str()))
    });
    named.map(|entry| entry.path().display().to_string()).collect()
}

/// Processes that have one of the ids in their environment: every command of a lease has.
fn processes(ids: &BTreeSet<String>) -> Vec<String> {
    let own = std::process::id().to_string();
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let left = pids.filter(|pid| *pid != own && pid.bytes().all(|byte| byte.is_ascii_digit())).filter(|pid| {
        // Unreadable ones are of other users; ours never are.
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let environment = String::from_utf8_lossy(&environment);
        ids.iter().any(|id| !id.is_empty() && environment.contains(id.as_str()))
    });
    left.map(|pid| format!("process {pid}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_named_after_an_id_is_found() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("lease_a")).unwrap();
        std::fs::create_dir(folder.path().join("lease_b.gone")).unwrap();
        let ids = |id: &str| BTreeSet::from([id.to_owned()]);
        assert_eq!(folders(folder.path(), &ids("lease_a")).len(), 1);
        assert_eq!(folders(folder.path(), &ids("lease_b")).len(), 1);
        assert!(folders(folder.path(), &ids("lease_c")).is_empty());
        assert!(folders(&folder.path().join("missing"), &ids("lease_a")).is_empty());
    }

    #[test]
    fn a_process_with_the_id_in_its_environment_is_found() {
        let id = format!("lease_test{}", std::process::id());
        let mut child = std::process::Command::new("sleep").arg("60").env("DRYDOCK_LEASE_ID", &id).spawn().unwrap();
        // Between fork and exec it still has our environment.
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        let ids = BTreeSet::from([id]);
        while processes(&ids).is_empty() && std::time::Instant::now() < deadline {
            std::thread::yield_now();
        }
        let found = processes(&ids);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(found, [format!("process {}", child.id())]);
        assert!(processes(&ids).is_empty());
    }
}
