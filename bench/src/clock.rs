//! Messages that carry the moment they were sent, and what a set of delays amounts to.

use std::{
    sync::LazyLock,
    time::{Duration, Instant},
};

static START: LazyLock<Instant> = LazyLock::new(Instant::now);
const DIGITS: usize = 20;

/// A payload of this size that says when it was made.
pub(crate) fn payload(bytes: usize) -> Vec<u8> {
    let mut text = format!("{:0DIGITS$}", START.elapsed().as_nanos()).into_bytes();
    text.resize(bytes.max(DIGITS), b'.');
    text
}

/// How long ago a payload of this process was made.
pub(crate) fn age(payload: &[u8]) -> Option<Duration> {
    let made = std::str::from_utf8(payload.get(..DIGITS)?).ok()?.parse().ok()?;
    START.elapsed().checked_sub(Duration::from_nanos(made))
}

/// The value below which a share of the samples lies; NaN without samples.
pub(crate) fn quantile(samples: &[f64], share: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().saturating_sub(1);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "an index within the samples"
    )]
    let at = (last as f64 * share).round() as usize;
    sorted.get(at).copied().unwrap_or(f64::NAN)
}
