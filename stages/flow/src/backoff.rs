//! Exponential backoff with full jitter, as a value.
//!
//! `delay(n) = uniform in [0, min(max, base · 2ⁿ)]`, whole nanoseconds, no float, so that a simulation waits
//! the same on every machine. Full jitter (AWS Architecture Blog, "Exponential Backoff And Jitter", 2015)
//! spreads the callers of a peer that comes back over the whole interval; equal jitter would leave them in
//! waves.

use rewarder_model::world::Entropy;
use std::time::Duration;

/// How long to wait before another attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The longest wait before the first retry.
    pub base: Duration,
    /// The longest wait ever.
    pub max: Duration,
}

impl Backoff {
    /// The wait after `attempt` failed ones before this, so 0 for the first retry.
    pub fn delay(&self, attempt: u32, entropy: &dyn Entropy) -> Duration {
        Duration::from_nanos(entropy.below(nanos(self.ceiling(attempt)).saturating_add(1)))
    }

    /// The longest that `delay` can be.
    pub fn ceiling(&self, attempt: u32) -> Duration {
        let factor = 1u64.checked_shl(attempt).unwrap_or(u64::MAX);
        Duration::from_nanos(nanos(self.base).saturating_mul(factor)).min(self.max)
    }
}

/// Saturates after 584 years.
fn nanos(duration: Duration) -> u64 {
    duration.as_nanos().try_into().unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rewarder_model::world::testing::SeededEntropy;

    const BACKOFF: Backoff = Backoff { base: Duration::from_millis(10), max: Duration::from_secs(1) };

    #[test]
    fn the_ceiling_doubles_until_the_most() {
        let ceilings = [0, 1, 6, 7, 63, 64, u32::MAX].map(|n| BACKOFF.ceiling(n).as_millis());
        assert_eq!(ceilings, [10, 20, 640, 1000, 1000, 1000, 1000]);
        let endless = Backoff { base: Duration::MAX, max: Duration::MAX };
        endless.delay(9, &SeededEntropy::new(1));
    }

    #[test]
    fn delays_fill_the_whole_interval() {
        let entropy = SeededEntropy::new(7);
        let delays: Vec<_> = (0..1000).map(|_| BACKOFF.delay(2, &entropy).as_micros()).collect();
        assert!(delays.iter().all(|d| *d <= 40_000));
        assert!(delays.iter().any(|d| *d < 1_000) && delays.iter().any(|d| *d > 39_000));
    }

    #[test]
    fn no_base_is_no_wait() {
        let none = Backoff { base: Duration::ZERO, max: Duration::from_secs(1) };
        assert_eq!(none.delay(5, &SeededEntropy::new(1)), Duration::ZERO);
    }
}
