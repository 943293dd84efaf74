//! The health check of a box: one round trip that says all.

use std::time::Duration;

use super::{FOLDER, RemoteHost, listed};
use crate::blueprint::{Condition, Context, Examination, path_fact};
use crate::error::{Error, Reason, Result, report};
use crate::host::ssh::free_in;
use crate::model::Resource;
use crate::model::id::ResourceId;

/// A check that takes longer has found a box that does not answer.
const PATIENCE: Duration = Duration::from_secs(15);
/// What a thorough check may take.
const THOROUGH: Duration = Duration::from_secs(40);
/// What the clocks may differ by: more confuses make, certificates and tokens.
const SKEW: i64 = 30;
/// Less than this is nearly full.
const LOW_BYTES: u64 = 256 << 20;

/// Says, a word and a value each line, what the check wants to know. All of it is POSIX.
const QUESTIONS: &str = r#"d=$1
mkdir -p "$d/leases" 2>/dev/null
if (umask 077; echo drydock >"$d/.check") 2>/dev/null; then rm -f "$d/.check"; echo "writable yes"; else echo "writable no"; fi
echo "now $(date +%s)"
echo "disk $(df -Pk "$d" 2>/dev/null | tail -n 1)"
command -v setsid >/dev/null 2>&1 && echo "setsid yes" || echo "setsid no""#;

/// What a box answered.
#[derive(Debug, Default, PartialEq, Eq)]
struct Answers {
    writable: Option<bool>,
    setsid: Option<bool>,
    /// Seconds since the epoch.
    now: Option<i64>,
    /// Bytes free.
    free: Option<u64>,
}

impl Answers {
    fn read(text: &str) -> Self {
        let mut answers = Self::default();
        for line in text.lines() {
            match line.split_once(' ') {
                Some(("writable", word)) => answers.writable = Some(word == "yes"),
                Some(("setsid", word)) => answers.setsid = Some(word == "yes"),
                Some(("now", seconds)) => answers.now = seconds.trim().parse().ok(),
                Some(("disk", line)) => answers.free = free_in(line),
                _ => {}
            }
        }
        answers
    }

    /// `now` is the daemon's, in seconds.
    ///
    /// # Errors
    /// `INTERNAL` when it did not answer the questions.
    fn examination(&self, resource: &Resource, now: i64) -> Result<Examination> {
        let (Some(writable), Some(setsid)) = (self.writable, self.setsid) else {
            let message =
                format!("{} does not answer what it is asked; look whether it can start processes", resource.name);
            return Err(Error::new(Reason::Internal, message));
        };
        let mut found = Examination::default();
        let home = resource.facts.get("home").map_or("~", String::as_str);
        if let Some(free) = self.free
            && free < LOW_BYTES
        {
            let megabytes = free >> 20;
            found.findings.push(format!("disk nearly full: {megabytes} MiB are free under {home}; make room there"));
        }
        if !writable {
            let full = self.free == Some(0);
            let reason = if full { Reason::NoSpace } else { Reason::PermissionDenied };
            let message = format!("{home}/{FOLDER} cannot be written; make room there, or give it to the user");
            found.findings.insert(0, format!("home not writable: {message}"));
            found.condition = Some(Condition { reason, message });
        }
        if let Some(skew) = self.now.map(|there| there - now).filter(|skew| skew.abs() > SKEW) {
            let which = if skew > 0 { "ahead" } else { "behind" };
            found.findings.push(format!("clock skew: its clock is {} s {which}; set it right", skew.abs()));
        }
        if !setsid {
            found.findings.push("no setsid: processes that detach cannot be told apart; install util-linux".to_owned());
        }
        Ok(found)
    }
}

