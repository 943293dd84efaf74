//! Other people's clients over TLS: grpcurl with `-cacert`, and stock Python.

use std::process::Stdio;

use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Child;
use tokio::time::timeout;

use super::{PATIENCE, output_of, tool, user};
use crate::authority::Authority;

/// `drydock up` with TLS; where it listens, `localhost:PORT`.
async fn up(home: &std::path::Path, authority: &Authority) -> (Child, String) {
    let files = authority.host(home, "dock", &["localhost"]);
    let mut command = user(home, env!("CARGO_BIN_EXE_drydock"));
    command.args(["up", "--listen", "127.0.0.1:0"]).arg("--tls-cert").arg(&files.cert).arg("--tls-key").arg(&files.key);
    let mut child = command.env("DRYDOCK_LOG", "warn").stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let ready = timeout(PATIENCE, lines.next_line()).await.unwrap().unwrap().unwrap();
    let port = ready.split("  https://127.0.0.1:").nth(1).and_then(|rest| rest.split("  ").next()).unwrap();
    (child, format!("localhost:{port}"))
}

#[tokio::test]
async fn grpcurl_and_python_trust_the_ca_that_they_are_told() {
    let (Some(_), Some(python)) =
        (tool("grpcurl over TLS", "bin/grpcurl"), tool("Python over TLS", "python/bin/python"))
    else {
        return;
    };
    let (home, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let ca = authority.file(home.path());
    let (mut child, address) = up(home.path(), &authority).await;
    let token = home.path().join(".local/state/drydock/token");

    let mut sh = user(home.path(), "/bin/sh");
    let line = "grpcurl -cacert \"$0\" -H \"authorization: Bearer $(cat \"$1\")\" \"$2\" drydock.v1.SystemService/GetServerInfo";
    sh.args(["-c", line]).arg(&ca).arg(&token).arg(&address);
    let said = output_of(sh).await;
    assert!(said.contains("\"principal\": \"local\"") && said.contains("\"door\": \"token\""), "{said}");
    // Without it the certificate is of nobody that the system knows.
    let mut sh = user(home.path(), "/bin/sh");
    sh.args(["-c", "grpcurl -max-time 10 \"$0\" list 2>&1 || true"]).arg(&address);
    let said = output_of(sh).await;
    assert!(said.contains("certificate") && !said.contains("LeaseService"), "{said}");

    let generated = tempfile::tempdir().unwrap();
    let mut protoc = user(home.path(), "/bin/sh");
    let line =
        "\"$0\" -m grpc_tools.protoc -I proto --python_out=\"$1\" --grpc_python_out=\"$1\" proto/drydock/v1/*.proto";
    protoc.args(["-c", line]).arg(&python).arg(generated.path());
    output_of(protoc).await;
    let mut tour = user(home.path(), &python);
    tour.arg("examples/python/tour.py").env("DRYDOCK_ADDR", format!("https://{address}"));
    tour.env("DRYDOCK_CA_FILE", &ca).env("DRYDOCK_TOKEN_FILE", &token).env("PYTHONPATH", generated.path());
    let said = output_of(tour).await;
    assert!(said.starts_with("acquired STATE_ACTIVE\n") && said.ends_with("released STATE_DESTROYED\n"), "{said}");
    child.start_kill().unwrap();
    child.wait().await.unwrap();
}
