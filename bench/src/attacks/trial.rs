//! One group of attacks: the honest alone for a moment, the attacks on the other gateway, the attacks on
//! theirs, and what is left a moment later.

use super::{
    field::{self, Field},
    groups::Group,
    honest::{Honest, Window},
};
use crate::proc::{self, rss};
use anyhow::Result;
use futures::future::try_join_all;
use plexus_tests::attacks::{Attack, Target, Toll};
use std::{fmt, time::Duration, time::Instant};
use tokio::time::{sleep, timeout};

/// How much the p99 of others may grow.
const RATIO_MAX: f64 = 1.25;

/// By how many bytes the memory may grow, and by how many more for each connection that is held.
const GROWTH_MAX: (i64, i64) = (20_000_000, 50_000);

/// By how many bytes it may grow in the second half.
const SLOPE_MAX: i64 = 10_000_000;

/// Rest before, between and after.
const REST: Duration = Duration::from_secs(2);

/// Time between two looks at the memory.
const LOOK: Duration = Duration::from_millis(500);

/// What became of a group.
pub(super) struct Trial {
    /// The attacks and their tolls.
    pub(super) attacks: Vec<(Attack, Toll)>,
    /// What the honest noticed while the other gateway was attacked.
    pub(super) control: Window,
    /// What they noticed while theirs was.
    pub(super) under: Window,
    /// By how many bytes the memory had grown at most, and how much of that in the second half.
    pub(super) growth: (i64, i64),
    /// CPU time of the gateway per second, in milliseconds.
    pub(super) cpu: f64,
    /// The attackers' connections that the gateway had shortly before their end, and shortly after.
    pub(super) left: (u64, u64),
}

/// Runs a group.
pub(super) async fn run(field: &Field, honest: &mut Honest, group: Group, during: Duration) -> Result<Trial> {
    attack(group, field.target(true), during / 4, honest).await?;
    let control = honest.take()?;
    sleep(REST).await;
    let pid = field.gateway.pid();
    let (before, own, watch) = (rss(pid)?, field.connections().await?, proc::Watch::begin(&[pid])?);
    honest.take()?;
    let raid = attack_all(group, field.target(false), during);
    let mut raid = std::pin::pin!(raid);
    let (began, mut most, mut last) = (Instant::now(), [before; 2], own);
    let tolls = loop {
        if let Ok(tolls) = timeout(LOOK, &mut raid).await {
            break tolls?;
        }
        let half = usize::from(began.elapsed() > during / 2);
        most[half] = most[half].max(rss(pid)?);
        if began.elapsed() < during {
            last = field.connections().await?;
        }
    };
    let (elapsed, used) = watch.end()?;
    let under = honest.take()?;
    sleep(REST).await;
    let after = field.connections().await?;
    // The gauge counts the honest too.
    let left = (last.saturating_sub(own), after.saturating_sub(own));
    let grown = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX) - i64::try_from(before).unwrap_or(0);
    let growth = (grown(most[0].max(most[1])), grown(most[1]) - grown(most[0]));
    let cpu = used[0].as_secs_f64() * 1e3 / elapsed.as_secs_f64();
    Ok(Trial { attacks: group.into_iter().zip(tolls).collect(), control, under, growth, cpu, left })
}

/// Attacks the other gateway; only what happens meanwhile counts.
async fn attack(group: Group, target: Target, during: Duration, honest: &mut Honest) -> Result<()> {
    sleep(REST).await;
    honest.take()?;
    attack_all(group, target, during).await.map(drop)
}

async fn attack_all(group: Group, target: Target, during: Duration) -> Result<Vec<Toll>> {
    try_join_all(group.map(|attack| field::attack(attack, target, during))).await
}

impl Trial {
    /// By how much the p99 grew: of calls, and of deliveries.
    pub(super) fn ratios(&self) -> (f64, f64) {
        let (control, under) = (&self.control, &self.under);
        (under.call.1 / control.call.1, under.delivery.1 / control.delivery.1)
    }

    /// Connections at once.
    fn held(&self) -> i64 {
        self.attacks.iter().map(|(attack, _)| i64::try_from(attack.connections).unwrap_or(i64::MAX)).sum()
    }

    /// Whether all went as promised.
    pub(super) fn is_kept(&self) -> bool {
        let (call, delivery) = self.ratios();
        let ended = |(attack, toll): &(Attack, Toll)| !attack.ends || toll.cut > 0;
        call <= RATIO_MAX
            && delivery <= RATIO_MAX
            && self.growth.0 <= GROWTH_MAX.0 + self.held() * GROWTH_MAX.1
            && self.growth.1 <= SLOPE_MAX
            && self.under.failures == 0
            && self.attacks.iter().all(ended)
    }
}

impl fmt::Display for Trial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (attack, toll) in &self.attacks {
            writeln!(f, "{}: {toll:?}", attack.name)?;
        }
        let (call, delivery) = self.ratios();
        writeln!(f, "  elsewhere: {}\n  here:      {}", self.control, self.under)?;
        write!(
            f,
            "  p99 × {call:.2} and × {delivery:.2}; memory +{:.1} MB, {:+.1} MB in the second half; \
             CPU {:.0} ms a second; connections left {} then {}",
            self.growth.0 as f64 / 1e6,
            self.growth.1 as f64 / 1e6,
            self.cpu,
            self.left.0,
            self.left.1
        )
    }
}
