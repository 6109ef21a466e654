//! The documents say what the code says: files and functions they name are there, tables equal what they
//! are tables of.

use plexus_proto::reason::{Again, REASONS, Row};
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// The documents, by path from the root.
fn documents() -> Vec<String> {
    let markdown = |folder: &str| {
        let names =
            fs::read_dir(root().join(folder)).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        names.filter(|n| n.ends_with(".md")).map(|n| format!("{folder}{n}")).collect::<Vec<_>>()
    };
    [markdown(""), markdown("docs/")].concat()
}

/// What stands between single backticks, outside of blocks of code.
fn quoted(text: &str) -> Vec<&str> {
    text.split("```").step_by(2).flat_map(|prose| prose.split('`').skip(1).step_by(2)).collect()
}

/// The cells of a table's row.
fn cells(line: &str) -> Vec<&str> {
    line.trim_matches('|').split(" | ").map(str::trim).collect()
}

#[test]
fn every_file_that_a_document_names_is_there() {
    let ends = [".rs", ".proto", ".lua", ".toml", ".sh", ".yml"];
    let mut named = 0;
    for document in documents() {
        let text = read(&document);
        let is_path = |name: &&str| {
            let plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
            name.contains('/') && name.chars().all(plain) && ends.iter().any(|end| name.ends_with(end))
        };
        for path in quoted(&text).into_iter().filter(is_path) {
            named += 1;
            assert!(root().join(path).exists(), "{document} names {path}");
        }
    }
    assert!(named > 40, "the check reads the documents");
}

#[test]
fn every_link_between_documents_leads_somewhere() {
    for document in documents() {
        let text = read(&document);
        let folder = root().join(&document).parent().unwrap().to_owned();
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let path = target.split('#').next().unwrap();
            let local = !path.is_empty() && !target.contains("://");
            assert!(!local || folder.join(path).exists(), "{document} links to {target}");
        }
    }
}

#[test]
fn one_publish_can_be_followed_by_file_and_function() {
    let text = read("ARCHITECTURE.md");
    let steps: Vec<_> = text
        .lines()
        .map(cells)
        .filter(|c| c.len() == 4 && c[0].parse::<u32>().is_ok())
        .map(|c| (c[1].trim_matches('`').to_owned(), c[2].trim_matches('`').to_owned()))
        .collect();
    assert!(steps.len() > 20, "the check reads the tables");
    for (file, function) in steps {
        let code = read(&file);
        let begins = |word: &str| {
            let name = format!("{word} {function}");
            code.split(&name).skip(1).any(|rest| rest.starts_with(['(', '<']))
        };
        assert!(begins("fn") || begins("function"), "{file} has no function {function}");
    }
}

#[test]
fn every_loop_is_in_the_table_of_owners() {
    let text = read("ARCHITECTURE.md");
    let mut todo = ["gateway/src", "bus/src", "worker/src"].map(|p| root().join(p)).to_vec();
    let mut loops = 0;
    while let Some(folder) = todo.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                todo.push(path);
            } else if path.ends_with("event_loop.rs") {
                loops += 1;
                let path = path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
                assert!(text.contains(&format!("| `{path}` |")), "{path} is not in the table");
            }
        }
    }
    assert!(loops > 4, "the check looks at the right folders");
}

#[test]
fn the_table_of_errors_equals_the_code() {
    let code = |row: &Row| row.code.as_str().to_uppercase().replace("CANCELED", "CANCELLED");
    let close = |row: &Row| if row.close == 0 { String::new() } else { row.close.to_string() };
    let again = |row: &Row| match row.again {
        Again::Retry => "retry",
        Again::Reread => "reread",
        Again::Final => "final",
    };
    let wanted: Vec<_> = REASONS
        .iter()
        .map(|r| {
            format!(
                "| `{}` | {} | {} | {} | {} | {} |",
                r.name,
                code(r),
                r.http,
                close(r),
                again(r),
                r.meaning
            )
        })
        .collect();
    let text = read("docs/errors.md");
    let written: Vec<_> = text.lines().filter(|l| l.starts_with("| `")).collect();
    assert_eq!(written, wanted, "run `tools/contract-check proto --errors`");
}

