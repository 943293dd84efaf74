//! What tests may take away or shorten in a daemon, to see that what looks for the damage finds it. Debug builds alone read
//! these variables of the environment; in an optimised build each question is answered by the compiler.

use std::sync::OnceLock;

use crate::clock::Micros;

/// How long a claim holds without renewal, microseconds: short, because a dead daemon's work waits that long.
pub const CLAIM_LENGTH: Micros = 30_000_000;

/// [`CLAIM_LENGTH`], or in a debug build `DRYDOCK_CLAIM_SECONDS`, microseconds.
#[must_use]
pub fn claim_length() -> Micros {
    static SECONDS: OnceLock<Option<Micros>> = OnceLock::new();
    if cfg!(debug_assertions) {
        let seconds = SECONDS.get_or_init(|| std::env::var("DRYDOCK_CLAIM_SECONDS").ok()?.parse().ok());
        return seconds.map_or(CLAIM_LENGTH, |seconds| seconds * 1_000_000);
    }
    CLAIM_LENGTH
}

/// Whether daemons tell each other of commits: not in a debug build with `DRYDOCK_NOTIFY=off`.
pub(super) fn notifies() -> bool {
    static OFF: OnceLock<bool> = OnceLock::new();
    !cfg!(debug_assertions) || !OFF.get_or_init(|| std::env::var("DRYDOCK_NOTIFY").is_ok_and(|word| word == "off"))
}

/// A rule of the queue that `DRYDOCK_MUTANT` takes away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rule {
    /// A step is committed by the claim that holds the task, and by no other.
    Fence,
    /// Who was signalled since its claim does not park.
    Signal,
    /// Who parks locks what it waits for, and looks at it again.
    RowLock,
    /// What becomes free in a pool wakes one waiter.
    WakeOne,
    /// A daemon that lives takes back what others made of claims that it lost.
    TakeBack,
    /// Who was woken for room that it cannot use passes the word on.
    PassOn,
}

/// Whether this rule is taken away in this process.
pub(super) fn without(rule: Rule) -> bool {
    static MUTANT: OnceLock<Option<Rule>> = OnceLock::new();
    let chosen = || {
        Some(match std::env::var("DRYDOCK_MUTANT").ok()?.as_str() {
            "no-fence" => Rule::Fence,
            "no-signal" => Rule::Signal,
            "no-row-lock" => Rule::RowLock,
            "wake-all" => Rule::WakeOne,
            "no-return" => Rule::TakeBack,
            "drop-baton" => Rule::PassOn,
            _ => return None,
        })
    };
    cfg!(debug_assertions) && *MUTANT.get_or_init(chosen) == Some(rule)
}
