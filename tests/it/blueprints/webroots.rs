//! `webroot` with the built-in server, over real sockets.

use std::path::Path;
use std::sync::Arc;

use drydock::blueprint::{Context, Step};
use drydock::error::Reason;
use drydock::host::fence::Fence;
use drydock::httpd::{Operation, folder_of, operate};
use drydock::interface::httpd::{self, Progress};
use drydock::model::StringMap;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::servers::is_installed;
use super::yard::Yard;

/// The head and the body of an answer.
pub(super) async fn fetch(address: &str, path: &str, host: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

fn address(facts: &StringMap) -> String {
    format!("{}:{}", facts["address"], facts["port"])
}

async fn site(yard: &Yard, attributes: &[(&str, &str)]) -> (Context, StringMap) {
    let mut ctx = yard.context("webroot", json!({}), attributes);
    let facts = yard.build(&mut ctx).await.unwrap();
    (ctx, facts)
}

async fn run(yard: &Yard, ctx: &Context, operation: Operation) -> Vec<Progress> {
    let mut running = httpd::begin(yard.place(ctx, "httpd").unwrap(), operation, CancellationToken::new());
    let mut steps = Vec::new();
    while let Some(step) = running.next().await {
        steps.push(step.unwrap());
    }
    steps
}

fn names(steps: &[Progress]) -> String {
    steps.iter().map(|step| step.step).collect::<Vec<_>>().join(" ")
}

#[tokio::test]
async fn a_site_is_served_stopped_started_restarted_and_gone() {
    let yard = Yard::new();
    let (ctx, facts) = site(&yard, &[("server_name", "site.example")]).await;
    let address = address(&facts);
    assert_eq!(facts["uri"], format!("http://{address}/"));
    assert_eq!((facts["driver"].as_str(), &facts["document_root"]), ("builtin", &facts["path"]));
    assert_eq!(*yard.rounds.lock().unwrap(), ["host", "port"]);

    let (head, _) = fetch(&address, "/", "site.example").await;
    assert!(head.starts_with("HTTP/1.1 404"), "{head}");
    let root = Path::new(&facts["path"]);
    std::fs::create_dir(root.join("docs")).unwrap();
    std::fs::write(root.join("index.html"), "<h1>hello</h1>").unwrap();
    std::fs::write(root.join("docs/a b.txt"), "text").unwrap();
    let (head, body) = fetch(&address, "/", "site.example:80").await;
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("text/html"), "{head}");
    assert_eq!(body, "<h1>hello</h1>");
    assert_eq!(fetch(&address, "/docs/a%20b.txt", "localhost").await.1, "text");
    let (head, _) = fetch(&address, "/docs?x=1", "localhost").await;
    assert!(head.starts_with("HTTP/1.1 308") && head.contains("location: /docs/?x=1"), "{head}");
    assert!(fetch(&address, "/", "evil.example").await.0.starts_with("HTTP/1.1 421"));

    let place = yard.place(&ctx, "httpd").unwrap();
    let before = httpd::status(&place).await.unwrap();
    assert!(before.running && before.pid.is_some());
    assert_eq!(before.listen_addresses, std::slice::from_ref(&address));
    assert_eq!(
        httpd::uri(&place, "docs/a b?c#d%.txt").await.unwrap(),
        (format!("http://{address}/docs/a%20b%3Fc%23d%25.txt"), true)
    );
    assert_eq!(httpd::uri(&place, "").await.unwrap().0, facts["uri"]);

    let steps = run(&yard, &ctx, Operation::Restart).await;
    assert_eq!(names(&steps), "config-test stop start probe done");
    let after = steps.last().unwrap().status.clone().unwrap();
    assert!(after.running && after.pid != before.pid, "{after:?}");
    assert!(steps.windows(2).all(|pair| pair[0].elapsed <= pair[1].elapsed));
    assert_eq!(fetch(&address, "/", "site.example").await.1, "<h1>hello</h1>");

    assert_eq!(names(&run(&yard, &ctx, Operation::Reload).await), "config-test reload done");
    assert_eq!(names(&run(&yard, &ctx, Operation::Stop).await), "stop done");
    assert!(TcpStream::connect(&address).await.is_err());
    assert!(!httpd::status(&place).await.unwrap().running);
    let blueprint = yard.registry.find("webroot").unwrap();
    assert_eq!(blueprint.check(&ctx).await.findings.len(), 1);
    let mut reload = httpd::begin(place.clone(), Operation::Reload, CancellationToken::new());
    reload.next().await.unwrap().unwrap();
    assert_eq!(reload.next().await.unwrap().unwrap_err().reason.as_str(), "COMMAND_FAILED");
    assert!(reload.next().await.is_none());
    assert_eq!(names(&run(&yard, &ctx, Operation::Start).await), "config-test start probe done");
    assert_eq!(blueprint.check(&ctx).await.findings, [""; 0]);

    yard.end_all().await;
    assert!(TcpStream::connect(&address).await.is_err());
    assert!(!folder_of(root).exists());
    // Whoever comes too late starts nothing.
    let mut late = httpd::begin(place, Operation::Restart, CancellationToken::new());
    assert_eq!(late.next().await.unwrap().unwrap_err().reason.as_str(), "INTERFACE_NOT_SUPPORTED");
}

