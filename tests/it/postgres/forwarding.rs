//! A lease on the machine of one daemon, used through another one; and the door between them.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use drydock::proto::v1;
use drydock::proto::v1::command_service_client::CommandServiceClient;
use drydock::proto::v1::exec_response::Frame;
use drydock::proto::v1::filesystem_service_client::FilesystemServiceClient;
use drydock::proto::v1::lease_service_client::LeaseServiceClient;
use drydock::proto::v1::system_service_client::SystemServiceClient;
use rcgen::generate_simple_self_signed;
use rustix::process::{Pid, Signal, kill_process};
use sqlx::{Connection as _, PgConnection, Row as _};
use tokio::time::timeout;
use tonic::metadata::MetadataValue;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Request, Status, Streaming};
use tonic_types::StatusExt as _;

use super::daemons::Daemon;
use super::{database, is_installed};
use crate::queue::kit::{PATIENCE, eventually};

/// What all certificates between daemons are made out to.
const NAME: &str = "daemon.drydock.internal";

/// A lease on a host, the daemon whose machine that is, and another one.
async fn leased(daemons: [Daemon; 2]) -> (String, Daemon, Daemon) {
    for daemon in &daemons {
        daemon.serves().await;
    }
    let lease = daemons[0].ok(&["lease", "acquire", "host"]).trim().to_owned();
    let facts = &daemons[0].json(&["lease", "get", &lease])["facts"];
    let owned = facts["daemon"].as_str().unwrap().to_owned();
    let [one, two] = daemons;
    if owned.ends_with(&format!(":{}", one.folder.path().display())) { (lease, one, two) } else { (lease, two, one) }
}

