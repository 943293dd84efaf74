//! `webroot` with real nginx and real apache2, each as an instance of its own.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use drydock::blueprint::{Context, Step};
use drydock::error::Error;
use drydock::host::local::LocalHost;
use drydock::httpd::{Operation, Status, folder_of};
use drydock::interface::httpd;
use drydock::model::StringMap;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, interval};
use tokio_util::sync::CancellationToken;

use super::webroots::fetch;
use super::yard::Yard;

const SERVERS: [&str; 2] = ["nginx", "apache2"];

/// Whether the server is installed; `.ci/tools test` sees to that. Says what is not run; in CI that is a failure.
pub(crate) fn is_installed(server: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from));
    let is_there = folders.map(|folder| folder.join(server)).any(|file| file.exists());
    let in_ci = ["CI", "DRYDOCK_CI"].into_iter().any(|name| std::env::var_os(name).is_some_and(|it| !it.is_empty()));
    assert!(is_there || !in_ci, "{server} is missing; run .ci/tools test");
    if !is_there {
        // Not by println!, which the test harness would keep to itself.
        let _ = writeln!(std::io::stderr(), "not run: {server} is missing; run .ci/tools test");
    }
    is_there
}

fn servers() -> impl Iterator<Item = &'static str> {
    SERVERS.into_iter().filter(|server| is_installed(server))
}

/// What answers `/version` with `word`, in the server's language.
pub(super) fn version_snippet(server: &str, word: &str) -> String {
    match server {
        "nginx" => format!("location = /version {{ return 200 \"{word}\"; }}\n"),
        _ => format!("Redirect 302 /version http://localhost/{word}\n"),
    }
}

pub(super) async fn version(address: &str) -> String {
    let (head, body) = fetch(address, "/version", "localhost").await;
    head + &body
}

pub(super) async fn operate(yard: &Yard, ctx: &Context, operation: Operation) -> Result<(String, Status), Error> {
    let mut running = httpd::begin(yard.place(ctx, "httpd").unwrap(), operation, CancellationToken::new());
    let mut names = Vec::new();
    let mut status = None;
    while let Some(step) = running.next().await {
        let step = step?;
        names.push(step.step);
        status = step.status;
    }
    Ok((names.join(" "), status.unwrap()))
}

/// Waits for what must come.
pub(super) async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut poll = interval(Duration::from_millis(10));
    while !is_so().await {
        assert!(Instant::now() < deadline, "never: {what}");
        poll.tick().await;
    }
}

/// Processes that work in the folder, or that name the owner.
pub(crate) fn processes(folder: &Path, owner: &str) -> Vec<String> {
    let mark = format!("DRYDOCK_LEASE_ID={owner}");
    let entries = std::fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    let ours = |path: &PathBuf| {
        let works_here = std::fs::read_link(path.join("cwd")).is_ok_and(|cwd| cwd == folder);
        let environment = std::fs::read(path.join("environ")).unwrap_or_default();
        works_here || environment.split(|byte| *byte == 0).any(|entry| entry == mark.as_bytes())
    };
    entries.filter(ours).map(|path| std::fs::read_to_string(path.join("cmdline")).unwrap_or_default()).collect()
}

fn kill(pid: impl std::fmt::Display) {
    assert!(Command::new("kill").args(["-KILL", &pid.to_string()]).status().unwrap().success());
}

pub(super) struct Site {
    pub(super) ctx: Context,
    pub(super) facts: StringMap,
    pub(super) root: PathBuf,
    pub(super) address: String,
}

pub(super) async fn site(yard: &Yard, config: Value, attributes: &[(&str, &str)]) -> Site {
    let mut ctx = yard.context("webroot", config, attributes);
    let facts = yard.build(&mut ctx).await.unwrap();
    let address = format!("{}:{}", facts["address"], facts["port"]);
    Site { ctx, root: PathBuf::from(&facts["path"]), address, facts }
}

async fn findings(yard: &Yard, site: &Site) -> Vec<String> {
    yard.registry.find("webroot").unwrap().check(&site.ctx).await.findings
}

