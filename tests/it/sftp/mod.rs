//! Files over sftp, with OpenSSH's own server at the other end of a pipe.

mod ends;
pub(crate) mod over;
mod transfers;
