//! How peers are scored. Pure.

use libp2p::gossipsub::{PeerScoreParams, PeerScoreThresholds, TopicScoreParams, score_parameter_decay};
use plexus_proto::v1;
use std::time::Duration;

/// The published thresholds.
pub(super) fn thresholds() -> PeerScoreThresholds {
    PeerScoreThresholds {
        gossip_threshold: -10.0,
        publish_threshold: -50.0,
        graylist_threshold: -80.0,
        accept_px_threshold: 100.0,
        opportunistic_graft_threshold: 1.0,
    }
}

/// Scores of peers over all topics. Where private addresses are allowed many peers share one address
/// by nature, so sharing one is no fault there.
pub(super) fn peer(allow_private: bool) -> PeerScoreParams {
    PeerScoreParams {
        topic_score_cap: 50.0,
        ip_colocation_factor_weight: if allow_private { 0.0 } else { -5.0 },
        behaviour_penalty_weight: -10.0,
        behaviour_penalty_threshold: 6.0,
        behaviour_penalty_decay: score_parameter_decay(Duration::from_secs(60)),
        ..PeerScoreParams::default()
    }
}

/// Scores of peers on a topic. The crate's defaults punish mesh peers of quiet topics and forgive
/// invalid messages for time spent in the mesh; these do neither. Three invalid messages within
/// minutes are below the graylist.
pub(super) fn topic(asked: Option<&v1::ScoreParams>) -> TopicScoreParams {
    let or =
        |value: Option<f64>, default: f64| value.filter(|v| v.is_finite() && *v != 0.0).unwrap_or(default);
    TopicScoreParams {
        topic_weight: or(asked.map(|a| a.topic_weight), 1.0).max(0.0),
        time_in_mesh_weight: 0.01,
        time_in_mesh_quantum: Duration::from_secs(1),
        time_in_mesh_cap: 300.0,
        first_message_deliveries_weight: or(asked.map(|a| a.first_message_deliveries_weight), 0.5).max(0.0),
        first_message_deliveries_decay: score_parameter_decay(Duration::from_secs(60)),
        first_message_deliveries_cap: 20.0,
        mesh_message_deliveries_weight: or(asked.map(|a| a.mesh_message_deliveries_weight), 0.0).min(0.0),
        mesh_failure_penalty_weight: 0.0,
        invalid_message_deliveries_weight: or(asked.map(|a| a.invalid_message_deliveries_weight), -20.0)
            .min(0.0),
        invalid_message_deliveries_decay: score_parameter_decay(Duration::from_secs(600)),
        ..TopicScoreParams::default()
    }
}
