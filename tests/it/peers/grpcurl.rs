//! The lines of README.md, exactly as they stand there, on both doors.

use super::{Up, output_of, tool};

/// The blocks marked `sh grpcurl`, in order.
fn blocks() -> Vec<String> {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let blocks = page.split("```sh grpcurl\n").skip(1);
    blocks.map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn the_lines_of_the_readme_work() {
    let blocks = blocks();
    let [socket, loopback] = &blocks[..] else { panic!("{} blocks; one for each door is expected", blocks.len()) };
    assert!(socket.contains("-unix") && loopback.contains("127.0.0.1:7420"));
    if tool("the grpcurl lines of README.md", "bin/grpcurl").is_none() {
        return;
    }
    let up = Up::start().await;
    for block in [socket, loopback] {
        let mut sh = up.user("/bin/sh");
        sh.args(["-eux", "-c", &block.replace("127.0.0.1:7420", &up.listen)]);
        let said = output_of(sh).await;
        for expected in [
            // list
            "drydock.v1.LeaseService\n",
            "grpc.health.v1.Health\n",
            // acquire
            "\"state\": \"STATE_ACTIVE\"",
            // watch
            "\"cursor\": \"",
            // exec
            "\"text\": \"Linux\\n\"",
            "\"exitCode\": 0",
            // release
            "\"state\": \"STATE_DESTROYED\"",
        ] {
            assert!(said.contains(expected), "no {expected:?} in what this said:\n{block}\n{said}");
        }
    }
    up.stop().await;
}

#[tokio::test]
async fn errors_are_readable_in_grpcurl() {
    if tool("errors in grpcurl", "bin/grpcurl").is_none() {
        return;
    }
    let up = Up::start().await;
    let line = "grpcurl -plaintext -unix -authority localhost -d '{\"lease_id\": \"lease_x\"}' \"$0\" \
                drydock.v1.LeaseService/GetLease 2>&1 || true";
    let mut sh = up.user("/bin/sh");
    sh.args(["-c", line]).arg(up.socket());
    let said = output_of(sh).await;
    for expected in ["Code: NotFound", "google.rpc.ErrorInfo", "LEASE_NOT_FOUND", "drydock"] {
        assert!(said.contains(expected), "{said}");
    }
    // Without a token the TCP door tells nothing, not even what there is.
    let mut sh = up.user("/bin/sh");
    sh.args(["-c", "grpcurl -plaintext \"$0\" list 2>&1 || true", &up.listen]);
    let said = output_of(sh).await;
    assert!(said.contains("DRYDOCK_TOKEN") && !said.contains("LeaseService"), "{said}");
    up.stop().await;
}