#[tokio::test]
async fn building_again_adopts_the_server_that_runs() {
    let yard = Yard::new();
    let (ctx, facts) = site(&yard, &[]).await;
    let place = yard.place(&ctx, "httpd").unwrap();
    let pid = httpd::status(&place).await.unwrap().pid;
    let blueprint = yard.registry.find("webroot").unwrap();
    assert!(matches!(blueprint.build(&ctx).await, Step::Ready(again) if again == facts));
    assert_eq!(httpd::status(&place).await.unwrap().pid, pid);

    // A crash between the launch and the pid file: the nameless server gives way to a new one.
    std::fs::remove_file(folder_of(&place.root).join("pid")).unwrap();
    assert!(matches!(blueprint.build(&ctx).await, Step::Ready(_)));
    let again = httpd::status(&place).await.unwrap();
    assert!(again.running && again.pid != pid);
    yard.end_all().await;
}

#[tokio::test]
async fn a_port_that_a_stranger_took_is_given_up_for_another() {
    let yard = Yard::new();
    let mut ctx = yard.context("webroot", json!({}), &[]);
    let blueprint = yard.registry.find("webroot").unwrap();
    for name in ["host", "port"] {
        let Step::Needs(needs) = blueprint.build(&ctx).await else { panic!("no needs") };
        assert_eq!(needs[0].name, name);
        let met = yard.meet(&needs[0]).await.unwrap();
        ctx.needs.insert(name.to_owned(), met);
    }
    let taken = ctx.needs["port"].lease.facts["port"].clone();
    let _stranger = TcpListener::bind(format!("127.0.0.1:{taken}")).await.unwrap();
    let facts = yard.build(&mut ctx).await.unwrap();
    assert_eq!(*yard.rounds.lock().unwrap(), ["port-2"]);
    assert_ne!(facts["port"], taken);
    assert!(fetch(&address(&facts), "/", "localhost").await.0.starts_with("HTTP/1.1 404"));
    yard.end_all().await;
}

#[tokio::test]
async fn a_document_root_lies_in_a_lease_of_the_same_owner() {
    let yard = Yard::new();
    let repository = yard.repository("site");
    let mut copy = yard.context("working-copy", json!({}), &[("repository", repository.to_str().unwrap())]);
    let path = yard.build(&mut copy).await.unwrap()["path"].clone();

    let public = format!("{path}/public");
    let (_, facts) = site(&yard, &[("document_root", &public)]).await;
    assert_eq!(facts["document_root"], public);
    std::fs::create_dir(&public).unwrap();
    std::os::unix::fs::symlink("../page.txt", format!("{public}/page.txt")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", format!("{public}/passwd")).unwrap();
    assert_eq!(fetch(&address(&facts), "/page.txt", "localhost").await.1, "two");
    assert!(fetch(&address(&facts), "/passwd", "localhost").await.0.starts_with("HTTP/1.1 404"));

    let (_, facts) = site(&yard, &[("document_root", "htdocs/./v1")]).await;
    assert!(facts["document_root"].starts_with(&facts["path"]));
    for root in ["/etc", &format!("{path}x"), yard.host.data_dir().to_str().unwrap()] {
        let mut ctx = yard.context("webroot", json!({}), &[("document_root", root)]);
        let failure = yard.build(&mut ctx).await.unwrap_err();
        assert!(failure.permanent && failure.message.contains("neither under"), "{failure:?}");
        yard.end(&ctx).await;
    }
    yard.end_all().await;
}

#[tokio::test]
async fn a_web_server_is_not_touched_in_the_name_of_a_lease_that_has_ended() {
    let yard = Yard::on(|host| Arc::new(host.fenced()));
    for driver in ["builtin", "nginx", "apache2"] {
        if driver != "builtin" && !is_installed(driver) {
            continue;
        }
        let mut ctx = yard.context("webroot", json!({"driver": driver}), &[]);
        let facts = yard.build(&mut ctx).await.unwrap();
        let fence = Fence { holder: ctx.lease.as_ref().unwrap().id.to_string(), epoch: 1 };
        let place = yard.place(&ctx, "httpd").unwrap();
        let late = place.clone().behind(fence.clone());
        let before = httpd::status(&place).await.unwrap().pid;
        yard.host.fence_off(&fence).await.unwrap();
        for operation in [Operation::Stop, Operation::Restart] {
            let (report, _) = tokio::sync::mpsc::unbounded_channel();
            let error = operate(&late, operation, &report).await.unwrap_err();
            assert_eq!(error.reason, Reason::LeaseNotActive, "{driver}: {error}");
        }
        let status = httpd::status(&late).await.unwrap();
        assert!(status.running && status.pid == before, "{driver}");
        assert!(fetch(&address(&facts), "/", "localhost").await.0.starts_with("HTTP/1.1 40"));
        let seat = late.host.write_text(&folder_of(&late.root).join("site.json"), "").await;
        assert_eq!(seat.unwrap_err().reason, Reason::LeaseNotActive);
        // The lease after it may.
        let next = place.behind(Fence { epoch: 2, ..fence });
        let (report, _) = tokio::sync::mpsc::unbounded_channel();
        assert!(operate(&next, Operation::Restart, &report).await.unwrap().running, "{driver}");
    }
    yard.end_all().await;
}
