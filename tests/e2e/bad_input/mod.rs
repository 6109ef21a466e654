//! Bad input: each row of `rows.txt` in every dialect that can say it, with the error that it gets.
//!
//! - [`calls`] requests that can be said in every dialect, but mean nothing
//! - [`wire`] what is no request at all: text, heads, frames, bytes
//! - [`half`] what is never whole, and what lies about its length

mod calls;
pub(crate) mod half;
mod wire;

use serde_json::Value;
use std::time::Duration;

/// How long an end may take before the test gives up.
const PATIENCE: Duration = Duration::from_secs(30);

/// The rows of a section, cell by cell.
fn rows(section: &str) -> Vec<Vec<&'static str>> {
    let text = include_str!("rows.txt");
    let head = format!("\n[{section}]");
    let part = text.split_once(&head).unwrap_or_else(|| panic!("no section {section}")).1;
    let part = part.split_once('\n').unwrap().1.split("\n[").next().unwrap();
    let lines = part.lines().filter(|line| !line.trim().is_empty() && !line.starts_with("# "));
    lines.map(|line| line.split(" | ").map(str::trim).collect()).collect()
}

/// What a cell says: `-` is nothing.
fn cell(text: &str) -> Option<&str> {
    (text != "-").then_some(text)
}

/// Writes out `<9 times a>`.
fn long(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('<') {
        out.push_str(before);
        let times = after.split_once('>').and_then(|(inner, after)| {
            let (count, what) = inner.split_once(" times ")?;
            Some((what.repeat(count.parse().ok()?), after))
        });
        match times {
            Some((many, after)) => {
                out.push_str(&many);
                rest = after;
            }
            None => {
                out.push('<');
                rest = after;
            }
        }
    }
    out.push_str(rest);
    out
}

/// Writes out what stands for many in a request.
fn expand(value: Value) -> Value {
    let many = |text: &str| {
        let (count, what) = text.strip_prefix('<')?.strip_suffix('>')?.split_once(" of ")?;
        let digits = what.matches('#').count();
        let number = |n: usize| what.replace(&"#".repeat(digits), &format!("{n:0digits$}"));
        let one = |n| Value::String(if digits == 0 { what.to_owned() } else { number(n) });
        Some((0..count.parse().ok()?).map(one).collect::<Vec<_>>())
    };
    match value {
        Value::String(text) => Value::String(long(&text)),
        Value::Array(values) => match values.first().and_then(Value::as_str).and_then(many) {
            Some(many) => Value::Array(many),
            None => Value::Array(values.into_iter().map(expand).collect()),
        },
        Value::Object(fields) => fields.into_iter().map(|(k, v)| (long(&k), expand(v))).collect(),
        other => other,
    }
}

#[test]
fn there_are_enough_rows_and_each_is_there_once() {
    let sections = ["calls", "json", "http", "rpc", "raw", "frames", "bodies", "sockets"];
    let all: Vec<_> = sections.iter().flat_map(|s| rows(s).into_iter().map(move |r| (s, r))).collect();
    for (index, (section, row)) in all.iter().enumerate() {
        assert!(!all[..index].contains(&(section, row.clone())), "[{section}] {row:?} is there twice");
    }
    assert!(all.len() > 330, "{}", all.len());
}
