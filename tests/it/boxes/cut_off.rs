//! Two boxes with addresses of their own, in network namespaces that the test makes; one of them is cut off.

use std::io::Write as _;
use std::net::Ipv4Addr;
use std::process::Command as Program;
use std::time::Instant;

use drydock::proto::v1::command_service_client::CommandServiceClient;
use drydock::proto::v1::exec_response::Frame;
use drydock::proto::v1::process_exited::Outcome;
use drydock::proto::v1::{Command, ExecRequest, ExecResponse, GetWriteStatusRequest, WriteFileRequest};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc::channel;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::files::{files, noise, piece, read, start, write};
use super::fleet::Fleet;
use super::sites::left;
use crate::harness::{LONG, reason};
use crate::queue::kit::eventually;
use crate::ssh::sshd::{Options, Sshd};

/// A network of two: this machine, and a namespace.
struct Island {
    name: String,
    address: Ipv4Addr,
}

fn ip(words: &[&str]) -> Result<(), String> {
    let done = Program::new("ip").args(words).output().map_err(|error| format!("ip, of iproute2: {error}"))?;
    let said = || format!("ip {}: {}", words.join(" "), String::from_utf8_lossy(&done.stderr).trim());
    if done.status.success() { Ok(()) } else { Err(said()) }
}

