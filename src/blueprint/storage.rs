//! `storage`: a folder with a quota.

use async_trait::async_trait;

use super::{Blueprint, Context, Endpoint, HOST_ATTRIBUTE, Step, path_fact, settle};
use crate::error::{Error, Reason};
use crate::model::kind::parse_size;
use crate::model::{Field, FieldType, Kind, StringMap};

/// What it is.
pub static KIND: Kind = Kind {
    kind: "storage",
    resource_type: "storage",
    interfaces: &["command", "filesystem"],
    needs: &["host"],
    config: &[],
    attributes: &[
        HOST_ATTRIBUTE,
        Field::optional("quota", FieldType::Size, "Bytes that may lie in it, for example 10GiB; without it no limit."),
    ],
    leases_per_resource: 1,
    max_resources: None,
    rank: 0,
    stays: false,
    reused_by_attributes: true,
    instant: true,
    registration: None,
};

/// The facts it promises; `quota` in bytes, when there is one.
pub const FACTS: &[&str] = &["path", "quota"];

/// Makes folders.
pub struct Storage;

#[async_trait]
impl Blueprint for Storage {
    fn describe(&self) -> &'static Kind {
        &KIND
    }

    async fn build(&self, ctx: &Context) -> Step {
        settle(make(ctx).await)
    }

    async fn clean(&self, ctx: &Context) -> Step {
        settle(empty(ctx).await)
    }

    async fn destroy(&self, ctx: &Context) -> Step {
        let folders = ctx.place_of("host").map(|place| vec![ctx.folder(place)]).unwrap_or_default();
        settle(ctx.remove_from_host(&folders).await.map(|()| Step::done()))
    }

    fn endpoint(&self, ctx: &Context, interface: &str) -> Option<Endpoint> {
        KIND.interfaces.contains(&interface).then(|| ctx.on_host(quota(&ctx.resource.attributes)))?
    }
}

fn quota(attributes: &StringMap) -> Option<u64> {
    attributes.get("quota").and_then(|text| parse_size(text))
}

async fn make(ctx: &Context) -> Result<Step, Step> {
    ctx.host()?;
    let place = ctx.place_of("host")?;
    let folder = ctx.folder(place);
    let mut facts = StringMap::from([("path".to_owned(), path_fact(&folder))]);
    if let Some(quota) = quota(&ctx.resource.attributes) {
        let free = place.host.free_bytes(place.host.data_dir()).await?;
        if free < quota {
            return Err(Error::new(
                Reason::NoSpace,
                format!(
                    "no space: the quota is {quota} bytes and the host has {free} free; ask for less, or free some"
                ),
            )
            .into());
        }
        facts.insert("quota".to_owned(), quota.to_string());
    }
    place.host.make_folder(&folder).await?;
    Ok(Step::Ready(facts))
}

/// A storage that outlives its lease is handed on empty, unless several leases share it.
async fn empty(ctx: &Context) -> Result<Step, Step> {
    ctx.end_lease_processes().await?;
    if ctx.resource.lease_limit == 1
        && let Ok(place) = ctx.place_of("host")
    {
        let folder = ctx.folder(place);
        place.host.remove_folder(&folder).await?;
        place.host.make_folder(&folder).await?;
    }
    Ok(Step::done())
}
