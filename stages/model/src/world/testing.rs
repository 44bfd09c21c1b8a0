//! A world for tests: time that moves only by hand, and bits that come from a seed.

use super::{BoxFuture, Clock, Entropy};
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;

/// A clock that stands still until a test moves it. Clones show the same time.
#[derive(Debug, Clone, Default)]
pub struct HandClock(Arc<Mutex<Hands>>);

#[derive(Debug, Default)]
struct Hands {
    monotonic: Duration,
    unix: Duration,
    sleepers: Vec<Waker>,
}

impl HandClock {
    /// A clock whose people's time is `unix`, and whose measuring time is 0.
    pub fn at(unix: Duration) -> Self {
        let clock = Self::default();
        clock.hands().unix = unix;
        clock
    }

    /// Moves both times on and wakes the sleepers, each of which looks for itself whether its time has come.
    pub fn advance(&self, by: Duration) {
        let sleepers = {
            let mut hands = self.hands();
            hands.monotonic += by;
            hands.unix += by;
            std::mem::take(&mut hands.sleepers)
        };
        sleepers.into_iter().for_each(Waker::wake);
    }

    fn hands(&self) -> MutexGuard<'_, Hands> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Clock for HandClock {
    fn monotonic(&self) -> Duration {
        self.hands().monotonic
    }

    fn unix(&self) -> Duration {
        self.hands().unix
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        let clock = self.clone();
        let until = clock.monotonic() + duration;
        Box::pin(poll_fn(move |context| {
            let mut hands = clock.hands();
            if hands.monotonic >= until {
                return Poll::Ready(());
            }
            // Registered under the lock that `advance` takes, so that no wake can be missed.
            hands.sleepers.push(context.waker().clone());
            Poll::Pending
        }))
    }
}

/// Bits from a seed (splitmix64): the same seed, the same bits. Worth nothing as a secret.
#[derive(Debug)]
pub struct SeededEntropy(Mutex<u64>);

impl SeededEntropy {
    /// A source that starts at `seed`.
    pub fn new(seed: u64) -> Self {
        Self(Mutex::new(seed))
    }
}

impl Entropy for SeededEntropy {
    fn fill(&self, bytes: &mut [u8]) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for chunk in bytes.chunks_mut(8) {
            *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = *state;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            chunk.copy_from_slice(&(z ^ (z >> 31)).to_le_bytes()[..chunk.len()]);
        }
    }
}
