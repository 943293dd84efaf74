//! `local-host`: the machine that the daemon runs on. It isolates nothing from the daemon's own user.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;

use super::registry::lease_folder;
use super::{Blueprint, Context, DAEMON_FACT, Endpoint, Step, fence_of, path_fact, settle};
use crate::host::{Host, Place};
use crate::model::{Kind, Lease, Resource, StringMap};

/// What it is.
pub static KIND: Kind = Kind {
    kind: "local-host",
    resource_type: "host",
    interfaces: &["command", "filesystem"],
    needs: &[],
    config: &[],
    attributes: &[],
    leases_per_resource: 16,
    max_resources: Some(1),
    rank: -10,
    stays: true,
    reused_by_attributes: false,
    // A lease's folder is made when it is first used, so a warm host serves a lease in one commit.
    instant: true,
    registration: None,
};

/// The facts it promises to its leases.
pub const FACTS: &[&str] = &["address", "path"];

/// Hands out this machine.
pub struct LocalHost {
    host: Arc<dyn Host>,
}

impl LocalHost {
    /// Hands out `host`.
    pub fn new(host: Arc<dyn Host>) -> Self {
        Self { host }
    }
}

#[async_trait]
impl Blueprint for LocalHost {
    fn describe(&self) -> &'static Kind {
        &KIND
    }

    async fn build(&self, _ctx: &Context) -> Step {
        match self.host.make_folder(&self.host.data_dir().join("leases")).await {
            Ok(()) => Step::Ready(StringMap::from([("address".to_owned(), self.host.address().to_owned())])),
            Err(error) => error.into(),
        }
    }

    fn is_of_its_daemon(&self) -> bool {
        true
    }

    fn lease_facts(&self, resource: &Resource, lease: &Lease) -> StringMap {
        // It may be another daemon's machine, and that one's folders.
        let theirs = resource.facts.get(DAEMON_FACT).and_then(|home| home.split_once(':'));
        let folder = match theirs {
            Some((_, data_dir)) => Path::new(data_dir).join("leases").join(lease.id.as_str()),
            None => lease_folder(self.host.as_ref(), lease.id.as_str()),
        };
        let path = path_fact(&folder);
        resource
            .facts
            .iter()
            .map(|(key, value)| (key.clone(), value.clone()))
            .chain([("path".to_owned(), path)])
            .collect()
    }

    async fn clean(&self, ctx: &Context) -> Step {
        settle(self.sweep(ctx).await)
    }

    async fn destroy(&self, _ctx: &Context) -> Step {
        Step::done()
    }

    fn endpoint(&self, ctx: &Context, interface: &str) -> Option<Endpoint> {
        if !KIND.interfaces.contains(&interface) {
            return None;
        }
        let root = lease_folder(self.host.as_ref(), ctx.lease.as_ref()?.id.as_str());
        Some(Endpoint::Here(Place { host: Arc::clone(&self.host), root, quota: None }))
    }
}

impl LocalHost {
    async fn sweep(&self, ctx: &Context) -> Result<Step, Step> {
        if let Some(lease) = &ctx.lease {
            // Whoever comes late finds the door closed; then what has come in, and the processes before the folder that they
            // would go on writing into.
            let host = ctx.guard.host(Arc::clone(&self.host));
            host.fence_off(&fence_of(lease)).await?;
            host.end_strays(lease.id.as_str()).await?;
            host.remove_folder(&lease_folder(host.as_ref(), lease.id.as_str())).await?;
        }
        Ok(Step::done())
    }
}
