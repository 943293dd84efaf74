//! A site's own instance of an installed server: unprivileged, all it has in the site's folder.
//!
//! A small shell runs it in the foreground, for two reasons. nginx overwrites its environment with its title, so that it
//! could not be found by `DRYDOCK_LEASE_ID`; the shell can. And when the master is killed, its workers would go on
//! serving; the shell ends them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::{Instant, Interval, MissedTickBehavior, interval};

use super::draft::Draft;
use super::found::{Found, last_words, run};
use super::installed::{Server, check_root, extra};
use super::{Report, Seat, StartError, tell};
use crate::error::{Error, Reason, Result};
use crate::host::Command;

/// The server's own pid file, in the site's folder.
pub(super) const SERVER_PID: &str = "server.pid";
/// What is added to the site's configuration, in the site's folder.
pub(super) const EXTRA: &str = "extra.conf";
/// All that it says, in the site's folder.
pub(super) const LOG: &str = "log";
/// The shell's pid file.
const PID: &str = "pid";

const START_LIMIT: Duration = Duration::from_secs(15);
const RELOAD_LIMIT: Duration = Duration::from_secs(15);
const STOP_GRACE: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(10);

/// Words: the pid file, the server's pid file, the server's command line. A code above 128 is a death by a signal, and
/// then workers are left: nginx's in our group, apache's in one of its own.
const SERVE: &str = r#"
pid=$1; rm -f "$2"; shift 2
caught=; server=
trap 'caught=1; [ -z "$server" ] || kill -s TERM "$server" 2>/dev/null' TERM INT
trap : HUP
"$@" </dev/null &
server=$!
[ -z "$caught" ] || kill -s TERM "$server" 2>/dev/null
printf %s "$$" >"$pid.new" && mv -f "$pid.new" "$pid"
while :; do
  caught=
  wait "$server"
  code=$?
  [ -n "$caught" ] || break
done
rm -f "$pid"
if [ "$code" -gt 128 ]; then
  # dash and bash need the --, busybox does not know it.
  if kill -s 0 -- "$$"; then end=--; else end=; fi
  kill -s KILL $end "-$server"
  kill -s KILL $end "-$$"
fi 2>/dev/null
exit "$code"
"#;

/// Words: a folder. Kills whatever works in it, which is what is left of a server whose shell was killed.
const SWEEP: &str = r#"
found=1
while [ -n "$found" ]; do
  found=
  for entry in /proc/[0-9]*; do
    [ "$entry/cwd" -ef "$1" ] && kill -s KILL "${entry#/proc/}" && found=1
  done
done 2>/dev/null
exit 0
"#;

