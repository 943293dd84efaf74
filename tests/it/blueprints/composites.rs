//! `composite`: the example document, steps, and every way to get a document wrong.

use std::path::Path;

use drydock::blueprint::{Context, Step, document};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::webroots::fetch;
use super::yard::{Yard, commit};

const SANDCASTLE: &str = include_str!("../../../examples/sandcastle.yaml");

#[tokio::test]
async fn the_example_becomes_a_page() {
    let yard = Yard::new();
    let repository = yard.repository("site");
    let makefile = "site:\n\tmkdir -p public && git log -1 --format=%s > public/index.html\nclean:\n\trm -rf public\n";
    let head = commit(&repository, "Makefile", makefile);
    let config = document::parse("sandcastle.yaml", SANDCASTLE).unwrap().remove(0).config;
    let composite = yard.registry.find("composite").unwrap();
    composite.check_config(&config).unwrap();
    assert_eq!(composite.resource_type(&config), "sandcastle");
    assert_eq!(composite.interfaces(&config), ["command", "filesystem", "httpd"]);
    assert_eq!(composite.needs(&config), ["working-copy", "host", "webroot"]);

    let mut ctx = yard.context("composite", config, &[("repository", repository.to_str().unwrap())]);
    assert_eq!(ctx.resource.attributes["ref"], "HEAD");
    let facts = yard.build(&mut ctx).await.unwrap();
    assert_eq!(facts["commit"], head);
    let address = facts["uri"].trim_start_matches("http://").trim_end_matches('/');
    assert!(fetch(address, "/", "localhost").await.1.starts_with("site: "), "the subject of the commit is the page");
    assert_eq!(*yard.rounds.lock().unwrap(), ["host", "copy", "site", "port"]);
    assert_eq!(yard.place(&ctx, "command").unwrap().root, Path::new(&facts["path"]));
    assert!(yard.place(&ctx, "database").is_none());
    yard.end_all().await;
}

fn with_steps(steps: &Value) -> Value {
    json!({"type": "box", "parameters": {"word": {"default": "hello"}}, "needs": {"host": {"type": "host"}}, "steps": steps})
}

#[tokio::test]
async fn steps_run_once_in_order_and_are_undone() {
    let yard = Yard::new();
    let log = yard.folder.path().join("log");
    let say = |word: &str| json!(["sh", "-c", format!("echo {word} $WORD >> {}", log.display())]);
    let config = with_steps(&json!([
        {"name": "one", "part": "host", "run": say("one"), "env": {"WORD": "${parameters.word}, ${host.address}"}, "undo": say("undo-one")},
        {"name": "two", "part": "host", "run": say("two"), "undo": say("undo-two")},
    ]));
    yard.registry.find("composite").unwrap().check_config(&config).unwrap();
    let mut ctx = yard.context("composite", config, &[]);
    yard.build(&mut ctx).await.unwrap();
    let text = || std::fs::read_to_string(&log).unwrap();
    assert_eq!(text(), "one hello, 127.0.0.1\ntwo\n");

    // Entered again after a crash: done is done.
    let composite = yard.registry.find("composite").unwrap();
    assert!(matches!(composite.build(&ctx).await, Step::Ready(_)));
    assert_eq!(text(), "one hello, 127.0.0.1\ntwo\n");
    yard.end_all().await;
    assert_eq!(text(), "one hello, 127.0.0.1\ntwo\nundo-two\nundo-one hello, 127.0.0.1\n");
}

#[tokio::test]
async fn a_step_that_was_cut_short_is_undone_and_run_again() {
    let yard = Yard::new();
    let log = yard.folder.path().join("log");
    let say = |word: &str| json!(["sh", "-c", format!("echo {word} >> {}", log.display())]);
    let config = with_steps(&json!([{"name": "one", "part": "host", "run": say("run"), "undo": say("undo")}]));
    let mut ctx = yard.context("composite", config, &[]);
    ctx.effects.begin("step:one", Value::Null).await.unwrap();
    yard.build(&mut ctx).await.unwrap();
    assert_eq!(std::fs::read_to_string(&log).unwrap(), "undo\nrun\n");
    yard.end_all().await;
}

