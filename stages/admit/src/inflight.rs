//! At most `MAX_INFLIGHT` requests are under way. A place is a guard, so that no path out of a request can
//! keep it.
//!
//! Those are for new work. Inspection takes what new work leaves of them and [`INSPECTION_RESERVE`] more, so that who looks at
//! results gets in when new work has filled the rest, and never takes a place from it.
//!
//! One tenant may take them all. When it has, an eighth more is there for tenants that have no place at all, one each: queues
//! are fair between tenants, and a door before them that only the fastest pass would undo that. Of fewer than eight places
//! there is no eighth.

use crate::error::Refused;
use crate::limiter::Wish;
use crate::lock;
use metrics::Gauge;
use rewarder_model::{Reason, TenantId};
use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// When to come again after `over_capacity`, unless somebody knows better: a typical request takes well under this.
pub const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Places beside `MAX_INFLIGHT` for inspection alone: what a dashboard and some impatient tenants ask at once. Reading is
/// bounded anyway by the threads that may block.
pub const INSPECTION_RESERVE: usize = 16;

/// The share of `MAX_INFLIGHT` that is there beside it for tenants without a place.
const NEWCOMERS_SHARE: usize = 8;

/// The places.
#[derive(Clone)]
pub struct Inflight(Arc<Places>);

struct Places {
    state: Mutex<State>,
    gauge: Gauge,
}

struct State {
    work: usize,
    /// Places of new work by tenant; none is zero, so it is as small as what is inside.
    of_tenant: HashMap<TenantId, usize>,
    inspection: usize,
    most: usize,
}

/// A place that is taken until this is dropped.
#[must_use = "the place is free again when this is dropped"]
pub struct Inside {
    places: Arc<Places>,
    /// Whose new work it is; nobody's if it only looks.
    worker: Option<TenantId>,
}

impl Inflight {
    /// `most` places, all free.
    pub fn new(most: NonZeroUsize) -> Self {
        let gauge = metrics::gauge!(crate::metrics::INFLIGHT);
        gauge.set(0.0);
        Self(Arc::new(Places {
            state: Mutex::new(State { work: 0, of_tenant: HashMap::new(), inspection: 0, most: most.get() }),
            gauge,
        }))
    }

    /// Takes a place, if one is free for this tenant.
    pub fn enter(&self, tenant: &TenantId, wish: Wish) -> Result<Inside, Refused> {
        let mut state = lock(&self.0.state);
        let room = match wish {
            Wish::Work if state.work < state.most => true,
            Wish::Work => {
                state.work < state.most + state.most / NEWCOMERS_SHARE
                    && !state.of_tenant.contains_key(tenant)
            }
            Wish::Inspection => state.work + state.inspection < state.most.saturating_add(INSPECTION_RESERVE),
        };
        if !room {
            return Err(Refused { reason: Reason::OverCapacity, retry_after: RETRY_AFTER });
        }
        let mut worker = None;
        match wish {
            Wish::Work => {
                state.work += 1;
                *state.of_tenant.entry(tenant.clone()).or_default() += 1;
                worker = Some(tenant.clone());
            }
            Wish::Inspection => state.inspection += 1,
        }
        self.0.gauge.set(state.work as f64);
        Ok(Inside { places: Arc::clone(&self.0), worker })
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
        let mut state = lock(&self.places.state);
        match &self.worker {
            Some(tenant) => {
                state.work -= 1;
                if let Some(places) = state.of_tenant.get_mut(tenant) {
                    *places -= 1;
                    if *places == 0 {
                        state.of_tenant.remove(tenant);
                    }
                }
            }
            None => state.inspection -= 1,
        }
        self.places.gauge.set(state.work as f64);
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
        let enter = || inflight.enter(&tenant("a"), Wish::Work);
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

    fn tenant(name: &str) -> TenantId {
        name.parse().unwrap()
    }

    #[test]
    fn tenants_without_a_place_find_one_when_a_greedy_one_has_taken_all() {
        let inflight = Inflight::new(NonZeroUsize::new(16).unwrap());
        let enter = |name: &str| inflight.enter(&tenant(name), Wish::Work);
        let mut greedy: Vec<_> = (0..16).map(|_| enter("greedy").unwrap()).collect();
        assert!(enter("greedy").is_err());
        let others = (enter("b").unwrap(), enter("c").unwrap());
        assert!(enter("b").is_err() && enter("d").is_err(), "one each, and two in all");
        greedy.truncate(14);
        assert!(enter("greedy").is_err(), "the places are those of all");
        greedy.truncate(13);
        assert!(enter("greedy").is_ok());
        drop((greedy, others));
        assert!(lock(&inflight.0.state).of_tenant.is_empty());
        let small = Inflight::new(NonZeroUsize::MIN);
        let _held = small.enter(&tenant("a"), Wish::Work).unwrap();
        assert!(small.enter(&tenant("b"), Wish::Work).is_err());
    }

    #[test]
    fn who_looks_gets_in_when_work_has_filled_the_rest() {
        let inflight = Inflight::new(NonZeroUsize::new(2).unwrap());
        let enter = |wish| inflight.enter(&tenant("a"), wish);
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
