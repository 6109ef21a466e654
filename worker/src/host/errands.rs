//! Slow work of the host: every wait on the bus that the loop itself must not do. An errand owns
//! what it needs and comes back as [`Done`]; it holds no state and decides only what the record of
//! one node decides.

use super::{
    identity::Seal,
    lease::Renewal,
    placement::{self, Rule},
};
use bytes::Bytes;
use futures::future::join_all;
use libp2p::identity::Keypair;
use plexus_bus::{
    Bus, Claim, Error, Frame, Grant, Incarnation, Key, NodeName, Owned, Owner, Payload, Renewed, Subject,
    Subscription, Taken,
};
use plexus_proto::{
    bus::{NodeRecord, NodeState, SealedKey},
    placement::Seat,
    reason::Reason,
    text,
    v1::node_status::{LastError, State},
};
use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

/// Times the end of a burial is tried before the next owner has to finish it.
const STRIKES_MAX: u32 = 10;
/// Nodes that a drained worker gives away in a second where nobody says how many.
const DRAIN_RATE: u32 = 10;
const STRIKE_RETRY: Duration = Duration::from_millis(200);

/// What there is: nodes and workers.
pub(super) struct Directory {
    /// Who owns what.
    pub(super) owners: Vec<(NodeName, Owner)>,
    /// Who lives.
    pub(super) live: Vec<Incarnation>,
    /// What they say of themselves.
    pub(super) seats: Vec<Seat>,
    /// Whether this worker shall give its nodes away: so many a second.
    pub(super) drain: Option<u32>,
}

/// What came back.
pub(super) enum Done {
    Renewed {
        renewal: Renewal,
        answer: Result<Renewed, Error>,
    },
    Took {
        incarnation: Incarnation,
        nonce: u64,
        claims: Vec<Claim>,
        answer: Result<Taken, Error>,
    },
    Released {
        incarnation: Incarnation,
        nodes: Vec<(NodeName, u64)>,
        answer: Result<usize, Error>,
    },
    Forgot {
        incarnation: Incarnation,
        former: Incarnation,
        answer: Result<(), Error>,
    },
    Owned {
        incarnation: Incarnation,
        answer: Result<Owned, Error>,
    },
    Retired {
        incarnation: Incarnation,
    },
    Surveyed(Result<Directory, Error>),
    Lives(Result<Vec<Incarnation>, Error>),
    Read(Vec<(NodeName, Sight)>),
    Loaded {
        incarnation: Incarnation,
        node: NodeName,
        grant: Grant,
        load: Load,
    },
    Revision {
        node: NodeName,
        /// Its revision, and what it wishes.
        record: Option<(u64, Option<Rule>)>,
    },
    Found {
        node: NodeName,
        owner: Option<Owner>,
    },
    Subscribed(Box<Result<Feeds, Error>>),
    Created(Option<NodeName>),
    Shown,
    /// Nobody waits for it.
    Nothing,
}

/// What the record of a free node says.
pub(super) enum Sight {
    /// What it wishes; `None`: not to be run.
    Wish(Option<Rule>),
    /// The directory has no such node.
    Gone,
    /// It could not be read.
    Dark,
}

/// What has to be done with a node that was taken.
pub(super) enum Load {
    /// Run it.
    Start(Box<Loaded>),
    /// Give it back: it is stopped or quarantined, and its state says so.
    Leave,
    /// It is gone for good.
    Buried,
    /// Somebody else owns it.
    Fenced,
    /// The bus failed; try again.
    Retry(Error),
}

/// A node, ready to run.
pub(super) struct Loaded {
    pub(super) record: NodeRecord,
    pub(super) revision: u64,
    pub(super) state: NodeState,
    pub(super) key: Keypair,
}

/// What the host hears.
#[derive(Default)]
pub(super) struct Feeds {
    /// [`Subject::Ownership`].
    pub(super) ownership: Option<Subscription>,
    /// [`Subject::Records`].
    pub(super) records: Option<Subscription>,
    /// [`Subject::Anyone`].
    pub(super) anyone: Option<Subscription>,
}

/// Subscribes to all feeds.
pub(super) async fn subscribe(bus: Bus) -> Done {
    let feeds = async {
        Ok(Feeds {
            ownership: Some(bus.subscribe(Subject::Ownership).await?),
            records: Some(bus.subscribe(Subject::Records).await?),
            anyone: Some(bus.subscribe(Subject::Anyone).await?),
        })
    };
    Done::Subscribed(Box::new(feeds.await))
}

