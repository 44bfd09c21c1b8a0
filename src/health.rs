//! Readiness: what is missing, by cause. It stands on the bus: every change is a `Health` event.

use crate::bus::{Bus, Event, Stamped, Subscription};
use crate::telemetry::READYZ_DEGRADED;
use metrics::Gauge;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// Why the service is not ready. The words are the label of `readyz_degraded{cause}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// The bus listener has not heard the first `Health` event yet.
    Bus,
    /// The ledger does not answer, or too slowly.
    LedgerDegraded,
    /// Emission is latched off.
    EmissionLatched,
    /// The verifier of capabilities has given no answer that counts for as long as a verdict lives.
    CapCacheCold,
    /// The work queue is above its soft limit.
    QueueSoftLimit,
    /// The quarantine buffer is above its soft limit.
    QuarantineSoftLimit,
    /// The service was told to stop.
    Draining,
}

impl Cause {
    /// All causes.
    pub const ALL: [Self; 7] = [
        Self::Bus,
        Self::LedgerDegraded,
        Self::EmissionLatched,
        Self::CapCacheCold,
        Self::QueueSoftLimit,
        Self::QuarantineSoftLimit,
        Self::Draining,
    ];

    /// The word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Bus => "bus",
            Self::LedgerDegraded => "ledger_degraded",
            Self::EmissionLatched => "emission_latched",
            Self::CapCacheCold => "cap_cache_cold",
            Self::QueueSoftLimit => "queue_soft_limit",
            Self::QuarantineSoftLimit => "quarantine_soft_limit",
            Self::Draining => "draining",
        }
    }
}

/// The causes that hold now.
pub struct Health {
    bus: Bus,
    gauges: [Gauge; Cause::ALL.len()],
    missing: Mutex<Option<Vec<Cause>>>,
    /// What the bus has last said: readiness is what a listener of the bus believes, so that a bus that is not listened
    /// to is not ready.
    heard: Mutex<Option<Vec<&'static str>>>,
    hurry: Notify,
}

impl Health {
    /// Not yet ready: nothing has been looked at.
    pub fn new(bus: Bus) -> Self {
        let gauges = Cause::ALL.map(|cause| {
            let gauge = metrics::gauge!(READYZ_DEGRADED, "cause" => cause.as_str());
            gauge.set(0.0);
            gauge
        });
        Self { bus, gauges, missing: Mutex::new(None), heard: Mutex::new(None), hurry: Notify::new() }
    }

    /// Sets what is missing; a change is published.
    pub fn set(&self, missing: Vec<Cause>, unix: Duration) {
        let mut now = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
        if now.as_ref() == Some(&missing) {
            return;
        }
        for (cause, gauge) in Cause::ALL.iter().zip(&self.gauges) {
            gauge.set(f64::from(u8::from(missing.contains(cause))));
        }
        let words: Vec<&'static str> = missing.iter().map(|cause| cause.as_str()).collect();
        tracing::info!(ready = u8::from(missing.is_empty()), missing = words.join(","), "readiness");
        self.bus.publish(unix, Event::Health { ready: missing.is_empty(), missing: words });
        *now = Some(missing);
    }

    /// Has everything looked at now and not at the next turn.
    pub fn hurry(&self) {
        self.hurry.notify_one();
    }

    /// Waits until somebody is in a hurry.
    pub async fn hurried(&self) {
        self.hurry.notified().await;
    }

    /// What a listener of the bus was last told; `None` before it was told anything.
    pub fn heard(&self) -> Option<Vec<&'static str>> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Listens until the bus is gone.
    pub async fn listen(&self, mut subscription: Subscription) {
        let hear = |missing| *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = missing;
        while let Some(event) = subscription.next().await {
            match event {
                Ok(Stamped { event: Event::Health { missing, .. }, .. }) => hear(Some(missing)),
                Ok(_) => {}
                // A lost event may have been the one: look at what is true now.
                Err(_) => hear(
                    self.missing
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .as_ref()
                        .map(|causes| causes.iter().map(|cause| cause.as_str()).collect()),
                ),
            }
        }
        hear(None);
    }
}
