//! How full the store is. One counter, moved only by [`Charge`]s, so that an upload that ends in any way
//! gives its bytes back, and two uploads can never share the last free byte.
//!
//! The counter is this process's: it is recomputed from the disk at open. Replicas that share a directory
//! each see what was there when they started and what they added; the bound of the whole is then `replicas x
//! STORE_MAX_BYTES` at worst.

use crate::error::StoreError;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Debug)]
pub(crate) struct Space {
    used: AtomicU64,
    limit: u64,
}

impl Space {
    pub(crate) fn new(used: u64, limit: u64) -> Arc<Self> {
        Arc::new(Self { used: used.into(), limit })
    }

    pub(crate) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    pub(crate) fn limit(&self) -> u64 {
        self.limit
    }

    /// Takes `bytes`, or none of them.
    fn take(&self, bytes: u64) -> Result<(), StoreError> {
        let more = |used: u64| used.checked_add(bytes).filter(|used| *used <= self.limit);
        match self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more) {
            Ok(_) => Ok(()),
            Err(_) => Err(StoreError::Full { limit: self.limit }),
        }
    }

    /// Gives `bytes` back.
    pub(crate) fn release(&self, bytes: u64) {
        let _ = self
            .used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| Some(used.saturating_sub(bytes)));
    }

    /// Counts bytes that are there whatever the limit says (a delivery record must be written after money has
    /// moved).
    pub(crate) fn force(&self, bytes: u64) {
        self.used.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// Bytes taken by something under way; given back when dropped, unless [`Charge::keep`] made them permanent.
#[derive(Debug)]
pub(crate) struct Charge {
    space: Arc<Space>,
    bytes: u64,
}

impl Charge {
    pub(crate) fn new(space: &Arc<Space>, bytes: u64) -> Result<Self, StoreError> {
        space.take(bytes)?;
        Ok(Self { space: space.clone(), bytes })
    }

    /// Holds at least `bytes`.
    pub(crate) fn cover(&mut self, bytes: u64) -> Result<(), StoreError> {
        let more = bytes.saturating_sub(self.bytes);
        self.space.take(more)?;
        self.bytes += more;
        Ok(())
    }

    /// The stored thing has `bytes`: they stay counted for as long as it is there.
    pub(crate) fn keep(mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_sub(bytes);
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.space.release(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_exact_and_nothing_leaks() {
        let space = Space::new(3, 10);
        let mut a = Charge::new(&space, 4).unwrap();
        a.cover(7).unwrap();
        assert!(a.cover(8).is_err());
        assert!(Charge::new(&space, 1).is_err());
        assert!(Charge::new(&space, u64::MAX).is_err());
        assert_eq!(space.used(), 10);
        a.keep(5);
        assert_eq!(space.used(), 8);
        drop(Charge::new(&space, 2).unwrap());
        assert_eq!(space.used(), 8);
    }
}
