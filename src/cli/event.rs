//! `drydock event`: what happened.

use tokio_stream::StreamExt as _;
use tonic::Request;

use super::Globals;
use super::connect::soon;
use super::exit::{OK, Result};
use super::{output, words};
use crate::proto::v1;

const PAGE: i32 = 500;

/// What to do with events.
#[derive(Debug, clap::Subcommand)]
pub enum Event {
    /// List events, oldest first.
    List {
        /// Which events.
        #[command(flatten)]
        which: Which,
        /// At most so many; 0 is all.
        #[arg(long, value_name = "N", default_value_t = 500)]
        limit: usize,
    },
    /// Print events as they happen.
    Watch {
        /// Which events.
        #[command(flatten)]
        which: Which,
        /// Go on from here, without loss [default: from now].
        #[arg(long, default_value = "", hide_default_value = true)]
        cursor: String,
    },
}

/// Which events.
#[derive(Debug, clap::Args)]
pub struct Which {
    /// Those of this lease's tree; @ stands for the one in `DRYDOCK_LEASE_ID`.
    #[arg(long, value_name = "LEASE")]
    lease: Option<String>,
    /// For example: type = "lease.*".
    #[arg(long, value_name = "F", default_value = "", hide_default_value = true)]
    filter: String,
}

impl Which {
    fn filter(&self) -> Result<String> {
        let Some(lease) = &self.lease else { return Ok(self.filter.clone()) };
        let root = format!("root_lease_id = \"{}\"", words::lease(lease)?);
        Ok(if self.filter.is_empty() { root } else { format!("({}) AND {root}", self.filter) })
    }
}

/// Runs it.
///
/// # Errors
/// Those of the daemon.
pub async fn run(globals: &Globals, command: Event) -> Result<u8> {
    match command {
        Event::List { which, limit } => {
            let filter = which.filter()?;
            let daemon = globals.connect().await?;
            let mut all = v1::ListEventsResponse::default();
            loop {
                let page_token = std::mem::take(&mut all.next_page_token);
                let request = v1::ListEventsRequest { page_size: PAGE, page_token, filter: filter.clone() };
                let page = daemon.events().list_events(soon(request)).await?.into_inner();
                all.events.extend(page.events);
                all.next_page_token = page.next_page_token;
                all.cursor = page.cursor;
                if output::enough(&mut all.events, limit, &mut all.next_page_token) {
                    break;
                }
            }
            output::list(globals.output, &all)?;
        }
        Event::Watch { which, cursor } => {
            let (filter, daemon) = (which.filter()?, globals.connect().await?);
            let mut cursor = cursor;
            loop {
                let request = v1::WatchEventsRequest { filter: filter.clone(), cursor: cursor.clone() };
                let mut answers = match daemon.events().watch_events(Request::new(request)).await {
                    Ok(answers) => answers.into_inner(),
                    Err(status) if daemon.goes_on(&status).await => continue,
                    Err(status) => return Err(status.into()),
                };
                let ended = loop {
                    match answers.next().await {
                        Some(Ok(answer)) => {
                            for event in &answer.events {
                                output::next(globals.output, event)?;
                            }
                            if !answer.cursor.is_empty() {
                                cursor = answer.cursor;
                            }
                        }
                        Some(Err(status)) => break Some(status),
                        None => break None,
                    }
                };
                match ended {
                    None => break,
                    // From where this one ended, with the next one.
                    Some(status) if daemon.goes_on(&status).await => {}
                    Some(status) => return Err(status.into()),
                }
            }
        }
    }
    Ok(OK)
}
