//! What is judged, and by what. Pure.

use crate::config::{Config, Role};
use plexus_bus::redis::Inspection;
use std::time::{Duration, SystemTime};

/// Files that a process has open beside its connections.
const FILES_BESIDE: u64 = 256;
/// Clocks that differ by more confuse whoever compares times of different machines.
const SKEW_MAX: Duration = Duration::from_secs(2);
/// Most seconds that an old primary may take to notice that it is cut off.
const LAG_MAX: u64 = 3;

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Ok,
    Warn,
    Fail,
    Skip,
}

impl Verdict {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Warn => "WARN",
            Self::Fail => "FAIL",
            Self::Skip => "SKIP",
        }
    }
}

/// What one check found.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Finding {
    pub(super) check: &'static str,
    pub(super) verdict: Verdict,
    pub(super) detail: String,
    /// What to do; empty where nothing is.
    pub(super) hint: &'static str,
}

impl Finding {
    fn new(check: &'static str, verdict: Verdict, detail: impl Into<String>, hint: &'static str) -> Self {
        Self { check, verdict, detail: detail.into(), hint }
    }

    pub(super) fn ok(check: &'static str, detail: impl Into<String>) -> Self {
        Self::new(check, Verdict::Ok, detail, "")
    }

    pub(super) fn warn(check: &'static str, detail: impl Into<String>, hint: &'static str) -> Self {
        Self::new(check, Verdict::Warn, detail, hint)
    }

    pub(super) fn fail(check: &'static str, detail: impl Into<String>, hint: &'static str) -> Self {
        Self::new(check, Verdict::Fail, detail, hint)
    }

    pub(super) fn skip(check: &'static str, detail: impl Into<String>) -> Self {
        Self::new(check, Verdict::Skip, detail, "")
    }
}

/// Whether every client and peer that the config allows can be connected. `None`: there is no limit.
pub(super) fn files(limit: Option<u64>, config: &Config, role: Role) -> Finding {
    let Some(limit) = limit else { return Finding::ok("files", "no limit") };
    let clients = if role.gateway() { config.gateway.limits.connections_max as u64 } else { 0 };
    // A few connections a node; nobody has as many as each may have.
    let peers = if role.worker() { 4 * config.worker.nodes_max as u64 } else { 0 };
    let wanted = clients + peers + FILES_BESIDE;
    if limit >= wanted {
        return Finding::ok("files", format!("{limit} may be open, {wanted} are wanted at most"));
    }
    Finding::warn(
        "files",
        format!("{limit} may be open, the config may want {wanted}"),
        "raise the limit (ulimit -n, LimitNOFILE), or lower gateway.limits.connections_max and worker.nodes_max",
    )
}

/// Whether the gateway's clock is ours, by the date of its answer.
pub(super) fn date(date: Option<&str>, now: SystemTime) -> Finding {
    let there = date.and_then(|date| httpdate::parse_http_date(date).ok());
    let Some(there) = there else { return Finding::skip("gateway.clock", "the answer has no date") };
    clock("gateway.clock", there, now, Duration::from_secs(1))
}

fn clock(check: &'static str, there: SystemTime, here: SystemTime, grain: Duration) -> Finding {
    let apart = there.duration_since(here).or_else(|_| here.duration_since(there)).unwrap_or_default();
    let told = format!("{:.1} s apart from ours", apart.as_secs_f64());
    if apart <= SKEW_MAX + grain {
        return Finding::ok(check, told);
    }
    Finding::warn(check, told, "leases and positions do not mind; times in logs, and tokens, do. Run NTP")
}

/// Whether Redis is set up as the bus needs it (the README says why).
pub(super) fn redis(seen: &Inspection, now: SystemTime) -> Vec<Finding> {
    let trip = seen.round_trip.as_secs_f64() * 1e3;
    let mut findings = vec![version(seen, trip)];
    if seen.cluster && !seen.as_cluster {
        findings.push(Finding::fail(
            "redis.cluster",
            "it is a Redis Cluster",
            "begin bus.url with redis-cluster://",
        ));
    }
    if !seen.primary {
        findings.push(Finding::fail(
            "redis.role",
            "it is a replica",
            "give bus.url the primary, or Sentinel's address",
        ));
    }
    findings.extend([eviction(seen), persistence(seen), replication(seen)]);
    findings.extend(seen.clock.map(|there| clock("redis.clock", there, now, Duration::ZERO)));
    findings
}

