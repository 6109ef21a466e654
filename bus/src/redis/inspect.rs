//! A look at the server, for whoever wants to know whether it is set up as the bus needs it. Read-only, over
//! a connection of its own; loads nothing. What the server does not tell us we do not guess.

use super::{
    fault,
    link::{self, Duty},
    sources::Sources,
    value::Args,
};
use crate::{Config, Error};
use fred::prelude::{Client, ClientLike};
use std::{
    collections::HashMap,
    time::{Duration, Instant, SystemTime},
};

/// What a Redis server says of itself.
#[derive(Debug, Clone)]
pub struct Inspection {
    /// Its version.
    pub version: String,
    /// Whether it is a primary.
    pub primary: bool,
    /// Whether it is part of a Redis Cluster.
    pub cluster: bool,
    /// Whether the address says so.
    pub as_cluster: bool,
    /// Replicas that are connected.
    pub replicas: u32,
    /// Settings by name: `maxmemory`, `maxmemory-policy`, `appendonly`, `save`, `min-replicas-to-write`,
    /// `min-replicas-max-lag`. One that it does not let us read is absent.
    pub settings: HashMap<String, String>,
    /// Its clock.
    pub clock: Option<SystemTime>,
    /// Time of one round trip.
    pub round_trip: Duration,
}

const SETTINGS: [&str; 6] =
    ["maxmemory", "maxmemory-policy", "appendonly", "save", "min-replicas-to-write", "min-replicas-max-lag"];

/// Looks at the server that the config names; of a cluster at the first that answers.
pub async fn inspect(config: &Config) -> Result<Inspection, Error> {
    let place = Sources::read(config)?.place()?;
    let seeds = place.seeds().map_or_else(|| vec![None], |seeds| seeds.iter().map(Some).collect());
    let mut seen = Err(Error::Unreachable { sent: false });
    for seed in seeds {
        let client = link::build(place.client(seed), config, Duty::Commands)?;
        match client.init().await {
            Err(fault) => seen = Err(fault::connecting(&fault)),
            Ok(driver) => {
                let looked = look(&client).await;
                seen = looked.map(|seen| Inspection { as_cluster: place.seeds().is_some(), ..seen });
                let _ = client.quit().await;
                driver.abort();
            }
        }
        if seen.is_ok() {
            break;
        }
    }
    seen
}

async fn look(client: &Client) -> Result<Inspection, Error> {
    let began = Instant::now();
    let _: String = ask(client, "PING", Args::new(0)).await?;
    let round_trip = began.elapsed();
    let info: String = ask(client, "INFO", Args::new(0)).await?;
    let field = |name: &str| {
        info.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
            .map(str::trim)
            .unwrap_or_default()
    };
    let mut settings = HashMap::new();
    for name in SETTINGS {
        // Often forbidden, and unknown to some servers; then it stays absent.
        let args = Args::new(2).text("GET").text(name);
        settings.extend(ask::<HashMap<String, String>>(client, "CONFIG", args).await.unwrap_or_default());
    }
    let time: Vec<String> = ask(client, "TIME", Args::new(0)).await.unwrap_or_default();
    let clock = match time.iter().map(|part| part.parse::<u64>()).collect::<Result<Vec<_>, _>>().as_deref() {
        Ok([seconds, micros]) => {
            Some(SystemTime::UNIX_EPOCH + Duration::from_secs(*seconds) + Duration::from_micros(*micros))
        }
        _ => None,
    };
    Ok(Inspection {
        version: field("redis_version").to_owned(),
        primary: field("role") == "master",
        cluster: field("cluster_enabled") == "1",
        as_cluster: false,
        replicas: field("connected_slaves").parse().unwrap_or(0),
        settings,
        clock,
        round_trip,
    })
}

async fn ask<T: fred::types::FromValue>(
    client: &Client,
    command: &'static str,
    args: Args,
) -> Result<T, Error> {
    client.custom(link::custom(command), args.0).await.map_err(|fault| fault::read(&fault))
}
