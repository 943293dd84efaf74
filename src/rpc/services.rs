//! The table of services.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tonic::server::NamedService;
use tonic::service::{Routes, RoutesBuilder};

use super::blueprint::BlueprintRpc;
use super::command::CommandRpc;
use super::event::EventRpc;
use super::filesystem::FilesystemRpc;
use super::httpd::HttpdRpc;
use super::interface::InterfaceRpc;
use super::lease::LeaseRpc;
use super::limits::{MAX_DECODE, MAX_ENCODE};
use super::reflection;
use super::resource::ResourceRpc;
use super::system::SystemRpc;
use super::task::TaskRpc;
use crate::engine::Engine;
use crate::error::Result;
use crate::proto::v1::blueprint_service_server::BlueprintServiceServer;
use crate::proto::v1::command_service_server::CommandServiceServer;
use crate::proto::v1::event_service_server::EventServiceServer;
use crate::proto::v1::filesystem_service_server::FilesystemServiceServer;
use crate::proto::v1::httpd_service_server::HttpdServiceServer;
use crate::proto::v1::interface_service_server::InterfaceServiceServer;
use crate::proto::v1::lease_service_server::LeaseServiceServer;
use crate::proto::v1::resource_service_server::ResourceServiceServer;
use crate::proto::v1::system_service_server::SystemServiceServer;
use crate::proto::v1::task_service_server::TaskServiceServer;

/// All services over this engine, reflection too, and the names that health speaks of. Streams that would never end by
/// themselves end when the server is `leaving`.
///
/// # Errors
/// `INTERNAL` when the descriptors of this build do not fit together.
pub(super) fn services(
    engine: &Arc<Engine>,
    leaving: &CancellationToken,
) -> Result<(RoutesBuilder, Vec<&'static str>)> {
    let mut routes = Routes::builder();
    let mut names = Vec::new();
    macro_rules! offer {
        ($($server:ident($service:expr)),+ $(,)?) => {$(
            let server = $server::new($service)
                .max_decoding_message_size(MAX_DECODE)
                .max_encoding_message_size(MAX_ENCODE);
            names.push(name(&server));
            routes.add_service(server);
        )+};
    }
    // A new service is one line here.
    offer! {
        LeaseServiceServer(LeaseRpc::new(engine, leaving)),
        ResourceServiceServer(ResourceRpc::new(engine)),
        BlueprintServiceServer(BlueprintRpc::new(engine)),
        InterfaceServiceServer(InterfaceRpc::new(engine)),
        CommandServiceServer(CommandRpc::new(Arc::clone(engine), Arc::clone(engine.clock()))),
        FilesystemServiceServer(FilesystemRpc::new(Arc::clone(engine))),
        HttpdServiceServer(HttpdRpc::new(Arc::clone(engine))),
        EventServiceServer(EventRpc::new(engine, leaving)),
        TaskServiceServer(TaskRpc::new(engine)),
        SystemServiceServer(SystemRpc::new(engine)),
    }
    routes.add_service(reflection::v1()?);
    routes.add_service(reflection::v1alpha()?);
    Ok((routes, names))
}

fn name<S: NamedService>(_: &S) -> &'static str {
    S::NAME
}
