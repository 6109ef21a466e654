//! Compiles the services of the suites.

use std::{env, error::Error, fs, path::PathBuf};
use tonic_prost_build::Config;

const FILES: [&str; 3] = [
    "connectrpc/conformance/v1/service.proto",
    "connectrpc/conformance/v1/server_compat.proto",
    "grpc/testing/test.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_imports(true).open_files(FILES)?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("descriptor.bin"), compiler.encode_file_descriptor_set())?;
    let mut config = Config::new();
    config.enable_type_names().bytes(["."]);
    tonic_prost_build::configure()
        .build_transport(false)
        .build_client(false)
        .compile_fds_with_config(compiler.file_descriptor_set(), config)?;
    Ok(())
}
