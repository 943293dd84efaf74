//! A daemon with machines that are registered with it.

use std::collections::BTreeMap;
use std::time::Duration;

use drydock::proto::v1::blueprint_service_client::BlueprintServiceClient;
use drydock::proto::v1::command_service_client::CommandServiceClient;
use drydock::proto::v1::event_service_client::EventServiceClient;
use drydock::proto::v1::exec_response::Frame;
use drydock::proto::v1::lease_service_client::LeaseServiceClient;
use drydock::proto::v1::process_exited::Outcome;
use drydock::proto::v1::resource_service_client::ResourceServiceClient;
use drydock::proto::v1::{
    AcquireLeaseRequest, ApplyBlueprintRequest, Blueprint, BlueprintLimits, CheckResourceRequest,
    CheckResourceResponse, Command, Event, ExecRequest, GetLeaseRequest, GetResourceRequest, Lease, ListEventsRequest,
    RegisterResourceRequest, ReleaseLeaseRequest, ReleaseResourceRequest, Resource, resource,
};
use serde_json::{Value, json};
use tonic::Status;

use crate::harness::{Daemon, LONG, Link};
use crate::queue::kit::eventually;
use crate::ssh::sshd::Sshd;

pub(super) type Words = BTreeMap<String, String>;

pub(super) fn words(pairs: &[(&str, &str)]) -> Words {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

pub(super) struct Fleet {
    pub(super) daemon: Daemon,
    /// An admin.
    pub(super) link: Link,
}

impl Fleet {
    /// With a blueprint `remote-host` of this configuration, which takes so many leases on each machine. Machines are
    /// looked at often.
    pub(super) async fn start(mut config: Value, leases: i32) -> Self {
        let daemon = Daemon::start().await;
        let link = daemon.socket().await;
        let fields = config.as_object_mut().unwrap();
        fields.entry("check_interval").or_insert(json!("250ms"));
        let limits = BlueprintLimits { leases_per_resource: Some(leases), shared: true, ..BlueprintLimits::default() };
        let fleet = Self { daemon, link };
        fleet.apply("remote-host", "remote-host", &config, limits).await;
        fleet
    }

    pub(super) async fn apply(&self, name: &str, kind: &str, config: &Value, limits: BlueprintLimits) {
        let blueprint = Blueprint {
            name: name.to_owned(),
            kind: kind.to_owned(),
            config: Some(structure(config)),
            limits: Some(limits),
            ..Blueprint::default()
        };
        let request = ApplyBlueprintRequest { blueprint: Some(blueprint), ..ApplyBlueprintRequest::default() };
        BlueprintServiceClient::new(self.link.clone()).apply_blueprint(request).await.unwrap();
    }

    pub(super) fn resources(&self) -> ResourceServiceClient<Link> {
        ResourceServiceClient::new(self.link.clone())
    }

    pub(super) fn leases(&self) -> LeaseServiceClient<Link> {
        LeaseServiceClient::new(self.link.clone())
    }

    /// Registers, and does not wait.
    pub(super) async fn ask_in(&self, name: &str, attributes: Words, labels: Words) -> Result<Resource, Status> {
        let request = RegisterResourceRequest {
            blueprint: "remote-host".to_owned(),
            name: name.to_owned(),
            attributes,
            labels,
            ..RegisterResourceRequest::default()
        };
        Ok(self.resources().register_resource(request).await?.into_inner().resource.unwrap())
    }

    /// Registers, and waits until it can be leased.
    pub(super) async fn register(&self, name: &str, machine: &Sshd, labels: &[(&str, &str)]) -> Resource {
        let asked = self.ask_in(name, machine.attributes(), words(labels)).await.unwrap();
        self.until(&asked.id, "ACTIVE", |now| now.state() == resource::State::Active).await
    }

    pub(super) async fn resource(&self, id: &str) -> Resource {
        let request = GetResourceRequest { resource_id: id.to_owned() };
        self.resources().get_resource(request).await.unwrap().into_inner().resource.unwrap()
    }

    /// Waits until a resource is as wanted.
    pub(super) async fn until(&self, id: &str, what: &str, wanted: impl Fn(&Resource) -> bool) -> Resource {
        let last = std::sync::Mutex::new(None);
        let found = eventually(what, async || {
            let now = self.resource(id).await;
            let fits = wanted(&now);
            *last.lock().unwrap() = Some(now.clone());
            fits.then_some(now)
        });
        let found = tokio::time::timeout(LONG, found).await;
        found.unwrap_or_else(|_| panic!("not in time: {what}: {:?}", last.lock().unwrap()))
    }

    /// Asks for a lease that is not waited for.
    pub(super) async fn queue(&self, of: &str, attributes: &[(&str, &str)], labels: &[(&str, &str)]) -> Lease {
        self.try_queue(of, attributes, labels).await.unwrap()
    }

    pub(super) async fn try_queue(
        &self,
        of: &str,
        attributes: &[(&str, &str)],
        labels: &[(&str, &str)],
    ) -> Result<Lease, Status> {
        let ask = AcquireLeaseRequest {
            resource_type: of.to_owned(),
            attributes: words(attributes),
            resource_labels: words(labels),
            blueprints: if of == "host" { vec!["remote-host".to_owned()] } else { Vec::new() },
            ..AcquireLeaseRequest::default()
        };
        Ok(self.leases().acquire_lease(ask).await?.into_inner().lease.unwrap())
    }

    pub(super) async fn lease(&self, id: &str) -> Lease {
        let request = GetLeaseRequest { lease_id: id.to_owned() };
        self.leases().get_lease(request).await.unwrap().into_inner().lease.unwrap()
    }

    pub(super) async fn lease_until(&self, id: &str, what: &str, wanted: impl Fn(&Lease) -> bool) -> Lease {
        eventually(what, async || {
            let now = self.lease(id).await;
            wanted(&now).then_some(now)
        })
        .await
    }

    /// A lease that is ACTIVE.
    pub(super) async fn acquire(&self, of: &str, attributes: &[(&str, &str)], labels: &[(&str, &str)]) -> Lease {
        use drydock::proto::v1::lease::State;
        let lease = self.queue(of, attributes, labels).await;
        let settled = self.lease_until(&lease.id, of, |now| !matches!(now.state(), State::Pending | State::Acquired));
        let settled = settled.await;
        assert_eq!(settled.state(), State::Active, "{settled:?}");
        settled
    }

    /// Gives back; `DESTROYED` is waited for.
    pub(super) async fn release(&self, id: &str) -> Lease {
        let wait = Some(Duration::from_secs(50).try_into().unwrap());
        let request = ReleaseLeaseRequest { lease_id: id.to_owned(), wait, ..ReleaseLeaseRequest::default() };
        self.leases().release_lease(request).await.unwrap().into_inner().lease.unwrap()
    }

    /// Exit code and stdout of a shell script on a lease.
    pub(super) async fn exec(&self, lease: &str, script: &str) -> Result<(i32, String), Status> {
        let argv = ["sh", "-c", script].map(str::to_owned).to_vec();
        let request = ExecRequest {
            lease_id: lease.to_owned(),
            command: Some(Command { argv, ..Command::default() }),
            ..ExecRequest::default()
        };
        let mut stream = CommandServiceClient::new(self.link.clone()).exec(request).await?.into_inner();
        let (mut out, mut code) = (Vec::new(), -1);
        while let Some(frame) = stream.message().await? {
            match frame.frame {
                Some(Frame::Output(output)) => out.extend(output.data),
                Some(Frame::Exited(exited)) => {
                    let Some(Outcome::ExitCode(exit)) = exited.outcome else { panic!("{exited:?}") };
                    code = exit;
                }
                _ => {}
            }
        }
        Ok((code, String::from_utf8_lossy(&out).into_owned()))
    }

    pub(super) async fn check(&self, id: &str) -> CheckResourceResponse {
        let request = CheckResourceRequest { resource_id: id.to_owned() };
        self.resources().check_resource(request).await.unwrap().into_inner()
    }

    pub(super) async fn release_resource(&self, id: &str, force: bool) -> Result<Resource, Status> {
        let request = ReleaseResourceRequest { resource_id: id.to_owned(), force, ..ReleaseResourceRequest::default() };
        Ok(self.resources().release_resource(request).await?.into_inner().resource.unwrap())
    }

    /// Events of one type about a subject, oldest first.
    pub(super) async fn events(&self, kind: &str, subject: &str) -> Vec<Event> {
        let filter = format!("type = \"{kind}\" AND subject_id = \"{subject}\"");
        let request = ListEventsRequest { filter, ..ListEventsRequest::default() };
        EventServiceClient::new(self.link.clone()).list_events(request).await.unwrap().into_inner().events
    }

    pub(super) async fn end(self) {
        drop(self.link);
        self.daemon.drain().await.unwrap();
    }
}

fn structure(value: &Value) -> prost_types::Struct {
    let fields = value.as_object().unwrap().iter();
    prost_types::Struct { fields: fields.map(|(key, value)| (key.clone(), of_json(value))).collect() }
}

fn of_json(value: &Value) -> prost_types::Value {
    use prost_types::value::Kind;
    let kind = match value {
        Value::Array(items) => Kind::ListValue(prost_types::ListValue { values: items.iter().map(of_json).collect() }),
        Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap()),
        other => Kind::StringValue(other.as_str().unwrap().to_owned()),
    };
    prost_types::Value { kind: Some(kind) }
}
