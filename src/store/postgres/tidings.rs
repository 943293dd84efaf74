//! What is committed here is told to other daemons, and what they commit is heard here: by LISTEN and NOTIFY, which may be lost,
//! and so only say that it is worth while to look, and from which place in the queue on. The events are followed in their order, whoever committed them.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sqlx::postgres::{PgListener, PgPoolOptions};
use tokio::sync::{Notify, broadcast};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{Readers, pause};
use crate::error::{Result, report};
use crate::model::id::LeaseId;
use crate::store::claiming::{Level, LowWater};
use crate::store::row::Columns;
use crate::store::statement::sql;
use crate::store::{self, News, events};

const CHANNEL: &str = "drydock";
/// What is said to nobody but oneself.
const ALIVE: &str = "alive";
/// At most one NOTIFY in this time: a commit that notifies takes a lock of the whole server.
const TELLING: Duration = Duration::from_millis(10);
/// Between two looks for events whose turn has not come, because older transactions are still under way.
const TURN: Duration = Duration::from_millis(4);
/// After a failure.
const AGAIN: Duration = Duration::from_millis(500);
/// We tell ourselves that we are there, so that a connection on which nothing comes is known from one on which nothing can.
const PULSE: Duration = Duration::from_mins(1);
/// Without as much as our own word for so long we listen on another connection.
const DEAF: Duration = Duration::from_secs(150);
/// Ready tasks that are heard of at a time.
const HEARD: i64 = 64;

/// What happened since it was last seen to.
pub(super) struct Tidings {
    /// The name under which we tell, so that we do not listen to ourselves.
    me: String,
    pub(super) notify: bool,
    /// Where the queue begins, for all claims of this daemon.
    pub(super) low_water: Arc<LowWater>,
    /// Something was committed here that others may want to know.
    to_tell: Notify,
    /// The lowest place at which a task became ready since it was last told.
    untold: Mutex<Option<Level>>,
    /// There may be new events.
    to_follow: Notify,
    /// Others may have made tasks ready.
    others: AtomicBool,
}

impl Tidings {
    pub(super) fn new(notify: bool) -> Self {
        let me = format!("{:016x}", fastrand::u64(..));
        Self {
            me,
            notify,
            low_water: LowWater::new(),
            to_tell: Notify::new(),
            untold: Mutex::default(),
            to_follow: Notify::new(),
            others: AtomicBool::new(false),
        }
    }

    /// A commit of ours has changed something: there are events, and tasks ready from this place on.
    pub(super) fn committed(&self, events: bool, ready: Option<Level>) {
        if events {
            self.to_follow.notify_one();
        }
        // Timers are not told: we see to them as long as we live, and the sweep of others when we do not.
        if self.notify && (events || ready.is_some()) {
            if let Some(level) = ready {
                let mut untold = self.untold.lock().unwrap_or_else(PoisonError::into_inner);
                *untold = Some(untold.map_or(level, |lower| lower.min(level)));
            }
            self.to_tell.notify_one();
        }
    }

    /// Something may have been missed.
    pub(super) fn look_around(&self) {
        self.heard(Some(Level::LOWEST));
    }

    /// Others have committed something; tasks may be ready from this place on.
    fn heard(&self, ready: Option<Level>) {
        if let Some(level) = ready {
            self.low_water.lower(level);
        }
        self.others.store(true, Ordering::Relaxed);
        self.to_follow.notify_one();
    }

    /// What others are told: who we are, and from which place on tasks became ready, if any did.
    fn telling(&self) -> String {
        match self.untold.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(Level { band, ord }) => format!("{} {band} {ord}", self.me),
            None => format!("{} -", self.me),
        }
    }

    fn told(&self, words: &str) {
        let mut words = words.split(' ');
        if words.next() == Some(&self.me) {
            return;
        }
        let number = |word: Option<&str>| word.and_then(|word| word.parse().ok());
        match (words.next(), words.next()) {
            (Some(ALIVE), _) => {}
            (Some("-"), _) => self.heard(None),
            (band, ord) => match (number(band), number(ord)) {
                (Some(band), Some(ord)) => self.heard(Some(Level { band, ord })),
                // Another release says less.
                _ => self.look_around(),
            },
        }
    }
}

/// Tasks that follow, tell and listen.
#[derive(Clone)]
pub(super) struct Watch {
    pub(super) tidings: Arc<Tidings>,
    pub(super) readers: Arc<store::readers::Readers>,
    /// Connections to tell.
    pub(super) aside: Readers,
    pub(super) news: broadcast::Sender<Arc<News>>,
    pub(super) stop: CancellationToken,
}

impl Watch {
    /// Starts them; events count from now on.
    pub(super) async fn start(self) -> Result<()> {
        let span = sql(events::SPAN_ON_POSTGRES).fetch_one(&self.readers).await?;
        let last = Columns::of(&span).integer("last")?;
        let (follow, tell, listen) = (self.clone(), self.clone(), self);
        tokio::spawn(async move { follow.stop.clone().run_until_cancelled(follow.follow(last)).await });
        tokio::spawn(async move { tell.stop.clone().run_until_cancelled(tell.tell()).await });
        if listen.tidings.notify {
            tokio::spawn(async move { listen.stop.clone().run_until_cancelled(listen.listen()).await });
        }
        Ok(())
    }

