//! The brownout breaker (runbook §4, §6.2): when the ledger is too slow or fails, new payouts only go to the
//! quarantine, and come out again by themselves. A pure state machine: `step(signal, now)`; no clock, no I/O.
//!
//! ```text
//! state      signal                                                  -> state
//! closed     p99 above its limit | failures in a row                    open
//! closed     a drill begins                                             open
//! open       a few good probes in a row, and no drill                   half-open
//! half-open  a failure | p99 above its limit | a drill begins           open
//! half-open  p95 low for long enough, and the backlog low               closed
//! ```
//!
//! The laws: while *open* the ledger hears probes only, which settle nothing. While *half-open* it hears what
//! is in quarantine, one at a time, oldest first, at a rate that begins low and doubles; new payouts go to the
//! quarantine too, behind the others. Without that the backlog could never fall below its soft limit. What is
//! under way when it opens ends at its next attempt.
//!
//! Integers only: percentiles are nearest-rank over whole microseconds ([`crate::health`]).

use crate::config::{HealthConfig, ReemitConfig};
use crate::health::{Estimate, Health};
use crate::plant;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Good probes in a row after which sending is tried: one could be luck.
const GOOD_PROBES: u32 = 3;
/// First gap between two while half-open: one a second harms nobody. It halves with each success.
const RAMP_FIRST: Duration = Duration::from_secs(1);
/// Halvings after which the ramp is as steep as it gets.
const RAMP_HALVINGS_MAX: u32 = 16;

/// When a brownout begins and ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BreakerConfig {
    /// When it begins.
    pub health: HealthConfig,
    /// It ends when p95 has been below this …
    pub exit_p95: Duration,
    /// … for so long.
    pub exit_after: Duration,
    /// Between two probes of a ledger that nobody talks to.
    pub probe_every: Duration,
}

impl Default for BreakerConfig {
    fn default() -> Self {
        Self {
            health: HealthConfig::default(),
            exit_p95: Duration::from_millis(100),
            exit_after: Duration::from_secs(600),
            probe_every: Duration::from_secs(1),
        }
    }
}

/// Who may talk to the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Everyone.
    Closed,
    /// Probes.
    Open,
    /// Probes, and one from the quarantine at a time.
    HalfOpen,
}

impl Mode {
    /// The word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half-open",
        }
    }
}

/// What it hears.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// An attempt to submit or to ask ended.
    Attempt {
        /// After this time.
        latency: Duration,
        /// Whether the ledger answered.
        ok: bool,
    },
    /// A probe ended.
    Probe {
        /// After this time.
        latency: Duration,
        /// Whether the ledger answered.
        ok: bool,
    },
    /// Somebody looks.
    Look {
        /// Whether quarantine and work queue are below their soft limits.
        backlog_low: bool,
    },
    /// An operator begins a drill.
    DrillBegins,
    /// An operator ends it.
    DrillEnds,
}

/// The breaker went from one mode to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Before.
    pub from: Mode,
    /// Now.
    pub to: Mode,
    /// Why.
    pub why: String,
}

/// The breaker.
#[derive(Debug, Clone)]
pub struct Breaker {
    config: BreakerConfig,
    health: Health,
    mode: Mode,
    drill: bool,
    good_probes: u32,
    /// While half-open: p95 is low since then.
    good_since: Duration,
    /// While half-open: successes so far.
    successes: u32,
    why: String,
}

impl Breaker {
    /// Closed: nothing known yet.
    pub fn new(config: BreakerConfig) -> Self {
        Self {
            config,
            health: Health::new(config.health),
            mode: Mode::Closed,
            drill: false,
            good_probes: 0,
            good_since: Duration::ZERO,
            successes: 0,
            why: String::new(),
        }
    }

    /// Other limits, from now on.
    pub fn reload(&mut self, config: BreakerConfig) {
        self.config = config;
        self.health.reload(config.health);
    }

    /// The mode.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Why it is not closed.
    pub fn why(&self) -> &str {
        &self.why
    }

    /// Whether an operator drills.
    pub fn drill(&self) -> bool {
        self.drill
    }

    /// What the last attempts say.
    pub fn estimate(&self, now: Duration) -> Estimate {
        self.health.estimate(now)
    }

    /// Its limits.
    pub fn config(&self) -> &BreakerConfig {
        &self.config
    }

