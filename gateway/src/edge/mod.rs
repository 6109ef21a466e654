//! Words: one port, every dialect, the same services behind. No capability is named here: methods,
//! paths and fields come from the descriptor, so that a new one is alive on every dialect at once.
//!
//! - [`listener`] accepts connections, [`opening`] reads what comes before HTTP: a word of [`forwarders`],
//!   [`tls`]; [`connection`] makes HTTP of them, [`wire`] times them, [`crowd`] counts them, [`share`] their
//!   streams and sessions; [`age`] and [`drain`] end them
//! - [`auth`] says who asks; [`limits`], [`rate`] and [`guard`] hold requests to their bounds, [`flood`] what
//!   is none
//! - [`trunk`] is the one way into the [`services`], [`mod@reply`] what comes back; [`desc`] what they are,
//!   [`reflection`] tells it to clients
//! - [`native`] shared answers of gRPC; [`connect`] Connect and gRPC-Web, as [`intake`] hands them on;
//!   [`envelope`] what both come in; [`websocket`] sessions; [`sse`] streams as text
//! - [`rest`] paths: [`route`] finds the method; [`mod@bind`], [`body`] and [`convention`] fill its fields from
//!   path and query, body and headers; [`negotiate`] and [`compress`] choose the form of the answer
//! - [`json`] and [`problem`] what they write; [`openapi`], [`asyncapi`] and [`schema`] what they are,
//!   which [`mod@reference`] shows to readers

mod age;
mod app;
mod asyncapi;
mod auth;
mod bind;
mod body;
mod compress;
mod connect;
mod connection;
mod convention;
mod crowd;
pub(crate) mod desc;
pub(crate) mod drain;
mod envelope;
mod flood;
pub(crate) mod forwarders;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod guard;
mod intake;
pub(crate) mod json;
pub(crate) mod limits;
mod listener;
mod native;
mod negotiate;
mod openapi;
mod opening;
pub(crate) mod problem;
mod rate;
mod reference;
mod reflection;
mod reply;
mod rest;
mod route;
mod schema;
mod services;
mod share;
mod sse;
pub(crate) mod tls;
pub(crate) mod trunk;
mod websocket;
pub(crate) mod wire;

pub(crate) use auth::{check as check_auth, token::algorithm};
pub use connection::Peer;
pub use desc::Error;
pub use limits::Trailers;
pub use opening::ClientCertificate;
pub use services::Services;