#[tokio::test]
async fn a_site_is_served_stopped_started_restarted_and_gone() {
    for server in servers() {
        let yard = Yard::new();
        let site = site(&yard, json!({"driver": server}), &[("server_name", "site.example")]).await;
        let (address, root) = (&site.address, &site.root);
        assert_eq!((site.facts["driver"].as_str(), site.facts["uri"].clone()), (server, format!("http://{address}/")));

        let (head, _) = fetch(address, "/", "site.example").await;
        assert!(head.starts_with("HTTP/1.1 40"), "there is no page yet: {head}");
        std::fs::create_dir_all(root.join("docs")).unwrap();
        std::fs::create_dir_all(root.join(".git")).unwrap();
        std::fs::create_dir_all(root.join(".well-known")).unwrap();
        for (path, text) in [
            ("index.html", "<h1>hello</h1>"),
            ("docs/a b.txt", "text"),
            (".git/config", "no"),
            (".well-known/x", "yes"),
        ] {
            std::fs::write(root.join(path), text).unwrap();
        }
        std::os::unix::fs::symlink("/etc/passwd", root.join("passwd")).unwrap();
        std::os::unix::fs::symlink("/etc", root.join("etc")).unwrap();
        let (head, body) = fetch(address, "/", "site.example:80").await;
        assert!(head.starts_with("HTTP/1.1 200") && head.contains("text/html"), "{server}: {head}");
        assert_eq!(body, "<h1>hello</h1>");
        assert_eq!(fetch(address, "/docs/a%20b.txt", "localhost").await.1, "text");
        assert_eq!(fetch(address, "/.well-known/x", "127.0.0.1").await.1, "yes");
        let (head, _) = fetch(address, "/docs", "site.example").await;
        assert!(head.starts_with("HTTP/1.1 301") && head.contains("/docs/"), "{server}: {head}");
        for (path, host, code) in [
            ("/", "evil.example", "421"),
            ("/.git/config", "localhost", "404"),
            ("/docs/..%2f.git/config", "localhost", "404"),
            ("/docs/", "localhost", "40"),
            ("/passwd", "localhost", "403"),
            ("/etc/hostname", "localhost", "40"),
            ("/missing", "localhost", "404"),
        ] {
            let (head, _) = fetch(address, path, host).await;
            assert!(head.starts_with(&format!("HTTP/1.1 {code}")), "{server}: {path}: {head}");
        }

        let place = yard.place(&site.ctx, "httpd").unwrap();
        let before = httpd::status(&place).await.unwrap();
        assert!(before.running && before.pid.is_some() && before.driver == server, "{before:?}");
        assert!(before.version.split('.').count() == 3 && before.version.starts_with(|c: char| c.is_ascii_digit()));
        assert_eq!(httpd::uri(&place, "/docs/").await.unwrap(), (format!("http://{address}/docs/"), true));

        let (names, after) = operate(&yard, &site.ctx, Operation::Restart).await.unwrap();
        assert_eq!(names, "config-test stop start probe done");
        assert!(after.running && after.pid != before.pid, "{after:?}");
        assert_eq!(fetch(address, "/", "site.example").await.1, "<h1>hello</h1>");
        let (names, same) = operate(&yard, &site.ctx, Operation::Start).await.unwrap();
        assert_eq!((names.as_str(), same.pid), ("config-test start probe done", after.pid));

        assert_eq!(operate(&yard, &site.ctx, Operation::Stop).await.unwrap().0, "stop done");
        assert!(TcpStream::connect(address).await.is_err());
        assert_eq!(processes(&folder_of(root), site.ctx.resource.id.as_str()), [""; 0]);
        assert_eq!(findings(&yard, &site).await.len(), 1);
        let error = operate(&yard, &site.ctx, Operation::Reload).await.unwrap_err();
        assert_eq!(error.reason.as_str(), "COMMAND_FAILED");
        assert!(operate(&yard, &site.ctx, Operation::Start).await.unwrap().1.running);
        assert_eq!(findings(&yard, &site).await, [""; 0]);

        yard.end_all().await;
        assert!(TcpStream::connect(address).await.is_err());
        assert_eq!(processes(&folder_of(root), site.ctx.resource.id.as_str()), [""; 0], "{server}");
        assert!(!folder_of(root).exists());
    }
}

