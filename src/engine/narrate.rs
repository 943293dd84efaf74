//! The events that the engine writes: one constructor each, so that their words and details are the same everywhere.

use crate::model::id::TaskId;
use crate::model::{Blueprint, Lease, NewEvent, Resource, StringMap};

/// Who caused an event, and what may be told of it.
pub(super) struct Told<'t> {
    pub(super) kind: &'static str,
    pub(super) reason: &'t str,
    pub(super) message: String,
    pub(super) actor: &'t str,
}

impl<'t> Told<'t> {
    pub(super) fn by_drydock(kind: &'static str, message: impl Into<String>) -> Self {
        Self { kind, reason: "", message: message.into(), actor: "drydock" }
    }

    pub(super) fn because(mut self, reason: &'t str) -> Self {
        self.reason = reason;
        self
    }

    pub(super) fn by(mut self, actor: &'t str) -> Self {
        self.actor = actor;
        self
    }

    /// About a lease: its resource and its parent come along.
    pub(super) fn of_lease(self, lease: &Lease, more: &[(&str, String)]) -> NewEvent {
        let mut subjects = vec![lease.id.to_string()];
        subjects.extend(lease.resource_id.as_ref().map(ToString::to_string));
        subjects.extend(lease.parent.as_ref().map(|(id, _)| id.to_string()));
        let mut details = StringMap::from([("resource_type".to_owned(), lease.spec.resource_type.clone())]);
        if let Some((parent, need)) = &lease.parent {
            details.insert("parent".to_owned(), parent.to_string());
            details.insert("name".to_owned(), need.clone());
        }
        if let Some(resource) = &lease.resource_id {
            details.insert("resource".to_owned(), resource.to_string());
        }
        self.event(subjects, Some(lease.root_id.clone()), &lease.owner, details, more)
    }

    /// About a resource: its blueprint and the lease it was made for come along.
    pub(super) fn of_resource(self, resource: &Resource, more: &[(&str, String)]) -> NewEvent {
        let mut subjects = vec![resource.id.to_string(), resource.blueprint_id.to_string()];
        subjects.extend(resource.made_for.as_ref().map(ToString::to_string));
        let mut details = StringMap::from([
            ("resource_type".to_owned(), resource.resource_type.clone()),
            ("name".to_owned(), resource.name.clone()),
        ]);
        if let Some(lease) = &resource.made_for {
            details.insert("made_for".to_owned(), lease.to_string());
        }
        self.event(subjects, resource.root_id.clone(), &resource.owner, details, more)
    }

    /// About a blueprint: for admins only.
    pub(super) fn of_blueprint(self, blueprint: &Blueprint) -> NewEvent {
        let details =
            StringMap::from([("name".to_owned(), blueprint.name.clone()), ("kind".to_owned(), blueprint.kind.clone())]);
        self.event(vec![blueprint.id.to_string()], None, "", details, &[])
    }

    /// About a task: for admins only.
    pub(super) fn of_task(self, task: &TaskId, subject: &str) -> NewEvent {
        self.event(vec![task.to_string(), subject.to_owned()], None, "", StringMap::new(), &[])
    }

    fn event(
        self,
        subjects: Vec<String>,
        root_id: Option<crate::model::id::LeaseId>,
        owner: &str,
        mut details: StringMap,
        more: &[(&str, String)],
    ) -> NewEvent {
        for (key, value) in more {
            if !value.is_empty() {
                details.insert((*key).to_owned(), value.clone());
            }
        }
        NewEvent {
            kind: self.kind,
            reason: self.reason.to_owned(),
            message: self.message,
            actor: self.actor.to_owned(),
            subjects,
            root_id,
            owner: owner.to_owned(),
            details,
        }
    }
}
