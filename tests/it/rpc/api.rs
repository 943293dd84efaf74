//! Every RPC by its descriptor, called with bytes: what the generated clients would not send, too.

use bytes::{Buf as _, BufMut as _};
use drydock::proto::DESCRIPTORS;
use http::uri::PathAndQuery;
use prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage, Kind, MethodDescriptor};
use serde_json::{Map, Value, json};
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::{Request, Status};

use crate::harness::{LONG, Link};

/// Bytes as they are.
#[derive(Debug, Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining()).to_vec()))
    }
}

/// Calls that succeed as streams without end: their answer is that they began.
const ENDLESS: &[&str] = &["WatchEvents", "WatchLease"];

/// All RPCs of the API.
pub(crate) fn methods() -> Vec<MethodDescriptor> {
    let pool = DescriptorPool::decode(DESCRIPTORS).unwrap();
    let ours = pool.services().filter(|service| service.package_name() == "drydock.v1");
    ours.flat_map(|service| service.methods().collect::<Vec<_>>()).collect()
}

/// Sends one message and reads the answer to its end.
pub(crate) async fn call(link: &Link, method: &MethodDescriptor, message: Vec<u8>) -> Result<Vec<Vec<u8>>, Status> {
    let path = format!("/{}/{}", method.parent_service().full_name(), method.name());
    let mut client = tonic::client::Grpc::new(link.clone());
    client.ready().await.map_err(|error| Status::unknown(error.to_string()))?;
    let messages = tokio_stream::iter([message]);
    let answer = async {
        let path: PathAndQuery = path.parse().unwrap();
        let mut stream = client.streaming(Request::new(messages), path, Raw).await?.into_inner();
        let mut answers = Vec::new();
        if !ENDLESS.contains(&method.name()) {
            while let Some(answer) = stream.message().await? {
                answers.push(answer);
            }
        }
        Ok(answers)
    };
    tokio::time::timeout(LONG, answer).await.unwrap_or_else(|_| panic!("{path} does not end"))
}

/// The same with a message as JSON.
pub(crate) async fn call_json(link: &Link, method: &MethodDescriptor, message: Value) -> Result<Vec<Vec<u8>>, Status> {
    let text = message.to_string();
    let dynamic = DynamicMessage::deserialize(method.input(), message);
    let dynamic = dynamic.unwrap_or_else(|error| panic!("{}: {text}: {error}", method.full_name()));
    call(link, method, dynamic.encode_to_vec()).await
}

/// Whether the request has a text field of this name.
pub(crate) fn has_text(method: &MethodDescriptor, field: &str) -> bool {
    method.input().get_field_by_name(field).is_some_and(|field| field.kind() == Kind::String)
}

/// The id that a request is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Subject {
    /// Of the request.
    pub(crate) field: &'static str,
    /// What an id begins with.
    pub(crate) prefix: &'static str,
    /// When there is none.
    pub(crate) missing: &'static str,
}

/// The kinds of ids in requests.
pub(crate) const SUBJECTS: &[Subject] = &[
    Subject { field: "lease_id", prefix: "lease_", missing: "LEASE_NOT_FOUND" },
    Subject { field: "resource_id", prefix: "res_", missing: "RESOURCE_NOT_FOUND" },
    Subject { field: "blueprint", prefix: "bp_", missing: "BLUEPRINT_NOT_FOUND" },
    Subject { field: "task_id", prefix: "task_", missing: "TASK_NOT_FOUND" },
];

/// Requests about something: each with its subject, and how to write one about a given id, with all else that it needs.
pub(crate) fn about(method: &MethodDescriptor) -> Option<(Subject, impl Fn(&str) -> Value + use<>)> {
    let input = method.input();
    let name = method.name().to_owned();
    let nested = match name.as_str() {
        "ExecInteractive" | "WriteFile" => Some("lease_id"),
        "UpdateBlueprint" => Some("blueprint"),
        _ => None,
    };
    let subject = SUBJECTS
        .iter()
        .find(|subject| nested.map_or_else(|| has_text(method, subject.field), |field| field == subject.field))?;
    let texts: Vec<String> = input
        .fields()
        .filter(|field| field.kind() == Kind::String && !field.is_list())
        .map(|field| field.name().to_owned())
        .collect();
    let write = move |id: &str| {
        let command = json!({"argv": ["true"]});
        match name.as_str() {
            "ExecInteractive" => return json!({"start": {"lease_id": id, "command": command}}),
            "WriteFile" => return json!({"start": {"lease_id": id, "path": "file"}}),
            "UpdateBlueprint" => return json!({"blueprint": {"id": id}}),
            _ => {}
        }
        let mut request = Map::new();
        request.insert(subject.field.to_owned(), json!(id));
        for text in &texts {
            match text.as_str() {
                "name" => {
                    request.insert(text.clone(), json!("some-name"));
                }
                "path" | "source_path" | "target_path" | "upload_id" => {
                    request.insert(text.clone(), json!("file"));
                }
                _ => {}
            }
        }
        if name == "Exec" {
            request.insert("command".to_owned(), command);
        }
        Value::Object(request)
    };
    Some((*subject, write))
}
