//! The edge as clients see it: real connections on loopback, health as the service that is at hand.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};
use tonic::service::Routes;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request as Call};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_types::StatusExt as _;

use super::*;
use crate::rpc::doors::DoorsLayer;
use crate::rpc::tls::{Identity, Secured};
use crate::rpc::tokens::Tokens;

const LONG: Duration = Duration::from_secs(20);

/// A running server and the switch that ends it.
struct Server {
    address: SocketAddr,
    stop: CancellationToken,
    task: JoinHandle<Result<Farewell>>,
}

async fn services() -> Routes {
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_service_status("", tonic_health::ServingStatus::Serving).await;
    Routes::new(health).add_service(crate::rpc::reflection::v1().unwrap())
}

async fn start(limits: Limits) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let service = edge(&limits, DoorsLayer::new(Tokens::parse("ci s3cret").unwrap()), services().await);
    let stopped = stop.clone().cancelled_owned();
    let task = tokio::spawn(async move { serve(&limits, service, TcpListenerStream::new(listener), stopped).await });
    Server { address, stop, task }
}

impl Server {
    fn endpoint(&self) -> Endpoint {
        Endpoint::from_shared(format!("http://{}", self.address)).unwrap()
    }

    async fn health(&self) -> HealthClient<Channel> {
        HealthClient::new(self.endpoint().connect().await.unwrap())
    }

    async fn stopped(self) -> Farewell {
        self.stop.cancel();
        timeout(LONG, self.task).await.unwrap().unwrap().unwrap()
    }
}

fn whole() -> HealthCheckRequest {
    HealthCheckRequest { service: String::new() }
}

fn reason(status: &Status) -> String {
    let info = status.get_details_error_info().unwrap_or_else(|| panic!("no ErrorInfo in {status:?}"));
    assert_eq!(info.domain, "drydock");
    info.reason
}

/// Calls a method that may not exist.
async fn call(channel: Channel, path: &'static str, token: Option<&'static str>) -> Status {
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.unwrap();
    let codec = tonic_prost::ProstCodec::<HealthCheckRequest, HealthCheckRequest>::default();
    let mut request = Call::new(whole());
    if let Some(token) = token {
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    }
    client.unary(request, http::uri::PathAndQuery::from_static(path), codec).await.unwrap_err()
}

#[tokio::test]
async fn who_sends_nothing_is_closed() {
    let server = start(Limits { preface: Duration::from_millis(30), ..Limits::default() }).await;
    let mut silent = TcpStream::connect(server.address).await.unwrap();
    let mut slow = TcpStream::connect(server.address).await.unwrap();
    slow.write_all(b"PRI * HTTP").await.unwrap();
    let mut bytes = Vec::new();
    // Closed or reset; what matters is that it ends.
    let _ = timeout(LONG, silent.read_to_end(&mut bytes)).await.unwrap();
    let _ = timeout(LONG, slow.read_to_end(&mut bytes)).await.unwrap();
    // Who speaks at once is served; more than once tried, as this machine may be slower than the patience here.
    let greeted = async {
        loop {
            if let Ok(channel) = server.endpoint().connect().await
                && HealthClient::new(channel).check(whole()).await.is_ok()
            {
                break;
            }
        }
    };
    timeout(LONG, greeted).await.unwrap();
    assert_eq!(server.stopped().await, Farewell::Done);
}

