//! At most `MAX_INFLIGHT` requests are under way. A place is a guard, so that no path out of a request can
//! keep it.

use crate::error::Refused;
use crate::lock;
use metrics::Gauge;
use rewarder_model::Reason;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// When to come again after `over_capacity`. Nobody knows when a place becomes free; a typical request takes
/// well under this.
pub const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The places.
#[derive(Clone)]
pub struct Inflight(Arc<Places>);

struct Places {
    state: Mutex<State>,
    gauge: Gauge,
}

struct State {
    taken: usize,
    most: usize,
}

/// A place that is taken until this is dropped.
#[must_use = "the place is free again when this is dropped"]
pub struct Inside(Arc<Places>);

impl Inflight {
    /// `most` places, all free.
    pub fn new(most: NonZeroUsize) -> Self {
        let gauge = metrics::gauge!(crate::metrics::INFLIGHT);
        gauge.set(0.0);
        Self(Arc::new(Places { state: Mutex::new(State { taken: 0, most: most.get() }), gauge }))
    }

    /// Takes a place, if one is free.
    pub fn enter(&self) -> Result<Inside, Refused> {
        let mut state = lock(&self.0.state);
        if state.taken >= state.most {
            return Err(Refused { reason: Reason::OverCapacity, retry_after: RETRY_AFTER });
        }
        state.taken += 1;
        self.0.gauge.set(state.taken as f64);
        Ok(Inside(Arc::clone(&self.0)))
    }

    /// Changes the number of places. Who is inside stays; with fewer places nobody new enters until enough
    /// have left.
    pub fn resize(&self, most: NonZeroUsize) {
        lock(&self.0.state).most = most.get();
    }

    /// How many are inside.
    pub fn taken(&self) -> usize {
        lock(&self.0.state).taken
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        let mut state = lock(&self.0.state);
        state.taken -= 1;
        self.0.gauge.set(state.taken as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scrape::Scrape;

    #[test]
    fn places_are_taken_and_free_again_and_the_gauge_follows() {
        let scrape = Scrape::default();
        let size = |n| NonZeroUsize::new(n).unwrap();
        let inflight = scrape.during(|| Inflight::new(size(2)));
        let first = inflight.enter().unwrap();
        let second = inflight.enter().unwrap();
        assert_eq!(inflight.enter().err().map(|r| r.reason), Some(Reason::OverCapacity));
        assert_eq!(scrape.value("inflight"), 2.0);

        inflight.resize(size(3));
        let third = inflight.enter().unwrap();
        inflight.resize(size(1));
        drop((first, second));
        assert!(inflight.enter().is_err(), "one is still inside");
        drop(third);
        assert!(inflight.enter().is_ok());
        assert_eq!((inflight.taken(), scrape.value("inflight")), (0, 0.0));
    }
}
