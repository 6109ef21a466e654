//! Waiting for replicas or the disk (P18), on a connection of its own to the same primary: what is written
//! there first comes after all that was appended before. Only one can wait on it at a time, so those that come
//! meanwhile wait together next: one mark and one WAIT answer for all of them.

use crate::{
    Era, Error, Refusal,
    redis::{
        link::Link,
        value::{self, Args},
    },
};
use bytes::Bytes;
use fred::types::Value;
use std::{collections::VecDeque, time::Duration};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;

/// Those that are taken for the rounds to come at most; the others wait in the bounded queue.
const GROUP: usize = 1024;

/// The handle: waits.
pub(in crate::redis) struct Waiting {
    asks: mpsc::Sender<Ask>,
}

/// The loop.
pub(super) struct Rounds {
    /// Where it waits.
    link: Link,
    /// Where appends go.
    commands: Link,
    asks: mpsc::Receiver<Ask>,
    /// Those for the rounds to come.
    queue: VecDeque<Ask>,
}

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::redis) struct Wanted {
    pub(in crate::redis) replicas: u32,
    pub(in crate::redis) disk: bool,
}

struct Ask {
    wanted: Wanted,
    /// A key of the server.
    key: Bytes,
    until: Instant,
    done: oneshot::Sender<Result<u32, Error>>,
}

impl Waiting {
    /// Waits; answers how many replicas have it.
    pub(in crate::redis) async fn wait(
        &self,
        wanted: Wanted,
        key: Bytes,
        limit: Duration,
    ) -> Result<u32, Error> {
        let until = Instant::now() + limit;
        let (done, answer) = oneshot::channel();
        self.asks.try_send(Ask { wanted, key, until, done }).map_err(|refused| match refused {
            mpsc::error::TrySendError::Full(_) => Error::Overloaded,
            mpsc::error::TrySendError::Closed(_) => Error::Closed,
        })?;
        // The server answers at its own limit, which is not later than that of the last who waits along.
        match timeout_at(until + GRACE, answer).await {
            Ok(answer) => answer.unwrap_or(Err(Error::Unreachable { sent: true })),
            Err(_) => Err(Error::Timeout),
        }
    }
}

/// Time for the answer itself.
const GRACE: Duration = Duration::from_secs(1);

/// Takes those that wait for the same as the first.
fn group(queue: &mut VecDeque<Ask>) -> Vec<Ask> {
    let Some(wanted) = queue.front().map(|ask| ask.wanted) else { return Vec::new() };
    let (mut mine, mut others) = (Vec::new(), VecDeque::with_capacity(queue.len()));
    for ask in queue.drain(..) {
        if ask.wanted == wanted { mine.push(ask) } else { others.push_back(ask) }
    }
    *queue = others;
    mine
}

impl Rounds {
    pub(super) fn new(link: Link, commands: Link, asks_max: usize) -> (Waiting, Self) {
        let (asks_tx, asks) = mpsc::channel(asks_max);
        (Waiting { asks: asks_tx }, Self { link, commands, asks, queue: VecDeque::new() })
    }

    pub(super) async fn run(mut self, stop: CancellationToken) {
        while self.next(&stop).await {
            while self.queue.len() < GROUP
                && let Ok(ask) = self.asks.try_recv()
            {
                self.queue.push_back(ask);
            }
            let mut mine = group(&mut self.queue);
            mine.retain(|ask| !ask.done.is_closed());
            let Some(first) = mine.first() else { continue };
            let last = mine.iter().map(|ask| ask.until).max().unwrap_or(first.until);
            let result = tokio::select! {
                () = stop.cancelled() => Err(Error::Closed),
                result = self.round(first, last) => result,
            };
            for ask in mine {
                let _ = ask.done.send(result.clone());
            }
        }
    }

    /// Waits until somebody wants something.
    async fn next(&mut self, stop: &CancellationToken) -> bool {
        if !self.queue.is_empty() {
            return !stop.is_cancelled();
        }
        tokio::select! {
            () = stop.cancelled() => false,
            ask = self.asks.recv() => ask.map(|ask| self.queue.push_back(ask)).is_some(),
        }
    }

    /// One mark and one wait, for all that were appended before.
    async fn round(&self, ask: &Ask, last: Instant) -> Result<u32, Error> {
        let Wanted { replicas, disk } = ask.wanted;
        let _turn = self.link.turn(last.saturating_duration_since(Instant::now())).await?;
        let mark = || Args::of("plx1_mark", ask.key.clone(), 0);
        let marked = value::text(self.link.call("FCALL", mark(), mark).await?)?;
        let era: Option<Era> = self.commands.era();
        if era.as_deref() != Some(&marked) {
            // The appends went to another primary, of which this one can say nothing.
            return Err(Error::Unreachable { sent: true });
        }
        let left = last.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        let millis = u64::try_from(left.as_millis()).unwrap_or(u64::MAX).max(1);
        if !disk {
            let args = Args::new(2).number(replicas.into()).number(millis);
            return count(self.link.wait("WAIT", args, left + GRACE).await?);
        }
        let args = Args::new(3).text("1").number(replicas.into()).number(millis);
        let answer = self.link.wait("WAITAOF", args, left + GRACE).await.map_err(|error| match error {
            Error::Unreadable(said) if said.contains("unknown command") => {
                Error::Unsupported("wait for the disk: that takes Redis 7.2")
            }
            Error::Unreadable(said) if said.contains("appendonly") => {
                Error::Unsupported("wait for the disk: appendonly is off")
            }
            Error::Refused(Refusal::NoPermission) => {
                Error::Unsupported("wait for the disk: this user may not")
            }
            other => other,
        })?;
        let [local, copies] = value::some(answer)?;
        if value::number(local)? == 0 { Err(Error::Timeout) } else { count(copies) }
    }
}

fn count(answer: Value) -> Result<u32, Error> {
    Ok(u32::try_from(value::number(answer)?).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn those_that_want_the_same_wait_together_and_the_others_next() {
        let ask = |replicas| {
            let (done, _answer) = oneshot::channel();
            let wanted = Wanted { replicas, disk: false };
            Ask { wanted, key: Bytes::new(), until: Instant::now(), done }
        };
        let mut queue: VecDeque<Ask> = [1, 2, 1, 1].map(ask).into();
        let told = |group: Vec<Ask>| group.iter().map(|ask| ask.wanted.replicas).collect::<Vec<_>>();
        assert_eq!(told(group(&mut queue)), [1, 1, 1]);
        assert_eq!(told(group(&mut queue)), [2]);
        assert!(group(&mut queue).is_empty());
    }
}
