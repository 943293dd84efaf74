//! The health check of a box: one round trip that says all.

use std::time::Duration;

use super::{FOLDER, RemoteHost, listed};
use crate::blueprint::{Condition, Context, Examination, Registered as _};
use crate::error::{Error, Reason, Result, report};
use crate::host::{Command, Run};
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
    writable: bool,
    setsid: bool,
    /// Seconds since the epoch.
    now: Option<i64>,
    /// Bytes in all, bytes free.
    disk: Option<(u64, u64)>,
}

impl Answers {
    fn read(text: &str) -> Self {
        let mut answers = Self::default();
        for line in text.lines() {
            match line.split_once(' ') {
                Some(("writable", word)) => answers.writable = word == "yes",
                Some(("setsid", word)) => answers.setsid = word == "yes",
                Some(("now", seconds)) => answers.now = seconds.trim().parse().ok(),
                Some(("disk", line)) => {
                    // File system, blocks, used, available, capacity, mounted on; blocks of 1024 bytes.
                    let blocks: Vec<u64> =
                        line.split_whitespace().skip(1).take(3).filter_map(|word| word.parse().ok()).collect();
                    if let [all, _, free] = blocks[..] {
                        answers.disk = Some((all.saturating_mul(1024), free.saturating_mul(1024)));
                    }
                }
                _ => {}
            }
        }
        answers
    }

    /// `now` is the daemon's, in seconds.
    fn examination(&self, resource: &Resource, now: i64) -> Examination {
        let mut found = Examination::default();
        let home = resource.facts.get("home").map_or("~", String::as_str);
        if let Some((_, free)) = self.disk
            && free < LOW_BYTES
        {
            let megabytes = free >> 20;
            found.findings.push(format!("disk nearly full: {megabytes} MiB are free under {home}; make room there"));
        }
        if !self.writable {
            let full = self.disk.is_some_and(|(_, free)| free == 0);
            let reason = if full { Reason::NoSpace } else { Reason::PermissionDenied };
            let message = format!("{home}/{FOLDER} cannot be written; make room there, or give it to the user");
            found.findings.insert(0, format!("home not writable: {message}"));
            found.condition = Some(Condition { reason, message });
        }
        if let Some(skew) = self.now.map(|there| there - now).filter(|skew| skew.abs() > SKEW) {
            let which = if skew > 0 { "ahead" } else { "behind" };
            found.findings.push(format!("clock skew: its clock is {} s {which}; set it right", skew.abs()));
        }
        if !self.setsid {
            found.findings.push("no setsid: processes that detach cannot be told apart; install util-linux".to_owned());
        }
        found
    }
}

impl RemoteHost {
    pub(super) async fn examine_box(&self, ctx: &Context, thorough: bool) -> Examination {
        if ctx.resource.is_blocked() {
            return self.look_at_blocked(&ctx.resource).await;
        }
        if thorough && ctx.resource.condition().is_some() {
            // Not what was heard of it before, but what is now.
            self.forget(&ctx.resource).await;
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
            self.boxes.greet(&Self::target(resource)).await?;
            return Ok(Examination::default());
        };
        let folder = host.data_dir().to_string_lossy().into_owned();
        let argv = ["sh", "-c", QUESTIONS, "drydock", &folder].map(str::to_owned).to_vec();
        let command = Command { argv, cwd: "/".into(), lease_id: resource.id.to_string(), ..Command::default() };
        let ran = host.run(Run { command, input: Vec::new(), timeout: PATIENCE }).await?;
        if ran.exit.is_none() {
            let message = format!("{} takes longer than {} s for a few words", resource.name, PATIENCE.as_secs());
            return Err(Error::new(Reason::HostUnreachable, message));
        }
        let answers = Answers::read(&String::from_utf8_lossy(&ran.stdout));
        let mut found = answers.examination(resource, self.clock.now() / 1_000_000);
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
        Examination { findings: vec![finding], condition }
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
    Examination { findings: vec![finding], condition: Condition::of(error) }
}
