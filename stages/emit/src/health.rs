//! How the ledger is doing: percentiles of the last attempts and failures in a row, in whole microseconds.
//!
//! The law: the same attempts give the same estimate on every machine, so there is no float and no average
//! that drifts. A percentile is nearest-rank over what the window holds: `sorted[ceil(n·p/100) − 1]`.
//!
//! It only says; what follows from it decides the [breaker](crate::breaker).

use crate::config::HealthConfig;
use std::collections::VecDeque;
use std::time::Duration;

/// Attempts that are looked at: enough for a p99 with a few samples above it, few enough to sort on each
/// question.
const SAMPLES_MAX: usize = 512;

/// The last attempts.
#[derive(Debug, Clone)]
pub struct Health {
    config: HealthConfig,
    /// When it ended, how long it took in microseconds.
    samples: VecDeque<(Duration, u64)>,
    failures: u32,
}

/// What they say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Estimate {
    /// Attempts in the window.
    pub samples: usize,
    /// 95 of 100 were at most this long.
    pub p95: Duration,
    /// 99 of 100 were at most this long.
    pub p99: Duration,
    /// Failures since the last success.
    pub failures_in_a_row: u32,
    /// Beyond a threshold.
    pub degraded: bool,
}

impl Health {
    /// Nothing known yet, which is not degraded.
    pub fn new(config: HealthConfig) -> Self {
        Self { config, samples: VecDeque::new(), failures: 0 }
    }

    /// Other thresholds, from now on.
    pub fn reload(&mut self, config: HealthConfig) {
        self.config = config;
    }

    /// Notes an attempt or a probe that ended at `now` (monotonic).
    pub fn record(&mut self, now: Duration, latency: Duration, ok: bool) {
        self.failures = if ok { 0 } else { self.failures.saturating_add(1) };
        if self.samples.len() == SAMPLES_MAX {
            self.samples.pop_front();
        }
        self.samples.push_back((now, u64::try_from(latency.as_micros()).unwrap_or(u64::MAX)));
    }

    /// What the attempts of the window say at `now`.
    pub fn estimate(&self, now: Duration) -> Estimate {
        let oldest = now.saturating_sub(self.config.window);
        let mut micros: Vec<u64> =
            self.samples.iter().filter(|(at, _)| *at >= oldest).map(|(_, m)| *m).collect();
        micros.sort_unstable();
        let percentile = |p: usize| {
            let rank = (micros.len() * p).div_ceil(100);
            Duration::from_micros(rank.checked_sub(1).and_then(|at| micros.get(at)).copied().unwrap_or(0))
        };
        let (p95, p99) = (percentile(95), percentile(99));
        let slow = micros.len() >= self.config.samples_min && p99 > self.config.p99_max;
        let failing = self.failures >= self.config.failures_max;
        Estimate {
            samples: micros.len(),
            p95,
            p99,
            failures_in_a_row: self.failures,
            degraded: slow || failing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn nearest_rank() {
        let mut health = Health::new(HealthConfig::default());
        assert_eq!(health.estimate(ms(0)).p99, ms(0));
        for n in (1..=100).rev() {
            health.record(ms(0), ms(n), true);
        }
        let estimate = health.estimate(ms(0));
        assert_eq!((estimate.p95, estimate.p99, estimate.degraded), (ms(95), ms(99), false));
    }

    #[test]
    fn slow_is_degraded_until_it_is_long_ago() {
        let config = HealthConfig::default();
        let mut health = Health::new(config);
        for n in 0..19 {
            health.record(ms(n), ms(900), true);
        }
        assert!(!health.estimate(ms(20)).degraded, "19 attempts say nothing");
        health.record(ms(20), ms(1), true);
        assert!(health.estimate(ms(20)).degraded);
        assert!(!health.estimate(config.window + ms(19)).degraded);
        health.record(ms(21), ms(250), true);
        assert!(
            !Health { samples: [(ms(21), 250_000); 20].into(), ..health.clone() }.estimate(ms(21)).degraded,
            "250 ms is not above 250 ms"
        );
    }

    #[test]
    fn failures_in_a_row() {
        let mut health = Health::new(HealthConfig { failures_max: 3, ..HealthConfig::default() });
        for (ok, degraded) in
            [(false, false), (false, false), (true, false), (false, false), (false, false), (false, true)]
        {
            health.record(ms(0), ms(1), ok);
            assert_eq!(health.estimate(ms(0)).degraded, degraded);
        }
        health.record(ms(0), ms(1), true);
        assert!(!health.estimate(ms(0)).degraded);
    }
}
