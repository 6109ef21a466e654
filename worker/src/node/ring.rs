//! How much a node may keep to append again after a failover (protocol.md P15): its own bound, its share
//! of the worker's, and for how long.

use super::{Store, event_loop::EventLoop};
use crate::config;
use prometheus_client::metrics::gauge::Gauge;
use std::time::Duration;

/// A node's share of what all nodes of the worker may keep. What it noted is taken back when it is
/// dropped.
#[derive(Debug)]
pub(super) struct Share {
    /// What all keep.
    total: Gauge,
    /// What all may keep.
    total_max: usize,
    /// What this one noted.
    own: usize,
}

impl Share {
    pub(super) fn new(total: Gauge, total_max: usize) -> Self {
        Self { total, total_max, own: 0 }
    }

    /// Notes what the node keeps, and answers what it may keep. Where all together keep too much, whoever
    /// asks next gives back a part of its own, an eighth at least, until there is room.
    pub(super) fn weigh(&mut self, own: usize, own_max: usize) -> usize {
        if own != self.own {
            self.total.inc_by(signed(own) - signed(self.own));
            self.own = own;
        }
        let total = usize::try_from(self.total.get()).unwrap_or(0);
        if total <= self.total_max {
            return own_max;
        }
        let aim = self.total_max - self.total_max / 8;
        let part = own as u128 * aim as u128 / total as u128;
        usize::try_from(part).unwrap_or(usize::MAX).min(own_max)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.total.dec_by(signed(self.own));
    }
}

fn signed(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// How long entries are kept. Without a replica there is nothing to be promoted; what a restart may
/// lose is the last second.
pub(super) fn age_max(store: Option<&Store>, config: &config::Node) -> Duration {
    match store {
        Some(store) if !store.replicated => config.ring_age_alone_max.min(config.ring_age_max),
        _ => config.ring_age_max,
    }
}

impl EventLoop {
    /// Tells the log how much it may keep.
    pub(super) fn remember(&mut self) {
        let bytes = self.share.weigh(self.log.ring_bytes(), self.config.node.ring_bytes_max);
        self.log.remember(bytes, self.ring_age_max);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_nodes_of_a_worker_together_keep_no_more_than_its_bound() {
        let total = Gauge::default();
        let mut shares: Vec<_> = (0..10).map(|_| Share::new(total.clone(), 1000)).collect();
        for share in &mut shares {
            assert_eq!(share.weigh(100, 400), 400, "there is room");
        }
        assert_eq!(shares[0].weigh(300, 400), 218, "1200 of 1000");
        let mut kept = [300, 100, 100, 100, 100, 100, 100, 100, 100, 100];
        for (own, share) in kept.iter_mut().zip(&mut shares) {
            *own = (*own).min(share.weigh(*own, 400));
            share.weigh(*own, 400);
        }
        assert!(total.get() <= 1000, "{total:?}");
        assert!(kept.iter().all(|own| *own > 0), "nobody pays for all: {kept:?}");
        shares.truncate(1);
        assert_eq!(usize::try_from(total.get()), Ok(kept[0]), "who goes gives back");
        assert_eq!(shares[0].weigh(999, 400), 400, "its own bound holds as well");
    }

    #[test]
    fn without_replicas_little_is_kept() {
        let config = config::Node::default();
        let store = |replicated| Store { era: "e".into(), replicated };
        assert_eq!(age_max(Some(&store(false)), &config), Duration::from_secs(2));
        assert_eq!(age_max(Some(&store(true)), &config), Duration::from_secs(30));
        assert_eq!(age_max(None, &config), Duration::from_secs(30), "nobody knows yet");
        let short = config::Node { ring_age_max: Duration::from_secs(1), ..config };
        assert_eq!(age_max(Some(&store(false)), &short), Duration::from_secs(1));
    }
}