impl Island {
    fn new(nth: u32) -> Result<Self, String> {
        // The range of addresses that RFC 2544 sets apart for tests, four for each.
        let base = u32::from(Ipv4Addr::new(198, 18, 0, 0)) + (std::process::id() % 16_000 * 2 + nth) * 4;
        let (here, there) = (Ipv4Addr::from(base + 1), Ipv4Addr::from(base + 2));
        let name = format!("dd{}-{nth}", std::process::id() % 1_000_000);
        ip(&["netns", "add", &name])?;
        let island = Self { name, address: there };
        let name = island.name.as_str();
        ip(&["link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name])?;
        ip(&["addr", "add", &format!("{here}/30"), "dev", name])?;
        ip(&["link", "set", name, "up"])?;
        ip(&["-n", name, "addr", "add", &format!("{there}/30"), "dev", "eth0"])?;
        ip(&["-n", name, "link", "set", "lo", "up"])?;
        island.link("up")?;
        Ok(island)
    }

    /// `down`: what is sent gets lost, nobody says so.
    fn link(&self, how: &str) -> Result<(), String> {
        ip(&["-n", &self.name, "link", "set", "eth0", how])
    }

    fn machine(&self) -> Sshd {
        let within = ["ip", "netns", "exec", &self.name].map(str::to_owned).to_vec();
        Sshd::with(Options { address: self.address.to_string(), within, ..Options::default() })
    }
}

impl Drop for Island {
    fn drop(&mut self) {
        // The pair of interfaces may be missing, and goes with the namespace only when its last process has ended.
        let _ = ip(&["link", "del", &self.name]);
        let _ = ip(&["netns", "del", &self.name]);
    }
}

/// Two; none where the test may not make them, which it says, and which is a failure for root in CI.
fn islands() -> Option<[Island; 2]> {
    let is_root = rustix::process::geteuid().is_root();
    let in_ci = ["CI", "DRYDOCK_CI"].into_iter().any(|name| std::env::var_os(name).is_some_and(|it| !it.is_empty()));
    let made = if is_root { Island::new(0).and_then(|far| Ok([far, Island::new(1)?])) } else { Err("not root".into()) };
    match made {
        Ok(islands) => Some(islands),
        Err(why) => {
            assert!(!is_root || !in_ci, "no network namespaces: {why}");
            // Not by println!, which the test harness would keep to itself.
            let _ = writeln!(std::io::stderr(), "not run: boxes in network namespaces: {why}");
            None
        }
    }
}

/// Starts a script that says something at once, and waits for that.
pub(super) async fn begin(fleet: &Fleet, lease: &str, script: &str) -> Streaming<ExecResponse> {
    let argv = ["sh", "-c", script].map(str::to_owned).to_vec();
    let command = Some(Command { argv, ..Command::default() });
    let request = ExecRequest { lease_id: lease.to_owned(), command, ..ExecRequest::default() };
    let mut stream = CommandServiceClient::new(fleet.link.clone()).exec(request).await.unwrap().into_inner();
    while !matches!(stream.message().await.unwrap().unwrap().frame, Some(Frame::Output(_))) {}
    stream
}

pub(super) async fn end(mut stream: Streaming<ExecResponse>) -> Result<i32, Status> {
    let all = async {
        while let Some(message) = stream.message().await? {
            if let Some(Frame::Exited(exited)) = message.frame {
                let Some(Outcome::ExitCode(code)) = exited.outcome else { panic!("{exited:?}") };
                return Ok(code);
            }
        }
        panic!("a stream without an end")
    };
    timeout(LONG, all).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_is_cut_off_and_comes_back_the_other_goes_on() {
    let Some([far, near]) = islands() else { return };
    let (far_box, near_box) = (far.machine(), near.machine());
    let fleet = Fleet::start(json!({}), 1).await;
    let known = fleet.register("far", &far_box, &[("at", "far")]).await;
    fleet.register("near", &near_box, &[("at", "near")]).await;
    let on_far = fleet.acquire("host", &[], &[("at", "far")]).await;
    let on_near = fleet.acquire("host", &[], &[("at", "near")]).await;

    let lost = begin(&fleet, &on_far.id, "echo begun; sleep 600").await;
    let kept = begin(&fleet, &on_near.id, "echo begun; until [ -e go ]; do sleep 0.1; done; exit 7").await;
    let data = noise(8 << 20);
    let (sender, messages) = channel(1);
    let mut client = files(&fleet);
    let writing = tokio::spawn(async move { client.write_file(ReceiverStream::new(messages)).await });
    let first = WriteFileRequest { start: Some(start(&on_far.id, "big", "up-1")), ..piece(0, &data[..65_536]) };
    sender.send(first).await.unwrap();
    let progress = async || {
        let request = GetWriteStatusRequest { lease_id: on_far.id.clone(), upload_id: "up-1".to_owned() };
        files(&fleet).get_write_status(request).await.map(tonic::Response::into_inner)
    };
    eventually("the first bytes are there", async || {
        progress().await.ok().filter(|progress| progress.committed_size > 0)
    })
    .await;

    far.link("down").unwrap();
    let begun = Instant::now();
    // It never ends by itself: only the loss of the box ends it.
    let rest = data.clone();
    let sending = tokio::spawn(async move {
        for (nth, part) in rest.chunks(65_536).enumerate().skip(1) {
            if sender.send(piece(nth * 65_536, part)).await.is_err() {
                return;
            }
        }
        sender.closed().await;
    });
    let ended = end(lost).await.unwrap_err();
    let exec_took = begun.elapsed();
    assert!(["OUTCOME_UNKNOWN", "HOST_UNREACHABLE"].contains(&reason(&ended).as_str()), "{ended:?}");
    let failed = timeout(LONG, writing).await.unwrap().unwrap().unwrap_err();
    let write_took = begun.elapsed();
    assert_eq!(reason(&failed), "HOST_UNREACHABLE", "{failed:?}");
    sending.await.unwrap();
    println!("noticed: exec in {exec_took:?}, write in {write_took:?}");
    let refused = timeout(LONG, fleet.exec(&on_far.id, "true")).await.unwrap().unwrap_err();
    assert_eq!(reason(&refused), "HOST_UNREACHABLE", "{refused:?}");
    fleet.until(&known.id, "unreachable", |now| now.problem.starts_with("HOST_UNREACHABLE: ")).await;
    // Meanwhile, on the other.
    assert_eq!(fleet.exec(&on_near.id, "echo on").await.unwrap(), (0, "on\n".to_owned()));
    write(&fleet, start(&on_near.id, "go", ""), 0, b"go").await.unwrap();
    assert_eq!(end(kept).await.unwrap(), 7);

    far.link("up").unwrap();
    let back = Instant::now();
    fleet.until(&known.id, "well", |now| now.problem.is_empty()).await;
    println!("back in {:?}", back.elapsed());
    assert_eq!(fleet.exec(&on_far.id, "echo back").await.unwrap(), (0, "back\n".to_owned()));
    let committed = progress().await.unwrap();
    assert!(committed.committed_size > 0 && !committed.complete, "{committed:?}");
    let from = usize::try_from(committed.committed_size).unwrap();
    let written = write(&fleet, start(&on_far.id, "big", "up-1"), from, &data).await.unwrap();
    assert!(written.complete, "{written:?}");
    let there = read(&fleet, &on_far.id, "big").await.unwrap();
    assert_eq!(Sha256::digest(there), Sha256::digest(&data));
    for lease in [&on_far, &on_near] {
        fleet.release(&lease.id).await;
    }
    // A health check may be looking in this moment.
    crate::place::until("nothing is left on either", || left(&far_box).is_empty() && left(&near_box).is_empty()).await;
    fleet.end().await;
    drop((far_box, near_box));
}