    /// Least time between two that are sent again; `None` while nothing is.
    pub fn gap(&self, reemit: &ReemitConfig) -> Option<Duration> {
        match self.mode {
            Mode::Closed => Some(reemit.gap),
            Mode::Open if plant::is("brownout_ignored_by_reemission") => Some(reemit.gap),
            Mode::Open => None,
            Mode::HalfOpen => {
                let halvings = self.successes.saturating_sub(1).min(RAMP_HALVINGS_MAX);
                Some((RAMP_FIRST / (1 << halvings)).max(reemit.gap))
            }
        }
    }

    fn go(&mut self, to: Mode, why: String, now: Duration) -> Option<Change> {
        let from = std::mem::replace(&mut self.mode, to);
        // What was measured under another load says nothing about the next one.
        self.health = Health::new(self.config.health);
        (self.good_probes, self.successes, self.good_since) = (0, 0, now);
        self.why = if to == Mode::Closed { String::new() } else { why.clone() };
        Some(Change { from, to, why })
    }

    /// Whether the last attempts are beyond a limit, in words.
    fn beyond(&self, now: Duration) -> Option<String> {
        let limits = &self.config.health;
        let estimate = self.health.estimate(now);
        if estimate.failures_in_a_row >= limits.failures_max {
            return Some(format!("{} attempts in a row failed", estimate.failures_in_a_row));
        }
        estimate.degraded.then(|| {
            format!("p99 is {} ms, above {} ms", estimate.p99.as_millis(), limits.p99_max.as_millis())
        })
    }