    /// Passes on events when it is their turn, and what others made ready.
    async fn follow(&self, mut last: i64) {
        loop {
            self.tidings.to_follow.notified().await;
            loop {
                match self.round(&mut last).await {
                    Ok(true) => break,
                    Ok(false) => pause(TURN).await,
                    Err(error) => {
                        tracing::warn!(error = %report(&error), "cannot follow the events; trying again");
                        self.tidings.others.store(true, Ordering::Relaxed);
                        pause(AGAIN).await;
                    }
                }
            }
        }
    }

    /// One look; whether there is nothing left to look for.
    async fn round(&self, last: &mut i64) -> Result<bool> {
        let mut news = News::default();
        let others = self.tidings.others.swap(false, Ordering::Relaxed);
        // First: what has its turn between this look and the next is found by that one. With nothing new it is the only one.
        let rest = if others {
            let Level { band, ord } = self.tidings.low_water.level();
            sql(events::BEYOND_AND_READY).bind(*last).bind(band).bind(ord).fetch_one(&self.readers).await?
        } else {
            sql(events::BEYOND).bind(*last).fetch_one(&self.readers).await?
        };
        let rest = Columns::of(&rest);
        if rest.flag("next")? {
            for row in sql(events::AFTER).bind(*last).fetch_all(&self.readers).await? {
                news.events.push(events::event(&row)?);
            }
        }
        let full = news.events.len() == 500;
        if let Some(newest) = news.events.last() {
            *last = newest.seq;
        }
        if others {
            if rest.flag("ready")? {
                self.hear(&mut news).await?;
            }
            news.timer = rest.maybe_integer("timer")?;
        }
        if !news.events.is_empty() || news.ready > 0 || news.timer.is_some() {
            // Nobody may be listening; that is fine.
            let _ = self.news.send(Arc::new(news));
        }
        Ok(!full && rest.integer("beyond")? == 0)
    }

    /// What is ready now, whoever made it so.
    async fn hear(&self, news: &mut News) -> Result<()> {
        let ready = sql(
            "SELECT root_id FROM task WHERE state = 'READY' AND (band, ord) >= ($2, $3) ORDER BY band, ord, depth DESC, id LIMIT $1",
        );
        let Level { band, ord } = self.tidings.low_water.level();
        let rows = ready.bind(HEARD).bind(band).bind(ord).fetch_all(&self.readers).await?;
        news.ready = u32::try_from(rows.len()).unwrap_or(u32::MAX);
        let roots = rows.iter().map(|row| Ok(Columns::of(row).maybe_text("root_id")?.map(LeaseId::from_stored)));
        news.ready_roots = roots.filter_map(Result::transpose).collect::<Result<BTreeSet<_>>>()?;
        Ok(())
    }

    /// Tells others, at most so often, on a connection of its own and outside of every transaction that does work.
    async fn tell(&self) {
        loop {
            let words = match timeout(PULSE, self.tidings.to_tell.notified()).await {
                Ok(()) => self.tidings.telling(),
                Err(_) => format!("{} {ALIVE}", self.tidings.me),
            };
            let told = sql("SELECT pg_notify($1, $2)").bind(CHANNEL).bind(words);
            let told = self.aside.look(&told).await;
            if let Err(error) = told {
                tracing::warn!(error = %report(&error), "cannot tell other daemons; trying again");
                // How far is forgotten.
                self.tidings.committed(false, Some(Level::LOWEST));
                pause(AGAIN).await;
            }
            pause(TELLING).await;
        }
    }

    /// Listens to others; looks around whenever something may have been missed.
    async fn listen(&self) {
        loop {
            if let Err(error) = self.hear_out().await {
                tracing::warn!(error = %report(&error), "cannot listen to other daemons; trying again");
            }
            pause(AGAIN).await;
        }
    }

    async fn hear_out(&self) -> Result<(), sqlx::Error> {
        // A pool of its own: whoever leaves a silent connection leaves its place in the pool too.
        let options = self.aside.wires.connect_options().as_ref().clone();
        let own = PgPoolOptions::new().max_connections(1).acquire_timeout(AGAIN * 10).connect_lazy_with(options);
        let mut listener = PgListener::connect_with(&own).await?;
        listener.listen(CHANNEL).await?;
        self.tidings.look_around();
        loop {
            let Ok(told) = timeout(DEAF, listener.try_recv()).await else {
                tracing::warn!(
                    "nothing is heard of other daemons, not even of ourselves; listening on another connection"
                );
                self.tidings.look_around();
                return Ok(());
            };
            match told? {
                Some(told) => self.tidings.told(told.payload()),
                // The connection was lost and is there again.
                None => self.tidings.look_around(),
            }
        }
    }
}
