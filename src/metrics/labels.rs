//! Labels: each has few values, and all of them are ours.

use prometheus_client::encoding::EncodeLabelSet;

use super::{Outcome, Wake};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Blueprint {
    pub(super) blueprint: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Phase {
    pub(super) blueprint: String,
    pub(super) phase: &'static str,
}

/// A kind of event.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Type {
    pub(super) r#type: String,
}

/// A lease or a resource.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Of {
    pub(super) of: &'static str,
}

impl Of {
    pub(super) const LEASE: Self = Self { of: "lease" };
    pub(super) const RESOURCE: Self = Self { of: "resource" };
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Cause {
    cause: &'static str,
}

impl From<Wake> for Cause {
    fn from(wake: Wake) -> Self {
        let cause = match wake {
            Wake::Event => "event",
            Wake::Timer => "timer",
            Wake::Sweep => "sweep",
            Wake::Start => "start",
        };
        Self { cause }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Step {
    of: &'static str,
    outcome: &'static str,
}

impl Step {
    pub(super) fn new(of: &'static str, outcome: Outcome) -> Self {
        let outcome = match outcome {
            Outcome::Done => "done",
            Outcome::FenceLost => "fence_lost",
            Outcome::Failed => "failed",
        };
        Self { of, outcome }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Method {
    pub(super) method: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Call {
    pub(super) method: &'static str,
    pub(super) code: &'static str,
}

/// Of what is in a state.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct InState {
    pub(super) resource_type: String,
    pub(super) state: String,
}

/// As [`InState`], by blueprint.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Made {
    pub(super) blueprint: String,
    pub(super) resource_type: String,
    pub(super) state: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Pool {
    pub(super) resource_type: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct State {
    pub(super) state: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Version {
    pub(super) version: String,
}