fn with_stdin(daemon: &Daemon, words: &[&str], stdin: &[u8]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_drydock"));
    command.env_clear().env("HOME", daemon.folder.path()).args(["--addr", &daemon.address()]).args(words);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut pipe = child.stdin.take().unwrap();
    let stdin = stdin.to_vec();
    // One that fails does not read all of it, and says why.
    let writer = std::thread::spawn(move || pipe.write_all(&stdin).is_ok());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

fn sleeping(lease: &str) -> v1::ExecRequest {
    let argv = ["sleep", "1000"].map(str::to_owned).to_vec();
    let command = v1::Command { argv, ..v1::Command::default() };
    v1::ExecRequest { lease_id: lease.to_owned(), command: Some(command), ..v1::ExecRequest::default() }
}

/// The process of an execution whose first frame is awaited.
async fn started(frames: &mut Streaming<v1::ExecResponse>) -> String {
    match timeout(PATIENCE, frames.message()).await.unwrap().unwrap().unwrap().frame {
        Some(Frame::Started(started)) => format!("/proc/{}", started.pid),
        other => panic!("{other:?}"),
    }
}

/// How a stream ends.
async fn end(mut frames: Streaming<v1::ExecResponse>) -> Status {
    loop {
        match timeout(PATIENCE, frames.message()).await.unwrap() {
            Ok(Some(_)) => {}
            Ok(None) => panic!("it ended well"),
            Err(status) => return status,
        }
    }
}

fn reason(status: &Status) -> String {
    status.get_details_error_info().unwrap_or_else(|| panic!("no ErrorInfo in {status:?}")).reason
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_is_used_through_a_daemon_whose_machine_it_is_not() {
    if !is_installed() {
        return;
    }
    let database = database().await;
    let (lease, mut own, other) = leased([Daemon::start(&database), Daemon::start(&database)]).await;
    let root = own.folder.path().join("leases").join(&lease);

    // Bytes, both ways, and more than any window or pipe holds.
    let sent: Vec<u8> = (0..3_000_000_u32).map(|number| number.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
    let script = "head -c 10485760 /dev/urandom >big; cat - big";
    let came = with_stdin(&other, &["exec", "-i", &lease, "--", "sh", "-c", script], &sent).stdout;
    let big = std::fs::read(root.join("big")).unwrap();
    assert_eq!((came.len(), big.len()), (sent.len() + big.len(), 10_485_760));
    assert!(came[..sent.len()] == sent && came[sent.len()..] == big, "other bytes came than were sent");
    // Exit codes, errors, and what a call is made of.
    assert_eq!(other.drydock(&["exec", &lease, "--", "sh", "-c", "exit 7"]).status.code(), Some(7));
    assert_eq!(other.drydock(&["exec", &lease, "--", "no such program"]).status.code(), Some(127));
    with_stdin(&other, &["fs", "write", &lease, "file"], &sent);
    assert!(std::fs::read(root.join("file")).unwrap() == sent);
    assert!(with_stdin(&other, &["fs", "read", &lease, "file"], b"").stdout == sent);
    let missing = v1::StatFileRequest { lease_id: lease.clone(), path: "none".to_owned(), ..Default::default() };
    let status = FilesystemServiceClient::new(other.channel().await).stat_file(missing).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::NotFound, "FILE_NOT_FOUND"));

    // Who hangs up, and whose time is over, leaves nothing running.
    let mut commands = CommandServiceClient::new(other.channel().await);
    let mut frames = commands.exec(sleeping(&lease)).await.unwrap().into_inner();
    let process = started(&mut frames).await;
    assert!(std::fs::exists(&process).unwrap());
    drop(frames);
    eventually("the end of what nobody waits for", async || (!std::fs::exists(&process).unwrap()).then_some(())).await;
    let mut short = Request::new(sleeping(&lease));
    short.set_timeout(Duration::from_secs(1));
    let status = match commands.exec(short).await {
        Ok(frames) => end(frames.into_inner()).await,
        Err(status) => status,
    };
    assert_eq!(reason(&status), "DEADLINE_EXCEEDED");

    // The daemon whose machine it is dies in the middle.
    let mut frames = commands.exec(sleeping(&lease)).await.unwrap().into_inner();
    started(&mut frames).await;
    own.child.kill().unwrap();
    own.child.wait().unwrap();
    let status = end(frames).await;
    assert_eq!((status.code(), reason(&status).as_str()), (Code::Unknown, "OUTCOME_UNKNOWN"), "{status:?}");
    let gone = format!(":{}", own.folder.path().display());
    let refused = async |commands: &mut CommandServiceClient<Channel>, why: &str| {
        let status = commands.exec(sleeping(&lease)).await.unwrap_err();
        assert_eq!((status.code(), reason(&status).as_str()), (Code::Unavailable, "HOST_UNREACHABLE"));
        assert!(status.message().contains(&gone) && status.message().contains(why), "{status:?}");
        assert!(status.get_details_retry_info().is_some(), "{status:?}");
    };
    refused(&mut commands, "does not answer").await;
    let mut look = PgConnection::connect(&database.url).await.unwrap();
    let long_ago = "UPDATE daemon SET seen_time = seen_time - 100000000 WHERE home LIKE '%' || $1";
    assert_eq!(sqlx::query(long_ago).bind(&gone).execute(&mut look).await.unwrap().rows_affected(), 1);
    refused(&mut commands, "no sign of life").await;
    sqlx::query("DELETE FROM daemon WHERE home LIKE '%' || $1").bind(&gone).execute(&mut look).await.unwrap();
    refused(&mut commands, "no such daemon").await;
}

/// The owner is stopped, not dead: who asks it learns soon that it does not answer, and it goes on where it was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_that_is_stopped_is_unreachable_until_it_goes_on() {
    if !is_installed() {
        return;
    }
    let database = database().await;
    let third = Daemon::start(&database);
    let (lease, own, other) = leased([Daemon::start(&database), Daemon::start(&database)]).await;
    third.serves().await;
    let strike = |signal: Signal| {
        kill_process(Pid::from_raw(own.child.id().try_into().unwrap()).unwrap(), signal).unwrap();
    };
    with_stdin(&other, &["fs", "write", &lease, "file"], b"x");
    let look = async |daemon: &Daemon| {
        let wanted = v1::StatFileRequest { lease_id: lease.clone(), path: "file".to_owned(), ..Default::default() };
        let start = Instant::now();
        let told = FilesystemServiceClient::new(daemon.channel().await).stat_file(wanted).await;
        (told.map(|_| ()).map_err(|status| reason(&status)), start.elapsed())
    };
    // Under way over the connection that there is.
    let mut frames =
        CommandServiceClient::new(other.channel().await).exec(sleeping(&lease)).await.unwrap().into_inner();
    let process = started(&mut frames).await;
    strike(Signal::STOP);
    let start = Instant::now();
    let ((fresh, fresh_took), (open, open_took), (broken, broken_took)) =
        tokio::join!(look(&third), look(&other), async { (end(frames).await, start.elapsed()) });
    // Where there is no connection yet after 3 s, where there is one after two pings of 4 s each; and some time to run.
    assert_eq!((fresh, open), (Err("HOST_UNREACHABLE".to_owned()), Err("HOST_UNREACHABLE".to_owned())));
    assert!(fresh_took < Duration::from_secs(3 + 2), "{fresh_took:?}");
    assert!(open_took < Duration::from_secs(8 + 3), "{open_took:?}");
    assert_eq!((broken.code(), reason(&broken).as_str()), (Code::Unknown, "OUTCOME_UNKNOWN"), "{broken:?}");
    assert!(broken_took < Duration::from_secs(8 + 3), "{broken_took:?}");

    strike(Signal::CONT);
    for daemon in [&third, &other] {
        eventually("it answers again", async || look(daemon).await.0.ok()).await;
    }
    assert_eq!(other.ok(&["exec", &lease, "--", "echo", "here"]), "here\n");
    // Nobody waits for the command any more.
    eventually("the end of what nobody waits for", async || (!std::fs::exists(&process).unwrap()).then_some(())).await;
}

