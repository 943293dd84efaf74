//! The gRPC edge: doors, deadlines, limits, and the one place where domain errors become statuses.

pub mod deadline;
pub mod doors;
pub mod limits;
pub mod page;
pub mod reflection;
pub mod server;
pub mod status;
pub mod tokens;

use std::future::Future;
use std::pin::Pin;

/// What the layers of the edge give: one response, later.
pub(crate) type Answer<E> = Pin<Box<dyn Future<Output = Result<http::Response<tonic::body::Body>, E>> + Send>>;
