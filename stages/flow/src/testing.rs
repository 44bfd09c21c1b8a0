//! Tools for tests that must not depend on time: a gate that holds jobs until they are let go.

pub use rewarder_model::world::testing::{HandClock, SeededEntropy};
use std::sync::{Arc, Mutex};
use tokio::sync::Semaphore;

/// Holds whoever passes until a test opens it for so many; counts who is inside.
pub struct Gate {
    permits: Semaphore,
    counts: Mutex<Counts>,
}

#[derive(Default)]
struct Counts {
    inside: usize,
    most: usize,
    passed: usize,
}

impl Gate {
    /// A gate that is shut.
    #[allow(clippy::new_ret_no_self, reason = "a gate is always shared with the handlers it holds")]
    pub fn new() -> Arc<Self> {
        Arc::new(Self { permits: Semaphore::new(0), counts: Mutex::default() })
    }

    /// Waits at the gate.
    pub async fn pass(&self) {
        {
            let mut counts = crate::lock(&self.counts);
            counts.inside += 1;
            counts.most = counts.most.max(counts.inside);
        }
        let _leave = Leave(self);
        if let Ok(permit) = self.permits.acquire().await {
            permit.forget();
            crate::lock(&self.counts).passed += 1;
        }
    }

    /// Lets `n` through, those that wait first.
    pub fn open(&self, n: usize) {
        self.permits.add_permits(n);
    }

    /// How many wait at the gate.
    pub fn inside(&self) -> usize {
        crate::lock(&self.counts).inside
    }

    /// The most that ever waited at once.
    pub fn most_inside(&self) -> usize {
        crate::lock(&self.counts).most
    }

    /// How many came through.
    pub fn passed(&self) -> usize {
        crate::lock(&self.counts).passed
    }
}

struct Leave<'a>(&'a Gate);

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        crate::lock(&self.0.counts).inside -= 1;
    }
}

/// Turns of the scheduler after which tests take every task to have come as far as it can without outside
/// help: more than the longest chain of wakes in them.
const SETTLE_TURNS: usize = 200;

/// Lets all other tasks of a current-thread runtime run until each waits for something that only the test can
/// give.
pub async fn settle() {
    for _ in 0..SETTLE_TURNS {
        tokio::task::yield_now().await;
    }
}

/// A recorder of its own for one test.
#[cfg(test)]
pub(crate) struct Scrape(metrics_exporter_prometheus::PrometheusRecorder);

#[cfg(test)]
impl Default for Scrape {
    fn default() -> Self {
        Self(metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder())
    }
}

#[cfg(test)]
impl Scrape {
    /// Handles made during `make` write here.
    pub fn during<T>(&self, make: impl FnOnce() -> T) -> T {
        metrics::with_local_recorder(&self.0, make)
    }

    /// The value of one series.
    pub fn value(&self, series: &str) -> f64 {
        let text = self.0.handle().render();
        let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {series} in\n{text}")).parse().unwrap()
    }
}
