//! The page that Prometheus reads: `/metrics` on an address of its own, which is closed unless it is asked for.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, StatusCode};
use tokio::net::TcpListener;
use tokio::sync::Mutex;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use super::doors::{is_loopback, listen_address};
use crate::config::Settings;
use crate::engine::Engine;
use crate::error::{Error, Result, report};
use crate::host::ssh::links::Links;

/// How long the store may take to answer: a page without its gauges is better than none.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is read for the page.
struct Page {
    engine: Arc<Engine>,
    links: Arc<Links>,
    /// One reading at a time, however many ask.
    turn: Mutex<()>,
}

/// Opens the address, if there is to be one; and which it is, with the port really taken.
///
/// # Errors
/// `INVALID_ARGUMENT`: no loopback address, or one that is taken.
pub(super) async fn listen(settings: &Settings) -> Result<Option<(TcpListener, SocketAddr)>> {
    let Some(text) = &settings.metrics_listen else { return Ok(None) };
    let address =
        listen_address(text).map_err(|error| Error::invalid(format!("metrics_listen {text:?}: {}", error.message)))?;
    if !is_loopback(&address) {
        return Err(Error::invalid(format!(
            "metrics_listen {text:?}: the page asks nobody who they are, so it is for loopback addresses only; \
             put Prometheus on this machine, or a proxy in front of the page"
        )));
    }
    let taken = |error: std::io::Error| {
        Error::invalid(format!("cannot listen on {address}: {error}; choose another --metrics-listen")).because(error)
    };
    let listener = TcpListener::bind(address).await.map_err(taken)?;
    let address = listener.local_addr().map_err(taken)?;
    Ok(Some((listener, address)))
}

/// Serves the page until what is answered is dropped.
pub(super) fn serve(listener: TcpListener, engine: &Arc<Engine>, links: &Arc<Links>) -> AbortOnDropHandle<()> {
    let page = Arc::new(Page { engine: Arc::clone(engine), links: Arc::clone(links), turn: Mutex::default() });
    let router = Router::new().route("/metrics", get(metrics)).with_state(page);
    AbortOnDropHandle::new(tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!(%error, "the metrics page has ended");
        }
    }))
}

async fn metrics(State(page): State<Arc<Page>>, headers: HeaderMap) -> Response {
    let accepts =
        |word: &str| headers.get_all(ACCEPT).iter().any(|value| value.to_str().is_ok_and(|value| value.contains(word)));
    let store = page.engine.store();
    let _turn = page.turn.lock().await;
    let mut gauges = match timeout(PATIENCE, store.gauges()).await {
        Ok(Ok(gauges)) => gauges,
        Ok(Err(error)) => {
            tracing::warn!(error = %report(&error), "the metrics page goes without what the database has");
            crate::metrics::Gauges::default()
        }
        Err(_) => {
            tracing::warn!("the database took too long for the metrics page");
            crate::metrics::Gauges::default()
        }
    };
    gauges.ssh_links = page.links.states();
    gauges.start_time = page.engine.start_time() / 1_000_000;
    gauges.draining = page.engine.is_draining();
    store.metrics().read(&gauges);
    let (text, content_type) = store.metrics().text(accepts("application/openmetrics-text"));
    (StatusCode::OK, [(CONTENT_TYPE, content_type)], text).into_response()
}
