//! Documents: what is read, and where mistakes are shown.

use std::time::Duration;

use drydock::blueprint::document::{parse, render};
use drydock::model::{Placement, ScaleAhead};
use serde_json::json;

#[test]
fn the_example_and_several_documents_are_read_and_written() {
    let text = concat!(
        include_str!("../../../examples/sandcastle.yaml"),
        "---\nname: ports\nkind: port\nlimits: {placement: spread, rank: -3, idle_ttl: 0s, shared: true, min_ready: 2, scale_ahead: 50%, scale_ahead_max: 4, max_age: 1d, max_uses: 7, shrink_delay: 1m, max_growth: 3, ready_attributes: {quota: 1GiB}}\nconfig: {first: 21000}\n",
        "---\n{\"name\": \"disk\", \"kind\": \"storage\"}\n",
    );
    let documents = parse("all.yaml", text).unwrap();
    let names: Vec<&str> = documents.iter().map(|document| document.name.as_str()).collect();
    assert_eq!(names, ["sandcastle", "ports", "disk"]);
    assert_eq!(documents[0].labels["team"], "web");
    assert_eq!(documents[0].limits.max_resources, Some(8));
    assert_eq!(documents[0].limits.default_ttl, Some(Duration::from_hours(1)));
    assert_eq!(documents[0].config["steps"][0]["run"], json!(["make", "site"]));
    assert_eq!((documents[1].limits.placement, documents[1].limits.rank), (Some(Placement::Spread), Some(-3)));
    assert_eq!((documents[1].limits.idle_ttl, documents[1].limits.shared), (Some(Duration::ZERO), Some(true)));
    assert_eq!(documents[1].config["first"], 21000);
    let limits = &documents[1].limits;
    assert_eq!(
        (limits.min_ready, limits.scale_ahead, limits.scale_ahead_max),
        (Some(2), ScaleAhead::parse("50%"), Some(4))
    );
    assert_eq!((limits.max_age, limits.max_uses), (Some(Duration::from_hours(24)), Some(7)));
    assert_eq!((limits.shrink_delay, limits.max_growth), (Some(Duration::from_mins(1)), Some(3)));
    assert_eq!(limits.ready_attributes["quota"], "1GiB");
    assert_eq!(documents[2].config, json!({}));
    for document in documents {
        assert_eq!(parse("again", &render(&document).unwrap()).unwrap(), [document]);
    }
}

#[test]
fn the_examples_of_web_servers_are_read() {
    for (text, driver) in [
        (include_str!("../../../examples/webroot-nginx.yaml"), "nginx"),
        (include_str!("../../../examples/webroot-apache2.yaml"), "apache2"),
    ] {
        let documents = parse("example.yaml", text).unwrap();
        assert_eq!(documents[0].config["driver"], driver);
    }
}

#[test]
fn mistakes_have_their_line_and_column() {
    for (text, complaint) in [
        ("", "f:1:1: there is no document in it"),
        ("name: a\n", "f:1:1: \"kind\" is missing"),
        ("name: a\nkind: port\nlabel: {}\n", "f:3:1: label: unknown key, did you mean \"labels\"?"),
        ("name: A b\nkind: port\n", "f:1:1: name: \"A b\" is no name"),
        ("name: a\nkind: port\nlimits: {max_resources: x}\n", "f:3:10: limits.max_resources: must be a whole number"),
        ("name: a\nkind: port\nlimits: {scale_ahead: half}\n", "f:3:10: limits.scale_ahead: must be a count such as 3"),
        (
            "name: a\nkind: port\nlimits:\n  idle_tll: 0s\n",
            "f:4:3: limits.idle_tll: unknown key, did you mean \"idle_ttl\"?",
        ),
        ("name: a\nkind: port\nlimits:\n  idle_ttl: 5\n", "f:4:3: limits.idle_ttl: must be a span"),
        ("name: a\nkind: port\nconfig: {frist: 1}\n", "f:3:10: config.frist: unknown key, known are first, last"),
        ("name: a\nkind: port\nname: b\n", "f:3:1: "),
        ("name: a\nkind: [\n", "f:"),
        ("name: a\nkind: port\n---\nname: b\nkind: port\nx: 1\n", "f:6:1: x: unknown key"),
        (
            "name: a\nkind: composite\nconfig:\n  type: box\n  needs:\n    host: {type: host}\n  steps:\n    - {name: b, prat: host, run: [x]}\n",
            "f:8:17: config.steps[0].prat: unknown key, did you mean \"part\"?",
        ),
        (
            "name: a\nkind: composite\nconfig:\n  type: box\n  needs:\n    host: {type: host}\n  facts:\n    x: ${hots.address}\n",
            "f:8:5: config.facts.x: there is no part \"hots\"",
        ),
    ] {
        let error = parse("f", text).unwrap_err();
        assert!(error.message.contains(complaint), "{text}\n{}", error.message);
    }
}
