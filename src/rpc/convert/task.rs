//! Tasks and daemons.

use super::count;
use super::time::timestamp;
use crate::model::{Task, TaskState};
use crate::proto::v1;
use crate::proto::v1::task::State;
use crate::store::Daemon;

fn state(state: TaskState) -> State {
    match state {
        TaskState::Ready => State::Ready,
        TaskState::Running => State::Running,
        TaskState::Parked => State::Parked,
        TaskState::Done => State::Done,
        TaskState::Dead => State::Dead,
    }
}

/// A task as operators see it.
pub(crate) fn task(task: Task) -> v1::Task {
    // Inside, a claim is `daemon/worker`.
    let claimed_by = task.claimed_by.unwrap_or_default();
    v1::Task {
        id: task.id.into(),
        subject_id: task.subject.as_str().to_owned(),
        state: state(task.state).into(),
        waits_for: task.waits_for,
        attempts: count(task.attempt),
        last_error: task.last_error,
        due_time: task.run_at.map(timestamp),
        claimed_by: claimed_by.split_once('/').map_or(claimed_by.as_str(), |(daemon, _)| daemon).to_owned(),
    }
}

/// A daemon as callers see it.
pub(crate) fn daemon(daemon: Daemon) -> v1::Daemon {
    v1::Daemon {
        id: daemon.id,
        version: daemon.version,
        machine: daemon.machine,
        start_time: Some(timestamp(daemon.start_time)),
        seen_time: Some(timestamp(daemon.seen_time)),
        draining: daemon.draining,
        claims: count(daemon.claims),
        address: daemon.address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_keep_their_names() {
        for known in TaskState::ALL {
            assert_eq!(state(known).as_str_name(), format!("STATE_{}", known.as_str()));
        }
    }
}
