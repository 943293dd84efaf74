//! What a daemon does on a machine carries in whose name it is done and as of when, and the machine refuses what comes late:
//! from a daemon that was paused, say, while another one ended the lease and gave its place away.
//!
//! The machine keeps a small file for each name that was fenced off there, with the lowest epoch that is still let in. Whoever
//! cleans up writes it first and looks for what is left then; whoever starts something looks into it at a moment at which it
//! would be found already. So nothing comes in between.
//!
//! What is done by a path alone, over sftp, has nobody there to look. Its path leads through a folder of its epoch, the gate,
//! and back up: `gates/HOLDER/EPOCH/../../../…/leases/x`. Who fences off takes the folder away and leaves a file in its
//! place; from then on the machine's own kernel finds no way there.

use std::path::{Component, Path, PathBuf};

use super::{Command, Place};
use crate::error::{Error, Reason};

/// In whose name something is done, and as of when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fence {
    /// A lease's id, or a task's subject with [`Fence::of_step`]'s ending.
    pub holder: String,
    /// The lease's epoch or the task's attempt, from 1.
    pub epoch: i64,
}

/// The folder of the fences, in the folder of Drydock's on a machine.
pub const FENCES: &str = "fences";
/// The folder of the gates beside it.
const GATES: &str = "gates";
/// What the steps of a task have behind its subject.
const STEP: &str = ".step";
/// Names, in the environment of what a step runs, whose step it is.
pub const STEP_VARIABLE: &str = "DRYDOCK_STEP";
/// Steps up that end at the top from wherever a folder of Drydock's may be: above the top there is the top.
const UP: usize = 40;

impl Fence {
    /// Of the steps of a task: from its next claim on, those of this one come late.
    #[must_use]
    pub fn of_step(subject: &str, attempt: i64) -> Self {
        Self { holder: format!("{subject}{STEP}"), epoch: attempt }
    }

    /// Whether it is of a step, not of a lease.
    #[must_use]
    pub fn is_of_a_step(&self) -> bool {
        self.holder.ends_with(STEP)
    }

    /// Where a machine whose folder of Drydock's this is keeps what is let in.
    #[must_use]
    pub fn file(&self, data_dir: &Path) -> PathBuf {
        data_dir.join(FENCES).join(&self.holder)
    }

    /// The folder there that is a file once this is fenced off.
    #[must_use]
    pub fn gate(&self, data_dir: &Path) -> PathBuf {
        data_dir.join(GATES).join(&self.holder).join(self.epoch.to_string())
    }

    /// What is told to who comes late.
    #[must_use]
    pub fn refusal(&self) -> Error {
        if let Some(subject) = self.holder.strip_suffix(STEP) {
            let message = format!("{subject} is in the hands of another worker meanwhile; its host let nothing in");
            return Error::new(Reason::LeaseNotActive, message);
        }
        let message = format!("the lease {} has ended meanwhile; its host let nothing in", self.holder);
        Error::new(Reason::LeaseNotActive, message).with("lease_id", self.holder.clone())
    }
}

/// The same path, an absolute one, by way of the gates of these fences: it leads nowhere once one of them is shut.
#[must_use]
pub fn through(fences: &[Fence], data_dir: &Path, path: &Path) -> PathBuf {
    if fences.is_empty() {
        return path.to_owned();
    }
    let mut way = data_dir.join(GATES);
    for fence in fences {
        way.extend([fence.holder.as_str(), &fence.epoch.to_string(), "..", ".."]);
    }
    way.extend(std::iter::repeat_n("..", UP));
    way.extend(path.components().filter(|part| !matches!(part, Component::RootDir)));
    way
}

/// Marks a command that dies with the daemon as part of a step, so that who takes the step over finds it.
pub(super) fn mark(command: &mut Command, fences: &[Fence]) {
    if let Some(step) = fences.iter().find(|fence| fence.is_of_a_step()) {
        command.env.insert(STEP_VARIABLE.to_owned(), step.holder.clone());
    }
}

impl Place {
    /// The same place, as long as this lease is what it was.
    #[must_use]
    pub fn behind(self, fence: Fence) -> Self {
        Self { host: self.host.behind(fence), ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_through_gates_leads_where_it_led_until_one_is_shut() {
        let data = tempfile::tempdir().unwrap();
        let fences = [Fence { holder: "lease_a".to_owned(), epoch: 2 }, Fence::of_step("lease_b", 7)];
        let file = data.path().join("x");
        std::fs::write(&file, "found").unwrap();
        let way = through(&fences, data.path(), &file);
        assert!(!way.exists());
        for fence in &fences {
            std::fs::create_dir_all(fence.gate(data.path())).unwrap();
        }
        assert_eq!(std::fs::read(&way).unwrap(), b"found");
        std::fs::remove_dir(fences[1].gate(data.path())).unwrap();
        std::fs::write(fences[1].gate(data.path()), "").unwrap();
        assert!(!way.exists());
        assert_eq!(through(&[], data.path(), &file), file);
    }
}
