//! Settings of delivery, with the reason of each default. All are integers or durations: nothing near money
//! is a float.

use crate::breaker::BreakerConfig;
use crate::ledger::LedgerUrl;
use std::path::PathBuf;
use std::time::Duration;

/// All of this floor.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EmitConfig {
    /// `LEDGER_URL`.
    pub ledger: LedgerUrl,
    /// `STATE_DIR`; `None` is amnesia: key, latch, audit, quarantine and the embedded ledger live in memory
    /// only.
    pub state_dir: Option<PathBuf>,
    /// One emission.
    pub delivery: DeliveryConfig,
    /// What could not be delivered.
    pub quarantine: QuarantineConfig,
    /// Sending it again.
    pub reemit: ReemitConfig,
    /// When a brownout begins and ends.
    pub breaker: BreakerConfig,
}

/// Bounds of one emission.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeliveryConfig {
    /// `LEDGER_DEADLINE_MS`: over all attempts, waits and questions.
    pub deadline: Duration,
    /// `LEDGER_MAX_RETRIES`: submissions after the first.
    pub retries_max: u32,
    /// Over one attempt. A ledger may be slow within the deadline; after one that is silent, there is time for a question and another
    /// try at one that is not.
    pub attempt: Duration,
    /// Ceiling of the first wait; it doubles with each failure.
    pub backoff_first: Duration,
    /// Ceiling of any wait.
    pub backoff_max: Duration,
}

impl DeliveryConfig {
    /// Shortest time for an attempt, unless the deadline is shorter.
    const ATTEMPT_MIN: Duration = Duration::from_millis(400);
    /// Longest time for a probe: an operator waits for what it says.
    const PROBE_MAX: Duration = Duration::from_secs(2);

    /// With a deadline, of which an attempt gets four fifths, or all if it is the only one, and a number of tries after the first.
    pub fn within(deadline: Duration, retries_max: u32) -> Self {
        let attempt = if retries_max == 0 { deadline } else { deadline / 5 * 4 };
        let attempt = attempt.max(Self::ATTEMPT_MIN).min(deadline);
        Self {
            deadline,
            retries_max,
            attempt,
            backoff_first: Duration::from_millis(25),
            backoff_max: Duration::from_millis(400),
        }
    }

    /// Over one probe.
    pub fn probe(&self) -> Duration {
        self.attempt.min(Self::PROBE_MAX)
    }
}

impl Default for DeliveryConfig {
    fn default() -> Self {
        Self::within(Duration::from_millis(1000), 2)
    }
}

/// Bounds of the quarantine buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuarantineConfig {
    /// Intents, reserved places included: a day of epochs of a large deployment, and a page of `list` is
    /// still readable.
    pub entries_max: u64,
    /// Their bytes: entries are below 2 KiB, so the count is what usually binds.
    pub bytes_max: u64,
    /// Zeros that a segment of the spool's log begins with, to be written over: a group that does not change the file's
    /// length is durable in about half the time. As long as a log becomes before it is replaced.
    pub preallocated_bytes: u64,
}

impl Default for QuarantineConfig {
    fn default() -> Self {
        Self { entries_max: 10_000, bytes_max: 16 << 20, preallocated_bytes: 4 << 20 }
    }
}

/// How quarantined intents are sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReemitConfig {
    /// Ceiling of the wait after a first failure; it doubles with each.
    pub backoff_first: Duration,
    /// Ceiling of any wait: how late a ledger's recovery is noticed at worst.
    pub backoff_max: Duration,
    /// Least time between two, so that a ledger coming back is not knocked over (200 a second).
    pub gap: Duration,
}

impl Default for ReemitConfig {
    fn default() -> Self {
        Self {
            backoff_first: Duration::from_millis(200),
            backoff_max: Duration::from_secs(15),
            gap: Duration::from_millis(5),
        }
    }
}

/// When a ledger counts as degraded (runbook §4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HealthConfig {
    /// p99 of an attempt's latency above this is degraded.
    pub p99_max: Duration,
    /// So many failed attempts in a row are degraded: more than one blip of a few that are under way at once, and less than
    /// what full stages make of a dead ledger within a second.
    pub failures_max: u32,
    /// Attempts older than this no longer count.
    pub window: Duration,
    /// With fewer attempts than this a percentile says nothing: the p99 of three is the slowest of three.
    pub samples_min: usize,
}

impl Default for HealthConfig {
    fn default() -> Self {
        Self {
            p99_max: Duration::from_millis(250),
            failures_max: 10,
            window: Duration::from_secs(60),
            samples_min: 20,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attempt_follows_the_deadline() {
        let ms = Duration::from_millis;
        for (deadline, retries, attempt, probe) in [
            (1, 2, 1, 1),
            (300, 2, 300, 300),
            (1000, 2, 800, 800),
            (1000, 0, 1000, 1000),
            (5000, 1, 4000, 2000),
            (86_400_000, 2, 69_120_000, 2000),
        ] {
            let config = DeliveryConfig::within(ms(deadline), retries);
            assert_eq!((config.attempt, config.probe()), (ms(attempt), ms(probe)), "{deadline}");
        }
    }
}
