//! `drydock lease`: acquire, look at, wait for, renew, explain and give back leases.

use std::time::Duration;

use tokio_stream::StreamExt as _;
use tonic::{Request, Status};

use super::Globals;
use super::acquire::{self, Demand, Details, present};
use super::connect::{Daemon, soon, within};
use super::exit::{FAILURE, Failure, OK, Result, TRY_AGAIN, say};
use super::interrupt::Interrupt;
use super::output::{self, Format};
use super::trace::Sink;
use super::{explain, objects, words};
use crate::proto::v1;
use crate::proto::v1::lease::State;

/// How long a release with `--wait` waits unless told.
const RELEASE_WAIT: &str = "10m";
/// Longest wait of one call.
const CALL: Duration = Duration::from_mins(10);
const PAGE: i32 = 500;

/// What to do with leases.
#[derive(Debug, clap::Subcommand)]
pub enum Lease {
    /// Ask for a lease and wait until it is ACTIVE; prints its id in any case.
    Acquire(Acquire),
    /// List leases, newest first: live ones, or all.
    List(ListArgs),
    /// Show a lease.
    Get {
        /// The lease; @ stands for the one in `DRYDOCK_LEASE_ID`.
        lease: String,
    },
    /// Print a lease whenever it changes, until it is gone.
    Watch {
        /// The lease.
        lease: String,
        /// Stop at this or a later state.
        #[arg(long, value_enum, default_value = "destroyed")]
        until: Until,
    },
    /// Wait until a lease is in a state; exits 75 when it is not in time.
    Wait {
        /// The lease.
        lease: String,
        /// This or a later state.
        #[arg(long, value_enum, default_value = "active")]
        until: Until,
        /// For how long [default: for ever].
        #[arg(long, value_name = "D", value_parser = words::duration)]
        timeout: Option<Duration>,
    },
    /// Make a lease live longer, counted from now.
    Renew {
        /// The lease.
        lease: String,
        /// For how long [default: the lease's ttl].
        #[arg(long, value_name = "D", value_parser = words::duration)]
        ttl: Option<Duration>,
    },
    /// Why a lease waits, or what would become of a demand; writes nothing.
    Explain {
        /// A lease, or a resource type.
        #[arg(value_name = "LEASE|TYPE")]
        subject: String,
        /// Of a demand.
        #[command(flatten)]
        details: Details,
    },
    /// Give leases back.
    Release(Release),
}

/// Ask for a lease.
#[derive(Debug, clap::Args)]
pub struct Acquire {
    #[command(flatten)]
    demand: Demand,
    /// How long to wait until it is ACTIVE; the lease gives up by then, too.
    #[arg(long, value_name = "D", default_value = "5m", value_parser = words::duration, conflicts_with = "no_wait")]
    wait: Duration,
    /// Leave once it is queued; the lease stays in the queue.
    #[arg(long)]
    no_wait: bool,
    /// Leave it in the queue when the wait is over.
    #[arg(long)]
    keep_queued: bool,
    /// How long the lease itself stays in the queue [default: as long as --wait].
    #[arg(long, value_name = "D", value_parser = words::duration, conflicts_with = "keep_queued")]
    queue_timeout: Option<Duration>,
    /// Show on stderr how it comes to be.
    #[arg(long)]
    trace: bool,
}

/// Which leases to list.
#[derive(Debug, clap::Args)]
pub struct ListArgs {
    /// Also ended ones.
    #[arg(long)]
    all: bool,
    /// Also those that resources hold.
    #[arg(long)]
    sub_leases: bool,
    /// For example: labels.job = "4711" AND state = ACTIVE.
    #[arg(long, value_name = "F", default_value = "", hide_default_value = true)]
    filter: String,
    /// At most so many; 0 is all.
    #[arg(long, value_name = "N", default_value_t = 500)]
    limit: usize,
}

