//! Server reflection, both versions: what `grpcurl list` and `describe` show, comments and error details included.

use prost::Message as _;
use prost_types::FileDescriptorSet;
use tonic_reflection::server::Builder;
use tonic_reflection::server::v1::{ServerReflection, ServerReflectionServer};
use tonic_reflection::server::v1alpha::{
    ServerReflection as ServerReflectionAlpha, ServerReflectionServer as ServerReflectionAlphaServer,
};

use crate::error::{Error, Result};
use crate::proto;

/// The types of error details, without which grpcurl prints bytes; under the names that the world imports them by, which
/// tonic-types leaves out.
fn error_types() -> Result<FileDescriptorSet> {
    let mut set = FileDescriptorSet::decode(tonic_types::pb::FILE_DESCRIPTOR_SET)
        .map_err(|error| Error::internal("cannot read the descriptors of error details", error))?;
    for file in &mut set.file {
        if !file.name().contains('/') {
            file.name = Some(format!("google/rpc/{}", file.name()));
        }
    }
    Ok(set)
}

fn builder() -> Result<Builder<'static>> {
    Ok(Builder::configure()
        .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
        .register_file_descriptor_set(error_types()?)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET))
}

/// `grpc.reflection.v1`.
///
/// # Errors
/// `INTERNAL` when the descriptors of this build do not fit together.
pub fn v1() -> Result<ServerReflectionServer<impl ServerReflection>> {
    builder()?.build_v1().map_err(|error| Error::internal("cannot set up reflection", error))
}

/// `grpc.reflection.v1alpha`, which older tools still ask for.
///
/// # Errors
/// `INTERNAL` when the descriptors of this build do not fit together.
pub fn v1alpha() -> Result<ServerReflectionAlphaServer<impl ServerReflectionAlpha>> {
    builder()?.build_v1alpha().map_err(|error| Error::internal("cannot set up reflection", error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_build() {
        assert!(v1().is_ok());
        assert!(v1alpha().is_ok());
    }

    #[test]
    fn descriptors_have_json_names_and_comments() {
        let set = FileDescriptorSet::decode(proto::DESCRIPTORS).unwrap();
        let leases = set.file.iter().find(|file| file.name() == "drydock/v1/lease_service.proto").unwrap();
        let lease = leases.message_type.iter().find(|message| message.name() == "Lease").unwrap();
        let field = lease.field.iter().find(|field| field.name() == "resource_type").unwrap();
        assert_eq!(field.json_name(), "resourceType");
        assert!(leases.source_code_info.as_ref().is_some_and(|info| !info.location.is_empty()));
        assert!(set.file.iter().any(|file| file.name() == "google/protobuf/duration.proto"));
        assert!(error_types().unwrap().file.iter().any(|file| file.name() == "google/rpc/error_details.proto"));
    }
}