#[tokio::test]
async fn who_has_lost_its_claim_forgets_nothing_that_is_to_be_undone() {
    let yard = Yard::new();
    let log = yard.folder.path().join("log");
    let say = |word: &str| json!(["sh", "-c", format!("echo {word} >> {}", log.display())]);
    let config = with_steps(&json!([{"name": "one", "part": "host", "run": say("run"), "undo": say("undo")}]));
    let mut ctx = yard.context("composite", config, &[]);
    yard.build(&mut ctx).await.unwrap();
    let late = Context { cancel: CancellationToken::new(), ..ctx.clone() };
    late.cancel.cancel();
    let composite = yard.registry.find("composite").unwrap();
    assert!(matches!(composite.destroy(&late).await, Step::Failed(_)));
    assert_eq!(ctx.effects.all().await.unwrap().len(), 1, "another daemon has to undo it");
    yard.end_all().await;
    assert_eq!(std::fs::read_to_string(&log).unwrap(), "run\nundo\n");
}

#[tokio::test]
async fn a_step_that_fails_fails_for_good_with_its_last_words() {
    for (run, message, tail) in [
        (json!(["sh", "-c", "echo said; echo why >&2; exit 3"]), "ended with exit code 3", "why\n"),
        (json!(["sh", "-c", "echo said; exit 3"]), "ended with exit code 3", "said\n"),
        (json!(["no-such-program"]), "found no program \"no-such-program\"", ""),
        (json!(["sh", "-c", "kill -9 $$"]), "was killed by signal 9", ""),
        (json!(["sleep", "600"]), "took longer than its 1 s", ""),
    ] {
        let yard = Yard::new();
        let config = with_steps(&json!([{"name": "one", "part": "host", "run": run, "timeout": "1s"}]));
        let mut ctx = yard.context("composite", config, &[]);
        let failure = yard.build(&mut ctx).await.unwrap_err();
        assert!(failure.permanent && failure.message.contains(message), "{failure:?}");
        assert!(failure.tail.contains(tail), "{failure:?}");
        yard.end(&ctx).await;
        yard.end_all().await;
    }
}

