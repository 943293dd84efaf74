//! The gRPC services: thin.

pub mod server;
