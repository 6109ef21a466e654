//! Owns the map. In a cluster it asks every server for its view again and again, and at once when somebody
//! was sent elsewhere; it looks at the files that let us in, and opens all anew where they changed. What
//! cannot be opened changes nothing: what is there goes on, and it is tried again.

use super::{Map, Opener, SLOTS, Shard, slots::Claims};
use crate::{
    Error,
    redis::{
        address::Place,
        fault,
        link::{self, Duty, Link},
        sources::Sources,
        value::{self, Args},
    },
};
use fred::{
    interfaces::ClientLike,
    types::{Value, config::Server},
};
use futures::future::join_all;
use std::{collections::BTreeSet, sync::Arc};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Interval, MissedTickBehavior, interval, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

/// The loop.
pub(in crate::redis) struct EventLoop {
    opener: Opener,
    place: Arc<Place>,
    /// What the place was made of.
    sources: Arc<Sources>,
    map: watch::Sender<Arc<Map>>,
    old: mpsc::Receiver<()>,
    /// Beat of the survey of a cluster.
    clock: Interval,
    /// Beat of the look at the files.
    files: Interval,
    surveying: bool,
    /// Somebody said that the map is old while it was asked for.
    again: bool,
    /// What was heard last.
    claims: Option<Claims>,
    opening: BTreeSet<Server>,
    reloading: bool,
    /// Whether the last change of the files could not be used.
    refused: bool,
    work: JoinSet<Done>,
}

enum Input {
    Tick,
    Files,
    Old,
    Done(Done),
}

enum Done {
    Surveyed {
        place: Arc<Place>,
        claims: Result<Claims, Error>,
    },
    Opened {
        place: Arc<Place>,
        server: Server,
        shard: Result<Arc<Shard>, Error>,
    },
    /// `None`: nothing changed.
    Read(Result<Option<Opened>, Error>),
}

/// All that was opened at a place.
struct Opened {
    sources: Arc<Sources>,
    place: Arc<Place>,
    claims: Option<Claims>,
    map: Arc<Map>,
}

/// Opens all there is.
async fn open(opener: Opener, known: Option<Arc<Sources>>) -> Result<Option<Opened>, Error> {
    let config = opener.config.clone();
    let read = tokio::task::spawn_blocking(move || Sources::read(&config)).await;
    let sources = read.map_err(|_| Error::Closed)??;
    if known.is_some_and(|known| *known == sources) {
        return Ok(None);
    }
    let place = Arc::new(sources.place()?);
    let claims = match place.seeds() {
        None => None,
        Some(_) => Some(survey(&opener, &place, Vec::new()).await?),
    };
    let servers = claims.as_ref().map(|claims| claims.owners().into_iter().collect());
    let shards = opener.all(&place, servers).await?;
    let map = Arc::new(arrange(shards, claims.as_ref(), None));
    Ok(Some(Opened { sources: Arc::new(sources), place, claims, map }))
}

/// Asks servers for their view: those that we are connected to, else those that the address names.
async fn survey(opener: &Opener, place: &Place, known: Vec<(Server, Link)>) -> Result<Claims, Error> {
    let args = || Args::new(1).text("NODES");
    let views = join_all(known.iter().map(|(server, link)| async move {
        let view = timeout(opener.config.probe_timeout, link.run("CLUSTER", args())).await;
        (server, view.unwrap_or(Err(Error::Timeout)))
    }));
    let (mut claims, mut heard, mut failed) = (Claims::new(), false, Error::Unreachable { sent: false });
    for (server, view) in views.await {
        match view.and_then(|view| claims.add(&value::text(view)?, server, place.tls)) {
            Ok(()) => heard = true,
            Err(error) => failed = error,
        }
    }
    for seed in place.seeds().unwrap_or_default() {
        if heard {
            break;
        }
        match ask(opener, place, seed).await.and_then(|view| claims.add(&view, seed, place.tls)) {
            Ok(()) => heard = true,
            Err(error) => failed = error,
        }
    }
    if heard { Ok(claims) } else { Err(failed) }
}

/// Asks one server over a connection of its own.
async fn ask(opener: &Opener, place: &Place, seed: &Server) -> Result<String, Error> {
    let client = link::build(place.client(Some(seed)), &opener.config, Duty::Commands)?;
    let driver = client.init().await.map_err(|fault| fault::connecting(&fault))?;
    let view = client.custom::<Value, _>(link::custom("CLUSTER"), Args::new(1).text("NODES").0).await;
    let _ = client.quit().await;
    driver.abort();
    value::text(view.map_err(|fault| fault::read(&fault))?)
}

/// Draws the map: every slot to who claims it, or to who had it until that one is there.
fn arrange(shards: Vec<Arc<Shard>>, claims: Option<&Claims>, before: Option<&Map>) -> Map {
    let Some(claims) = claims else { return Map { shards, slots: None } };
    let place = |wanted: &dyn Fn(&Shard) -> bool| {
        let at = shards.iter().position(|shard| wanted(shard))?;
        u16::try_from(at).ok()
    };
    let by_server = |server: &Server| place(&|shard: &Shard| shard.server.as_ref() == Some(server));
    let earlier = |slot: usize| {
        let before = before?;
        let at = (*before.slots.as_ref()?.get(slot)?)?;
        let id = before.shards.get(usize::from(at))?.id;
        place(&|shard: &Shard| shard.id == id)
    };
    let slots = (0..SLOTS).map(|slot| claims.owner(slot).and_then(by_server).or_else(|| earlier(slot)));
    Map { slots: Some(slots.collect()), shards }
}

fn same(one: &Map, other: &Map) -> bool {
    one.slots == other.slots && one.shards.iter().map(|s| s.id).eq(other.shards.iter().map(|s| s.id))
}

