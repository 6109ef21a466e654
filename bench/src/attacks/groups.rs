//! Which attacks run next to each other: one of many idle connections beside one of few busy ones, so that
//! all can have their time. Each makes it harder for the other to be borne, never easier.

use super::find;
use anyhow::{Result, ensure};
use plexus_tests::attacks::Attack;

const GROUPS: [[&str; 2]; 13] = [
    ["silence", "pings"],
    ["slow-heads", "settings"],
    ["slow-bodies", "priorities"],
    ["slow-readers", "window-updates"],
    ["half-handshakes", "empty-data"],
    ["slow-streams", "continuations"],
    ["ws-crumbs", "ws-pings"],
    ["ws-slow-readers", "ws-huge"],
    ["rapid-reset", "ws-fragments"],
    ["made-you-reset", "endless-bodies"],
    ["header-bombs", "gzip-bombs"],
    ["large-heads", "grpc-gzip-bombs"],
    ["starved-windows", "too-many-streams"],
];

/// Attacks that run next to each other.
pub(super) type Group = [Attack; 2];

/// The groups with at least one of these attacks, or all.
pub(super) fn chosen(only: &[String]) -> Result<Vec<Group>> {
    let all = plexus_tests::attacks::all().map(|attack| attack.name);
    let forgotten: Vec<_> = all.filter(|name| !GROUPS.as_flattened().contains(name)).collect();
    ensure!(forgotten.is_empty(), "{forgotten:?} belong to no group");
    only.iter().try_for_each(|name| find(name).map(drop))?;
    let chosen = GROUPS
        .iter()
        .filter(|group| only.is_empty() || group.iter().any(|name| only.iter().any(|wanted| wanted == name)));
    chosen.map(|[one, other]| Ok([find(one)?, find(other)?])).collect()
}
