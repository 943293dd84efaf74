//! The door for other machines: who is served, who is told what, and what a SIGHUP changes.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use drydock::config::TlsFiles;
use drydock::error::Reason;
use drydock::proto::v1::WatchEventsRequest;
use drydock::proto::v1::event_service_client::EventServiceClient;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::timeout;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};

use crate::authority::{Authority, write};
use crate::harness::{Daemon, LONG, settings};
use crate::queue::kit::eventually;

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The command line of somebody on another machine: no socket, and an environment of its own.
async fn drydock(address: &str, variables: &[(&str, &Path)], words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_drydock"));
    command.env_clear().env("DRYDOCK_TOKEN", "t-alice").args(["--addr", address]).args(words);
    command.envs(variables.iter().copied()).stdin(Stdio::null()).kill_on_drop(true);
    timeout(LONG, command.output()).await.unwrap().unwrap()
}

/// A daemon with this certificate, in this process.
async fn serve(folder: &Path, tls: TlsFiles) -> Daemon {
    Daemon::on(drydock::config::Settings { tls: Some(tls), ..settings(folder) }).await.unwrap()
}

fn port(daemon: &Daemon) -> &str {
    daemon.ready.listen[0].rsplit_once(':').unwrap().1
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_trusts_the_certificate_is_served_and_everybody_else_learns_why_not() {
    let (folder, authority, stranger) = (tempfile::tempdir().unwrap(), Authority::new(), Authority::new());
    let (ca, other) = (authority.file(folder.path()), stranger.file(folder.path()));
    let daemon = serve(folder.path(), authority.host(folder.path(), "dock", &["localhost"])).await;
    let https = format!("https://localhost:{}", port(&daemon));
    let trusting = [("DRYDOCK_CA_FILE", ca.as_path())];

    let leased = drydock(&https, &trusting, &["run", "host", "--", "echo", "over TLS"]).await;
    assert_eq!((leased.status.code(), text(&leased.stdout).as_str()), (Some(0), "over TLS\n"), "{leased:?}");
    // The system's CAs are asked when none is named.
    let system = drydock(&https, &[("SSL_CERT_FILE", &ca)], &["health"]).await;
    assert_eq!(text(&system.stdout), "SERVING\n", "{system:?}");

    let by_number = format!("https://127.0.0.1:{}", port(&daemon));
    let in_clear = format!("http://127.0.0.1:{}", port(&daemon));
    let key = folder.path().join("dock.key");
    let variables = |name| [trusting[0], (name, key.as_path())];
    for (address, variables, code, expected) in [
        (&https, &[("DRYDOCK_CA_FILE", other.as_path())][..], 69, "is not from a CA in"),
        (&https, &[("SSL_CERT_FILE", other.as_path())][..], 69, "name its CA in DRYDOCK_CA_FILE"),
        (&by_number, &trusting[..], 69, "its certificate is for"),
        (&in_clear, &[][..], 69, "if it speaks TLS, say https://"),
        (&https, &[("DRYDOCK_CA_FILE", key.as_path())][..], 78, "it holds no certificate"),
        (&https, &[("DRYDOCK_CA_FILE", Path::new("/nowhere"))][..], 78, "/nowhere"),
        (&https, &variables("DRYDOCK_CERT_FILE")[..], 64, "client certificates are not supported yet"),
    ] {
        let refused = drydock(address, variables, &["lease", "list"]).await;
        let said = text(&refused.stderr);
        assert_eq!(refused.status.code(), Some(code), "{address} {variables:?}: {said}");
        assert!(said.contains(expected), "{address} {variables:?}: {said}");
        assert!(!said.contains("PRIVATE"), "{said}");
    }
    let unknown = [trusting[0], ("DRYDOCK_TOKEN", Path::new("t-nobody"))];
    let refused = drydock(&https, &unknown, &["lease", "list"]).await;
    assert_eq!(refused.status.code(), Some(77), "{refused:?}");

    let plain = Daemon::start().await;
    let to_plain = format!("https://localhost:{}", port(&plain));
    let refused = drydock(&to_plain, &trusting, &["health"]).await;
    assert!(text(&refused.stderr).contains("it does not speak TLS"), "{refused:?}");
    plain.drain().await.unwrap();
    daemon.drain().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expired_certificate_is_told_by_client_doctor_and_check() {
    let (folder, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let files = authority.expired(folder.path(), "old", &["localhost"]);
    let daemon = serve(folder.path(), files.clone()).await;
    let ca = authority.file(folder.path());
    let https = format!("https://localhost:{}", port(&daemon));
    let refused = drydock(&https, &[("DRYDOCK_CA_FILE", &ca)], &["health"]).await;
    assert!(text(&refused.stderr).contains("has expired"), "{refused:?}");
    daemon.drain().await.unwrap();

    let home: [(&str, &Path); 3] =
        [("HOME", folder.path()), ("DRYDOCK_TLS_CERT", &files.cert), ("DRYDOCK_TLS_KEY", &files.key)];
    let doctor = drydock("unix:/nowhere", &home, &["doctor"]).await;
    let said = text(&doctor.stdout);
    assert!(doctor.status.code() == Some(1) && said.contains("ran out at 2020-01-01T00:00:00Z"), "{doctor:?}");
    assert!(said.contains("is for localhost, until 2020"), "{said}");
    let check = drydock("", &home, &["config", "check"]).await;
    assert!(check.status.success() && text(&check.stderr).contains("ran out at 2020"), "{check:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_without_tls_or_with_bad_files_are_refused_with_what_to_do() {
    let (folder, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let good = authority.host(folder.path(), "good", &["localhost"]);
    let another = authority.host(folder.path(), "another", &["localhost"]);
    let plain = settings(folder.path());
    let open = drydock::config::Settings { listen: vec!["0.0.0.0:0".to_owned()], ..plain.clone() };
    let error = Daemon::on(open.clone()).await.err().unwrap();
    assert!(error.reason == Reason::InvalidArgument && error.message.contains("--tls-cert"), "{error}");

    let readable = folder.path().join("readable.key");
    fs::copy(&good.key, &readable).unwrap();
    fs::set_permissions(&readable, fs::Permissions::from_mode(0o644)).unwrap();
    let (key, cert) = (good.key.clone(), good.cert.clone());
    for (cert, key, expected) in [
        (&cert, &readable, "chmod 600"),
        (&cert, &another.key, "does not fit"),
        (&cert, &cert, "holds no private key"),
        (&key, &key, "holds no certificate"),
        (&PathBuf::from("/nowhere"), &key, "cannot read /nowhere"),
    ] {
        let tls = Some(TlsFiles { cert: cert.clone(), key: key.clone() });
        let error = Daemon::on(drydock::config::Settings { tls, ..open.clone() }).await.err().unwrap();
        assert_eq!(error.reason, Reason::InvalidArgument, "{error}");
        assert!(error.message.contains(expected) && !error.message.contains("PRIVATE"), "{error}");
    }
    // A group of the administrator's choice may read the key.
    fs::set_permissions(&good.key, fs::Permissions::from_mode(0o640)).unwrap();
    let daemon = Daemon::on(drydock::config::Settings { tls: Some(good), ..open }).await.unwrap();
    assert!(daemon.ready.tls);
    daemon.drain().await.unwrap();
    let mut metrics = plain;
    metrics.metrics_listen = Some("0.0.0.0:0".to_owned());
    assert!(Daemon::on(metrics).await.err().unwrap().message.contains("loopback"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_dawdles_or_speaks_something_else_holds_up_nobody() {
    let (folder, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let daemon = serve(folder.path(), authority.host(folder.path(), "dock", &["localhost"])).await;
    let address = &daemon.ready.listen[0];
    let mut silent = Vec::new();
    for _ in 0..200 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        // The beginning of a handshake, and no more.
        stream.write_all(&[0x16, 3, 1, 2, 0, 1]).await.unwrap();
        silent.push(stream);
    }
    let mut plain = TcpStream::connect(address).await.unwrap();
    plain.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    let ca = authority.file(folder.path());
    let https = format!("https://localhost:{}", port(&daemon));
    let served = drydock(&https, &[("DRYDOCK_CA_FILE", &ca)], &["health"]).await;
    assert_eq!(text(&served.stdout), "SERVING\n", "{served:?}");
    // It is told that this is no TLS (an alert), and the connection ends; nothing of it is taken for a call.
    let mut answer = Vec::new();
    let _ = timeout(LONG, plain.read_to_end(&mut answer)).await.expect("it is closed in time");
    assert!(answer.len() < 16, "{answer:?}");
    drop(silent);
    daemon.drain().await.unwrap();
}

/// `drydock serve` on TLS, as a process of its own.
struct Served {
    folder: TempDir,
    child: Child,
    port: String,
}

impl Served {
    async fn start(authority: &Authority) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let files = authority.host(folder.path(), "dock", &["localhost"]);
        write(&folder.path().join("tokens"), "alice t-alice admin\n");
        let mut command = Command::new(env!("CARGO_BIN_EXE_drydock"));
        command.env_clear().env("HOME", folder.path()).env("DRYDOCK_LOG", "info").env("DRYDOCK_SWEEP", "false");
        command.args(["serve", "--listen", "0.0.0.0:0", "--data-dir"]).arg(folder.path().join("data"));
        command.arg("--tls-cert").arg(&files.cert).arg("--tls-key").arg(&files.key);
        command.arg("--tokens").arg(folder.path().join("tokens"));
        let log = fs::File::create(folder.path().join("log")).unwrap();
        command.stdout(Stdio::piped()).stderr(log).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let ready = timeout(LONG, lines.next_line()).await.unwrap().unwrap().expect("it becomes ready");
        let port =
            ready.split("  https://0.0.0.0:").nth(1).and_then(|rest| rest.split("  ").next()).unwrap().to_owned();
        Self { folder, child, port }
    }

    fn address(&self) -> String {
        format!("https://localhost:{}", self.port)
    }

    fn hang_up(&self) {
        let pid = rustix::process::Pid::from_raw(self.child.id().unwrap().cast_signed()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
    }

    /// Waits until the log has said this so often.
    async fn says(&self, words: &str, times: usize) {
        eventually(words, async || {
            let log = fs::read_to_string(self.folder.path().join("log")).unwrap();
            (log.matches(words).count() >= times).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sighup_brings_new_certificates_and_tokens_while_streams_go_on() {
    let (first, second) = (Authority::new(), Authority::new());
    let mut served = Served::start(&first).await;
    let folder = served.folder.path();
    let (old, new) = (first.file(folder), second.file(folder));
    let ask = async |ca: &Path, token: &str| {
        let variables = [("DRYDOCK_CA_FILE", ca), ("DRYDOCK_TOKEN", Path::new(token))];
        drydock(&served.address(), &variables, &["lease", "list", "-o", "name"]).await.status.code()
    };
    assert_eq!((ask(&old, "t-alice").await, ask(&new, "t-alice").await), (Some(0), Some(69)));

    // An open stream, over a connection that was made with the first certificate.
    let trust = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(fs::read(&old).unwrap()));
    let endpoint = Endpoint::from_shared(served.address()).unwrap().tls_config(trust).unwrap();
    let channel = endpoint.connect().await.unwrap();
    let mut request = tonic::Request::new(WatchEventsRequest::default());
    request.metadata_mut().insert("authorization", "Bearer t-alice".parse().unwrap());
    let mut events = EventServiceClient::new(channel).watch_events(request).await.unwrap().into_inner();

    // What is broken leaves everything as it is.
    let good = fs::read_to_string(folder.join("dock.key")).unwrap();
    write(&folder.join("dock.key"), "no key");
    write(&folder.join("tokens"), "bob t-bob admin\n");
    served.hang_up();
    served.says("the certificate stays as it was", 1).await;
    assert_eq!((ask(&old, "t-bob").await, ask(&old, "t-alice").await), (Some(0), Some(77)));
    assert!(!fs::read_to_string(folder.join("log")).unwrap().contains(good.lines().nth(1).unwrap()));

    second.host(folder, "dock", &["localhost"]);
    served.hang_up();
    served.says("the certificate was read again", 1).await;
    assert_eq!((ask(&new, "t-bob").await, ask(&old, "t-bob").await), (Some(0), Some(69)));

    let document = folder.join("blueprint.yaml");
    fs::write(&document, "name: port-of-call\nkind: port\n").unwrap();
    let variables = [("DRYDOCK_CA_FILE", new.as_path()), ("DRYDOCK_TOKEN", Path::new("t-bob"))];
    let made = ["blueprint", "apply", "-f", document.to_str().unwrap()];
    let made = drydock(&served.address(), &variables, &made).await;
    assert!(made.status.success(), "{made:?}");
    let seen = async {
        while let Some(update) = events.message().await.unwrap() {
            if update.events.iter().any(|event| event.r#type.starts_with("blueprint.")) {
                return;
            }
        }
        panic!("the stream has ended");
    };
    timeout(LONG, seen).await.expect("the stream goes on");
    served.child.start_kill().unwrap();
    served.child.wait().await.unwrap();
}