/// Reads who owns what, then who lives: an owner that is alive is then always among the living.
pub(super) async fn survey(bus: Bus, worker: String) -> Done {
    let read = async {
        let (owners, live) = (bus.owners().await?, bus.workers().await?);
        let seats = bus.workers_shown().await?.iter().filter_map(Seat::of).collect();
        let drain = bus.drain_ordered(&worker).await?.map(|order| match order.nodes_per_second {
            0 => DRAIN_RATE,
            rate => rate,
        });
        Ok(Directory { owners, live, seats, drain })
    };
    Done::Surveyed(read.await)
}

/// Ends the lease of a worker that owns nothing any more, and takes its card away.
pub(super) async fn retire(bus: Bus, incarnation: Incarnation) -> Done {
    for ended in [bus.hide_worker(placement::pod(&incarnation)).await, bus.retire(&incarnation).await] {
        if let Err(error) = ended {
            tracing::debug!(%error, "card or lease is left to its end");
        }
    }
    Done::Retired { incarnation }
}

/// Reads the records of free nodes.
pub(super) async fn read(bus: Bus, nodes: Vec<NodeName>) -> Done {
    let sights = nodes.into_iter().map(|node| {
        let bus = bus.clone();
        async move {
            let sight = sight(&bus, &node).await.unwrap_or(Sight::Dark);
            (node, sight)
        }
    });
    Done::Read(join_all(sights).await)
}

async fn sight(bus: &Bus, node: &NodeName) -> Result<Sight, Error> {
    let (record, state) = bus.get_state(node).await?;
    let Some(record) = record else {
        let listed = bus.owner(node).await?.is_some();
        return Ok(if listed { Sight::Wish(placement::rule(None, None)) } else { Sight::Gone });
    };
    let record = NodeRecord::from_bytes(record.data)?;
    let state = state.and_then(|bytes| NodeState::from_bytes(bytes).ok());
    Ok(Sight::Wish(placement::rule(Some(&record), state.as_ref())))
}

/// Gives back all that the record still says of a fenced incarnation, and ends it.
pub(super) async fn forget(bus: Bus, incarnation: Incarnation, former: Incarnation) -> Done {
    let answer = async {
        let owned = bus.owned(&former).await?;
        let nodes: Vec<_> = owned.nodes.into_iter().map(|(node, grant)| (node, grant.epoch)).collect();
        if !nodes.is_empty() {
            bus.release(&former, &nodes).await?;
        }
        bus.retire(&former).await
    };
    let answer = answer.await;
    Done::Forgot { incarnation, former, answer }
}

/// Reads the revision of a node's record, and what it wishes.
pub(super) async fn revision(bus: Bus, node: NodeName) -> Done {
    let value = bus.get(Key::Record(node.clone())).await;
    let record = value.ok().flatten().map(|value| {
        let record = NodeRecord::from_bytes(value.data).ok();
        (value.revision, record.and_then(|record| placement::rule(Some(&record), None)))
    });
    Done::Revision { node, record }
}

/// Promises a node to another worker.
pub(super) async fn promise(bus: Bus, node: NodeName, worker: String) -> Done {
    if let Err(error) = bus.expect(&worker, &node).await {
        tracing::debug!(%node, %error, "a promise was lost");
    }
    Done::Nothing
}

/// Looks up a node that was heard of for the first time.
pub(super) async fn find(bus: Bus, node: NodeName) -> Done {
    let owner = bus.owner(&node).await.ok().flatten();
    Done::Found { node, owner }
}

/// Reads a node that was taken, and does what its record says where that is not to run it.
pub(super) async fn load(hold: Hold, seal: Arc<Seal>) -> Done {
    let load = hold.load(&seal).await.unwrap_or_else(Load::Retry);
    Done::Loaded { incarnation: hold.worker, node: hold.node, grant: hold.grant, load }
}

/// Writes down that a node failed, and whether it was too often: then it is given back.
pub(super) async fn failed(hold: Hold, why: String, failures: u32, quarantined: bool) -> Done {
    let state = if quarantined { State::Quarantined } else { State::Starting };
    let load = hold.fail(state, Reason::Internal, why, failures).await.unwrap_or_else(Load::Retry);
    if !quarantined {
        return Done::Nothing;
    }
    Done::Loaded { incarnation: hold.worker, node: hold.node, grant: hold.grant, load }
}