impl RemoteHost {
    pub(super) async fn examine_box(&self, ctx: &Context, thorough: bool) -> Examination {
        if ctx.resource.is_blocked() {
            return self.look_at_blocked(&ctx.resource).await;
        }
        if thorough && ctx.resource.condition().is_some() {
            // Not what was heard of it before, but what is now. What runs there goes on.
            self.boxes.retry(&Self::target(&ctx.resource));
        }
        let patience = if thorough { THOROUGH } else { PATIENCE };
        let examined = tokio::time::timeout(patience, self.ask_again(ctx, thorough)).await.unwrap_or_else(|_| {
            let message = format!("{} does not answer within {} s", ctx.resource.name, patience.as_secs());
            Err(Error::new(Reason::HostUnreachable, message))
        });
        match examined {
            Ok(found) => found,
            Err(error) => failed(&ctx.resource.id, &error),
        }
    }

    /// A line that is lost in the middle tells nothing yet; the next try tells why.
    async fn ask_again(&self, ctx: &Context, thorough: bool) -> Result<Examination> {
        match self.ask(ctx, thorough).await {
            Err(error) if error.reason == Reason::OutcomeUnknown => {}
            told => return told,
        }
        self.ask(ctx, thorough).await.map_err(|error| match error.reason {
            Reason::OutcomeUnknown => Error { reason: Reason::HostUnreachable, ..error },
            _ => error,
        })
    }

    async fn ask(&self, ctx: &Context, thorough: bool) -> Result<Examination> {
        let resource = &ctx.resource;
        let Some(host) = self.host(resource) else {
            let home = self.boxes.greet(&Self::target(resource)).await?;
            let host = self.host_at(resource, &home)?;
            host.make_folder(&host.data_dir().join("leases")).await?;
            let facts = [("home".to_owned(), path_fact(&home))].into();
            return Ok(Examination { facts, ..Examination::default() });
        };
        let said = host.question(QUESTIONS, host.data_dir()).await?;
        let mut found = Answers::read(&said).examination(resource, self.clock.now() / 1_000_000)?;
        if thorough {
            found.findings.extend(self.boxes.inspect(&Self::target(resource)).await?);
        }
        Ok(found)
    }

    /// What a blocked box shows now; nothing is sent to it.
    async fn look_at_blocked(&self, resource: &Resource) -> Examination {
        let target = Self::target(resource);
        let shown = self.boxes.scan(&target).await;
        let finding = match shown {
            Err(error) => format!("it is blocked, and cannot be looked at: {}", error.message),
            Ok(keys) => {
                let again = keys.iter().any(|key| target.host_keys.contains(&key.line()));
                let what =
                    if again { "it shows the pinned key again" } else { "it shows another key than the pinned one" };
                format!(
                    "blocked: {what}: {}; find out why, then pin what is right: \
                     drydock host update {} --accept-host-key FINGERPRINT",
                    listed(&keys),
                    resource.id
                )
            }
        };
        let message = resource.problem.split_once(": ").map_or_else(String::new, |(_, message)| message.to_owned());
        let condition = Some(Condition { reason: Reason::HostKeyMismatch, message });
        Examination { findings: vec![finding], condition, ..Examination::default() }
    }
}

/// A box that cannot be asked.
fn failed(id: &ResourceId, error: &Error) -> Examination {
    let what = match error.reason {
        Reason::HostUnreachable => "unreachable: look whether it is up and the network lets us through".to_owned(),
        Reason::HostAuthFailed => "it does not let us in: look at user, key and authorized_keys there".to_owned(),
        Reason::HostKeyMismatch => format!(
            "it shows another host key than the pinned one: find out why, then pin what is right: \
             drydock host update {id} --accept-host-key FINGERPRINT"
        ),
        Reason::SessionsExhausted => "all its sessions are busy: raise MaxSessions in its sshd_config".to_owned(),
        _ => "it cannot be examined".to_owned(),
    };
    let finding = format!("{what} ({})", report(error));
    Examination { findings: vec![finding], condition: Condition::of(error), ..Examination::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_answered_is_not_taken_for_a_no() {
        assert_eq!(Answers::read(""), Answers::default());
        let said = "writable no\nnow 12\ndisk /dev/a b 100 40 60 40% /my disk\nsetsid yes\n";
        let answers = Answers { writable: Some(false), setsid: Some(true), now: Some(12), free: Some(61_440) };
        assert_eq!(Answers::read(said), answers);
    }
}
