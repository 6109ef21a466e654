//! How answers are printed: JSON by descriptor, or a table for people.

use anyhow::Context;
use plexus_proto::v1;
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};
use std::{io::Write, sync::OnceLock, time::SystemTime};

/// Prints a message of `plexus.v1` as one line of JSON, fields in the order of the contract.
pub(crate) fn json(name: &str, message: &impl Message) -> anyhow::Result<()> {
    let mut line = Vec::new();
    dynamic(name, message)?
        .serialize_with_options(&mut serde_json::Serializer::new(&mut line), &options())?;
    line.push(b'\n');
    write(&line)
}

/// Prints one line of JSON.
pub(crate) fn line(value: &serde_json::Value) -> anyhow::Result<()> {
    write(format!("{value}\n").as_bytes())
}

/// A message of `plexus.v1` in the JSON of the API.
pub(crate) fn value(name: &str, message: &impl Message) -> anyhow::Result<serde_json::Value> {
    Ok(dynamic(name, message)?.serialize_with_options(serde_json::value::Serializer, &options())?)
}

fn options() -> SerializeOptions {
    SerializeOptions::new().skip_default_fields(true)
}

fn dynamic(name: &str, message: &impl Message) -> anyhow::Result<DynamicMessage> {
    static POOL: OnceLock<DescriptorPool> = OnceLock::new();
    let pool = POOL.get_or_init(|| {
        DescriptorPool::decode(plexus_proto::DESCRIPTOR).expect("the descriptor was written by our own build")
    });
    let descriptor = pool.get_message_by_name(&format!("plexus.v1.{name}")).context("no such message")?;
    Ok(DynamicMessage::decode(descriptor, message.encode_to_vec().as_slice())?)
}

/// Writes to standard output at once; a closed pipe ends the program quietly, as `head` expects.
pub(crate) fn write(bytes: &[u8]) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        result => Ok(result?),
    }
}

/// Prints rows under a heading, columns aligned.
pub(crate) fn table(heading: &[&str], rows: &[Vec<String>]) -> anyhow::Result<()> {
    let mut widths: Vec<usize> = heading.iter().map(|h| h.len()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    let heading: Vec<String> = heading.iter().map(|h| (*h).to_owned()).collect();
    for row in std::iter::once(&heading).chain(rows) {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}", width = *width)).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    write(text.as_bytes())
}

/// Prints names and values, one a line.
pub(crate) fn facts(facts: &[(&str, String)]) -> anyhow::Result<()> {
    let width = facts.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let lines: Vec<String> = facts
        .iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| format!("{name:<width$}  {value}\n"))
        .collect();
    write(lines.concat().as_bytes())
}

/// A time to the second; nothing where there is none.
pub(crate) fn date(time: Option<prost_types::Timestamp>) -> String {
    let time = time.and_then(|t| SystemTime::try_from(t).ok());
    time.map(|t| humantime::format_rfc3339_seconds(t).to_string()).unwrap_or_default()
}

/// A time in words: how long ago.
pub(crate) fn ago(time: Option<prost_types::Timestamp>) -> String {
    let Some(then) = time.and_then(|t| SystemTime::try_from(t).ok()) else { return String::new() };
    match SystemTime::now().duration_since(then) {
        Ok(age) => {
            format!("{} ago", humantime::format_duration(std::time::Duration::from_secs(age.as_secs())))
        }
        Err(_) => "now".into(),
    }
}

/// A duration in words.
pub(crate) fn span(duration: Option<&prost_types::Duration>) -> String {
    match duration.and_then(|d| std::time::Duration::try_from(*d).ok()) {
        Some(d) => format!("{:.3} ms", d.as_secs_f64() * 1e3),
        None => String::new(),
    }
}

/// The payload of a message for people: text where it is text, else base64url.
pub(crate) fn payload(message: &v1::Message) -> String {
    use v1::message::Payload;
    match &message.payload {
        Some(Payload::Text(text)) => printable(text),
        Some(Payload::Data(data)) => match std::str::from_utf8(data) {
            Ok(text) => printable(text),
            Err(_) => plexus_proto::text::bytes_to_text(data),
        },
        None => String::new(),
    }
}

/// Text without control characters, so that a peer cannot drive the terminal.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c }).collect()
}