#[tokio::test]
async fn a_reload_takes_the_new_in_and_finishes_what_it_answers() {
    for server in servers() {
        let yard = Yard::new();
        let more = yard.folder.path().join("more.conf");
        std::fs::write(&more, version_snippet(server, "one")).unwrap();
        let site = site(&yard, json!({"driver": server, "config_file": more}), &[]).await;
        std::fs::write(site.root.join("big"), vec![b'x'; 64 << 20]).unwrap();
        assert!(version(&site.address).await.contains("one"));

        let mut download = TcpStream::connect(&site.address).await.unwrap();
        download.write_all(b"GET /big HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut begin = vec![0; 4096];
        download.read_exact(&mut begin).await.unwrap();

        std::fs::write(&more, version_snippet(server, "two")).unwrap();
        let (names, status) = operate(&yard, &site.ctx, Operation::Reload).await.unwrap();
        assert_eq!(names, "config-test reload done");
        assert!(version(&site.address).await.contains("two"), "{server} answers by what it was told");
        let mut rest = Vec::new();
        download.read_to_end(&mut rest).await.unwrap();
        let head = String::from_utf8_lossy(&begin).find("\r\n\r\n").unwrap() + 4;
        assert_eq!(begin.len() + rest.len() - head, 64 << 20, "{server}");

        // What does not pass changes nothing, whatever was asked for.
        std::fs::write(&more, "nonsense here;\n").unwrap();
        for operation in [Operation::Reload, Operation::Restart, Operation::Start] {
            let error = operate(&yard, &site.ctx, operation).await.unwrap_err();
            assert_eq!(error.reason.as_str(), "HTTPD_CONFIG_INVALID", "{error}");
            assert!(error.message.contains("nonsense"), "{server}: {error}");
            assert!(version(&site.address).await.contains("two"));
            let place = yard.place(&site.ctx, "httpd").unwrap();
            assert_eq!(httpd::status(&place).await.unwrap().pid, status.pid, "{server}");
        }
        let kept = std::fs::read_to_string(folder_of(&site.root).join("extra.conf")).unwrap();
        assert!(kept.contains("two"), "{server}: the last good one is back: {kept}");
        std::fs::write(&more, version_snippet(server, "three")).unwrap();
        operate(&yard, &site.ctx, Operation::Restart).await.unwrap();
        assert!(version(&site.address).await.contains("three"));
        yard.end_all().await;
    }
}

#[tokio::test]
async fn a_configuration_that_cannot_be_fails_for_good_with_the_servers_words() {
    for server in servers() {
        let yard = Yard::new();
        let missing = yard.folder.path().join("missing.conf");
        for (config, attributes, word) in [
            (json!({"driver": server, "config_snippet": "nonsense here;"}), vec![], "nonsense"),
            (json!({"driver": server, "config_snippet": "}"}), vec![], "extra.conf"),
            (json!({"driver": server, "config_snippet": "</VirtualHost>"}), vec![], "extra.conf"),
            (json!({"driver": server, "config_file": missing}), vec![], "missing.conf"),
            (json!({"driver": server}), vec![("document_root", "a\"; evil")], "cannot be written"),
            (json!({"driver": server}), vec![("document_root", "a\nb")], "cannot be written"),
        ] {
            let mut ctx = yard.context("webroot", config.clone(), &attributes);
            let failure = yard.build(&mut ctx).await.unwrap_err();
            assert!(failure.permanent && failure.message.contains(word), "{config}: {failure:?}");
            yard.end(&ctx).await;
        }
        yard.end_all().await;
    }
}

#[tokio::test]
async fn a_server_that_was_killed_is_found_and_started_again() {
    for server in servers() {
        let yard = Yard::new();
        let site = site(&yard, json!({"driver": server}), &[]).await;
        std::fs::write(site.root.join("index.html"), "here").unwrap();
        let folder = folder_of(&site.root);
        let owner = site.ctx.resource.id.to_string();
        let place = yard.place(&site.ctx, "httpd").unwrap();

        kill(httpd::status(&place).await.unwrap().pid.unwrap());
        until("its workers are gone too", async || processes(&folder, &owner).is_empty()).await;
        assert_eq!(findings(&yard, &site).await.len(), 1, "{server}");
        operate(&yard, &site.ctx, Operation::Start).await.unwrap();
        assert_eq!(fetch(&site.address, "/", "localhost").await.1, "here");

        // Without its shell it serves on, and is not taken for ours any more; a start puts an end to it.
        kill(std::fs::read_to_string(folder.join("pid")).unwrap().trim());
        until("the check finds it", async || findings(&yard, &site).await.len() == 1).await;
        let (_, status) = operate(&yard, &site.ctx, Operation::Start).await.unwrap();
        assert!(status.running, "{server}: {status:?}");
        assert_eq!(fetch(&site.address, "/", "localhost").await.1, "here");
        kill(std::fs::read_to_string(folder.join("pid")).unwrap().trim());
        yard.end_all().await;
        assert_eq!(processes(&folder, &owner), [""; 0], "{server}");
        assert!(TcpStream::connect(&site.address).await.is_err());
    }
}

#[tokio::test]
async fn a_data_folder_behind_a_link_and_with_a_space_is_served() {
    for server in servers() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("real")).unwrap();
        std::os::unix::fs::symlink("real", folder.path().join("a link")).unwrap();
        let data = folder.path().join("a link/data folder");
        let yard = Yard::on(|_| Arc::new(LocalHost::new(data, PathBuf::from(env!("CARGO_BIN_EXE_drydock")))));
        let site = site(&yard, json!({"driver": server}), &[]).await;
        std::fs::write(site.root.join("index.html"), "here").unwrap();
        std::os::unix::fs::symlink("/etc/passwd", site.root.join("passwd")).unwrap();
        assert_eq!(fetch(&site.address, "/", "localhost").await.1, "here", "{server}");
        let (head, _) = fetch(&site.address, "/passwd", "localhost").await;
        assert!(head.starts_with("HTTP/1.1 403"), "{server}: links under it are still looked at: {head}");
        yard.end_all().await;
    }
}

