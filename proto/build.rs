//! Compiles the contract without protoc: messages, services, the descriptor set, and the table of
//! reasons, which is printed from the comments of `Error.Reason`.

use std::{env, error::Error, fmt::Write, fs, path::PathBuf};

const FILES: [&str; 8] = [
    "plexus/v1/common.proto",
    "plexus/v1/admin.proto",
    "plexus/v1/nodes.proto",
    "plexus/v1/peers.proto",
    "plexus/v1/presence.proto",
    "plexus/v1/session.proto",
    "plexus/v1/topics.proto",
    "plexus/bus/v1/envelope.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=plexus");
    println!("cargo:rerun-if-changed=google");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let mut compiler = protox::Compiler::new(["."])?;
    compiler.include_imports(true).include_source_info(true).open_files(FILES)?;
    // The compiler's own bytes: a detour over prost-types would drop the options of google.api.http.
    let encoded = compiler.encode_file_descriptor_set();
    fs::write(out.join("descriptor.bin"), encoded)?;
    let set = compiler.file_descriptor_set();
    let rpc = env::var_os("CARGO_FEATURE_RPC").is_some();
    tonic_prost_build::configure()
        .build_transport(false)
        .build_server(rpc)
        .build_client(rpc)
        .bytes(".")
        .compile_fds(set.clone())?;
    fs::write(out.join("reasons.rs"), reasons(&set)?)?;
    Ok(())
}

/// Prints one row per value of `plexus.v1.Error.Reason`, read from its comment:
/// `CODE, HTTP, [close N,] retry|reread|final. Meaning.`
fn reasons(set: &prost_types::FileDescriptorSet) -> Result<String, Box<dyn Error>> {
    let file = set.file.iter().find(|f| f.name() == FILES[0]).ok_or("common.proto is missing")?;
    let place = |name: &str| file.message_type.iter().position(|m| m.name() == name);
    let message = place("Error").ok_or("Error is missing")?;
    let values = &file.message_type[message].enum_type[0].value;
    let mut table = String::from("&[\n");
    for (i, value) in values.iter().enumerate() {
        let path = [4, message as i32, 4, 0, 2, i as i32];
        let comment = file
            .source_code_info
            .iter()
            .flat_map(|s| &s.location)
            .find(|l| l.path == path)
            .map(|l| l.leading_comments().split_whitespace().collect::<Vec<_>>().join(" "))
            .ok_or_else(|| format!("{} has no comment", value.name()))?;
        let (facts, meaning) = comment.split_once(". ").ok_or("a reason's comment has no sentence")?;
        let facts: Vec<&str> = facts.split(", ").collect();
        let close = facts.iter().find_map(|f| f.strip_prefix("close ")).unwrap_or("0");
        let again = facts.last().ok_or("a reason's comment has no facts")?;
        writeln!(
            table,
            "    Row {{ reason: Reason::{}, name: {:?}, code: Code::{}, http: {}, close: {close}, again: Again::{}, meaning: {meaning:?} }},",
            camel(value.name()),
            value.name(),
            camel(facts[0]),
            facts[1],
            camel(&again.to_uppercase()),
        )?;
    }
    table.push_str("]\n");
    Ok(table)
}

/// `NODE_NOT_FOUND` → `NodeNotFound`.
fn camel(name: &str) -> String {
    // prost strips the prefix that repeats the enum's name.
    let name = if name == "REASON_UNSPECIFIED" { "UNSPECIFIED" } else { name };
    name.split('_').map(|w| w[..1].to_owned() + &w[1..].to_lowercase()).collect()
}
