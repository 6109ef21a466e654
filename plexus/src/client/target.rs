//! Where a client goes, and how it answers.

use super::{Failure, context::Contexts, output};
use crate::config::{self, ClientEnvironment};
use anyhow::Context as _;
use clap::Args;
use plexus_proto::v1::{
    admin_service_client::AdminServiceClient, node_service_client::NodeServiceClient,
    peer_service_client::PeerServiceClient, topic_service_client::TopicServiceClient,
};
use std::{
    path::{Path, PathBuf},
    time::Duration,
};
use tonic::{
    Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};

/// Where nobody says where.
const LOCAL: &str = "http://127.0.0.1:8080";

/// Where to, and how to answer.
#[derive(Args, Clone, Debug)]
pub(crate) struct Target {
    /// The gateway; else what `--context`, PLEXUS_URL, PLEXUS_CONTEXT or the current context names, else
    /// http://127.0.0.1:8080.
    #[arg(long, global = true, conflicts_with = "context")]
    url: Option<String>,
    /// A gateway by name; `plexus context ls` lists them.
    #[arg(long, global = true)]
    context: Option<String>,
    /// A PEM file with the authorities that sign the certificate of an https gateway; else what PLEXUS_CA or
    /// the context names, else the public ones.
    #[arg(long, global = true)]
    ca: Option<PathBuf>,
    /// A PEM file with the client's own certificate and its chain, for a gateway that asks for one; else what
    /// PLEXUS_CERT or the context names.
    #[arg(long, global = true, requires = "cert_key")]
    cert: Option<PathBuf>,
    /// A PEM file with the private key of that certificate; else what PLEXUS_KEY or the context names.
    #[arg(long = "key", global = true, requires = "cert")]
    cert_key: Option<PathBuf>,
    /// The node: its id or PeerId.
    #[arg(long, short, default_value = "default", global = true)]
    pub(super) node: String,
    /// Print JSON, one object a line; errors too.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// How long to wait, such as `10s`.
    #[arg(long, default_value = "30s", value_parser = humantime::parse_duration, global = true)]
    pub(crate) timeout: Duration,
}

/// A gateway and what is shown to it.
#[derive(Debug, Clone, PartialEq)]
struct Place {
    url: String,
    token: Option<String>,
    /// Whom it trusts to name the gateway; else the public authorities.
    ca: Option<PathBuf>,
    /// Its own certificate and key, for a gateway that asks for one.
    own: Option<(PathBuf, PathBuf)>,
}

/// Shows the token with every call.
#[derive(Clone)]
pub(crate) struct Bearer(Option<MetadataValue<Ascii>>);

/// A connection that shows the token.
pub(crate) type Line = InterceptedService<Channel, Bearer>;

impl Interceptor for Bearer {
    fn call(&mut self, mut request: tonic::Request<()>) -> Result<tonic::Request<()>, Status> {
        if let Some(value) = &self.0 {
            request.metadata_mut().insert("authorization", value.clone());
        }
        Ok(request)
    }
}

impl Target {
    /// The address of the gateway.
    pub(crate) fn url(&self) -> anyhow::Result<String> {
        Ok(self.place(config::client_environment(), Contexts::load)?.url)
    }

    /// Flags win over the environment, that over the current context.
    fn place(
        &self,
        environment: ClientEnvironment,
        contexts: impl FnOnce() -> anyhow::Result<Contexts>,
    ) -> anyhow::Result<Place> {
        let ClientEnvironment { url, context, token, ca, cert, key } = environment;
        let ca = self.ca.clone().or(ca);
        let own = match self.cert.clone().zip(self.cert_key.clone()) {
            None if cert.is_some() != key.is_some() => {
                return Err(Failure::usage("PLEXUS_CERT and PLEXUS_KEY go together"));
            }
            own => own.or_else(|| cert.zip(key)),
        };
        let url = self.url.clone().or_else(|| url.filter(|_| self.context.is_none()));
        if let Some(url) = url {
            super::check_url(&url)?;
            return Ok(Place { url, token, ca, own });
        }
        let contexts = contexts()?;
        let named = self.context.as_deref().or(context.as_deref());
        let Some(context) = contexts.get(named)? else {
            return Ok(Place { url: LOCAL.into(), token, ca, own });
        };
        let read = |path: &std::path::PathBuf| {
            let text = std::fs::read_to_string(path);
            text.map(|t| t.trim().to_owned()).with_context(|| format!("{} cannot be read", path.display()))
        };
        let token = token.map(Ok).or_else(|| context.token_file.as_ref().map(read)).transpose()?;
        let ca = ca.or_else(|| context.ca_file.clone());
        let own = own.or_else(|| context.cert_file.clone().zip(context.key_file.clone()));
        Ok(Place { url: context.url.clone(), token, ca, own })
    }

