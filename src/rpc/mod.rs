//! The gRPC edge: doors, deadlines, limits, thin services, and the one place where domain errors become statuses.
//!
//! A service reads and checks the request (`check`, `convert`), calls one method of the engine, and converts the answer.

pub mod command;
pub mod deadline;
pub mod doors;
pub mod filesystem;
pub mod httpd;
pub mod limits;
pub mod page;
pub mod reflection;
pub mod server;
pub mod status;
pub mod tls;
pub mod tokens;

mod blueprint;
mod check;
mod convert;
mod event;
mod fields;
mod interface;
mod lease;
mod meter;
mod peers;
mod resource;
mod scrape;
mod services;
mod socket;
mod system;
mod task;
mod traces;
mod watch;

use std::future::Future;
use std::pin::Pin;

use crate::engine::Caller;
use crate::error::Result;

/// What the layers of the edge give: one response, later.
pub(crate) type Answer<E> = Pin<Box<dyn Future<Output = Result<http::Response<tonic::body::Body>, E>> + Send>>;

/// Who asks, as the doors found out.
///
/// # Errors
/// `UNAUTHENTICATED` when no door said so.
pub(crate) fn caller<T>(request: &tonic::Request<T>) -> Result<Caller> {
    let principal = doors::Principal::of(request)?;
    Ok(Caller { principal: principal.name.clone(), admin: principal.admin })
}
