//! Every attack for a moment, all of them at once, on a gateway whose time is short: each connection that
//! must end ends, and those who are honest notice nothing. `make attacks` runs each for a minute.

use base64::prelude::*;
use plexus_gateway::config::{Config, Tls};
use plexus_tests::{
    Cluster, Http,
    attacks::{self, Effort, Target, raid},
    redis::free_port,
};
use std::{path::PathBuf, time::Duration};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Connections of each attack.
const FEW: usize = 4;

/// Longest time until they are cut; what is not cut is tried for a moment.
const PATIENCE: Duration = Duration::from_secs(40);
const MOMENT: Duration = Duration::from_secs(2);

/// A certificate in files that go with it.
struct Files(PathBuf);

impl Files {
    fn new() -> Self {
        let folder = std::env::temp_dir().join(format!("plexus-attacks-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        std::fs::write(folder.join("certificate.pem"), made.cert.pem()).unwrap();
        std::fs::write(folder.join("key.pem"), made.key_pair.serialize_pem()).unwrap();
        Self(folder)
    }

    fn tls(&self) -> Tls {
        Tls {
            certificate: Some(self.0.join("certificate.pem")),
            key: Some(self.0.join("key.pem")),
            listen: Some(format!("127.0.0.1:{}", free_port())),
            ..Tls::default()
        }
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The documented times, a twentieth of them.
fn hurry(config: &mut Config) {
    let limits = &mut config.limits;
    for time in [
        &mut limits.first_byte_timeout,
        &mut limits.handshake_timeout,
        &mut limits.head_timeout,
        &mut limits.body_timeout,
        &mut limits.idle_timeout,
        &mut limits.write_timeout,
        &mut limits.ping_interval,
        &mut limits.ping_timeout,
        &mut limits.session_ping_interval,
        &mut limits.session_pong_timeout,
    ] {
        *time /= 20;
    }
}

/// Publishes and follows until `stop`; every message must come, once and in order.
async fn honest(http: Http, stop: CancellationToken) -> u64 {
    let path = "/v1/topics/honest/messages";
    let mut reader = http.events(path, None).await.unwrap();
    reader.next("start").await.unwrap();
    let mut sent = 0;
    while !stop.is_cancelled() {
        let text = [("content-type", "text/plain")];
        let answer = http.send(http::Method::POST, path, &text, sent.to_string()).await.unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
        let event = reader.next("message").await.unwrap();
        let data = BASE64_STANDARD.decode(event.data["data"].as_str().unwrap()).unwrap();
        assert_eq!(data, sent.to_string().as_bytes(), "{event:?}");
        sent += 1;
    }
    sent
}

#[tokio::test(flavor = "multi_thread")]
async fn attackers_are_cut_off_and_others_do_not_notice() {
    let files = Files::new();
    let tls = files.tls();
    let mut cluster = Cluster::of(0, 1).await;
    let target = Target {
        tls: tls.listen.as_ref().unwrap().parse().unwrap(),
        plain: {
            let change = |config: &mut Config| {
                hurry(config);
                config.tls = tls;
            };
            cluster.add_gateway_with(change).await
        },
    };
    let stop = CancellationToken::new();
    let mut others = JoinSet::new();
    others.spawn(honest(Http::new(target.plain), stop.clone()));
    let mut raids = JoinSet::new();
    for attack in attacks::all() {
        let during = if attack.ends { PATIENCE } else { MOMENT };
        let effort = Effort { connections: FEW, during, until_cut: Some(FEW as u64) };
        raids.spawn(async move { (attack, raid(attack, target, effort).await) });
    }
    let mut left = Vec::new();
    while let Some(Ok((attack, toll))) = raids.join_next().await {
        if attack.ends && toll.cut < FEW as u64 {
            left.push(format!("{}: {toll:?}", attack.name));
        }
    }
    assert!(left.is_empty(), "not cut off:\n{}", left.join("\n"));
    stop.cancel();
    assert!(others.join_next().await.unwrap().unwrap() > 0);
}
