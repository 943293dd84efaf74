//! The way to a server over a network: its certificate is checked, ours is shown, and no password comes to light.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use sqlx::Executor as _;
use tempfile::TempDir;

use super::server::Server;
use super::{database, is_installed};
use crate::authority::{Authority, write};
use crate::queue::kit::eventually;

const PASSWORD: &str = "s3cret /:@?";
/// Over the network with TLS alone: ann by a password, carl by a certificate.
const WHO: &str =
    "local all all trust\nhostssl all ann 127.0.0.1/32 scram-sha-256\nhostssl all carl 127.0.0.1/32 cert\n";

/// A server with TLS, on a port of its own, that knows two users.
struct Secured {
    folder: TempDir,
    authority: Authority,
    port: u16,
    _server: Server,
}

impl Secured {
    async fn start() -> Self {
        let (folder, authority) = (tempfile::tempdir().unwrap(), Authority::new());
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let settings = ["ssl=on", "listen_addresses=127.0.0.1", "ssl_ca_file=ca.pem"].map(str::to_owned);
        let settings = [&settings[..], &[format!("port={port}")]].concat();
        let server = Server::start_with(&settings, |data| {
            let files = authority.host(data, "server", &["localhost"]);
            fs::rename(files.cert, data.join("server.crt")).unwrap();
            fs::rename(authority.file(data), data.join("ca.pem")).unwrap();
            write(&data.join("pg_hba.conf"), WHO);
        });
        let mut admin = server.admin_at(port).await;
        let password = PASSWORD;
        for statement in [
            format!("CREATE ROLE ann LOGIN PASSWORD '{password}'"),
            "CREATE ROLE carl LOGIN".to_owned(),
            "CREATE DATABASE anns OWNER ann".to_owned(),
            "CREATE DATABASE carls OWNER carl".to_owned(),
        ] {
            admin.execute(sqlx::AssertSqlSafe(statement)).await.unwrap();
        }
        Self { folder, authority, port, _server: server }
    }

    fn url(&self, user: &str, host: &str, more: &str) -> String {
        format!("postgres://{user}@{host}:{}/{user}s?{more}", self.port)
    }

    fn password(&self) -> PathBuf {
        let path = self.folder.path().join("password");
        write(&path, &format!("{PASSWORD}\n"));
        path
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_drydock"));
        command.env_clear().env("HOME", self.folder.path()).env("DRYDOCK_LOG", "trace").stdin(Stdio::null());
        command.args(words).arg("--data-dir").arg(self.folder.path().join("data"));
        command
    }

    fn migrate(&self, url: &str, password: Option<&Path>) -> Output {
        let mut command = self.command(&["database", "migrate"]);
        command.env("DRYDOCK_DATABASE_URL", url);
        command.args(password.map(|path| format!("--database-password-file={}", path.display())));
        let output = command.output().unwrap();
        assert!(!text(&output).contains("s3cret"), "{output:?}");
        output
    }
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Ends with the test.
struct Serving(Child);

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_s_certificate_is_checked_and_what_is_wrong_is_named() {
    if !is_installed() {
        return;
    }
    let secured = Secured::start().await;
    let folder = secured.folder.path();
    let (ca, other) = (secured.authority.file(folder), Authority::new().file(folder));
    let (ca, other) = (format!("sslrootcert={}", ca.display()), format!("sslrootcert={}", other.display()));
    let password = secured.password();

    let full = format!("sslmode=verify-full&{ca}");
    let good = secured.migrate(&secured.url("ann", "localhost", &full), Some(&password));
    assert!(good.status.success() && text(&good).contains(" is of version "), "{good:?}");
    let carl = secured.authority.user(folder, "carl");
    let shown = format!("{full}&sslcert={}&sslkey={}", carl.cert.display(), carl.key.display());
    let good = secured.migrate(&secured.url("carl", "localhost", &shown), None);
    assert!(good.status.success(), "{good:?}");

    let wrong = folder.join("wrong");
    write(&wrong, "s3cret but wrong");
    for (url, password, expected) in [
        (
            secured.url("ann", "localhost", &format!("sslmode=verify-full&{other}")),
            &password,
            "name its CA by sslrootcert",
        ),
        (secured.url("ann", "127.0.0.1", &full), &password, "its certificate is for another host"),
        (secured.url("ann", "localhost", &full), &wrong, "password authentication failed for user \"ann\""),
        (secured.url("ann", "localhost", "sslmode=disable"), &password, "no pg_hba.conf entry"),
    ] {
        let refused = secured.migrate(&url, Some(password));
        assert_eq!(refused.status.code(), Some(78), "{url}: {refused:?}");
        assert!(text(&refused).contains(expected), "{url}: {refused:?}");
    }
    // The tests' own server has no TLS.
    let plain = database().await;
    let refused = secured.migrate(&format!("{}?sslmode=require", plain.url), None);
    assert_eq!(refused.status.code(), Some(78), "{refused:?}");
    assert!(text(&refused).contains("it does not speak TLS"), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_works_over_tls_and_tells_its_password_to_nobody() {
    if !is_installed() {
        return;
    }
    let secured = Secured::start().await;
    let ca = secured.authority.file(secured.folder.path());
    let more = format!("sslmode=verify-full&sslrootcert={}", ca.display());
    let (url, password) = (secured.url("ann", "localhost", &more), secured.password());
    let log = secured.folder.path().join("log");
    let words = ["serve", "--database", &url, "--database-password-file", password.to_str().unwrap()];
    let mut command = secured.command(&words);
    command.env("DRYDOCK_STOCK_BLUEPRINTS", "true").stdout(Stdio::null()).stderr(fs::File::create(&log).unwrap());
    let serving = Serving(command.spawn().unwrap());
    let socket = format!("unix:{}", secured.folder.path().join("data/drydock.sock").display());
    let ask = |words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_drydock"));
        command.env_clear().env("HOME", secured.folder.path()).args(["--addr", &socket]).args(words).output().unwrap()
    };
    eventually("it serves", async || ask(&["health"]).status.success().then_some(())).await;
    let run = ask(&["run", "host", "--", "echo", "there"]);
    assert!(run.status.success(), "{run:?}");
    let from_file = format!("--database-password-file={}", password.display());
    let shown = text(&secured.command(&["config", "show", "--database", &url, &from_file]).output().unwrap());
    assert!(shown.contains("postgres://ann@localhost"), "{shown}");
    drop(serving);
    let logged = fs::read_to_string(&log).unwrap();
    assert!(logged.lines().count() > 100, "{logged}");
    for word in ["s3cret", "s3cret%20"] {
        assert!(!logged.contains(word) && !shown.contains(word), "{shown}");
    }
}