/// Which leases to give back.
#[derive(Debug, clap::Args)]
pub struct Release {
    /// Leases; @ stands for the one in `DRYDOCK_LEASE_ID`.
    #[arg(value_name = "LEASE", required_unless_present_any = ["label", "filter"])]
    leases: Vec<String>,
    /// All of yours that carry this label; may be repeated: then all of them.
    #[arg(long, value_name = "K=V", value_parser = words::pair, conflicts_with = "leases")]
    label: Vec<(String, String)>,
    /// All of yours that this filter takes.
    #[arg(long, value_name = "F", conflicts_with = "leases")]
    filter: Option<String>,
    /// Return when they are gone, not when their end is durable.
    #[arg(long, value_name = "D", num_args = 0..=1, require_equals = true, default_missing_value = RELEASE_WAIT, value_parser = words::duration)]
    wait: Option<Duration>,
    /// End what is placed on them first. By an admin, of one that has ended and cannot be cleaned up: give that up.
    #[arg(long)]
    force: bool,
    /// For the event log.
    #[arg(long, default_value = "", hide_default_value = true)]
    comment: String,
}

/// A state to wait for.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub enum Until {
    /// Has a resource.
    Acquired,
    /// Usable.
    Active,
    /// Ended.
    Released,
    /// Gone.
    Destroyed,
}

impl Until {
    const fn state(self) -> State {
        match self {
            Self::Acquired => State::Acquired,
            Self::Active => State::Active,
            Self::Released => State::Released,
            Self::Destroyed => State::Destroyed,
        }
    }
}

/// Runs it.
///
/// # Errors
/// Those of the daemon.
pub async fn run(globals: &Globals, command: Lease) -> Result<u8> {
    match command {
        Lease::Acquire(args) => acquire(globals, args).await,
        Lease::List(args) => list(globals, args).await,
        Lease::Get { lease } => {
            let lease_id = words::lease(&lease)?;
            let daemon = globals.connect().await?;
            output::object(globals.output, &get(&daemon, lease_id).await?)?;
            Ok(OK)
        }
        Lease::Watch { lease, until } => watch(globals, words::lease(&lease)?, until).await,
        Lease::Wait { lease, until, timeout } => wait(globals, words::lease(&lease)?, until, timeout).await,
        Lease::Renew { lease, ttl } => {
            let request = v1::RenewLeaseRequest { lease_id: words::lease(&lease)?, ttl: ttl.map(words::proto) };
            let daemon = globals.connect().await?;
            let lease = present(daemon.leases().renew_lease(soon(request)).await?.into_inner().lease)?;
            output::object(globals.output, &lease)?;
            Ok(OK)
        }
        Lease::Explain { subject, details } => explain_lease(globals, &subject, &details).await,
        Lease::Release(args) => release(globals, args).await,
    }
}

async fn get(daemon: &Daemon, lease_id: String) -> Result<v1::Lease> {
    present(daemon.leases().get_lease(soon(v1::GetLeaseRequest { lease_id })).await?.into_inner().lease)
}

async fn acquire(globals: &Globals, args: Acquire) -> Result<u8> {
    let keeps = args.no_wait || args.keep_queued;
    let queue_timeout = args.queue_timeout.or(if keeps { None } else { Some(args.wait) });
    let request = args.demand.request(queue_timeout)?;
    let interrupt = Interrupt::listen()?;
    let daemon = globals.connect().await?;
    let lease = acquire::place(&daemon, request).await?;
    let id = lease.id.clone();

    // Early where it can be: even if this process is killed, someone knows the id.
    let early = matches!(globals.output, Format::Table | Format::Name);
    if early {
        output::print(&id)?;
    }
    if args.no_wait {
        if !early {
            output::object(globals.output, &lease)?;
        }
        return Ok(OK);
    }
    let trace = args.trace.then_some(Sink::Stderr);
    let patience = acquire::patience(args.wait, queue_timeout);
    match acquire::settle(&daemon, lease, Some(patience), trace, &interrupt).await {
        Ok(lease) => {
            if !early {
                output::object(globals.output, &lease)?;
            }
            acquire::served(lease)?;
            Ok(OK)
        }
        Err(failure) => {
            // Interrupted, or the daemon went away: nothing may become active for nobody.
            let release = !args.keep_queued && acquire::release(&daemon, &id, "the wait was interrupted").await.is_ok();
            if release {
                eprintln!("drydock: {id} is released");
            }
            Err(failure)
        }
    }
}

