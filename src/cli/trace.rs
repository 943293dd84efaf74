//! `--trace`: how a lease comes to be, live, and at the end as a tree with times.

mod tree;

use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_stream::StreamExt as _;
use tonic::Request;

use super::connect::{Daemon, soon};
use super::exit::{Failure, Result};
use super::output::{self, Paint};
use crate::proto::v1;
use crate::proto::v1::lease::State;
pub use tree::Story;

/// How long the last events may take once the lease has settled.
const LAST_WORDS: Duration = Duration::from_secs(2);
const PAGE: i32 = 500;

/// Where a trace goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sink {
    /// Beside the data of a command.
    Stderr,
    /// It is what the command shows.
    Stdout,
}

impl Sink {
    /// Colours that suit it.
    #[must_use]
    pub fn paint(self) -> Paint {
        match self {
            Self::Stderr => Paint::for_stderr(),
            Self::Stdout => Paint::for_stdout(),
        }
    }

    /// Writes a line.
    pub fn line(self, text: &str) {
        match self {
            Self::Stderr => eprintln!("{text}"),
            // A reader that left is noticed by whoever prints the data.
            Self::Stdout => drop(output::print(text)),
        }
    }
}

/// A lease that is being watched.
#[derive(Debug)]
pub struct Trace {
    daemon: Daemon,
    root: String,
    sink: Sink,
    watching: JoinHandle<Result<Story>>,
}

impl Trace {
    /// Prints each event of the lease's tree as it happens, from its beginning until the lease is ACTIVE or
    /// has ended.
    #[must_use]
    pub fn start(daemon: Daemon, lease: &v1::Lease, sink: Sink) -> Self {
        let story = Story::new(lease);
        let watching = tokio::spawn(watch(daemon.clone(), story, sink));
        Self { daemon, root: lease.id.clone(), sink, watching }
    }

    /// Waits for the last events and prints the tree.
    pub async fn finish(mut self) {
        let watched = tokio::time::timeout(LAST_WORDS, &mut self.watching).await;
        let story = if let Ok(Ok(Ok(story))) = watched {
            Ok(story)
        } else {
            // Cut short: the log has it all.
            self.watching.abort();
            read(&self.daemon, &self.root).await
        };
        match story {
            Ok(story) => self.sink.line(&format!("\n{}", story.render(self.sink.paint()))),
            Err(failure) => eprintln!("drydock: no trace: {failure}"),
        }
    }
}

/// The story of a lease as the event log tells it.
///
/// # Errors
/// Those of the daemon.
pub async fn read(daemon: &Daemon, root: &str) -> Result<Story> {
    let request = v1::GetLeaseRequest { lease_id: root.to_owned() };
    let lease = daemon.leases().get_lease(soon(request)).await?.into_inner().lease.unwrap_or_default();
    let mut story = Story::new(&lease);
    for event in past(daemon, root).await? {
        story.take(&event);
    }
    Ok(story)
}

async fn watch(daemon: Daemon, mut story: Story, sink: Sink) -> Result<Story> {
    let request =
        v1::WatchLeaseRequest { lease_id: story.root().to_owned(), until: State::Active.into(), ..Default::default() };
    let mut answers = daemon.leases().watch_lease(Request::new(request)).await?.into_inner();
    let paint = sink.paint();
    let tell = |story: &mut Story, event: &v1::Event| {
        if let Some(line) = story.take(event) {
            sink.line(&line.render(paint));
        }
    };
    let mut first = true;
    while let Some(answer) = answers.next().await {
        let answer = answer?;
        if first {
            // The watch stands, so nothing gets lost between the log and it; what comes twice is told once.
            first = false;
            for event in past(&daemon, story.root()).await? {
                tell(&mut story, &event);
            }
        }
        for event in &answer.events {
            tell(&mut story, event);
        }
    }
    Ok(story)
}

/// All events of the tree so far, oldest first.
async fn past(daemon: &Daemon, root: &str) -> Result<Vec<v1::Event>, Failure> {
    let mut events = Vec::new();
    let mut page_token = String::new();
    loop {
        let request =
            v1::ListEventsRequest { page_size: PAGE, page_token, filter: format!("root_lease_id = \"{root}\"") };
        let page = daemon.events().list_events(soon(request)).await?.into_inner();
        events.extend(page.events);
        if page.next_page_token.is_empty() {
            return Ok(events);
        }
        page_token = page.next_page_token;
    }
}
