//! At most `MAX_INFLIGHT` requests are under way. A place is a guard, so that no path out of a request can
//! keep it.
//!
//! Those are for new work. Inspection takes what new work leaves of them and [`INSPECTION_RESERVE`] more, so that who looks at
//! results gets in when new work has filled the rest, and never takes a place from it.

use crate::error::Refused;
use crate::limiter::Wish;
use crate::lock;
use metrics::Gauge;
use rewarder_model::Reason;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// When to come again after `over_capacity`, unless somebody knows better: a typical request takes well under this.
pub const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Places beside `MAX_INFLIGHT` for inspection alone: what a dashboard and some impatient tenants ask at once. Reading is
/// bounded anyway by the threads that may block.
pub const INSPECTION_RESERVE: usize = 16;

/// The places.
#[derive(Clone)]
pub struct Inflight(Arc<Places>);

struct Places {
    state: Mutex<State>,
    gauge: Gauge,
}

struct State {
    work: usize,
    inspection: usize,
    most: usize,
}

/// A place that is taken until this is dropped.
#[must_use = "the place is free again when this is dropped"]
pub struct Inside(Arc<Places>, Wish);

impl Inflight {
    /// `most` places, all free.
    pub fn new(most: NonZeroUsize) -> Self {
        let gauge = metrics::gauge!(crate::metrics::INFLIGHT);
        gauge.set(0.0);
        Self(Arc::new(Places {
            state: Mutex::new(State { work: 0, inspection: 0, most: most.get() }),
            gauge,
        }))
    }

    /// Takes a place, if one is free.
    pub fn enter(&self, wish: Wish) -> Result<Inside, Refused> {
        let mut state = lock(&self.0.state);
        let room = match wish {
            Wish::Work => state.work < state.most,
            Wish::Inspection => state.work + state.inspection < state.most.saturating_add(INSPECTION_RESERVE),
        };
        if !room {
            return Err(Refused { reason: Reason::OverCapacity, retry_after: RETRY_AFTER });
        }
        match wish {
            Wish::Work => state.work += 1,
            Wish::Inspection => state.inspection += 1,
        }
        self.0.gauge.set(state.work as f64);
        Ok(Inside(Arc::clone(&self.0), wish))
    }

    /// Changes the number of places. Who is inside stays; with fewer places nobody new enters until enough
    /// have left.
    pub fn resize(&self, most: NonZeroUsize) {
        lock(&self.0.state).most = most.get();
    }

    /// How many are inside with new work.
    pub fn taken(&self) -> usize {
        lock(&self.0.state).work
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        let mut state = lock(&self.0.state);
        match self.1 {
            Wish::Work => state.work -= 1,
            Wish::Inspection => state.inspection -= 1,
        }
        self.0.gauge.set(state.work as f64);
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
        let enter = || inflight.enter(Wish::Work);
        let first = enter().unwrap();
        let second = enter().unwrap();
        assert_eq!(enter().err().map(|r| r.reason), Some(Reason::OverCapacity));
        assert_eq!(scrape.value("inflight"), 2.0);

        inflight.resize(size(3));
        let third = enter().unwrap();
        inflight.resize(size(1));
        drop((first, second));
        assert!(enter().is_err(), "one is still inside");
        drop(third);
        assert!(enter().is_ok());
        assert_eq!((inflight.taken(), scrape.value("inflight")), (0, 0.0));
    }

    #[test]
    fn who_looks_gets_in_when_work_has_filled_the_rest() {
        let inflight = Inflight::new(NonZeroUsize::new(2).unwrap());
        let enter = |wish| inflight.enter(wish);
        let work = (enter(Wish::Work).unwrap(), enter(Wish::Work).unwrap());
        assert!(enter(Wish::Work).is_err());
        let looking: Vec<_> = (0..INSPECTION_RESERVE).map(|_| enter(Wish::Inspection).unwrap()).collect();
        assert!(enter(Wish::Inspection).is_err());
        drop(work);
        let looking = (looking, enter(Wish::Inspection).unwrap(), enter(Wish::Inspection).unwrap());
        assert!(enter(Wish::Inspection).is_err(), "it has taken what work had left");
        let work = (enter(Wish::Work).unwrap(), enter(Wish::Work).unwrap());
        assert!(enter(Wish::Work).is_err(), "and work has its places all the same");
        drop((looking, work));
        assert!(enter(Wish::Inspection).is_ok());
    }
}
