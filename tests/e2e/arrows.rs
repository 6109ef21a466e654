//! The crate graph is exactly the one drawn in ARCHITECTURE.md, and the gateway has no libp2p, the
//! worker no axum, anywhere beneath them.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Command,
};

fn metadata() -> serde_json::Value {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    // Only this platform's part of the lock file is downloaded by a build.
    let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--locked", "--offline", "--filter-platform", &platform])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Names of the normal dependencies of every package.
fn graph() -> BTreeMap<String, BTreeSet<String>> {
    let data = metadata();
    let names: BTreeMap<&str, &str> = data["packages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| (p["id"].as_str().unwrap(), p["name"].as_str().unwrap()))
        .collect();
    let normal =
        |dep: &&serde_json::Value| dep["dep_kinds"].as_array().unwrap().iter().any(|k| k["kind"].is_null());
    data["resolve"]["nodes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|node| {
            let deps = node["deps"].as_array().unwrap().iter().filter(normal);
            let deps = deps.map(|d| names[d["pkg"].as_str().unwrap()].to_owned()).collect();
            (names[node["id"].as_str().unwrap()].to_owned(), deps)
        })
        .collect()
}

/// Everything beneath a package when it is built alone, with only the features that it asks for.
fn beneath(package: &str) -> BTreeSet<String> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let output = Command::new(cargo)
        .args([
            "tree",
            "--locked",
            "--offline",
            "-p",
            package,
            "-e",
            "normal",
            "--prefix",
            "none",
            "-f",
            "{p}",
        ])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
}

#[test]
fn the_crates_depend_on_each_other_only_as_drawn() {
    let graph = graph();
    let ours = |name: &str| -> Vec<&str> {
        graph[name].iter().map(String::as_str).filter(|d| d.starts_with("plexus")).collect()
    };
    assert_eq!(ours("plexus-proto"), [""; 0]);
    assert_eq!(ours("plexus-bus"), ["plexus-proto"]);
    assert_eq!(ours("plexus-gateway"), ["plexus-bus", "plexus-proto"]);
    assert_eq!(ours("plexus-worker"), ["plexus-bus", "plexus-proto"]);
    assert_eq!(ours("plexus"), ["plexus-bus", "plexus-gateway", "plexus-proto", "plexus-worker"]);
    assert_eq!(ours("plexus-tests"), ["plexus-bus", "plexus-gateway", "plexus-proto", "plexus-worker"]);
    // The runner starts processes with the harness of the tests, and the edge alone.
    assert_eq!(ours("plexus-bench"), ["plexus-bus", "plexus-gateway", "plexus-proto", "plexus-tests"]);
    // The simulator takes the cores as text.
    assert_eq!(ours("plexus-sim"), ["plexus-bus", "plexus-proto"]);
    for (name, deps) in graph.iter().filter(|(name, _)| *name != "plexus-bench") {
        let bad = deps.iter().find(|d| ["plexus-bench", "plexus-tests", "plexus"].contains(&d.as_str()));
        assert!(bad.is_none(), "{name} sees {bad:?}");
    }
}

#[test]
fn the_gateway_has_no_libp2p_and_the_worker_no_axum() {
    let gateway = beneath("plexus-gateway");
    assert!(!gateway.iter().any(|d| d.starts_with("libp2p")), "{gateway:?}");
    let worker = beneath("plexus-worker");
    assert!(!worker.iter().any(|d| d.starts_with("axum") || d == "tonic"), "{worker:?}");
    assert!(gateway.contains("axum") && worker.contains("libp2p"), "the check looks at the right packages");
}

#[test]
fn no_dialect_knows_a_capability() {
    let pool = prost_reflect::DescriptorPool::decode(plexus_proto::DESCRIPTOR).unwrap();
    let mut words: BTreeSet<String> = BTreeSet::new();
    for service in pool.services().filter(|s| s.full_name().starts_with("plexus.v1")) {
        words.insert(service.name().to_owned());
        // Connect is a dialect, and a session has pings of its own.
        let own = ["Connect", "Ping"];
        words.extend(service.methods().map(|m| m.name().to_owned()).filter(|n| !own.contains(&n.as_str())));
    }
    let edge = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../gateway/src/edge");
    let mut todo = vec![edge];
    let mut files = 0;
    while let Some(path) = todo.pop() {
        for entry in std::fs::read_dir(path).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                todo.push(path);
                continue;
            }
            files += 1;
            let text = std::fs::read_to_string(&path).unwrap();
            // What a file's own tests send is no knowledge of the dialect.
            let text = text.split("#[cfg(test)]").next().unwrap();
            for token in text.split(|c: char| !c.is_alphanumeric() && c != '_') {
                assert!(!words.contains(token), "{} names {token}", path.display());
            }
        }
    }
    assert!(files > 8, "the check looks at the right folder");
}
