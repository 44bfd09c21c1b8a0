//! The in-process bus: bounded, never blocking, lag counted.
//!
//! A publisher never waits: who reads too slowly loses the oldest events and is told how many, and
//! `bus_overflow_dropped_total` counts them. Events carry no payload and no secret. `/events?topic=` and
//! `ronctl tail --topic` show them; readiness stands on the `Health` events.

use metrics::Counter;
use serde::Serialize;
use std::time::Duration;
use tokio::sync::broadcast;

/// Events kept for slow readers: a minute of a busy service, some hundred kilobytes.
const CAPACITY: usize = 1024;

/// `bus_overflow_dropped_total`.
pub const DROPPED_TOTAL: &str = "bus_overflow_dropped_total";

/// Who an event is about; what `?topic=` selects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Topic {
    /// Life of the process: `Health`, `ConfigUpdated`, `ServiceCrashed`, `Shutdown`.
    Kernel,
    /// Jobs of this service.
    SvcRewarder,
}

impl Topic {
    /// The word of the query.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::SvcRewarder => "svc-rewarder",
        }
    }
}

/// Something that happened.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "event")]
pub enum Event {
    /// Readiness changed.
    Health {
        /// Whether the service is ready.
        ready: bool,
        /// What is missing.
        missing: Vec<&'static str>,
    },
    /// A reload took effect.
    ConfigUpdated {
        /// Settings that differ but need a restart.
        restart_needed: Vec<&'static str>,
    },
    /// A handler of a stage panicked; its job failed, the service goes on.
    ServiceCrashed {
        /// Always `svc-rewarder`.
        service: &'static str,
        /// Which stage.
        stage: &'static str,
    },
    /// The service was told to stop and drains.
    Shutdown {
        /// How long jobs under way are given.
        deadline_ms: u64,
    },
    /// A job was let in.
    JobAdmitted {
        /// Correlation id of the request.
        corr_id: String,
    },
    /// A job is done.
    JobDone {
        /// Correlation id of the request.
        corr_id: String,
        /// `ok`, `unpayable`, `quarantined`, or the reason of a refusal.
        status: &'static str,
    },
    /// Emission was latched off.
    EmissionLatched {
        /// Which check failed.
        kind: &'static str,
    },
    /// An operator released the latch.
    EmissionReleased {},
    /// The ledger is browned out: payouts go to the quarantine only.
    LedgerEgressDegraded {
        /// What was measured.
        why: String,
    },
    /// The brownout is ending: the quarantine drains (`half-open`), or it is over (`closed`).
    LedgerEgressRecovering {
        /// Of the breaker.
        mode: &'static str,
    },
    /// A quarantined intent was settled.
    IntentReemitted {
        /// What the ledger said.
        result: &'static str,
    },
}

impl Event {
    /// The topic under which it is shown.
    pub const fn topic(&self) -> Topic {
        match self {
            Self::Health { .. }
            | Self::ConfigUpdated { .. }
            | Self::ServiceCrashed { .. }
            | Self::Shutdown { .. } => Topic::Kernel,
            _ => Topic::SvcRewarder,
        }
    }
}

/// An event and when it happened.
#[derive(Debug, Clone, Serialize)]
pub struct Stamped {
    /// Milliseconds since 1970.
    pub unix_ms: u64,
    /// Who it is about.
    pub topic: Topic,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

/// The bus. Cheap to clone.
#[derive(Clone)]
pub struct Bus {
    sender: broadcast::Sender<Stamped>,
    dropped: Counter,
}

impl Bus {
    /// An empty bus.
    pub fn new() -> Self {
        Self { sender: broadcast::channel(CAPACITY).0, dropped: metrics::counter!(DROPPED_TOTAL) }
    }

    /// Publishes; nobody listening is no error.
    pub fn publish(&self, unix: Duration, event: Event) {
        let unix_ms = u64::try_from(unix.as_millis()).unwrap_or(u64::MAX);
        let _ = self.sender.send(Stamped { unix_ms, topic: event.topic(), event });
    }

    /// Listens from now on.
    pub fn subscribe(&self) -> Subscription {
        Subscription { receiver: self.sender.subscribe(), dropped: self.dropped.clone() }
    }
}

impl Default for Bus {
    fn default() -> Self {
        Self::new()
    }
}

/// One listener.
pub struct Subscription {
    receiver: broadcast::Receiver<Stamped>,
    dropped: Counter,
}

impl Subscription {
    /// The next event, or how many were lost; `None` when the bus is gone.
    pub async fn next(&mut self) -> Option<Result<Stamped, u64>> {
        match self.receiver.recv().await {
            Ok(event) => Some(Ok(event)),
            Err(broadcast::error::RecvError::Lagged(lost)) => {
                self.dropped.increment(lost);
                Some(Err(lost))
            }
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_slow_listener_is_told_what_it_lost_and_nobody_waits() {
        let bus = Bus::new();
        let mut slow = bus.subscribe();
        for _ in 0..CAPACITY + 10 {
            bus.publish(Duration::from_secs(1), Event::EmissionReleased {});
        }
        assert_eq!(slow.next().await.unwrap().unwrap_err(), 10);
        assert_eq!(slow.next().await.unwrap().unwrap().topic, Topic::SvcRewarder);
    }
}
