//! `local-host`, `storage` and `port`.

use std::collections::BTreeSet;

use drydock::blueprint::{Endpoint, Need, Step};
use drydock::host::Command;
use drydock::model::LeaseSpec;
use serde_json::json;
use tokio::net::TcpListener;

use super::yard::Yard;

#[tokio::test]
async fn a_lease_on_the_local_host_leaves_no_folder_and_no_process() {
    let yard = Yard::new();
    let mut ctx = yard.context("local-host", json!({}), &[]);
    assert_eq!(yard.build(&mut ctx).await.unwrap()["address"], "127.0.0.1");
    let place = yard.place(&ctx, "filesystem").unwrap();
    let lease = ctx.lease.clone().unwrap().id;
    assert_eq!(place.root, yard.host.data_dir().join("leases").join(lease.as_str()));
    assert!(yard.place(&ctx, "httpd").is_none());

    yard.host.make_folder(&place.root).await.unwrap();
    let command = Command {
        argv: ["sleep", "600"].map(str::to_owned).to_vec(),
        cwd: place.root.clone(),
        lease_id: lease.to_string(),
        ..Command::default()
    };
    let pid = yard.host.launch(command, &place.root.join("log")).await.unwrap();
    assert!(yard.host.is_running(pid, lease.as_str()).await);
    yard.end_all().await;
    assert!(!yard.host.is_running(pid, lease.as_str()).await);
}

#[tokio::test]
async fn a_storage_has_a_folder_and_a_quota_that_must_fit() {
    let yard = Yard::new();
    let mut ctx = yard.context("storage", json!({}), &[("quota", "10MiB")]);
    let facts = yard.build(&mut ctx).await.unwrap();
    assert_eq!(facts["quota"], (10 * 1024 * 1024).to_string());
    assert!(std::path::Path::new(&facts["path"]).is_dir());
    let blueprint = yard.registry.find("storage").unwrap();
    let Some(Endpoint::On { lease, quota, .. }) = blueprint.endpoint(&ctx, "filesystem") else { panic!() };
    assert_eq!((lease, quota), (ctx.needs["host"].lease.id.clone(), Some(10 << 20)));

    std::fs::write(std::path::Path::new(&facts["path"]).join("left-over"), "x").unwrap();
    assert!(matches!(blueprint.clean(&ctx).await, Step::Ready(_)));
    assert_eq!(super::yard::list(std::path::Path::new(&facts["path"])).len(), 0);

    let mut ctx = yard.context("storage", json!({}), &[("quota", "8000000TB")]);
    let failure = yard.build(&mut ctx).await.unwrap_err();
    assert!(failure.permanent && failure.message.contains("no space"), "{failure:?}");
    yard.end_all().await;
}

#[tokio::test]
async fn ports_are_exclusive_and_those_of_strangers_are_passed_over() {
    let yard = Yard::new();
    // Three ports in a row, of which a stranger has the middle one; below those that the system gives to anyone.
    let (first, _stranger) = loop {
        let port = fastrand::u16(10_000..20_000);
        let Ok(stranger) = TcpListener::bind(("127.0.0.1", port)).await else { continue };
        if yard.host.port_is_free(port - 1).await && yard.host.port_is_free(port + 1).await {
            break (port - 1, stranger);
        }
    };
    let config = json!({"first": first, "last": first + 2});
    let mut ports = BTreeSet::new();
    for _ in 0..2 {
        let mut ctx = yard.context("port", config.clone(), &[]);
        ports.insert(yard.build(&mut ctx).await.unwrap()["port"].clone());
    }
    assert_eq!(ports, BTreeSet::from([first.to_string(), (first + 2).to_string()]));

    // Granted, and then taken by a stranger before it was looked at again.
    let mut ctx = yard.context("port", yard.ports.clone(), &[]);
    let host = yard.meet(&Need { name: "host".to_owned(), spec: host() }).await.unwrap();
    ctx.needs.insert("host".to_owned(), host);
    let blueprint = yard.registry.find("port").unwrap();
    let Step::Exclusive(candidates) = blueprint.build(&ctx).await else { panic!() };
    assert_eq!(candidates.len(), 32);
    let taken = candidates[0].clone();
    let address = ("127.0.0.1", u16::try_from(taken.place).unwrap());
    let _stranger = TcpListener::bind(address).await.unwrap();
    ctx.slots = vec![taken.clone()];
    let Step::Exclusive(candidates) = blueprint.build(&ctx).await else { panic!() };
    assert!(!candidates.contains(&taken));
    yard.end_all().await;
}

fn host() -> LeaseSpec {
    LeaseSpec { resource_type: "host".to_owned(), ..LeaseSpec::default() }
}