impl EventLoop {
    pub(super) async fn open(
        opener: Opener,
    ) -> Result<(watch::Receiver<Arc<Map>>, mpsc::Sender<()>, Self), Error> {
        let opened = open(opener.clone(), None).await?.expect("nothing was known before");
        let (map, map_rx) = watch::channel(opened.map);
        let (old_tx, old) = mpsc::channel(1);
        let beat = |period| {
            let mut beat = interval(period);
            beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
            beat
        };
        let this = Self {
            clock: beat(opener.config.probe_interval),
            files: beat(opener.config.reload_interval),
            opener,
            place: opened.place,
            sources: opened.sources,
            map,
            old,
            surveying: false,
            again: false,
            claims: opened.claims,
            opening: BTreeSet::new(),
            reloading: false,
            refused: false,
            work: JoinSet::new(),
        };
        Ok((map_rx, old_tx, this))
    }

    pub(in crate::redis) async fn run(mut self, stop: CancellationToken) {
        while let Some(input) = self.next(&stop).await {
            self.apply(input);
        }
        self.opener.metrics.up.set(0);
        self.work.shutdown().await;
    }

    async fn next(&mut self, stop: &CancellationToken) -> Option<Input> {
        tokio::select! {
            () = stop.cancelled() => None,
            Some(done) = self.work.join_next() => Some(Input::Done(done.expect("a survey does not panic"))),
            Some(()) = self.old.recv() => Some(Input::Old),
            _ = self.clock.tick() => Some(Input::Tick),
            _ = self.files.tick() => Some(Input::Files),
        }
    }

    fn apply(&mut self, input: Input) {
        match input {
            Input::Tick => {
                let up = self.map.borrow().shards.iter().all(|shard| shard.commands.is_up());
                self.opener.metrics.up.set(up.into());
                self.survey();
            }
            Input::Old => {
                self.again = self.surveying;
                self.survey();
            }
            Input::Files if !self.reloading => {
                self.reloading = true;
                let (opener, known) = (self.opener.clone(), self.sources.clone());
                self.work.spawn(async move { Done::Read(open(opener, Some(known)).await) });
            }
            Input::Files => {}
            Input::Done(Done::Surveyed { place, claims }) => self.surveyed(&place, claims),
            Input::Done(Done::Opened { place, server, shard }) => self.opened(&place, &server, shard),
            Input::Done(Done::Read(read)) => self.read(read),
        }
    }

    fn survey(&mut self) {
        if self.surveying || self.place.seeds().is_none() {
            return;
        }
        self.surveying = true;
        let (opener, place) = (self.opener.clone(), self.place.clone());
        let map = self.map.borrow().clone();
        let known =
            map.shards.iter().filter_map(|shard| Some((shard.server.clone()?, shard.commands.clone())));
        let known = known.collect();
        self.work.spawn(async move {
            let claims = survey(&opener, &place, known).await;
            Done::Surveyed { place, claims }
        });
    }

    fn surveyed(&mut self, place: &Arc<Place>, claims: Result<Claims, Error>) {
        self.surveying = false;
        if std::mem::take(&mut self.again) {
            self.survey();
        }
        match claims {
            Ok(claims) if Arc::ptr_eq(place, &self.place) => {
                self.claims = Some(claims);
                self.redraw(None);
            }
            Ok(_) => {}
            Err(error) => debug!(%error, "no server of the cluster tells where its slots are"),
        }
    }

    fn opened(&mut self, place: &Arc<Place>, server: &Server, shard: Result<Arc<Shard>, Error>) {
        if !Arc::ptr_eq(place, &self.place) {
            return;
        }
        self.opening.remove(server);
        match shard {
            Ok(shard) => {
                info!(%server, "a server of the cluster has slots; connected");
                self.redraw(Some(shard));
            }
            Err(error) => warn!(%server, %error, "a server of the cluster cannot be reached"),
        }
    }

    /// Draws the map again, opens who is missing in it, and lets go who has no slot.
    fn redraw(&mut self, new: Option<Arc<Shard>>) {
        let Some(claims) = &self.claims else { return };
        let owners = claims.owners();
        let before = self.map.borrow().clone();
        let kept = before.shards.iter().cloned().chain(new);
        let kept = kept.filter(|shard| shard.server.as_ref().is_some_and(|server| owners.contains(server)));
        let shards: Vec<Arc<Shard>> = kept.collect();
        for server in owners {
            let there = shards.iter().any(|shard| shard.server.as_ref() == Some(&server));
            if !there && self.opening.insert(server.clone()) {
                let (opener, place) = (self.opener.clone(), self.place.clone());
                self.work.spawn(async move {
                    let shard = opener.shard(&place, Some(server.clone())).await;
                    Done::Opened { place, server, shard }
                });
            }
        }
        let map = arrange(shards, Some(claims), Some(&before));
        if !same(&map, &before) {
            self.map.send_replace(Arc::new(map));
        }
    }

    /// Takes what was opened anew, since the files changed.
    fn read(&mut self, read: Result<Option<Opened>, Error>) {
        self.reloading = false;
        match read {
            Ok(None) => self.refused = false,
            Ok(Some(opened)) => {
                info!("the bus uses the changed address or credentials");
                self.opener.metrics.reloaded(true);
                self.refused = false;
                self.opening.clear();
                self.claims = opened.claims;
                self.place = opened.place;
                self.sources = opened.sources;
                self.map.send_replace(opened.map);
            }
            Err(error) => {
                // Told when it begins, not at every look.
                if !std::mem::replace(&mut self.refused, true) {
                    self.opener.metrics.reloaded(false);
                    warn!(%error, "the changed address or credentials of the bus cannot be used yet");
                }
            }
        }
    }
}
