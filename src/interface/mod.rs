//! What can be done through a lease: the logic behind one gRPC service each.

pub mod command;
pub mod filesystem;
pub mod httpd;
pub mod text;