#[tokio::test]
async fn a_port_that_a_stranger_took_is_given_up_for_another() {
    for server in servers() {
        let yard = Yard::new();
        let mut ctx = yard.context("webroot", json!({"driver": server}), &[]);
        let blueprint = yard.registry.find("webroot").unwrap();
        for name in ["host", "port"] {
            let Step::Needs(needs) = blueprint.build(&ctx).await else { panic!("no needs") };
            assert_eq!(needs[0].name, name);
            let met = yard.meet(&needs[0]).await.unwrap();
            ctx.needs.insert(name.to_owned(), met);
        }
        let taken = ctx.needs["port"].lease.facts["port"].clone();
        let _stranger = TcpListener::bind(format!("127.0.0.1:{taken}")).await.unwrap();
        let facts = yard.build(&mut ctx).await.unwrap();
        assert_ne!(facts["port"], taken);
        assert!(fetch(&format!("127.0.0.1:{}", facts["port"]), "/", "localhost").await.0.starts_with("HTTP/1.1 40"));
        yard.end_all().await;
    }
}

#[tokio::test]
async fn building_again_adopts_the_server_that_runs() {
    for server in servers() {
        let yard = Yard::new();
        let site = site(&yard, json!({"driver": server, "listen": "0.0.0.0"}), &[]).await;
        let place = yard.place(&site.ctx, "httpd").unwrap();
        let status = httpd::status(&place).await.unwrap();
        assert_eq!(status.listen_addresses, [format!("0.0.0.0:{}", site.facts["port"])]);
        assert_eq!(httpd::uri(&place, "").await.unwrap(), (site.facts["uri"].clone(), false));
        assert!(site.facts["uri"].starts_with("http://127.0.0.1:"), "under the address of the host");
        let blueprint = yard.registry.find("webroot").unwrap();
        assert!(matches!(blueprint.build(&site.ctx).await, Step::Ready(again) if again == site.facts));
        assert_eq!(httpd::status(&place).await.unwrap().pid, status.pid);

        // A crash between the launch and the pid file: the nameless server gives way to a new one.
        std::fs::remove_file(folder_of(&site.root).join("pid")).unwrap();
        assert!(matches!(blueprint.build(&site.ctx).await, Step::Ready(_)));
        let again = httpd::status(&place).await.unwrap();
        assert!(again.running && again.pid != status.pid, "{server}: {again:?}");
        yard.end_all().await;
    }
}
