//! The API in Rust: generated from `proto/`, and its descriptors.
//!
//! Only `rpc`, `cli` and the external blueprint may use this; what lies below speaks in the words of `model`.

/// Package `drydock.v1`: messages, clients and servers.
#[expect(clippy::all, clippy::pedantic, reason = "generated code; its doc comments are those of the proto files")]
pub mod v1 {
    tonic::include_proto!("drydock.v1");
}

/// An encoded `google.protobuf.FileDescriptorSet` of `drydock.v1` and all that it imports, with comments.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/drydock.bin"));

impl std::fmt::Debug for v1::Command {
    /// All but the values of `secret_env`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Command")
            .field("argv", &self.argv)
            .field("shell", &self.shell)
            .field("cwd", &self.cwd)
            .field("env", &self.env)
            .field("secret_env", &self.secret_env.keys())
            .field("timeout", &self.timeout)
            .field("kill_grace", &self.kill_grace)
            .field("merge_stderr", &self.merge_stderr)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::v1;

    #[test]
    fn secrets_are_not_printed() {
        let command = v1::Command {
            argv: vec!["env".to_owned()],
            secret_env: [("TOKEN".to_owned(), "hunter2".to_owned())].into(),
            ..v1::Command::default()
        };
        let printed = format!("{:?}", v1::ExecRequest { command: Some(command), ..v1::ExecRequest::default() });
        assert!(printed.contains("TOKEN") && !printed.contains("hunter2"), "{printed}");
    }
}
