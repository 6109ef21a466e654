//! Owns what vouches for credentials, and keeps it true: it looks at the files from time to time, asks the
//! issuer now and then, and reads the store when the bus hints at a change. What cannot be had or used is
//! told once and changes nothing: what was known still holds.

use super::{
    issuer::Source,
    proof::{Proof, Store},
    token::Tokens,
};
use crate::{
    config, key,
    metrics::{BySource, Metrics, Reload, Secrets},
    vault::{self, Kept},
};
use plexus_bus::{Bus, Error, Event, Subject, Subscription};
use sha2::{Digest, Sha256};
use std::{
    collections::HashMap,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, Interval, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;

/// Time between looks at what is due; changes in quick succession are read together.
const TICK: Duration = Duration::from_millis(200);
/// Time between looks at the store where nothing hints at a change, for hints may be lost.
const LOOK: Duration = Duration::from_secs(10);
/// How long a start waits for the first looks.
const SOON: Duration = Duration::from_secs(3);
/// Time until what failed is tried again.
const AGAIN: Duration = Duration::from_secs(2);
/// Time between two requests to the issuer for keys that it did not have.
const UNKNOWN: Duration = Duration::from_secs(60);

/// Uses of API keys that are written down one after the other, and the pause before the next ones.
const WRITES_MAX: usize = 256;
const WRITE_PAUSE: Duration = Duration::from_secs(1);

/// The loop.
pub(crate) struct EventLoop {
    /// Where the files are, and how often to look.
    config: config::Auth,
    /// Where keys and revocations are kept; without it there are none.
    bus: Option<Bus>,
    /// Where the issuer's keys are, if there is one.
    source: Option<Source>,
    /// What vouches now.
    current: watch::Sender<Arc<Proof>>,
    /// Somebody showed a token of a key that is not known.
    unknown: mpsc::Receiver<()>,
    /// The same channel's other end, for the next keys.
    ask: mpsc::Sender<()>,
    /// API keys that were used, by their ids.
    uses: mpsc::Receiver<String>,
    /// Those whose use is not written down yet: one of each, `auth.keys_max` at most.
    used: HashMap<String, SystemTime>,
    /// Whether uses are being written, and when the next ones may be.
    writing: bool,
    write_after: Instant,
    /// Changes of the store, once they are listened to.
    hints: Option<Subscription>,
    file: Look,
    issuer: Look,
    store: Look,
    /// When the issuer may be asked because of an unknown key again.
    unknown_after: Instant,
    /// The looks under way, one of a kind at most.
    work: JoinSet<Done>,
    clock: Interval,
    metrics: Metrics,
}

/// Looks of one kind.
struct Look {
    kind: Secrets,
    due: Instant,
    busy: bool,
    /// What was seen last, by its digest.
    seen: Option<[u8; 32]>,
    /// Whether the last one failed, so that it is told once.
    failed: bool,
}

enum Done {
    File(Result<Vec<u8>, String>),
    Issuer(Result<Vec<u8>, String>),
    Store(Result<(Option<Subscription>, Kept), Error>),
    Written(Result<(), Error>),
}

enum Input {
    Tick(Instant),
    /// The store changed, or may have.
    Hint,
    Unknown,
    Used(String),
    Done(Done),
}

impl EventLoop {
    pub(super) fn new(
        config: config::Auth,
        bus: Option<Bus>,
        source: Option<Source>,
        current: watch::Sender<Arc<Proof>>,
        ((ask, unknown), uses): (super::Channel, mpsc::Receiver<String>),
        metrics: Metrics,
    ) -> Self {
        let mut clock = tokio::time::interval(TICK);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let look = |kind| Look { kind, due: Instant::now(), busy: false, seen: None, failed: false };
        Self {
            config,
            bus,
            source,
            current,
            unknown,
            ask,
            uses,
            used: HashMap::new(),
            writing: false,
            write_after: Instant::now(),
            hints: None,
            file: look(Secrets::KeysFile),
            issuer: look(Secrets::Issuer),
            store: look(Secrets::Store),
            unknown_after: Instant::now(),
            work: JoinSet::new(),
            clock,
            metrics,
        }
    }

    /// Looks at everything once, before anybody is let in. What cannot be had soon is looked for later.
    pub(crate) async fn begin(&mut self) {
        self.look(Instant::now());
        let soon = Instant::now() + SOON;
        while let Ok(Some(done)) = tokio::time::timeout_at(soon, self.work.join_next()).await {
            self.apply(Input::Done(done.expect("a look does not panic")));
        }
    }

    /// Looks until `stop`.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        while let Some(input) = self.next(&stop).await {
            self.apply(input);
        }
        self.work.shutdown().await;
    }

    async fn next(&mut self, stop: &CancellationToken) -> Option<Input> {
        tokio::select! {
            () = stop.cancelled() => None,
            now = self.clock.tick() => Some(Input::Tick(now)),
            Some(done) = self.work.join_next() => Some(Input::Done(done.expect("a look does not panic"))),
            Some(()) = self.unknown.recv() => Some(Input::Unknown),
            Some(id) = self.uses.recv() => Some(Input::Used(id)),
            () = hint(&mut self.hints) => Some(Input::Hint),
        }
    }

    fn apply(&mut self, input: Input) {
        let now = Instant::now();
        match input {
            Input::Tick(now) => {
                self.look(now);
                self.write(now);
            }
            Input::Hint => self.store.due = now,
            Input::Unknown if now >= self.unknown_after => {
                self.unknown_after = now + UNKNOWN;
                self.issuer.due = now;
                self.look(now);
            }
            Input::Unknown => {}
            Input::Used(id) => {
                if self.used.len() < self.config.keys_max {
                    self.used.insert(id, SystemTime::now());
                }
            }
            Input::Done(Done::Written(written)) => {
                self.writing = false;
                if let Err(error) = written {
                    tracing::debug!(%error, "uses of API keys were not written down");
                }
            }
            Input::Done(Done::File(read)) => {
                let wait = self.config.reload_interval;
                let seen = self.file.saw(read, now + wait, now + wait);
                if let Some(text) = seen {
                    let keys = key::Keys::parse(&text).map_err(|e| format!("auth.keys: {e}"));
                    let taken = keys.map(|keys| self.take(|proof| proof.file = Arc::new(keys)));
                    self.file.told(taken, &self.metrics);
                }
            }
            Input::Done(Done::Issuer(read)) => self.heard(read, now),
            Input::Done(Done::Store(Ok((hints, kept)))) => {
                (self.store.busy, self.store.failed) = (false, false);
                self.hints = hints.or(self.hints.take());
                self.keep(kept);
            }
            Input::Done(Done::Store(Err(error))) => {
                (self.store.busy, self.store.due) = (false, now + AGAIN);
                self.store.failed(&error.to_string());
            }
        }
    }

    /// Begins the looks that are due.
    fn look(&mut self, now: Instant) {
        if !self.config.keys.is_empty() && self.file.begins(now) {
            let path = PathBuf::from(&self.config.keys);
            let read =
                move || std::fs::read(&path).map_err(|e| format!("auth.keys: {}: {e}", path.display()));
            self.work.spawn_blocking(move || Done::File(read()));
        }
        if let Some(source) = self.source.clone()
            && self.issuer.begins(now)
        {
            self.work.spawn(async move { Done::Issuer(source.read().await) });
        }
        if let Some(bus) = self.bus.clone()
            && self.store.begins(now)
        {
            self.store.due = now + LOOK;
            let listens = self.hints.is_some();
            self.work.spawn(async move { Done::Store(read(&bus, listens).await) });
        }
    }

    /// Begins to write down which keys were used, so many at a time.
    fn write(&mut self, now: Instant) {
        let Some(bus) = self.bus.clone().filter(|_| !self.writing && now >= self.write_after) else { return };
        let ids: Vec<String> = self.used.keys().take(WRITES_MAX).cloned().collect();
        let used: Vec<_> = ids.iter().filter_map(|id| self.used.remove_entry(id)).collect();
        if used.is_empty() {
            return;
        }
        (self.writing, self.write_after) = (true, now + WRITE_PAUSE);
        self.work.spawn(async move {
            for (id, at) in used {
                if let Err(error) = vault::used(&bus, &id, minute(at)).await {
                    return Done::Written(Err(error));
                }
            }
            Done::Written(Ok(()))
        });
    }

    /// Takes the keys of the issuer, or goes on with those before.
    fn heard(&mut self, read: Result<Vec<u8>, String>, now: Instant) {
        let far = self.source.as_ref().is_some_and(Source::is_far);
        let wait = if far { self.config.jwt.refresh_interval } else { self.config.reload_interval };
        // An issuer that fails is spared, unless nobody can come in before it answers.
        let again = if self.issuer.seen.is_none() { AGAIN } else { AGAIN.max(wait / 20) };
        let Some(text) = self.issuer.saw(read, now + wait, now + again) else { return };
        let tokens = Tokens::read(&self.config.jwt, &text, far.then(|| self.ask.clone()));
        let taken = tokens.map_err(|e| format!("auth.jwt.keys: {e}"));
        let taken = taken.map(|tokens| self.take(|proof| proof.tokens = Some(Arc::new(tokens))));
        self.issuer.told(taken, &self.metrics);
    }

    fn keep(&mut self, mut kept: Kept) {
        for (name, len, most) in [
            ("auth.keys_max", kept.keys.len(), self.config.keys_max),
            ("auth.revocations_max", kept.revocations.len(), self.config.revocations_max),
        ] {
            if len > most {
                tracing::warn!(name, len, "the store holds more than this gateway may");
            }
        }
        // Keys beyond the bound let nobody in. Revocations count all the same: they must hold.
        kept.keys.truncate(self.config.keys_max);
        let store = Store::new(&kept);
        if self.current.borrow().store.as_deref() != Some(&store) {
            self.take(|proof| proof.store = Some(Arc::new(store)));
            self.store.told(Ok(()), &self.metrics);
        }
    }

    /// Changes what vouches; whoever is inside hears of it and is looked at again.
    fn take(&self, change: impl FnOnce(&mut Proof)) {
        self.current.send_modify(|proof| change(Arc::make_mut(proof)));
    }
}

