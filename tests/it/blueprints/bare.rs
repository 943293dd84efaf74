//! Webroots on a host where drydock is not installed, as those that are reached over ssh.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use drydock::error::Result;
use drydock::host::fence::Fence;
use drydock::host::files::Files;
use drydock::host::local::LocalHost;
use drydock::host::{Command, Host, Process, Ran, Run};
use serde_json::json;

use super::servers::{is_installed, site};
use super::webroots::fetch;
use super::yard::Yard;

/// The local host, without our binary on it.
struct Bare(LocalHost);

#[async_trait]
impl Host for Bare {
    fn behind(self: Arc<Self>, _: Fence) -> Arc<dyn Host> {
        self
    }

    fn data_dir(&self) -> &Path {
        self.0.data_dir()
    }

    fn address(&self) -> &str {
        self.0.address()
    }

    async fn spawn(&self, command: Command) -> Result<Process> {
        self.0.spawn(command).await
    }

    async fn run(&self, run: Run) -> Result<Ran> {
        self.0.run(run).await
    }

    async fn launch(&self, command: Command, log: &Path) -> Result<i64> {
        self.0.launch(command, log).await
    }

    async fn stop(&self, pid: i64, lease_id: &str, grace: Duration) -> Result<()> {
        self.0.stop(pid, lease_id, grace).await
    }

    async fn is_running(&self, pid: i64, lease_id: &str) -> bool {
        self.0.is_running(pid, lease_id).await
    }

    async fn end_strays(&self, lease_id: &str) -> Result<()> {
        self.0.end_strays(lease_id).await
    }

    async fn make_folder(&self, path: &Path) -> Result<()> {
        self.0.make_folder(path).await
    }

    async fn remove_folder(&self, path: &Path) -> Result<()> {
        self.0.remove_folder(path).await
    }

    async fn read_text(&self, path: &Path) -> Result<Option<String>> {
        self.0.read_text(path).await
    }

    async fn write_text(&self, path: &Path, text: &str) -> Result<()> {
        self.0.write_text(path, text).await
    }

    async fn free_bytes(&self, path: &Path) -> Result<u64> {
        self.0.free_bytes(path).await
    }

    async fn used_bytes(&self, path: &Path) -> Result<u64> {
        self.0.used_bytes(path).await
    }

    async fn port_is_free(&self, port: u16) -> bool {
        self.0.port_is_free(port).await
    }

    async fn answers(&self, address: &str, port: u16) -> bool {
        self.0.answers(address, port).await
    }

    async fn files(&self, root: &Path) -> Result<Arc<dyn Files>> {
        self.0.files(root).await
    }
}

#[tokio::test]
async fn without_our_binary_the_hosts_servers_serve() {
    if !is_installed("nginx") {
        return;
    }
    let yard = Yard::on(|host| Arc::new(Bare(host)));
    let site = site(&yard, json!({}), &[]).await;
    assert_eq!(site.facts["driver"], "nginx");
    std::fs::write(site.root.join("index.html"), "bare").unwrap();
    assert_eq!(fetch(&site.address, "/", "localhost").await.1, "bare");

    let mut ctx = yard.context("webroot", json!({"driver": "builtin"}), &[]);
    let failure = yard.build(&mut ctx).await.unwrap_err();
    assert!(failure.permanent && failure.message.contains("choose nginx or apache2"), "{failure:?}");
    yard.end(&ctx).await;
    yard.end_all().await;
}