#[test]
fn parameters_are_checked_at_the_door() {
    let yard = Yard::new();
    let composite = yard.registry.find("composite").unwrap();
    let config = json!({
        "type": "box", "needs": {"host": {"type": "host"}},
        "parameters": {
            "name": {"type": "string"},
            "count": {"type": "integer", "default": 3},
            "mode": {"type": "choice", "choices": ["fast", "slow"], "default": "fast"},
            "deep": {"type": "bool", "default": false},
        },
    });
    composite.check_config(&config).unwrap();
    let admit = |pairs: &[(&str, &str)]| {
        composite.admit(&config, &pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
    };
    let filled = admit(&[("name", "a"), ("mode", "slow")]).unwrap();
    let values: Vec<&str> = ["count", "deep", "mode", "name"].iter().map(|key| filled[*key].as_str()).collect();
    assert_eq!(values, ["3", "false", "slow", "a"]);
    for (pairs, complaint) in [
        (&[][..], "attribute \"name\" is missing"),
        (&[("name", "a"), ("nam", "b")], "unknown attribute \"nam\", known are count, deep, mode, name"),
        (&[("name", "a"), ("count", "x")], "must be a whole number"),
        (&[("name", "a"), ("mode", "x")], "must be one of fast, slow"),
    ] {
        let error = admit(pairs).unwrap_err();
        assert_eq!(error.reason.as_str(), "INVALID_ATTRIBUTE");
        assert!(error.message.contains(complaint), "{error}");
    }
}

#[test]
fn a_wrong_configuration_is_refused_with_the_place_of_the_mistake() {
    let yard = Yard::new();
    let composite = yard.registry.find("composite").unwrap();
    let base = || {
        json!({
            "type": "box",
            "parameters": {"ref": {"type": "string", "default": "HEAD"}},
            "needs": {
                "host": {"type": "host"},
                "copy": {"type": "working-copy", "attributes": {"host": "${host.lease_id}", "ref": "${parameters.ref}"}},
            },
            "steps": [{"name": "build", "part": "copy", "run": ["make"]}],
            "exports": {"command": "copy", "filesystem": "copy"},
            "facts": {"path": "${copy.path}"},
        })
    };
    composite.check_config(&base()).unwrap();
    for (pointer, value, complaint) in [
        ("/type", json!("Box"), "config.type: \"Box\" is no type name"),
        ("/type", json!("host"), "config.needs.host.type: a \"host\" made of a \"host\" would never end"),
        ("/extra", json!(1), "config.extra: unknown key"),
        ("/export", json!({}), "config.export: unknown key, did you mean \"exports\"?"),
        ("/parameters/host", json!({}), "config.parameters.host: the name \"host\" is reserved"),
        ("/parameters/ref/type", json!("float"), "config.parameters.ref.type: must be string, integer"),
        (
            "/parameters/ref",
            json!({"type": "integer", "default": "x"}),
            "config.parameters.ref.default: \"x\" must be a whole number",
        ),
        ("/parameters/ref", json!({"type": "choice"}), "config.parameters.ref: a choice needs \"choices\""),
        ("/needs", json!({}), "config.needs: a composite needs at least one part"),
        ("/needs/parameters", json!({"type": "host"}), "config.needs.parameters: the name \"parameters\" is reserved"),
        ("/needs/Bad", json!({"type": "host"}), "config.needs.Bad: \"Bad\" is no name"),
        ("/needs/host/typ", json!("x"), "config.needs.host.typ: unknown key, did you mean \"type\"?"),
        ("/needs/copy/type", Value::Null, "config.needs.copy.type: must be a text"),
        (
            "/needs/copy/attributes/host",
            json!("${hots.lease_id}"),
            "config.needs.copy.attributes.host: there is no part \"hots\"",
        ),
        (
            "/needs/copy/attributes/host",
            json!("${host.adress}"),
            "a host has no fact \"adress\"; there are lease_id, address",
        ),
        ("/needs/copy/attributes/ref", json!("${parameters.rev}"), "there is no parameter \"rev\""),
        ("/needs/copy/attributes/ref", json!("${ref}"), "\"${ref}\" is no reference"),
        ("/needs/copy/attributes/ref", json!(["x"]), "must be a text, a number or a truth value"),
        (
            "/needs/host/attributes",
            json!({"x": "${copy.path}"}),
            "a cycle, none of it can come first: copy -> host -> copy",
        ),
        ("/needs/copy/after", json!(["build"]), "a cycle, none of it can come first: copy -> step build -> copy"),
        ("/needs/copy/after", json!(["bild"]), "config.needs.copy.after: there is no step \"bild\""),
        ("/steps/0/part", json!("cop"), "config.steps[0].part: there is no part \"cop\""),
        ("/steps/0/run", json!([]), "config.steps[0]: \"run\" must have at least one word"),
        ("/steps/0/run", json!(["echo", "${parameters.ref}"]), "config.steps[0].run: words are taken as they are"),
        ("/steps/0/timeout", json!(5), "config.steps[0].timeout: must be a span"),
        ("/steps/0/timeout", json!("0s"), "config.steps[0].timeout: must be above zero"),
        ("/steps/0/env", json!({"DRYDOCK_LEASE_ID": "x"}), "config.steps[0].env.DRYDOCK_LEASE_ID: must be"),
        (
            "/steps/1",
            json!({"name": "build", "part": "copy", "run": ["x"]}),
            "config.steps[1].name: there are two steps \"build\"",
        ),
        ("/exports/command", json!("cop"), "config.exports.command: there is no part \"cop\""),
        ("/exports/httpd", json!("copy"), "config.exports.httpd: a working-copy does not offer httpd"),
        ("/exports", json!({"command": "copy"}), "config.exports: copy, host all offer filesystem: say which it is"),
        ("/facts/path", json!("${copy.pth}"), "config.facts.path: a working-copy has no fact \"pth\""),
    ] {
        let mut config = base();
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        match config.pointer_mut(parent).unwrap() {
            Value::Array(list) if key == "1" => list.push(value),
            Value::Array(list) => list[0] = value,
            parent => parent[key] = value,
        }
        let error = composite.check_config(&config).unwrap_err();
        assert_eq!(error.reason.as_str(), "INVALID_ARGUMENT");
        assert!(error.message.contains(complaint), "{pointer}: {}", error.message);
    }
}