impl Look {
    /// Tells whether to look now, and notes that somebody does.
    fn begins(&mut self, now: Instant) -> bool {
        let begins = !self.busy && now >= self.due;
        self.busy |= begins;
        begins
    }

    /// Notes the end of a look; gives what was seen if it is new.
    fn saw(&mut self, read: Result<Vec<u8>, String>, next: Instant, again: Instant) -> Option<Vec<u8>> {
        self.busy = false;
        match read {
            Ok(text) => {
                self.due = next;
                let digest = Sha256::digest(&text).into();
                let new = self.seen.replace(digest) != Some(digest);
                self.failed = false;
                new.then_some(text)
            }
            Err(error) => {
                self.due = again;
                self.failed(&error);
                None
            }
        }
    }

    fn failed(&mut self, error: &str) {
        if !std::mem::replace(&mut self.failed, true) {
            tracing::warn!(source = ?self.kind, error, "cannot be read, what was known still holds");
        }
    }

    fn told(&self, taken: Result<(), String>, metrics: &Metrics) {
        let outcome = if taken.is_ok() { Reload::Taken } else { Reload::Refused };
        metrics.credentials.get_or_create(&BySource { source: self.kind, outcome }).inc();
        match taken {
            Ok(()) => tracing::debug!(source = ?self.kind, "what vouches for credentials changed"),
            Err(error) => {
                tracing::warn!(source = ?self.kind, error, "cannot be used, what was known still holds");
            }
        }
    }
}

/// The minute of a time: nobody needs to know more of when a key was used.
fn minute(at: SystemTime) -> prost_types::Timestamp {
    let at = prost_types::Timestamp::from(at);
    prost_types::Timestamp { seconds: at.seconds - at.seconds.rem_euclid(60), nanos: 0 }
}

/// Listens before it reads, so that no change falls between.
async fn read(bus: &Bus, listens: bool) -> Result<(Option<Subscription>, Kept), Error> {
    let hints = if listens { None } else { Some(bus.subscribe(Subject::Keys).await?) };
    Ok((hints, vault::read(bus).await?))
}

/// Waits for a hint at a change of what is kept here.
async fn hint(hints: &mut Option<Subscription>) {
    while let Some(heard) = hints {
        match heard.recv().await {
            Some(Event::Frame(frame)) => {
                if frame.open::<String>().is_ok_and(|name| name.starts_with(vault::PREFIX)) {
                    return;
                }
            }
            Some(Event::Lagged(_) | Event::Restored) => return,
            // It is listened to again with the next look.
            None => *hints = None,
        }
    }
    std::future::pending().await
}