#[tokio::test]
async fn a_handshake_that_comes_to_no_end_takes_a_place_and_is_closed() {
    let folder = tempfile::tempdir().unwrap();
    let (cert, key) = (folder.path().join("cert"), folder.path().join("key"));
    let pair = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(&cert, pair.cert.pem()).unwrap();
    std::fs::write(&key, pair.signing_key.serialize_pem()).unwrap();
    std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let acceptor = Arc::new(Identity::open(&cert, &key).unwrap()).acceptor().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let incoming = TcpListenerStream::new(listener).map(move |io| io.map(|io| Secured::new(&acceptor, io)));
    let limits = Limits { preface: Duration::from_millis(100), connections: 1, ..Limits::default() };
    let service = edge(&limits, DoorsLayer::new(Tokens::none()), services().await);
    let task = tokio::spawn(async move { serve(&limits, service, incoming, std::future::pending()).await });

    let mut slow = TcpStream::connect(address).await.unwrap();
    slow.write_all(&[0x16, 3, 1, 2, 0, 1]).await.unwrap();
    for _ in 0..2 {
        let mut answer = Vec::new();
        // The second finds no room as long as the first has its place, and none is answered.
        let mut other = TcpStream::connect(address).await.unwrap();
        let _ = timeout(LONG, other.read_to_end(&mut answer)).await.expect("it is closed");
        assert!(answer.is_empty(), "{answer:?}");
    }
    let mut answer = Vec::new();
    let _ = timeout(LONG, slow.read_to_end(&mut answer)).await.expect("it is closed");
    assert!(answer.is_empty(), "{answer:?}");
    task.abort();
}

#[tokio::test]
async fn one_connection_too_many_is_closed_and_room_comes_back() {
    let server = start(Limits { connections: 1, ..Limits::default() }).await;
    let mut first = server.health().await;
    first.check(whole()).await.unwrap();
    let mut second = TcpStream::connect(server.address).await.unwrap();
    let _ = timeout(LONG, second.read_to_end(&mut Vec::new())).await.unwrap();
    first.check(whole()).await.unwrap();
    drop(first);
    let again = async {
        loop {
            if let Ok(channel) = server.endpoint().connect().await
                && HealthClient::new(channel).check(whole()).await.is_ok()
            {
                break;
            }
        }
    };
    timeout(LONG, again).await.unwrap();
}

#[tokio::test]
async fn every_status_has_its_details() {
    let server = start(Limits::default()).await;
    let channel = server.endpoint().connect().await.unwrap();
    let status = call(channel.clone(), "/drydock.v1.NoService/Nothing", Some("s3cret")).await;
    assert_eq!((status.code(), reason(&status).as_str()), (Code::Unimplemented, "METHOD_NOT_FOUND"));
    assert!(status.message().contains("/drydock.v1.NoService/Nothing"), "{status:?}");
    let status = call(channel.clone(), "/grpc.health.v1.Health/Nothing", None).await;
    assert_eq!(reason(&status), "METHOD_NOT_FOUND");
    for token in [None, Some("wrong")] {
        let status = call(channel.clone(), "/drydock.v1.LeaseService/GetLease", token).await;
        assert_eq!((status.code(), reason(&status).as_str()), (Code::Unauthenticated, "UNAUTHENTICATED"));
    }
    let unknown = HealthCheckRequest { service: "drydock.v1.NoService".to_owned() };
    let status = HealthClient::new(channel).check(unknown).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    reason(&status);
}

#[tokio::test]
async fn a_message_that_is_none_is_an_invalid_argument() {
    let server = start(Limits::default()).await;
    let channel = server.endpoint().connect().await.unwrap();
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.unwrap();
    // Field 1 is a string there; this is a message whose field 1 is a number.
    let codec = tonic_prost::ProstCodec::<i64, HealthCheckRequest>::default();
    let path = http::uri::PathAndQuery::from_static("/grpc.health.v1.Health/Check");
    let status = client.unary(Call::new(7_i64), path, codec).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::InvalidArgument, "INVALID_ARGUMENT"));
}

#[tokio::test]
async fn a_deadline_ends_a_stream_on_the_wire() {
    let server = start(Limits::default()).await;
    let mut health = server.health().await;
    let mut request = Call::new(whole());
    // By hand: `set_timeout` would make the client give up by itself.
    request.metadata_mut().insert("grpc-timeout", "200m".parse().unwrap());
    let ended = async {
        let mut watch = health.watch(request).await?.into_inner();
        while watch.message().await?.is_some() {}
        Ok(())
    };
    let status: Status = timeout(LONG, ended).await.unwrap().unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::DeadlineExceeded, "DEADLINE_EXCEEDED"));
}