async fn list(globals: &Globals, args: ListArgs) -> Result<u8> {
    let live = "state != RELEASED AND state != BROKEN AND state != DESTROYED";
    let filter = match (args.all, args.filter.as_str()) {
        (true, filter) => filter.to_owned(),
        (false, "") => live.to_owned(),
        (false, filter) => format!("({filter}) AND {live}"),
    };
    let daemon = globals.connect().await?;
    let mut all = v1::ListLeasesResponse::default();
    loop {
        let request = v1::ListLeasesRequest {
            page_size: PAGE,
            page_token: std::mem::take(&mut all.next_page_token),
            filter: filter.clone(),
            show_sub_leases: args.sub_leases,
        };
        let page = daemon.leases().list_leases(soon(request)).await?.into_inner();
        all.leases.extend(page.leases);
        all.next_page_token = page.next_page_token;
        if output::enough(&mut all.leases, args.limit, &mut all.next_page_token) {
            break;
        }
    }
    output::list(globals.output, &all)?;
    Ok(OK)
}

async fn watch(globals: &Globals, lease_id: String, until: Until) -> Result<u8> {
    let daemon = globals.connect().await?;
    let (mut cursor, mut last) = (String::new(), None);
    loop {
        let request =
            v1::WatchLeaseRequest { lease_id: lease_id.clone(), until: until.state().into(), cursor: cursor.clone() };
        let ended = async {
            let mut answers = daemon.leases().watch_lease(Request::new(request)).await?.into_inner();
            while let Some(answer) = answers.next().await {
                let answer = answer?;
                if !answer.cursor.is_empty() {
                    cursor = answer.cursor;
                }
                // After a change of daemons the watch begins with what is already told.
                if answer.lease.is_some() && answer.lease != last {
                    last = answer.lease;
                    last.iter().try_for_each(|lease| output::next(globals.output, lease))?;
                }
            }
            Ok(())
        };
        match ended.await {
            Ok(()) => return Ok(OK),
            Err(Broken::Watch(status)) if daemon.goes_on(&status).await => {}
            Err(Broken::Watch(status)) => return Err(status.into()),
            Err(Broken::Output(failure)) => return Err(failure),
        }
    }
}

/// Why a watch did not come to its end.
enum Broken {
    Watch(Status),
    Output(Failure),
}

impl From<Status> for Broken {
    fn from(status: Status) -> Self {
        Self::Watch(status)
    }
}

impl From<Failure> for Broken {
    fn from(failure: Failure) -> Self {
        Self::Output(failure)
    }
}

async fn wait(globals: &Globals, lease_id: String, until: Until, timeout: Option<Duration>) -> Result<u8> {
    let daemon = globals.connect().await?;
    let lease = get(&daemon, lease_id).await?;
    let lease = acquire::reach(&daemon, lease, until.state(), timeout).await?;
    output::object(globals.output, &lease)?;
    if matches!(until, Until::Active) {
        acquire::served(lease)?;
        return Ok(OK);
    }
    reached(&lease, until.state())
}

fn reached(lease: &v1::Lease, until: State) -> Result<u8> {
    if lease.state() as i32 >= until as i32 {
        return Ok(OK);
    }
    let state = objects::state(lease.state().as_str_name());
    Err(Failure::new(TRY_AGAIN, "DEADLINE_EXCEEDED", format!("{} is {state} still", lease.id)))
}