    /// Takes a signal at `now` (monotonic); says if the mode changed.
    pub fn step(&mut self, signal: Signal, now: Duration) -> Option<Change> {
        match (self.mode, signal) {
            (_, Signal::DrillBegins) => {
                self.drill = true;
                (self.mode != Mode::Open).then(|| self.go(Mode::Open, "a drill".into(), now)).flatten()
            }
            (_, Signal::DrillEnds) => {
                self.drill = false;
                None
            }
            (Mode::Closed, Signal::Attempt { latency, ok } | Signal::Probe { latency, ok }) => {
                self.health.record(now, latency, ok);
                let beyond = self.beyond(now).filter(|_| !plant::is("breaker_never_opens"));
                beyond.and_then(|why| self.go(Mode::Open, why, now))
            }
            (Mode::Open, Signal::Probe { latency, ok }) => {
                let good = ok && latency < self.config.exit_p95;
                self.good_probes = if good { self.good_probes.saturating_add(1) } else { 0 };
                let enough = if plant::is("one_probe_is_enough") { 1 } else { GOOD_PROBES };
                if self.drill || self.good_probes < enough {
                    return None;
                }
                self.go(Mode::HalfOpen, "the ledger answers again".into(), now)
            }
            (Mode::HalfOpen, Signal::Attempt { latency, ok } | Signal::Probe { latency, ok }) => {
                self.health.record(now, latency, ok);
                if !ok && !plant::is("half_open_bears_failures") {
                    return self.go(Mode::Open, "an attempt failed while half-open".into(), now);
                }
                if let Some(why) = self.beyond(now) {
                    return self.go(Mode::Open, why, now);
                }
                if self.health.estimate(now).p95 >= self.config.exit_p95 {
                    self.good_since = now;
                } else if matches!(signal, Signal::Attempt { .. }) {
                    self.successes = self.successes.saturating_add(1);
                }
                None
            }
            (Mode::HalfOpen, Signal::Look { backlog_low: true })
                if now.saturating_sub(self.good_since) >= self.config.exit_after =>
            {
                self.go(Mode::Closed, "the ledger has been fast for long enough".into(), now)
            }
            // What was under way when it opened says nothing new.
            (Mode::Open, Signal::Attempt { .. }) | (_, Signal::Look { .. }) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    const OK: Signal = Signal::Attempt { latency: Duration::from_millis(3), ok: true };
    const BAD: Signal = Signal::Attempt { latency: Duration::from_millis(400), ok: false };
    const PROBE: Signal = Signal::Probe { latency: Duration::from_millis(3), ok: true };
    const DEAD: Signal = Signal::Probe { latency: Duration::from_millis(400), ok: false };
    const LOOK: Signal = Signal::Look { backlog_low: true };
    const FULL: Signal = Signal::Look { backlog_low: false };

    fn config() -> BreakerConfig {
        BreakerConfig {
            health: HealthConfig { failures_max: 3, ..HealthConfig::default() },
            exit_after: ms(1000),
            ..BreakerConfig::default()
        }
    }

    /// Feeds signals, each at its millisecond; the modes behind each.
    fn check(signals: &[(u64, Signal)], expect: &[Mode]) {
        let mut breaker = Breaker::new(config());
        let modes: Vec<_> = signals
            .iter()
            .map(|(at, signal)| {
                breaker.step(*signal, ms(*at));
                breaker.mode()
            })
            .collect();
        assert_eq!(modes, expect, "{signals:?}");
    }

    #[test]
    fn opens_recovers_and_closes_by_itself() {
        use Mode::*;
        check(
            &[(0, BAD), (1, BAD), (2, OK), (3, BAD), (4, BAD), (5, BAD)],
            &[Closed, Closed, Closed, Closed, Closed, Open],
        );
        let open = [(0, BAD), (1, BAD), (2, BAD)];
        let then = |rest: &[(u64, Signal)], expect: &[Mode]| {
            check(&[&open, rest].concat(), &[&[Closed, Closed, Open], expect].concat());
        };
        then(
            &[(3, OK), (4, PROBE), (5, PROBE), (6, DEAD), (7, PROBE), (8, PROBE), (9, PROBE)],
            &[Open, Open, Open, Open, Open, Open, HalfOpen],
        );
        let half = [(3, PROBE), (4, PROBE), (5, PROBE)];
        let from_half = |rest: &[(u64, Signal)], expect: &[Mode]| {
            then(&[&half, rest].concat(), &[&[Open, Open, HalfOpen], expect].concat());
        };
        from_half(&[(6, BAD)], &[Open]);
        from_half(
            &[(6, OK), (1004, LOOK), (1005, FULL), (1006, LOOK), (1007, OK)],
            &[HalfOpen, HalfOpen, HalfOpen, Closed, Closed],
        );
        // Slow, though not a failure: the time begins anew.
        let slow = Signal::Attempt { latency: ms(150), ok: true };
        from_half(&[(500, slow), (1400, LOOK), (1500, LOOK)], &[HalfOpen, HalfOpen, Closed]);
        from_half(
            &[
                (6, Signal::DrillBegins),
                (7, PROBE),
                (8, PROBE),
                (9, PROBE),
                (10, Signal::DrillEnds),
                (11, PROBE),
            ],
            &[Open, Open, Open, Open, Open, HalfOpen],
        );
    }

    #[test]
    fn slow_opens_and_sending_again_begins_slowly() {
        let mut breaker = Breaker::new(config());
        for n in 0..config().health.samples_min as u64 {
            breaker.step(Signal::Attempt { latency: ms(300), ok: true }, ms(n));
        }
        assert_eq!((breaker.mode(), breaker.why()), (Mode::Open, "p99 is 300 ms, above 250 ms"));
        let reemit = ReemitConfig::default();
        assert_eq!(breaker.gap(&reemit), None);
        for n in 0..3 {
            breaker.step(PROBE, ms(100 + n));
        }
        let mut gaps = Vec::new();
        for n in 0..10 {
            gaps.push(breaker.gap(&reemit).unwrap().as_millis());
            breaker.step(OK, ms(200 + n));
        }
        assert_eq!(gaps, [1000, 1000, 500, 250, 125, 62, 31, 15, 7, 5]);
    }

    proptest! {
        /// Whatever happens: from open only probes lead on, closed is reached from half-open only, and a drill
        /// keeps it open.
        #[test]
        fn laws_hold_for_any_history(history in proptest::collection::vec((0usize..8, 0u64..700), 0..200)) {
            let mut breaker = Breaker::new(config());
            let mut now = ms(0);
            for (n, passed) in history {
                now += ms(passed);
                let signal = [OK, BAD, PROBE, DEAD, LOOK, FULL, Signal::DrillBegins, Signal::DrillEnds][n];
                let before = breaker.mode();
                if let Some(change) = breaker.step(signal, now) {
                    prop_assert_eq!(change.from, before);
                    match (change.from, change.to) {
                        (Mode::Open, to) => prop_assert!(to == Mode::HalfOpen && signal == PROBE),
                        (Mode::HalfOpen, Mode::Closed) => prop_assert_eq!(signal, LOOK),
                        (_, to) => prop_assert_eq!(to, Mode::Open),
                    }
                }
                prop_assert!(!breaker.drill() || breaker.mode() == Mode::Open);
            }
        }
    }
}