fn version(seen: &Inspection, trip: f64) -> Finding {
    let told = format!("{}, a round trip takes {trip:.1} ms", seen.version);
    let major = seen.version.split('.').next().and_then(|major| major.parse::<u32>().ok());
    match major {
        Some(7..) => Finding::ok("redis.version", told),
        _ => Finding::fail("redis.version", told, "7.0 or later is needed: functions, sharded channels"),
    }
}

/// A setting, or the finding that it cannot be read.
fn setting<'a>(seen: &'a Inspection, check: &'static str, name: &str) -> Result<&'a str, Finding> {
    let hidden = || {
        Finding::warn(check, format!("{name} cannot be read"), "allow CONFIG GET to look, or ask who runs it")
    };
    seen.settings.get(name).map(String::as_str).ok_or_else(hidden)
}

fn eviction(seen: &Inspection) -> Finding {
    const CHECK: &str = "redis.eviction";
    let policy = match setting(seen, CHECK, "maxmemory-policy") {
        Ok(policy) => policy,
        Err(hidden) => return hidden,
    };
    let told = format!("maxmemory-policy {policy}");
    let hint = "CONFIG SET maxmemory-policy noeviction: leases and logs must never be evicted";
    match seen.settings.get("maxmemory").map(String::as_str) {
        _ if policy == "noeviction" => Finding::ok(CHECK, told),
        Some("0") => Finding::warn(CHECK, format!("{told}, though nothing limits memory now"), hint),
        _ => Finding::fail(CHECK, told, hint),
    }
}

fn persistence(seen: &Inspection) -> Finding {
    const CHECK: &str = "redis.persistence";
    let (file, save) = match (setting(seen, CHECK, "appendonly"), setting(seen, CHECK, "save")) {
        (Ok(file), Ok(save)) => (file, save),
        (Err(hidden), _) | (_, Err(hidden)) => return hidden,
    };
    match (file, save) {
        ("yes", _) => Finding::ok(CHECK, "appendonly yes"),
        (_, "") => Finding::warn(
            CHECK,
            "nothing is kept over a restart of Redis: nodes, keys and logs go",
            "CONFIG SET appendonly yes",
        ),
        _ => Finding::warn(
            CHECK,
            format!("snapshots only (save {save}): a crash goes back minutes"),
            "CONFIG SET appendonly yes",
        ),
    }
}