#[test]
fn every_key_of_the_config_is_documented_with_its_default() {
    let text = read("docs/configuration.md");
    let (mut section, mut keys) = (String::new(), 0);
    for line in read("deploy/plexus.toml").lines() {
        if let Some(name) = line.strip_prefix('[') {
            section = format!("{}.", name.trim_end_matches(']'));
        } else if let Some((key, value)) = line.split_once(" = ") {
            keys += 1;
            let row = format!("| `{section}{key}` | `{value}` |");
            assert!(text.contains(&row), "docs/configuration.md lacks {row}");
        }
    }
    assert!(keys > 60, "the check reads the config");
}

#[test]
fn every_operation_is_documented() {
    let text = read("docs/api.md");
    let documented: BTreeSet<_> = text
        .lines()
        .filter_map(|l| l.strip_prefix("| `")?.split_once('`'))
        .filter(|(_, rest)| rest.contains("/v1/"))
        .map(|(name, _)| name.to_owned())
        .collect();
    let pool = prost_reflect::DescriptorPool::decode(plexus_proto::DESCRIPTOR).unwrap();
    let services = pool.services().filter(|s| s.full_name().starts_with("plexus.v1."));
    let alive: BTreeSet<_> =
        services.flat_map(|s| s.methods().map(|m| m.name().to_owned()).collect::<Vec<_>>()).collect();
    assert_eq!(documented, alive);
}

#[test]
fn every_operation_is_documented_with_its_path() {
    let text = read("docs/api.md");
    for rpc in crate::dialects::rpc::Rpc::all() {
        let name = rpc.name.split('/').next_back().unwrap();
        let row = text.lines().find(|l| l.starts_with(&format!("| `{name}`"))).unwrap();
        let main = format!("`{} {}`", rpc.rules[0].verb, rpc.rules[0].template);
        assert!(row.contains(&main), "docs/api.md: {name} has the path {main}");
        assert_eq!(row.contains('⇶'), rpc.streams, "docs/api.md: {name}");
    }
}

#[test]
fn every_frame_of_a_session_is_documented() {
    let text = read("docs/websocket.md");
    let pool = prost_reflect::DescriptorPool::decode(plexus_proto::DESCRIPTOR).unwrap();
    for field in pool.get_message_by_name("plexus.v1.SessionFrame").unwrap().fields() {
        assert!(
            text.contains(&format!("`{}`", field.json_name())),
            "docs/websocket.md lacks {}",
            field.name()
        );
    }
}

#[test]
fn every_rule_of_the_dial_guard_is_documented() {
    let text = read("docs/security.md");
    let code = read("worker/src/swarm/guard/rule.rs");
    let names: Vec<_> = code
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Self::")?.split_once(" => \"")?.1.strip_suffix("\","))
        .collect();
    assert!(names.len() > 20, "the check reads the rules");
    for name in names {
        assert!(text.contains(&format!("`{name}`")), "docs/security.md lacks the rule {name}");
    }
}

#[test]
fn every_dialect_says_how_it_writes_an_error() {
    let text = read("docs/errors.md");
    for heading in ["REST", "Connect", "gRPC, gRPC-Web", "WebSocket", "SSE, NDJSON"] {
        assert!(text.contains(&format!("**{heading}**")), "docs/errors.md shows no error of {heading}");
    }
}

#[test]
fn the_file_of_redis_users_has_the_documented_lines() {
    let lines: Vec<String> =
        plexus_tests::redis::users().iter().map(|words| format!("user {}", words[2..].join(" "))).collect();
    assert_eq!(lines.len(), 3);
    assert_eq!(read("deploy/redis-users.acl"), lines.join("\n") + "\n");
}

#[test]
fn a_key_of_redis_is_in_the_table_or_not() {
    // Each test over Redis ends with a look at all keys.
    for key in ["plx:{ns/a}:f", "plx:{ns/a}:l:x:y", "plx:{c}:p", "plx:{c}:q", "plx:{c}:v:name"] {
        assert!(plexus_tests::redis::is_named(key), "{key}");
    }
    for key in ["plx:{ns/a}:g", "plx:{ns/a}:c", "plx:{c}:pp", "plx:{c}", "other"] {
        assert!(!plexus_tests::redis::is_named(key), "{key}");
    }
}