    async fn line(&self) -> anyhow::Result<Line> {
        let Place { url, token, ca, own } = self.place(config::client_environment(), Contexts::load)?;
        let endpoint = Endpoint::from_shared(url.clone())
            .map_err(|_| Failure::usage(format!("{url:?} is no address such as {LOCAL}")))?;
        let bearer = token.map(|token| {
            let value = MetadataValue::try_from(format!("Bearer {token}"));
            let mut value =
                value.map_err(|_| Failure::usage("the token has characters that no token has"))?;
            value.set_sensitive(true);
            anyhow::Ok(value)
        });
        let bearer = Bearer(bearer.transpose()?);
        let endpoint = match endpoint.uri().scheme_str() {
            Some("https") => endpoint.tls_config(tls(ca.as_deref(), own.as_ref())?)?,
            _ => endpoint,
        };
        let endpoint = endpoint.connect_timeout(self.timeout.min(Duration::from_secs(5)));
        let channel = endpoint
            .connect()
            .await
            .with_context(|| format!("no gateway answers at {url} (is `plexus up` running?)"))?;
        Ok(InterceptedService::new(channel, bearer))
    }

    pub(crate) async fn nodes(&self) -> anyhow::Result<NodeServiceClient<Line>> {
        Ok(NodeServiceClient::new(self.line().await?))
    }

    pub(crate) async fn admin(&self) -> anyhow::Result<AdminServiceClient<Line>> {
        Ok(AdminServiceClient::new(self.line().await?))
    }

    pub(super) async fn peers(&self) -> anyhow::Result<PeerServiceClient<Line>> {
        Ok(PeerServiceClient::new(self.line().await?))
    }

    pub(super) async fn topics(&self) -> anyhow::Result<TopicServiceClient<Line>> {
        let client = TopicServiceClient::new(self.line().await?);
        Ok(client.max_decoding_message_size(8 << 20).max_encoding_message_size(2 << 20))
    }

    /// A unary request with the deadline.
    pub(crate) fn ask<T>(&self, message: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        request.set_timeout(self.timeout);
        request
    }

    /// Says that it is done, where there is nothing else to say.
    pub(crate) fn done(&self) -> anyhow::Result<()> {
        if self.json { output::line(&serde_json::json!({})) } else { Ok(()) }
    }
}

/// Trusts the authorities of a file, else the public ones, and shows a certificate where it has one.
fn tls(ca: Option<&Path>, own: Option<&(PathBuf, PathBuf)>) -> anyhow::Result<ClientTlsConfig> {
    let read = |flag: &str, path: &Path| {
        std::fs::read(path)
            .map_err(|e| Failure::usage(format!("{flag}: {} cannot be read: {e}", path.display())))
    };
    let config = match ca {
        None => ClientTlsConfig::new().with_webpki_roots(),
        Some(path) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read("--ca", path)?)),
    };
    Ok(match own {
        None => config,
        Some((cert, key)) => config.identity(Identity::from_pem(read("--cert", cert)?, read("--key", key)?)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_wins_over_the_environment_and_that_over_the_current_context() {
        let contexts = || {
            let text = "current = \"a\"\n[contexts.a]\nurl = \"http://a\"\n[contexts.b]\nurl = \"http://b\"";
            Ok(toml::from_str::<Contexts>(text).unwrap())
        };
        let none = || Ok(Contexts::default());
        let said = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        // --url, --context, PLEXUS_URL, PLEXUS_CONTEXT, and where it goes with the file.
        let rows = [
            ("", "", "", "", "http://a"),
            ("", "", "", "b", "http://b"),
            ("", "", "http://e", "b", "http://e"),
            ("", "b", "http://e", "", "http://b"),
            ("", "b", "http://e", "a", "http://b"),
            ("http://f", "", "http://e", "b", "http://f"),
        ];
        for (url, context, env_url, env_context, wanted) in rows {
            let target = Target {
                url: said(url),
                context: said(context),
                ca: None,
                cert: None,
                cert_key: None,
                node: "default".into(),
                json: false,
                timeout: Duration::from_secs(1),
            };
            let environment = ClientEnvironment {
                url: said(env_url),
                context: said(env_context),
                token: said("t"),
                ca: Some("e.pem".into()),
                cert: Some("c.pem".into()),
                key: Some("k.pem".into()),
            };
            let place = target.place(environment.clone(), contexts).unwrap();
            let own = Some(("c.pem".into(), "k.pem".into()));
            assert_eq!(place, Place { url: wanted.into(), token: said("t"), ca: Some("e.pem".into()), own });
            let bare = target.place(environment, none);
            match (url.is_empty(), context.is_empty(), env_url.is_empty(), env_context.is_empty()) {
                (true, true, true, true) => assert_eq!(bare.unwrap().url, LOCAL),
                (true, true, true, false) | (true, false, ..) => assert!(bare.is_err(), "no such context"),
                _ => assert_eq!(bare.unwrap().url, wanted),
            }
        }
    }
}
