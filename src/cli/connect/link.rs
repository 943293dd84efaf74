//! The calls of a command: to one daemon, and when that one is lost or goes down, to the next of those that were named.
//!
//! What may be asked twice is asked again there. Everything else is sent once, after the daemon has said that it serves: whether
//! a command ran whose answer was lost, nobody knows, and so nobody runs it again.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, header};
use http_body_util::{BodyExt as _, Collected, Full};
use tokio::time::Instant;
use tonic::body::Body;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_types::{ErrorDetails, StatusExt as _};
use tower::{Service, ServiceExt as _};

use super::address::Address;
use super::dial::{Trust, dial};
use crate::cli::exit::{Failure, Result, UNAVAILABLE};
use crate::error::Reason;

/// How long another daemon is looked for: longer than one takes to start.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two rounds through all addresses.
const PAUSE: Duration = Duration::from_millis(200);
/// How long a daemon may take to say that it serves.
const PROBE: Duration = Duration::from_secs(5);
const NO_DAEMON: &str = "NO_DAEMON";
const GOES_DOWN: &str = "it is going down";
/// Asking twice is as good as asking once: `AcquireLease` since it carries a `request_id` then, the others by nature.
const REPEATABLE: [&str; 5] = ["AcquireLease", "RenewLease", "ReleaseLease", "StatFile", "Check"];

/// The way to the daemon of the moment; it shows the caller's token.
#[derive(Clone)]
pub struct Link {
    route: Arc<Route>,
}

struct Route {
    addresses: Vec<Address>,
    trust: Trust,
    bearer: Option<HeaderValue>,
    present: Mutex<Present>,
    /// Held by whoever looks for another daemon.
    moving: tokio::sync::Mutex<()>,
}

#[derive(Clone)]
struct Present {
    at: usize,
    channel: Channel,
    /// How often the daemon has changed.
    turn: u64,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("address", &self.address()).finish_non_exhaustive()
    }
}

impl Link {
    /// Connects to the first address that answers; of several that were `named`, the first that serves.
    ///
    /// # Errors
    /// 69 when none does.
    pub(super) async fn open(
        addresses: Vec<Address>,
        trust: Trust,
        bearer: Option<HeaderValue>,
        named: bool,
    ) -> Result<Self> {
        // The default sockets are places of one daemon.
        let others = named && addresses.len() > 1;
        let mut tried = Vec::new();
        for (at, address) in addresses.iter().enumerate() {
            match reach(address, &trust, others).await {
                Ok(channel) => {
                    let (addresses, at) = if others { (addresses, at) } else { (vec![address.clone()], 0) };
                    let present = Mutex::new(Present { at, channel, turn: 0 });
                    let moving = tokio::sync::Mutex::default();
                    return Ok(Self { route: Arc::new(Route { addresses, trust, bearer, present, moving }) });
                }
                Err(why) => tried.push(format!("{address} ({why})")),
            }
        }
        let message = format!("no daemon answers at {}; start one with `drydock up`", tried.join(" or "));
        Err(Failure::new(UNAVAILABLE, NO_DAEMON, message))
    }

    /// Where the daemon of the moment is.
    pub(super) fn address(&self) -> String {
        let at = self.route.present().at;
        self.route.addresses.get(at).map(ToString::to_string).unwrap_or_default()
    }

    pub(super) fn has_others(&self) -> bool {
        self.route.addresses.len() > 1
    }
}

impl Service<Request<Body>> for Link {
    type Response = Response<Body>;
    type Error = Status;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Status>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let route = Arc::clone(&self.route);
        if let Some(bearer) = &route.bearer {
            request.headers_mut().insert(header::AUTHORIZATION, bearer.clone());
        }
        Box::pin(async move {
            if route.addresses.len() == 1 {
                return send(route.present().channel, request).await;
            }
            if is_repeatable(request.uri().path()) {
                return route.ask(request).await;
            }
            let now = route.present();
            if let Err(why) = probe(&now.channel).await {
                route.move_on(now.turn, &why, Instant::now() + PATIENCE).await?;
            }
            send(route.present().channel, request).await
        })
    }
}

