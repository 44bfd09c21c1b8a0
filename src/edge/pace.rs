//! How fast a peer has to be while we wait for it.
//!
//! The law: of the time that is spent waiting for one peer, every [`WINDOW`] has moved at least `least` bytes a second. Time
//! that we need ourselves does not count, so that a busy service blames nobody; one byte now and then is not enough, so that
//! nobody holds a place for days with a body that never ends.

use std::time::Duration;

/// Waiting is judged in stretches of this: a mobile network's pause fits into it.
pub(super) const WINDOW: Duration = Duration::from_secs(10);

/// What one transfer has moved in the stretch under way.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// Bytes a second.
    least: u64,
    waited: Duration,
    moved: u64,
}

/// It was too slow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooSlow;

impl Pace {
    pub(super) fn new(least: u64) -> Self {
        Self { least, waited: Duration::ZERO, moved: 0 }
    }

    /// Waited so long, and so many bytes came of it.
    pub(super) fn note(&mut self, waited: Duration, moved: u64) -> Result<(), TooSlow> {
        self.waited += waited;
        self.moved += moved;
        if self.waited < WINDOW {
            return Ok(());
        }
        let wanted = u128::from(self.least) * self.waited.as_millis() / 1000;
        let enough = u128::from(self.moved) >= wanted;
        (self.waited, self.moved) = (Duration::ZERO, 0);
        if enough { Ok(()) } else { Err(TooSlow) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_stretch_of_waiting_has_to_move_its_bytes() {
        let second = Duration::from_secs(1);
        let mut pace = Pace::new(100);
        for _ in 0..100 {
            assert_eq!(pace.note(second, 100), Ok(()));
        }
        // What came before in plenty buys no patience later.
        assert_eq!(pace.note(Duration::ZERO, 1 << 30), Ok(()));
        assert_eq!((0..10).try_for_each(|_| pace.note(second, 1)), Ok(()));
        assert_eq!((0..10).try_for_each(|_| pace.note(second, 99)), Err(TooSlow));
        assert_eq!(pace.note(Duration::ZERO, 0), Ok(()), "no waiting, no blame");
    }
}