#[tokio::test]
async fn one_call_too_many_is_told_when_to_come_back() {
    let server = start(Limits { calls: 1, ..Limits::default() }).await;
    let mut health = server.health().await;
    let mut watch = health.watch(whole()).await.unwrap().into_inner();
    watch.message().await.unwrap().unwrap();
    let status = health.check(whole()).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::ResourceExhausted, "RATE_LIMITED"));
    assert!(status.get_details_retry_info().is_some());
    drop(watch);
    let again = async { while health.check(whole()).await.is_err() {} };
    timeout(LONG, again).await.unwrap();
}

#[tokio::test]
async fn a_drain_does_not_wait_for_ever() {
    let server = start(Limits { grace: Duration::from_millis(30), ..Limits::default() }).await;
    let mut health = server.health().await;
    let mut watch = health.watch(whole()).await.unwrap().into_inner();
    watch.message().await.unwrap().unwrap();
    let address = server.address;
    assert_eq!(server.stopped().await, Farewell::Cut(1));
    assert!(timeout(LONG, watch.message()).await.unwrap().is_err());
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn the_owner_comes_in_by_the_socket_without_a_token() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("drydock.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let limits = Limits::default();
    let service = edge(&limits, DoorsLayer::new(Tokens::none()), services().await);
    let task = tokio::spawn(async move {
        serve(&limits, service, UnixListenerStream::new(listener), std::future::pending()).await
    });
    let channel = Endpoint::from_static("http://localhost")
        .connect_with_connector(tower::service_fn(move |_| {
            let path = path.clone();
            async move { Ok::<_, io::Error>(hyper_util::rt::TokioIo::new(tokio::net::UnixStream::connect(path).await?)) }
        }))
        .await
        .unwrap();
    let status = call(channel, "/drydock.v1.LeaseService/GetLease", None).await;
    assert_eq!(reason(&status), "METHOD_NOT_FOUND");
    task.abort();
}

/// A server whose only call never ends; its token tells when the handler was dropped.
async fn hanging(
    limits: Limits,
) -> (Server, CancellationToken, JoinHandle<Result<Response<Body>, tonic::transport::Error>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (called, dropped, stop) = (CancellationToken::new(), CancellationToken::new(), CancellationToken::new());
    let service = tower::service_fn({
        let (called, dropped) = (called.clone(), dropped.clone());
        move |_: Request<Body>| {
            let alive = dropped.clone().drop_guard();
            called.cancel();
            async move {
                let _alive = alive;
                std::future::pending::<Result<Response<Body>, Infallible>>().await
            }
        }
    });
    let stopped = stop.clone().cancelled_owned();
    let task = tokio::spawn(async move { serve(&limits, service, TcpListenerStream::new(listener), stopped).await });
    let server = Server { address, stop, task };
    let mut channel = server.endpoint().connect().await.unwrap();
    let call = tokio::spawn(async move {
        std::future::poll_fn(|cx| channel.poll_ready(cx)).await?;
        channel.call(Request::new(Body::empty())).await
    });
    timeout(LONG, called.cancelled()).await.unwrap();
    (server, dropped, call)
}

#[tokio::test]
async fn what_still_runs_after_the_drain_is_dropped() {
    let (server, dropped, call) = hanging(Limits { grace: Duration::from_millis(30), ..Limits::default() }).await;
    assert_eq!(server.stopped().await, Farewell::Cut(1));
    timeout(LONG, dropped.cancelled()).await.unwrap();
    assert!(timeout(LONG, call).await.unwrap().unwrap().is_err());
}

#[tokio::test]
async fn a_dropped_server_cuts_its_connections() {
    let (server, dropped, call) = hanging(Limits::default()).await;
    server.task.abort();
    timeout(LONG, dropped.cancelled()).await.unwrap();
    assert!(timeout(LONG, call).await.unwrap().unwrap().is_err());
}