fn replication(seen: &Inspection) -> Finding {
    const CHECK: &str = "redis.replication";
    if seen.replicas == 0 {
        let hint = "the level REPLICATED is refused, and nobody takes over from this server";
        return Finding::warn(CHECK, "no replica is connected", hint);
    }
    let read = |name| setting(seen, CHECK, name).map(|text| text.parse::<u64>().unwrap_or(0));
    let (least, lag) = match (read("min-replicas-to-write"), read("min-replicas-max-lag")) {
        (Ok(least), Ok(lag)) => (least, lag),
        (Err(hidden), _) | (_, Err(hidden)) => return hidden,
    };
    let told =
        format!("{} replicas, min-replicas-to-write {least}, min-replicas-max-lag {lag}", seen.replicas);
    if least >= 1 && (1..=LAG_MAX).contains(&lag) {
        return Finding::ok(CHECK, told);
    }
    let hint = "set them to 1 and 3: else an old primary that is cut off may keep a second owner alive";
    Finding::fail(CHECK, told, hint)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn seen(change: impl FnOnce(&mut Inspection)) -> Inspection {
        let settings = [
            ("maxmemory", "0"),
            ("maxmemory-policy", "noeviction"),
            ("appendonly", "yes"),
            ("save", ""),
            ("min-replicas-to-write", "1"),
            ("min-replicas-max-lag", "3"),
        ];
        let mut seen = Inspection {
            version: "7.0.15".into(),
            primary: true,
            cluster: false,
            as_cluster: false,
            replicas: 1,
            settings: HashMap::from(settings.map(|(k, v)| (k.to_owned(), v.to_owned()))),
            clock: Some(SystemTime::UNIX_EPOCH),
            round_trip: Duration::from_millis(1),
        };
        change(&mut seen);
        seen
    }

    fn set(seen: &mut Inspection, name: &str, value: &str) {
        seen.settings.insert(name.into(), value.into());
    }

    #[test]
    fn each_setting_that_a_promise_rests_on_is_judged() {
        type Change = fn(&mut Inspection);
        let rows: [(&str, Change, Verdict); 20] = [
            ("redis.version", |_| {}, Verdict::Ok),
            ("redis.version", |s| s.version = "6.2.14".into(), Verdict::Fail),
            ("redis.version", |s| s.version = "8.0.1".into(), Verdict::Ok),
            ("redis.version", |s| s.version = String::new(), Verdict::Fail),
            ("redis.cluster", |s| s.cluster = true, Verdict::Fail),
            ("redis.role", |s| s.primary = false, Verdict::Fail),
            ("redis.eviction", |s| set(s, "maxmemory-policy", "allkeys-lru"), Verdict::Warn),
            (
                "redis.eviction",
                |s| {
                    set(s, "maxmemory-policy", "volatile-ttl");
                    set(s, "maxmemory", "1000000");
                },
                Verdict::Fail,
            ),
            ("redis.eviction", |s| s.settings.clear(), Verdict::Warn),
            ("redis.persistence", |_| {}, Verdict::Ok),
            ("redis.persistence", |s| set(s, "appendonly", "no"), Verdict::Warn),
            (
                "redis.persistence",
                |s| {
                    set(s, "appendonly", "no");
                    set(s, "save", "3600 1");
                },
                Verdict::Warn,
            ),
            ("redis.replication", |_| {}, Verdict::Ok),
            ("redis.replication", |s| s.replicas = 0, Verdict::Warn),
            ("redis.replication", |s| set(s, "min-replicas-to-write", "0"), Verdict::Fail),
            ("redis.replication", |s| set(s, "min-replicas-max-lag", "10"), Verdict::Fail),
            ("redis.replication", |s| set(s, "min-replicas-max-lag", "0"), Verdict::Fail),
            ("redis.replication", |s| s.settings.clear(), Verdict::Warn),
            ("redis.clock", |_| {}, Verdict::Ok),
            (
                "redis.clock",
                |s| s.clock = Some(SystemTime::UNIX_EPOCH + Duration::from_secs(60)),
                Verdict::Warn,
            ),
        ];
        for (row, (check, change, wanted)) in rows.into_iter().enumerate() {
            let findings = redis(&seen(change), SystemTime::UNIX_EPOCH);
            let found =
                findings.iter().find(|f| f.check == check).unwrap_or_else(|| panic!("row {row}: {check}"));
            assert_eq!(found.verdict, wanted, "row {row}: {found:?}");
            assert_eq!(found.hint.is_empty(), wanted == Verdict::Ok, "row {row}: {found:?}");
        }
    }

    #[test]
    fn the_limit_of_files_must_hold_what_the_config_allows() {
        let config = Config::of(Role::Gateway);
        let verdict = |limit, role| files(limit, &config, role).verdict;
        assert_eq!(verdict(None, Role::Up), Verdict::Ok);
        assert_eq!(verdict(Some(1024), Role::Gateway), Verdict::Warn);
        assert_eq!(verdict(Some(1024), Role::Worker), Verdict::Warn);
        assert_eq!(verdict(Some(20_256), Role::Gateway), Verdict::Ok);
        assert_eq!(verdict(Some(20_256), Role::Up), Verdict::Warn);
    }

    #[test]
    fn a_gateway_s_clock_is_read_from_its_answer() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let text = "Thu, 01 Jan 1970 00:01:40 GMT";
        assert_eq!(date(Some(text), at(102)).verdict, Verdict::Ok);
        assert_eq!(date(Some(text), at(104)).verdict, Verdict::Warn);
        assert_eq!(date(Some(text), at(10)).verdict, Verdict::Warn);
        assert_eq!(date(Some("soon"), at(100)).verdict, Verdict::Skip);
        assert_eq!(date(None, at(100)).verdict, Verdict::Skip);
    }
}
