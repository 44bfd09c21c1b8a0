//! How fast work leaves, so that `Retry-After` says what is likely true.
//!
//! ```text
//! interval = time over which the last departures left / their number
//! wait     = interval * ceil(waiting / 2)
//! ```
//!
//! Half of what waits has left by then: sooner, who comes again finds the queue as it was; later, places stand empty. It is a
//! guess, bounded below by a second (the unit of the header) and above by [`WAIT_MAX`].

use crate::lock;
use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::Duration;

/// Departures that are remembered: enough to even out a large job among small ones.
const REMEMBERED: usize = 64;
/// Longest wait that is told; what takes longer nobody can foresee.
pub const WAIT_MAX: Duration = Duration::from_secs(30);
/// Shortest, and what is told before anything has left.
pub const WAIT_MIN: Duration = Duration::from_secs(1);

/// When the last ones left.
#[derive(Default)]
pub struct Departures(Mutex<VecDeque<Duration>>);

impl Departures {
    /// One has left, at this monotonic time.
    pub fn left(&self, now: Duration) {
        let mut times = lock(&self.0);
        if times.len() == REMEMBERED {
            times.pop_front();
        }
        times.push_back(now);
    }

    /// When to come again, with so many waiting.
    pub fn wait(&self, waiting: usize, now: Duration) -> Duration {
        let times = lock(&self.0);
        // Measured up to now and not to the last departure, so that a standstill makes the wait longer.
        let Some(over) = times.front().map(|first| now.saturating_sub(*first)) else { return WAIT_MIN };
        let half = u32::try_from(waiting.div_ceil(2)).unwrap_or(u32::MAX);
        let interval = over / (times.len() as u32);
        interval.saturating_mul(half).clamp(WAIT_MIN, WAIT_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_what_waits_at_the_pace_of_the_last() {
        let (departures, s) = (Departures::default(), Duration::from_secs);
        assert_eq!(departures.wait(1000, s(5)), WAIT_MIN, "nothing is known");
        (0..200).for_each(|n| departures.left(s(10) + Duration::from_millis(100 * n)));
        // The last 64 left from second 23.6 on, ten a second.
        assert_eq!(departures.wait(40, s(30)), s(2));
        assert_eq!(departures.wait(1, s(30)), WAIT_MIN);
        assert_eq!(departures.wait(4096, s(30)), WAIT_MAX);
        assert!(departures.wait(40, s(60)) > s(11), "a standstill is noticed");
    }
}
