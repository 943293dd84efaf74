//! Resources.

use super::count;
use super::json::to_struct;
use super::time::timestamp;
use crate::engine::ResourceView;
use crate::model::{Drain, ResourceState};
use crate::proto::v1;
use crate::proto::v1::resource::State;

fn state(state: ResourceState) -> State {
    match state {
        ResourceState::Pending => State::Pending,
        ResourceState::Active => State::Active,
        ResourceState::Released => State::Released,
        ResourceState::Broken => State::Broken,
        ResourceState::Destroyed => State::Destroyed,
    }
}

/// A resource as admins see it.
pub(crate) fn resource(view: ResourceView) -> v1::Resource {
    let ResourceView { resource, lease_count, diagnostics } = view;
    v1::Resource {
        id: resource.id.into(),
        name: resource.name,
        resource_type: resource.resource_type,
        blueprint_id: resource.blueprint_id.into(),
        state: state(resource.state).into(),
        state_reason: resource.state_reason,
        state_message: resource.state_message,
        facts: resource.facts,
        labels: resource.labels,
        drain: resource.drain.map(drain),
        lease_count: count(lease_count),
        lease_limit: count(resource.lease_limit),
        cleanup_failures: count(resource.cleanup_failures),
        create_time: Some(timestamp(resource.create_time)),
        check_time: resource.check_time.map(timestamp),
        etag: resource.version.to_string(),
        problem: resource.problem,
        attributes: resource.attributes,
        diagnostics: diagnostics.as_ref().map(to_struct),
    }
}

fn drain(drain: Drain) -> v1::Drain {
    v1::Drain { comment: drain.comment, actor: drain.actor, time: Some(timestamp(drain.time)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_keep_their_names() {
        for known in ResourceState::ALL {
            assert_eq!(state(known).as_str_name(), format!("STATE_{}", known.as_str()));
        }
    }
}
