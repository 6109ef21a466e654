//! stub
use crate::config::{Config, Role};
pub(crate) async fn run(role: Role, config: Config) -> anyhow::Result<()> {
    config.check(role)?;
    let t = crate::telemetry::Telemetry::start(&config, role)?;
    t.flush();
    Ok(())
}
