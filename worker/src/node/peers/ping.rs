//! One run of pings, as a caller asked for it.

use super::read;
use crate::{Refusal, clock::Moment};
use plexus_proto::{
    reason::Reason,
    v1::{
        self,
        ping_response::{Event, Pong, Summary},
    },
};
use std::time::Duration;

/// Pings of one run at most.
const COUNT_MAX: u32 = 1000;

/// A run.
#[derive(Debug)]
pub(super) struct Run {
    count: u32,
    interval: Duration,
    pub(super) timeout: Duration,
    sent: u32,
    sent_at: Moment,
    received: u32,
    total: Duration,
    min: Duration,
    max: Duration,
}

impl Run {
    pub(super) fn read(request: &v1::PingRequest) -> Result<Self, Refusal> {
        if request.count > COUNT_MAX {
            return Err(Box::new(v1::Error::field("count", format!("1 to {COUNT_MAX}; 0 means 10"))));
        }
        let minute = read::TIMEOUT_MAX;
        let least = Duration::from_millis(100);
        Ok(Self {
            count: if request.count == 0 { 10 } else { request.count },
            interval: read::duration("interval", request.interval, Duration::from_secs(1), least, minute)?,
            timeout: read::duration("timeout", request.timeout, read::TIMEOUT, Duration::ZERO, minute)?,
            sent: 0,
            sent_at: Moment::PAST,
            received: 0,
            total: Duration::ZERO,
            min: Duration::MAX,
            max: Duration::ZERO,
        })
    }

    /// The longest that the run may take.
    pub(super) fn longest(&self) -> Duration {
        (self.interval.max(self.timeout) + Duration::from_secs(1)) * self.count + read::TIMEOUT
    }

    /// One more is sent.
    pub(super) fn send(&mut self, now: Moment) {
        self.sent += 1;
        self.sent_at = now;
    }

    /// What came of the last one.
    pub(super) fn pong(&mut self, result: Result<Duration, Reason>) -> v1::PingResponse {
        if let Ok(rtt) = result {
            self.received += 1;
            self.total += rtt;
            self.min = self.min.min(rtt);
            self.max = self.max.max(rtt);
        }
        let reason = result.err().map(|reason| reason.as_str_name().to_owned()).unwrap_or_default();
        let rtt = result.ok().and_then(|rtt| rtt.try_into().ok());
        v1::PingResponse { event: Some(Event::Pong(Pong { seq: self.sent, rtt, reason })) }
    }

    /// When the next one is due; `None`: all were sent.
    pub(super) fn next(&self) -> Option<Moment> {
        (self.sent < self.count).then(|| self.sent_at.after(self.interval))
    }

    pub(super) fn summary(&self) -> v1::PingResponse {
        let some = |d: Duration| (self.received > 0).then(|| d.try_into().ok()).flatten();
        let summary = Summary {
            sent: self.sent,
            received: self.received,
            min: some(self.min),
            avg: some(self.total / self.received.max(1)),
            max: some(self.max),
        };
        v1::PingResponse { event: Some(Event::Summary(summary)) }
    }
}
