//! `examples/python/tour.py` with code that stock tools generate, on both doors.

use super::{Up, output_of, tool};

const SAYS: &str = "\
acquired STATE_ACTIVE
watched STATE_ACTIVE
HELLO
exit code 0
checked COMMAND_FAILED 3
released STATE_DESTROYED
";

#[tokio::test]
async fn stock_python_works_on_both_doors() {
    let Some(python) = tool("the Python client", "python/bin/python") else { return };
    let up = Up::start().await;
    let generated = tempfile::tempdir().unwrap();
    let mut protoc = up.user("/bin/sh");
    let line =
        "\"$0\" -m grpc_tools.protoc -I proto --python_out=\"$1\" --grpc_python_out=\"$1\" proto/drydock/v1/*.proto";
    protoc.args(["-c", line]).arg(&python).arg(generated.path());
    output_of(protoc).await;

    let socket = format!("unix:{}", up.socket().display());
    let loopback = format!("http://{}", up.listen);
    for (address, token) in [(socket, None), (loopback, Some(up.token_file()))] {
        let mut tour = up.user(&python);
        tour.arg("examples/python/tour.py").env("DRYDOCK_ADDR", &address).env("PYTHONPATH", generated.path());
        if let Some(file) = token {
            tour.env("DRYDOCK_TOKEN_FILE", file);
        }
        assert_eq!(output_of(tour).await, SAYS, "{address}");
    }
    up.stop().await;
}