/// A channel to the door for daemons, with a certificate if there is one to show.
async fn knock(
    address: &str,
    theirs: &str,
    ours: Option<&(String, String)>,
) -> Result<Channel, tonic::transport::Error> {
    let mut tls = ClientTlsConfig::new().domain_name(NAME).ca_certificate(Certificate::from_pem(theirs));
    if let Some((certificate, key)) = ours {
        tls = tls.identity(Identity::from_pem(certificate, key));
    }
    Endpoint::from_shared(format!("https://{address}")).unwrap().tls_config(tls).unwrap().connect().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_door_for_daemons_is_for_daemons_on_record_and_for_interfaces_of_leases() {
    if !is_installed() {
        return;
    }
    let database = database().await;
    let daemon = Daemon::start(&database);
    daemon.serves().await;
    let lease = daemon.ok(&["lease", "acquire", "host"]).trim().to_owned();
    let mut look = PgConnection::connect(&database.url).await.unwrap();
    let row = sqlx::query("SELECT peer_address, peer_certificate FROM daemon").fetch_one(&mut look).await.unwrap();
    let (address, theirs): (String, String) = (row.get(0), row.get(1));
    assert!(address.starts_with("127.0.0.1:"), "{address}");

    let made = generate_simple_self_signed([NAME.to_owned()]).unwrap();
    let ours = (made.cert.pem(), made.signing_key.serialize_pem());
    // Without a certificate nobody gets as far as to ask, token or not.
    let nobody = match knock(&address, &theirs, None).await {
        Ok(channel) => CommandServiceClient::new(channel).exec(sleeping(&lease)).await.unwrap_err(),
        Err(error) => Status::unavailable(error.to_string()),
    };
    assert!(nobody.get_details_error_info().is_none(), "{nobody:?}");
    // One that is on no record, and says that it asks for an admin.
    let on_behalf = || {
        let mut request = Request::new(sleeping(&lease));
        let json = br#"{"name":"root","admin":true,"door":"socket"}"#;
        request.metadata_mut().insert_bin("drydock-principal-bin", MetadataValue::from_bytes(json));
        request.metadata_mut().insert("authorization", "Bearer t0p".parse().unwrap());
        request
    };
    let mut stranger = CommandServiceClient::new(knock(&address, &theirs, Some(&ours)).await.unwrap());
    let status = stranger.exec(on_behalf()).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::Unauthenticated, "UNAUTHENTICATED"));
    // Who can write to the database is a daemon.
    let insert = "INSERT INTO daemon (id, version, machine, address, start_time, seen_time, draining, home, peer_address, peer_certificate) \
                  VALUES ('daemon_x', '1', 'm', 'a', 0, (SELECT max(seen_time) FROM daemon), 0, 'm:/x', '127.0.0.1:1', $1)";
    sqlx::query(insert).bind(&ours.0).execute(&mut look).await.unwrap();
    let status = stranger.exec(Request::new(sleeping(&lease))).await.unwrap_err();
    assert_eq!(reason(&status), "UNAUTHENTICATED", "it does not say for whom it asks");
    let mut frames = stranger.exec(on_behalf()).await.unwrap().into_inner();
    started(&mut frames).await;
    drop(frames);
    let get = v1::GetLeaseRequest { lease_id: lease.clone() };
    let status = LeaseServiceClient::new(knock(&address, &theirs, Some(&ours)).await.unwrap()).get_lease(get).await;
    assert_eq!(reason(&status.unwrap_err()), "PERMISSION_DENIED");

    // What is believed there is believed nowhere else.
    let mut request = Request::new(v1::GetServerInfoRequest {});
    let json = br#"{"name":"somebody","admin":false,"door":"token"}"#;
    request.metadata_mut().insert_bin("drydock-principal-bin", MetadataValue::from_bytes(json));
    let info = SystemServiceClient::new(daemon.channel().await).get_server_info(request).await.unwrap().into_inner();
    assert!(info.caller.unwrap().principal.starts_with("uid:"));
}
