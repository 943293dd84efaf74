//! What can be done through a lease: the logic behind one gRPC service each.

pub mod httpd;