/// Words: the master's pid, and what marks workers that retire. Prints the pids of the others.
const WORKERS: &str = r#"
for entry in /proc/[0-9]*; do
  read -r line <"$entry/stat" || continue
  line=${line##*) }
  line=${line#* }
  [ "${line%% *}" = "$1" ] || continue
  [ -n "$2" ] && grep -q "$2" "$entry/cmdline" && continue
  echo "${entry#/proc/}"
done 2>/dev/null
exit 0
"#;

/// The server's pid, while its shell runs.
///
/// # Errors
/// Those of the host.
pub(super) async fn server_pid(seat: &Seat) -> Result<Option<i64>> {
    if shell_pid(seat).await?.is_none() {
        return Ok(None);
    }
    read_pid(seat, SERVER_PID).await
}

/// Writes the configuration and has the server test it.
///
/// # Errors
/// `HTTPD_CONFIG_INVALID`; the last good one is back in its place then.
pub(super) async fn test(server: &dyn Server, seat: &Seat, found: &Found, report: &Report) -> Result<()> {
    check_root(&seat.site)?;
    if found.is_root && server.refuses_root() && found.drop.is_none() {
        let why = format!(
            "{} refuses to serve as root: run the daemon as another user (for other ways unshare or setpriv of util-linux \
             is missing, or not permitted)",
            server.name()
        );
        return Err(Error::new(Reason::HttpdConfigInvalid, why));
    }
    let (name, text) = server.main(seat, found)?;
    let files = BTreeMap::from([(seat.folder.join(name), text), (seat.folder.join(EXTRA), extra(seat).await?)]);
    Draft(files).adopt(seat, &server.test(seat, found), report).await
}

/// Launches it and waits for an answer; adopts one that runs.
///
/// # Errors
/// [`StartError`], with its log's last words.
pub(super) async fn start(server: &dyn Server, seat: &Seat, found: &Found, report: &Report) -> Result<(), StartError> {
    if server_pid(seat).await?.is_some() && seat.answers().await {
        tell(report, "start", "runs already".to_owned());
    } else {
        // Whatever an earlier start left: it would hold the port.
        end(seat).await?;
        if !seat.host.port_is_free(seat.site.port).await {
            return Err(StartError::PortTaken(seat.site.port));
        }
        let log = seat.folder.join(LOG);
        seat.host.write_text(&log, "").await?;
        let text = |name: &str| seat.folder.join(name).to_string_lossy().into_owned();
        let mut argv: Vec<String> = ["sh", "-c", SERVE, "sh"].map(str::to_owned).into();
        argv.extend([text(PID), text(SERVER_PID)]);
        argv.extend(server.serve(seat, found));
        let owner = seat.site.owner.clone();
        let command = Command { argv, cwd: seat.folder.clone(), lease_id: owner, ..Command::default() };
        let pid = seat.host.launch(command, &log).await?;
        tell(report, "start", format!("{}, pid {pid}", found.program));
        wait_for_answer(seat, pid).await?;
    }
    tell(report, "probe", format!("{} answers", seat.site.listens_on()));
    Ok(())
}

/// Ends it and all its workers.
///
/// # Errors
/// `INTERNAL` when something survives.
pub(super) async fn stop(seat: &Seat, report: &Report) -> Result<()> {
    let message = match shell_pid(seat).await? {
        Some(pid) => {
            let server = read_pid(seat, SERVER_PID).await?.unwrap_or(pid);
            seat.host.stop(pid, &seat.site.owner, STOP_GRACE).await?;
            format!("pid {server} ended")
        }
        None => "did not run".to_owned(),
    };
    end(seat).await?;
    tell(report, "stop", message);
    Ok(())
}

/// Has it take in its configuration; returns when new workers answer by it. Running answers are finished.
///
/// # Errors
/// `COMMAND_FAILED` when it does not run, or nothing came of it.
pub(super) async fn reload(server: &dyn Server, seat: &Seat, report: &Report) -> Result<()> {
    let Some(master) = server_pid(seat).await? else {
        return Err(Error::new(Reason::CommandFailed, "the web server does not run; start it"));
    };
    let pid = master.to_string();
    let before = workers(seat, &pid, server.retiring()).await?;
    let signal = ["kill", "-s", server.graceful(), &pid];
    let ran =
        run(seat.host.as_ref(), &seat.site.owner, ["sh", "-c", "exec \"$@\"", "sh"].into_iter().chain(signal), "")
            .await?;
    if !ran.succeeded() {
        let why = format!("the web server could not be told to reload: {}", last_words(&ran.stderr_tail));
        return Err(Error::new(Reason::CommandFailed, why));
    }
    let until = Instant::now() + RELOAD_LIMIT;
    let mut poll = polling();
    loop {
        poll.tick().await;
        let now = workers(seat, &pid, server.retiring()).await?;
        let has_new = now.iter().any(|pid| !before.contains(pid));
        let has_old = server.retiring().is_some() && now.iter().any(|pid| before.contains(pid));
        if has_new && !has_old {
            break;
        }
        if Instant::now() > until || server_pid(seat).await?.is_none() {
            let log = seat.host.read_text(&seat.folder.join(LOG)).await?.unwrap_or_default();
            let why = format!("the web server did not take its configuration in: {}", last_words(&log));
            return Err(Error::new(Reason::CommandFailed, why));
        }
    }
    tell(report, "reload", format!("pid {pid} took its configuration in"));
    Ok(())
}

/// The shell that wrote its pid down, if it still runs.
async fn shell_pid(seat: &Seat) -> Result<Option<i64>> {
    let Some(pid) = read_pid(seat, PID).await? else { return Ok(None) };
    Ok(seat.host.is_running(pid, &seat.site.owner).await.then_some(pid))
}

async fn read_pid(seat: &Seat, name: &str) -> Result<Option<i64>> {
    let text = seat.host.read_text(&seat.folder.join(name)).await?;
    Ok(text.and_then(|text| text.trim().parse().ok()))
}

/// Kills what is left, wherever it is written down or not.
async fn end(seat: &Seat) -> Result<()> {
    seat.host.end_strays(&seat.site.owner).await?;
    let folder = seat.folder.to_string_lossy();
    run(seat.host.as_ref(), &seat.site.owner, ["sh", "-c", SWEEP, "sh", &folder], "").await?;
    Ok(())
}

async fn workers(seat: &Seat, master: &str, retiring: Option<&str>) -> Result<BTreeSet<i64>> {
    let words = ["sh", "-c", WORKERS, "sh", master, retiring.unwrap_or_default()];
    let ran = run(seat.host.as_ref(), &seat.site.owner, words, "").await?;
    Ok(String::from_utf8_lossy(&ran.stdout).lines().filter_map(|line| line.trim().parse().ok()).collect())
}

fn polling() -> Interval {
    let mut poll = interval(POLL);
    poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
    poll
}

/// Until it has written its pid down, which it does once it listens, and answers. A stranger on the port is not taken
/// for it.
async fn wait_for_answer(seat: &Seat, shell: i64) -> Result<(), StartError> {
    let until = Instant::now() + START_LIMIT;
    let mut poll = polling();
    loop {
        poll.tick().await;
        if server_pid(seat).await?.is_some() && seat.answers().await {
            return Ok(());
        }
        let died = !seat.host.is_running(shell, &seat.site.owner).await;
        if died || Instant::now() > until {
            let log = seat.host.read_text(&seat.folder.join(LOG)).await?.unwrap_or_default();
            end(seat).await?;
            let is_taken = log.contains("Address already in use") || !seat.host.port_is_free(seat.site.port).await;
            if died && is_taken {
                return Err(StartError::PortTaken(seat.site.port));
            }
            let how = if died { "ended at once" } else { "did not answer in 15 s" };
            let why = format!("the web server {how}: {}", last_words(&log));
            return Err(Error::new(Reason::CommandFailed, why).into());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt as _;
    use std::process::{Command, Stdio};

    use super::SERVE;

    #[test]
    fn what_a_killed_server_leaves_is_ended_by_any_shell() {
        for shell in [&["dash"][..], &["bash"], &["busybox", "sh"]] {
            let folder = tempfile::tempdir().unwrap();
            let path = |name: &str| folder.path().join(name);
            let server = r#"sleep 600 & echo $! >"$0"; kill -s KILL $$"#;
            let mut command = Command::new(shell[0]);
            command.args(&shell[1..]).args(["-c", SERVE, "sh"]).arg(path("pid")).arg(path("server"));
            command.args(["sh", "-c", server]).arg(path("worker")).process_group(0);
            let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
            // The worker holds the pipe until it ends.
            let mut stdout = child.stdout.take().unwrap();
            let (tell, told) = std::sync::mpsc::channel();
            std::thread::spawn(move || tell.send(std::io::copy(&mut stdout, &mut std::io::sink()).unwrap()));
            let ended = told.recv_timeout(std::time::Duration::from_secs(10));
            child.wait().unwrap();
            let worker = std::fs::read_to_string(path("worker")).unwrap();
            if ended.is_err() {
                Command::new("kill").args(["-s", "KILL", worker.trim()]).status().unwrap();
            }
            assert_eq!(ended, Ok(0), "{shell:?}: the worker {worker} lives on");
        }
    }
}
