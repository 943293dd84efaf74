//! Every RPC of the descriptors, with what nobody should send: the right code and reason, never INTERNAL or UNKNOWN.

use serde_json::json;
use tonic::{Code, Status};

use super::api::{about, call, call_json, has_text, methods};
use crate::harness::{Daemon, reason};

/// Requests that mean something when they are empty.
const EMPTY_IS_FINE: &[&str] = &[
    "GetServerInfo",
    "ListBlueprintKinds",
    "ListBlueprints",
    "ListDaemons",
    "ListEvents",
    "ListLeases",
    "ListResources",
    "ListTasks",
    "WatchEvents",
];

fn assert_refused(what: &str, status: &Status, wanted: &str) {
    assert_eq!(reason(status), wanted, "{what}: {status:?}");
    assert!(!matches!(status.code(), Code::Internal | Code::Unknown | Code::Ok), "{what}: {status:?}");
    assert!(!status.message().is_empty(), "{what}: {status:?}");
}

#[tokio::test]
async fn an_empty_request() {
    let daemon = Daemon::start().await;
    let link = daemon.socket().await;
    for method in methods() {
        let answer = call(&link, &method, Vec::new()).await;
        if EMPTY_IS_FINE.contains(&method.name()) {
            assert!(answer.is_ok(), "{}: {answer:?}", method.full_name());
        } else {
            assert_refused(method.full_name(), &answer.unwrap_err(), "INVALID_ARGUMENT");
        }
    }
    drop(link);
    daemon.drain().await.unwrap();
}

#[tokio::test]
async fn an_unknown_id() {
    let daemon = Daemon::start().await;
    let link = daemon.socket().await;
    let mut walked = 0;
    for method in methods() {
        let Some((subject, request)) = about(&method) else { continue };
        let unknown = format!("{}{}", subject.prefix, "0".repeat(26));
        for id in [unknown.as_str(), "nonsense", "lease_../../../../../../../../etc", "' OR 1=1 --"] {
            let status = call_json(&link, &method, request(id)).await.unwrap_err();
            assert_refused(&format!("{} with {id:?}", method.full_name()), &status, subject.missing);
        }
        walked += 1;
    }
    assert!(walked > 25, "only {walked} RPCs have an id");
    drop(link);
    daemon.drain().await.unwrap();
}

#[tokio::test]
async fn a_bad_filter_page_or_token() {
    let daemon = Daemon::start().await;
    let link = daemon.socket().await;
    let mut walked = 0;
    for method in methods() {
        // What pages through a lease's files asks for the lease first.
        if about(&method).is_some() {
            continue;
        }
        if has_text(&method, "filter") {
            for filter in ["no_such_field = 1", "state =", "(", "id = a OR id = b", "\"", "= ="] {
                let status = call_json(&link, &method, json!({"filter": filter})).await.unwrap_err();
                assert_refused(&format!("{} with {filter:?}", method.full_name()), &status, "INVALID_FILTER");
            }
            walked += 1;
        }
        if has_text(&method, "page_token") {
            for token in ["nonsense!", "AQAAAAAAAAAAAA", "ä"] {
                let status = call_json(&link, &method, json!({"page_token": token})).await.unwrap_err();
                assert_refused(&format!("{} with {token:?}", method.full_name()), &status, "INVALID_PAGE_TOKEN");
            }
            let status = call_json(&link, &method, json!({"page_size": -1})).await.unwrap_err();
            assert_refused(method.full_name(), &status, "INVALID_ARGUMENT");
            walked += 1;
        }
        if has_text(&method, "cursor") {
            let status = call_json(&link, &method, json!({"cursor": "nonsense"})).await.unwrap_err();
            assert_refused(method.full_name(), &status, "INVALID_ARGUMENT");
        }
    }
    assert!(walked >= 12, "only {walked} fields");
    drop(link);
    daemon.drain().await.unwrap();
}

#[tokio::test]
async fn bytes_that_are_no_message() {
    let daemon = Daemon::start().await;
    let link = daemon.socket().await;
    for method in methods() {
        // A field of 5 bytes that ends after none.
        let status = call(&link, &method, vec![0x0a, 0x05]).await;
        // Messages without fields skip what they do not know, but not half of it.
        assert_refused(method.full_name(), &status.unwrap_err(), "INVALID_ARGUMENT");
    }
    drop(link);
    daemon.drain().await.unwrap();
}