use crate::{config::Config, metrics::Metrics, pulse::Beat, resume::Tokens};
use app::App;
use auth::Auth;
use desc::Registry;
use drain::Drain;
use forwarders::Forwarders;
use listener::{Doors, Listener};
use plexus_bus::Bus;
use rate::Rates;
use reflection::Reflection;
use std::{io, net::SocketAddr, sync::Arc, time::Duration};
use tls::Tls;
use tokio::{net::TcpListener, time::MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tonic_health::{ServingStatus, server::HealthReporter};
use trunk::Trunk;

/// Services that speak of the others and are served beside them.
const HEALTH: &str = "grpc.health.v1.Health";
const REFLECTION: [&str; 2] =
    ["grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"];

/// Tells whether everybody may call a service, whoever they are: probes and generic clients come without
/// credentials, and hear nothing but what is served and whether it works.
fn is_open(service: &str) -> bool {
    service == HEALTH || REFLECTION.contains(&service)
}

/// Time between two looks at whether the services can work.
const HEALTH_INTERVAL: Duration = Duration::from_secs(1);

/// The one port.
pub struct Edge {
    listener: Listener<App>,
    /// Looks after the certificate where there is one.
    certificates: Option<tls::EventLoop>,
    /// Keeps what vouches for credentials true where they are needed.
    vouching: Option<auth::EventLoop>,
    health: HealthReporter,
    services: Vec<String>,
    healthy: Arc<dyn Fn() -> bool + Send + Sync>,
}

/// What an edge puts on its port.
pub struct Served {
    /// The services.
    pub routes: Services,
    /// Their full names.
    pub services: Vec<&'static str>,
    /// Their methods that everybody may call, as `/package.Service/Method`.
    pub open: Vec<&'static str>,
    /// Where API keys and revocations are kept; without it only those of the file count.
    pub bus: Option<Bus>,
    /// Encoded `FileDescriptorSet`s that describe them, beside the contract's own.
    pub descriptors: Vec<&'static [u8]>,
    /// Whether they can do their work now; asked once a second.
    pub healthy: Arc<dyn Fn() -> bool + Send + Sync>,
    /// Whether sessions give frames back as they came: for suites of the WebSocket itself.
    pub echo: bool,
    /// Takes up the subscriptions of former sessions; by default none.
    pub tokens: Tokens,
}

impl Edge {
    /// Binds the port and puts every dialect in front of the services.
    pub async fn bind(config: &Config, served: Served, metrics: Metrics) -> Result<Self, crate::Error> {
        let forwarders = Arc::new(Forwarders::new(&config.forwarders)?);
        let (tls, certificates) = Tls::new(&config.tls, metrics.clone())?.unzip();
        let front = bind(&config.listen).await?;
        let secure = match &config.tls.listen {
            Some(listen) => Some(bind(listen).await?),
            None => None,
        };
        let is_local = |socket: &TcpListener| socket.local_addr().is_ok_and(|a| a.ip().is_loopback());
        let local = is_local(&front) && secure.as_ref().is_none_or(is_local);
        let doors = Doors::new(front, secure, forwarders.clone(), tls, config.tls.plaintext);
        let mut sets = vec![
            plexus_proto::DESCRIPTOR,
            tonic_health::pb::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
        ];
        sets.extend(&served.descriptors);
        let mut names = served.services;
        names.push(HEALTH);
        let (health, health_service) = tonic_health::server::health_reporter();
        let services: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
        names.extend(REFLECTION);
        let registry = Registry::new(&sets, &names, &served.open)?;
        let reflection = Reflection::new(&registry, &services);
        let routes = reflection.serve(served.routes.add_service(health_service));
        let drain = Drain::new(config.drain);
        let auth = Auth::new(config, local, served.bus, metrics.clone());
        let (auth, mut vouching) = auth.map_err(crate::Error::Config)?;
        if let Some(vouching) = &mut vouching {
            vouching.begin().await;
        }
        let rates = Rates::new(&config.rate, forwarders, metrics.clone());
        let (limits, counted) = (config.limits.clone(), metrics.clone());
        let known = (auth, served.tokens);
        let trunk = Trunk::new(routes, registry, known, limits, rates, drain.clone(), counted);
        let app = App::new(trunk, served.echo)?;
        let listener = Listener::new(doors, app, config.limits.clone(), drain, metrics);
        Ok(Self { listener, certificates, vouching, health, services, healthy: served.healthy })
    }

    /// Says where it listens.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Says where it listens for TLS alone; none where that is no port of its own.
    pub fn tls_addr(&self) -> io::Result<Option<SocketAddr>> {
        self.listener.tls_addr()
    }

    /// Turns of the accept loop.
    pub(crate) fn beat(&self) -> Beat {
        self.listener.beat()
    }

    /// Serves until `stop`, then drains: not serving, no new connections, streams end, calls finish.
    pub async fn run(self, stop: CancellationToken) {
        let Self { listener, certificates, vouching, health, services, healthy } = self;
        let serving = CancellationToken::new();
        let report = async {
            let mut clock = tokio::time::interval(HEALTH_INTERVAL);
            clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
            while stop.run_until_cancelled(clock.tick()).await.is_some() {
                let status = if healthy() { ServingStatus::Serving } else { ServingStatus::NotServing };
                tell(&health, &services, status).await;
            }
            tell(&health, &services, ServingStatus::NotServing).await;
            serving.cancel();
        };
        let renew = async {
            if let Some(certificates) = certificates {
                certificates.run(stop.clone()).await;
            }
        };
        // Credentials are looked after until the last call has ended.
        let drained = CancellationToken::new();
        let vouch = async {
            if let Some(vouching) = vouching {
                vouching.run(drained.clone()).await;
            }
        };
        let listen = async {
            listener.run(serving.clone()).await;
            drained.cancel();
        };
        tokio::join!(listen, report, renew, vouch);
    }
}

async fn bind(listen: &str) -> Result<TcpListener, crate::Error> {
    let bound = TcpListener::bind(listen).await;
    bound.map_err(|source| crate::Error::Listen { listen: listen.to_owned(), source })
}

async fn tell(health: &HealthReporter, services: &[String], status: ServingStatus) {
    // The empty name is the server as a whole.
    for name in services.iter().map(String::as_str).chain([""]) {
        health.set_service_status(name, status).await;
    }
}