/// A node under a grant.
pub(super) struct Hold {
    pub(super) bus: Bus,
    pub(super) worker: Incarnation,
    pub(super) node: NodeName,
    pub(super) grant: Grant,
}

impl Hold {
    async fn load(&self, seal: &Seal) -> Result<Load, Error> {
        let (record, state) = self.bus.get_state(&self.node).await?;
        let Some(value) = record else {
            tracing::warn!(node = %self.node, "a node is listed without a record; it is removed");
            return self.bury(&[]).await;
        };
        let record = NodeRecord::from_bytes(value.data)?;
        let state = state.map(NodeState::from_bytes).transpose()?.unwrap_or_default();
        if record.deleting {
            let peer = record.node.as_ref().and_then(|node| text::peer_id_from_text(&node.peer_id).ok());
            return self.bury(&peer.unwrap_or_default()).await;
        }
        if placement::quarantined(&record, Some(&state)) {
            return Ok(Load::Leave);
        }
        if placement::rule(Some(&record), Some(&state)).is_none() {
            return self.write(State::Stopped, &record, state).await;
        }
        let sealed = self.bus.get(Key::Sealed(self.node.clone())).await?;
        let opened = sealed
            .and_then(|value| SealedKey::from_bytes(value.data).ok())
            .map(|key| seal.open(&self.node, &key));
        match opened {
            Some(Ok(key)) => {
                Ok(Load::Start(Box::new(Loaded { record, revision: value.revision, state, key })))
            }
            Some(Err(error)) => self.unsealable(error.to_string(), state.failures).await,
            None => self.unsealable("the node has no readable key".into(), state.failures).await,
        }
    }

    /// Removes all that is kept of the node, then its entry in the directory, so that a burial that
    /// is broken off is found there and done again.
    async fn bury(&self, peer: &[u8]) -> Result<Load, Error> {
        if !self.bus.erase(&self.node, self.grant).await? {
            return Ok(Load::Fenced);
        }
        let mut strikes = 0;
        while let Err(error) = self.bus.strike(&self.worker, &self.node, self.grant.epoch, peer).await {
            strikes += 1;
            if strikes == STRIKES_MAX {
                return Err(error);
            }
            tokio::time::sleep(STRIKE_RETRY).await;
        }
        tracing::info!(node = %self.node, "node removed");
        self.hint().await;
        Ok(Load::Buried)
    }

    async fn unsealable(&self, why: String, failures: u32) -> Result<Load, Error> {
        self.fail(State::Quarantined, Reason::KeyUnsealable, why, failures).await
    }

    async fn fail(&self, to: State, reason: Reason, why: String, failures: u32) -> Result<Load, Error> {
        let (record, state) = self.bus.get_state(&self.node).await?;
        let record = record.map(|value| NodeRecord::from_bytes(value.data)).transpose()?.unwrap_or_default();
        let mut state = state.map(NodeState::from_bytes).transpose()?.unwrap_or_default();
        if to == State::Quarantined {
            tracing::error!(node = %self.node, reason = reason.as_str_name(), why, "node quarantined");
        }
        state.failures = failures;
        state.status.get_or_insert_default().last_error = Some(LastError {
            at: Some(SystemTime::now().into()),
            reason: reason.as_str_name().into(),
            message: why,
        });
        self.write(to, &record, state).await
    }

    async fn write(&self, to: State, record: &NodeRecord, mut state: NodeState) -> Result<Load, Error> {
        state.generation = record.generation;
        let status = state.status.get_or_insert_default();
        status.state = to as i32;
        status.worker.clear();
        status.addresses.clear();
        status.peers = None;
        status.observed_at = Some(SystemTime::now().into());
        let bytes: Bytes = state.to_bytes();
        let written = self.bus.put_state(&self.node, self.grant, bytes).await?;
        self.hint().await;
        Ok(if written { Load::Leave } else { Load::Fenced })
    }

    /// Tells watchers to look; a lost hint costs only time.
    async fn hint(&self) {
        let hint = Payload::of(self.node.to_string());
        if let Err(error) = self.bus.publish(Subject::Records, hint).await {
            tracing::debug!(%error, "a hint was lost");
        }
    }
}
