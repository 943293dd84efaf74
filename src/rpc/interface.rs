//! `InterfaceService`.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::{caller, check};
use crate::engine::Engine;
use crate::error::Result;
use crate::proto::v1::interface_service_server::InterfaceService;
use crate::proto::v1::{Interface, ListInterfacesRequest, ListInterfacesResponse};

/// Interfaces that this server has a service for: name, service, what it can do beyond the basics. A line here makes an
/// interface visible.
const SERVICES: &[(&str, &str, &[&str])] = &[
    ("command", "drydock.v1.CommandService", &[]),
    ("filesystem", "drydock.v1.FilesystemService", &["resume"]),
    ("httpd", "drydock.v1.HttpdService", &[]),
];

/// Whether a method is one of a lease's interface: what those answer depends on where the lease is.
pub(super) fn is_of_an_interface(path: &str) -> bool {
    let service = path.strip_prefix('/').and_then(|path| path.split_once('/')).map(|(service, _)| service);
    SERVICES.iter().any(|(_, known, _)| Some(*known) == service)
}

/// `drydock.v1.InterfaceService`.
pub(crate) struct InterfaceRpc {
    engine: Arc<Engine>,
}

impl InterfaceRpc {
    pub(crate) fn new(engine: &Arc<Engine>) -> Self {
        Self { engine: Arc::clone(engine) }
    }
}

fn interfaces(names: &[String]) -> Vec<Interface> {
    SERVICES
        .iter()
        .filter(|(name, ..)| names.iter().any(|offered| offered == name))
        .map(|(name, service, capabilities)| Interface {
            name: (*name).to_owned(),
            service: (*service).to_owned(),
            capabilities: capabilities.iter().map(ToString::to_string).collect(),
        })
        .collect()
}

#[tonic::async_trait]
impl InterfaceService for InterfaceRpc {
    async fn list_interfaces(
        &self,
        request: Request<ListInterfacesRequest>,
    ) -> Result<Response<ListInterfacesResponse>, Status> {
        let caller = caller(&request)?;
        let sent = request.into_inner();
        let names = self.engine.interfaces(&caller, check::required("lease_id", &sent.lease_id)?).await?;
        Ok(Response::new(ListInterfacesResponse { interfaces: interfaces(&names) }))
    }
}

#[cfg(test)]
mod tests {
    use prost_reflect::DescriptorPool;

    use super::*;

    #[test]
    fn every_interface_has_a_service_that_exists_and_they_come_by_name() {
        let pool = DescriptorPool::decode(crate::proto::DESCRIPTORS).unwrap();
        for (name, service, _) in SERVICES {
            assert!(pool.get_service_by_name(service).is_some(), "{name}: {service}");
        }
        assert!(SERVICES.is_sorted_by_key(|(name, ..)| name));
        let offered = ["httpd", "forward", "command"].map(str::to_owned);
        let names: Vec<String> = interfaces(&offered).into_iter().map(|interface| interface.name).collect();
        assert_eq!(names, ["command", "httpd"]);
    }

    #[test]
    fn methods_of_interfaces_are_told_from_others() {
        assert!(is_of_an_interface("/drydock.v1.CommandService/Exec"));
        for other in ["/drydock.v1.InterfaceService/ListInterfaces", "/drydock.v1.CommandServices/Exec", "/", "x"] {
            assert!(!is_of_an_interface(other), "{other}");
        }
    }
}
