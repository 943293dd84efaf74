//! What a daemon tells of its steps: a trace for each lease at a collector, and ids in its log.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::trace::v1::Span;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

use crate::harness::LONG;

/// A collector that keeps what it gets.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<Span>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let spans = request.into_inner().resource_spans.into_iter().flat_map(|of| of.scope_spans);
        self.0.lock().unwrap().extend(spans.flat_map(|of| of.spans));
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    async fn open() -> (Self, SocketAddr) {
        let collector = Self::default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let service = TraceServiceServer::new(collector.clone());
        let server = tonic::transport::Server::builder().add_service(service);
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        (collector, address)
    }

    fn spans(&self) -> Vec<Span> {
        self.0.lock().unwrap().clone()
    }
}

/// A daemon of its own process: a process has one log.
struct Daemon {
    folder: TempDir,
    child: Child,
}

impl Daemon {
    async fn start(env: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut child = Self::program(&folder)
            .args(["up", "--log-format", "json"])
            .envs(env.iter().copied())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        timeout(LONG, stdout.read_line(&mut line)).await.unwrap().unwrap();
        assert!(line.contains(" ready "), "{line}");
        Self { folder, child }
    }

    fn program(folder: &TempDir) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_drydock"));
        let home = folder.path();
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("HOME", home);
        command.env("XDG_RUNTIME_DIR", home).env("XDG_STATE_HOME", home).stdin(Stdio::null());
        command
    }

    async fn drydock(&self, args: &[&str]) -> String {
        let output = timeout(LONG, Self::program(&self.folder).args(args).output()).await.unwrap().unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().lines().next().unwrap_or_default().to_owned()
    }

    /// Ends it in order; its log.
    async fn end(mut self) -> String {
        let pid = rustix::process::Pid::from_raw(i32::try_from(self.child.id().unwrap()).unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let mut log = String::new();
        timeout(LONG, self.child.stderr.take().unwrap().read_to_string(&mut log)).await.unwrap().unwrap();
        assert!(timeout(LONG, self.child.wait()).await.unwrap().unwrap().success());
        log
    }
}

fn attribute(span: &Span, key: &str) -> String {
    use opentelemetry_proto::tonic::common::v1::any_value::Value::StringValue;
    let value = span.attributes.iter().find(|it| it.key == key).and_then(|it| it.value.clone()?.value);
    if let Some(StringValue(text)) = value { text } else { String::new() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_is_one_trace_with_a_span_for_each_step() {
    let (collector, address) = Collector::open().await;
    let endpoint = format!("http://{address}");
    let daemon = Daemon::start(&[("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint), ("OTEL_BSP_SCHEDULE_DELAY", "50")]).await;
    let lease = daemon.drydock(&["lease", "acquire", "storage"]).await;
    daemon.drydock(&["lease", "release", "--wait", &lease]).await;
    let other = daemon.drydock(&["lease", "acquire", "host"]).await;
    let log = daemon.end().await;

    let spans = collector.spans();
    let bits = ulid::Ulid::from_string(&lease["lease_".len()..].to_uppercase()).unwrap().0;
    let of_trace: Vec<&Span> = spans.iter().filter(|span| span.trace_id == bits.to_be_bytes()).collect();
    let by_name = |name: &str| -> Vec<&Span> { of_trace.iter().copied().filter(|span| span.name == name).collect() };
    let told = || of_trace.iter().map(|span| span.name.clone()).collect::<Vec<_>>();
    let [root] = by_name("lease storage")[..] else { panic!("{:?}\n{log}", told()) };
    assert!(root.parent_span_id.is_empty() && attribute(root, "drydock.lease") == lease, "{root:?}");
    assert!(root.events.iter().any(|event| event.name == "lease.activated"), "{:?}", root.events);
    let [build] = by_name("build storage")[..] else { panic!("{:?}", told()) };
    assert_eq!(build.parent_span_id, root.span_id);
    let [host] = by_name("lease host")[..] else { panic!("{:?}", told()) };
    assert_eq!(host.parent_span_id, build.span_id);
    assert!(
        root.start_time_unix_nano <= build.start_time_unix_nano && build.end_time_unix_nano <= root.end_time_unix_nano
    );
    assert_eq!(by_name("clean up storage").len(), 1);
    let steps = by_name("step of a resource");
    assert!(steps.len() >= 2 && steps.iter().any(|step| step.parent_span_id == build.span_id), "{:?}", told());
    // Whatever has a parent finds it in its trace, and no id is there twice.
    let mut ids = BTreeMap::new();
    for span in &of_trace {
        assert!(ids.insert(span.span_id.clone(), &span.name).is_none(), "{} is there twice", span.name);
    }
    for span in of_trace.iter().filter(|span| !span.parent_span_id.is_empty()) {
        assert!(ids.contains_key(&span.parent_span_id), "{} has a parent that is not there", span.name);
    }
    let bits = ulid::Ulid::from_string(&other["lease_".len()..].to_uppercase()).unwrap().0;
    assert!(spans.iter().any(|span| span.trace_id == bits.to_be_bytes() && span.name == "lease host"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_waits_for_a_collector_that_is_not_there() {
    let env = [("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1"), ("OTEL_BSP_SCHEDULE_DELAY", "20")];
    let daemon = Daemon::start(&env).await;
    let lease = daemon.drydock(&["lease", "acquire", "storage"]).await;
    daemon.drydock(&["lease", "release", "--wait", &lease]).await;
    let log = daemon.end().await;
    assert!(log.contains("traces cannot be exported"), "{log}");
    let folder = tempfile::tempdir().unwrap();
    let wrong = Daemon::program(&folder).args(["up"]).env("OTEL_EXPORTER_OTLP_ENDPOINT", "not a url").output();
    let wrong = timeout(LONG, wrong).await.unwrap().unwrap();
    assert_eq!(wrong.status.code(), Some(78), "{}", String::from_utf8_lossy(&wrong.stderr));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_carries_ids() {
    let daemon = Daemon::start(&[("DRYDOCK_LOG", "debug,h2=info,hyper=info")]).await;
    let lease = daemon.drydock(&["lease", "acquire", "storage"]).await;
    // A repository that is not there: its step fails.
    let broken = Daemon::program(&daemon.folder)
        .args(["lease", "acquire", "working-copy", "--attr", "repository=/nowhere/at/all"])
        .output();
    assert!(!timeout(LONG, broken).await.unwrap().unwrap().status.success());
    let log = daemon.end().await;
    // Talk to whoever started it is no log.
    let lines = log.lines().filter(|line| !line.starts_with("drydock: "));
    let lines: Vec<Value> =
        lines.map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line:?} is not JSON"))).collect();
    let activated = lines.iter().find(|line| line["event"] == "lease.activated" && line["lease"] == lease.as_str());
    let activated = activated.unwrap_or_else(|| panic!("{log}"));
    assert!(activated["resource"].as_str().is_some_and(|id| id.starts_with("res_")), "{activated}");
    assert_eq!(activated["root"], lease.as_str(), "{activated}");
    let failed = lines.iter().find(|line| line["event"] == "resource.broken").unwrap_or_else(|| panic!("{log}"));
    assert!(failed["level"] == "INFO" && failed["reason"] == "BUILD_FAILED", "{failed}");
}