impl Route {
    fn present(&self) -> Present {
        self.present.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Asks until a daemon has answered.
    async fn ask(&self, request: Request<Body>) -> Result<Response<Body>, Status> {
        let end = Instant::now() + PATIENCE;
        let (parts, body) = request.into_parts();
        let body = body.collect().await?.to_bytes();
        loop {
            let now = self.present();
            let again = Request::from_parts(parts.clone(), Body::new(Full::new(body.clone())));
            let why = match whole(now.channel, again).await {
                Ok(answer) => match Status::from_header_map(answer.headers()) {
                    Some(status) if is_lost(&status) => status,
                    _ => return Ok(answer.map(Body::new)),
                },
                Err(status) if is_lost(&status) => status,
                Err(status) => return Err(status),
            };
            self.move_on(now.turn, why.message(), end).await?;
        }
    }

    /// Finds a daemon that serves, beginning with the one after the present one, which is the last that is tried.
    async fn move_on(&self, turn: u64, why: &str, end: Instant) -> Result<(), Status> {
        let _moving = self.moving.lock().await;
        let from = self.present();
        if from.turn != turn {
            // Another call has found one meanwhile.
            return Ok(());
        }
        loop {
            let mut tried = Vec::new();
            let count = self.addresses.len();
            for (at, address) in self.addresses.iter().enumerate().cycle().skip(from.at + 1).take(count) {
                match reach(address, &self.trust, true).await {
                    Ok(channel) => {
                        if at != from.at {
                            eprintln!("drydock: {} is lost ({why}); going on with {address}", self.addresses[from.at]);
                        }
                        let present = Present { at, channel, turn: turn + 1 };
                        *self.present.lock().unwrap_or_else(PoisonError::into_inner) = present;
                        return Ok(());
                    }
                    Err(why) => tried.push(format!("{address} ({why})")),
                }
            }
            if Instant::now() >= end {
                let details = ErrorDetails::with_error_info(NO_DAEMON, "drydock", HashMap::new());
                let message = format!("no daemon answers any more at {}", tried.join(" or "));
                return Err(Status::with_error_details(Code::Unavailable, message, details));
            }
            pause().await;
        }
    }
}

/// Whether asking again does no harm. By its name: nothing that changes anything begins like these.
fn is_repeatable(path: &str) -> bool {
    let method = path.rsplit('/').next().unwrap_or_default();
    REPEATABLE.contains(&method) || ["Get", "List", "Explain"].iter().any(|word| method.starts_with(word))
}

/// Whether the daemon did not answer, or will not: the link broke, or it goes down. A daemon's own answers carry a reason.
pub(super) fn is_lost(status: &Status) -> bool {
    match status.get_details_error_info() {
        Some(info) => info.reason == Reason::ServerDraining.as_str(),
        None => matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Internal | Code::Cancelled),
    }
}

#[expect(clippy::disallowed_methods, reason = "it waits for daemons to come up, whatever a clock of leases shows")]
pub(super) async fn pause() {
    tokio::time::sleep(PAUSE).await;
}

async fn send(channel: Channel, request: Request<Body>) -> Result<Response<Body>, Status> {
    let answer = async { channel.oneshot(request).await };
    answer.await.map_err(|error| Status::from_error(Box::new(error)))
}

/// Sends it and waits for the whole answer: what comes in pieces may break off between them.
async fn whole(channel: Channel, request: Request<Body>) -> Result<Response<Collected<Bytes>>, Status> {
    let (parts, body) = send(channel, request).await?.into_parts();
    Ok(Response::from_parts(parts, body.collect().await?))
}

/// A connection to a daemon; with `serving`, to one that takes calls.
async fn reach(address: &Address, trust: &Trust, serving: bool) -> Result<Channel, String> {
    let channel = dial(address, trust).await?;
    if !serving && matches!(address, Address::Unix(_)) {
        return Ok(channel);
    }
    // That the other side speaks something else is not noticed before something is asked.
    match health(&channel).await {
        Ok(status) if serving && status != ServingStatus::Serving => Err(GOES_DOWN.to_owned()),
        Err(status) if is_lost(&status) => Err(match address {
            Address::Http(_) => "what listens there speaks no plain HTTP/2; if it speaks TLS, say https://".to_owned(),
            _ => status.message().to_owned(),
        }),
        Err(status) if serving => Err(status.message().to_owned()),
        Ok(_) | Err(_) => Ok(channel),
    }
}

async fn health(channel: &Channel) -> Result<ServingStatus, Status> {
    let mut request = tonic::Request::new(HealthCheckRequest::default());
    request.set_timeout(PROBE);
    Ok(HealthClient::new(channel.clone()).check(request).await?.into_inner().status())
}

/// Whether the daemon takes calls; why not.
async fn probe(channel: &Channel) -> Result<(), String> {
    match health(channel).await {
        Ok(ServingStatus::Serving) => Ok(()),
        Ok(_) => Err(GOES_DOWN.to_owned()),
        Err(status) => Err(status.message().to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_does_no_harm_is_asked_again() {
        for method in ["LeaseService/GetLease", "LeaseService/AcquireLease", "EventService/ListEvents", "Health/Check"]
        {
            assert!(is_repeatable(&format!("/drydock.v1.{method}")), "{method}");
        }
        for method in [
            "CommandService/Exec",
            "LeaseService/WaitLease",
            "FilesystemService/WriteFile",
            "FilesystemService/ReadFile",
        ] {
            assert!(!is_repeatable(&format!("/drydock.v1.{method}")), "{method}");
        }
    }

    #[test]
    fn what_the_daemon_itself_says_is_its_answer() {
        let said = |reason: &str| {
            let details = ErrorDetails::with_error_info(reason, "drydock", HashMap::new());
            Status::with_error_details(Code::Unavailable, "", details)
        };
        assert!(is_lost(&Status::unavailable("connection reset")) && is_lost(&said("SERVER_DRAINING")));
        assert!(!is_lost(&said("HOST_UNREACHABLE")) && !is_lost(&said(NO_DAEMON)));
        assert!(!is_lost(&Status::deadline_exceeded("")) && !is_lost(&Status::unauthenticated("")));
    }
}
