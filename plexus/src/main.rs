//! `plexus`: role → config → telemetry → bus → sides → drain; or a client of a gateway.

mod admin;
mod cli;
mod client;
mod config;
mod doctor;
mod key;
mod serve;
mod telemetry;

use std::process::ExitCode;

// Kademlia allocates much that it hardly uses; with this allocator a node with it is an eighth the size.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("plexus: no runtime: {error}");
            return ExitCode::from(cli::FAILED);
        }
    };
    let code = runtime.block_on(cli::run());
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    ExitCode::from(code)
}