async fn explain_lease(globals: &Globals, subject: &str, details: &Details) -> Result<u8> {
    use v1::explain_lease_request::Subject;
    let (subject, words) = if subject == "@" || subject.starts_with("lease_") {
        let id = words::lease(subject)?;
        (Subject::LeaseId(id.clone()), id)
    } else {
        (Subject::Request(details.request(subject, None)?), format!("a lease on a {subject} as asked for"))
    };
    let daemon = globals.connect().await?;
    let request = v1::ExplainLeaseRequest { subject: Some(subject) };
    let answer = daemon.leases().explain_lease(soon(request)).await?.into_inner();
    if globals.output != Format::Table {
        let pretty = globals.output == Format::Json;
        output::print(&output::json("ExplainLeaseResponse", &answer, pretty)?)?;
        return Ok(OK);
    }
    output::print(&explain::page(&words, &answer))?;
    Ok(OK)
}

async fn release(globals: &Globals, args: Release) -> Result<u8> {
    let named = args.leases.iter().map(|word| words::lease(word)).collect::<Result<Vec<_>>>()?;
    let daemon = globals.connect().await?;
    let ids = if named.is_empty() { release_matching(&daemon, &args).await? } else { named.clone() };
    let mut failed = None;
    for id in &ids {
        let released = release_one(&daemon, id, &args, !named.is_empty()).await;
        match released {
            Ok(lease) => output::next(globals.output, &lease)?,
            Err(failure) => {
                // The others are released all the same; the first failure is the exit code.
                if let Some(earlier) = failed.replace(failure) {
                    say(&earlier);
                }
            }
        }
    }
    failed.map_or(Ok(OK), Err)
}

async fn release_matching(daemon: &Daemon, args: &Release) -> Result<Vec<String>> {
    let labels = args.label.iter().map(|(key, value)| format!("labels.{key} = {}", quote(value)));
    // Alone it goes as it is, so that an error in it tells the column that the caller counts.
    let of = |filter: &String| if args.label.is_empty() { filter.clone() } else { format!("({filter})") };
    let terms: Vec<_> = labels.chain(args.filter.iter().map(of)).collect();
    let request = v1::ReleaseLeasesRequest {
        filter: terms.join(" AND "),
        comment: args.comment.clone(),
        force: args.force,
        ..v1::ReleaseLeasesRequest::default()
    };
    Ok(daemon.leases().release_leases(soon(request)).await?.into_inner().lease_ids)
}

/// A string of the filter language.
fn quote(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

async fn release_one(daemon: &Daemon, id: &str, args: &Release, end: bool) -> Result<v1::Lease> {
    let wait = args.wait.unwrap_or_default().min(CALL);
    let lease = if end {
        let request = v1::ReleaseLeaseRequest {
            lease_id: id.to_owned(),
            wait: args.wait.map(|_| words::proto(wait)),
            comment: args.comment.clone(),
            force: args.force,
            ..v1::ReleaseLeaseRequest::default()
        };
        present(daemon.leases().release_lease(within(wait, request)).await?.into_inner().lease)?
    } else {
        get(daemon, id.to_owned()).await?
    };
    let Some(patience) = args.wait else { return Ok(lease) };
    // One call waits for 600 s at most, and ended leases of a filter have not been waited for at all.
    let left = if end { patience.saturating_sub(wait) } else { patience };
    let lease = acquire::reach(daemon, lease, State::Destroyed, Some(left)).await?;
    if lease.state() == State::Destroyed {
        return Ok(lease);
    }
    let why = if lease.state_message.is_empty() { "clean-up goes on" } else { &lease.state_message };
    Err(Failure::new(
        if lease.end_time.is_some() { TRY_AGAIN } else { FAILURE },
        "DEADLINE_EXCEEDED",
        format!("{id} is not gone yet: {why}"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn label_values_cannot_break_out_of_the_filter() {
        assert_eq!(quote(r#"a" OR "b\"#), r#""a\" OR \"b\\""#);
    }
}
