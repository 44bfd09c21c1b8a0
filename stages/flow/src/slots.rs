//! How many jobs a stage works on at once. A slot is a guard: it is free again when it is dropped, by
//! whatever path.

use crate::lock;
use crate::metrics::StageMetrics;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};
use tokio::sync::Notify;

pub(crate) struct Slots {
    state: Mutex<State>,
    /// Wakes the stage's runner, the only one who takes slots.
    freed: Notify,
    metrics: StageMetrics,
}

struct State {
    running: usize,
    width: usize,
}

impl Slots {
    pub fn new(width: NonZeroUsize, metrics: StageMetrics) -> Arc<Self> {
        metrics.inflight.set(0.0);
        metrics.width.set(width.get() as f64);
        let state = State { running: 0, width: width.get() };
        Arc::new(Self { state: Mutex::new(state), freed: Notify::new(), metrics })
    }

    /// Waits until fewer than `width` run.
    pub async fn take(self: &Arc<Self>) -> Slot {
        loop {
            {
                let mut state = lock(&self.state);
                if state.running < state.width {
                    state.running += 1;
                    self.metrics.inflight.set(state.running as f64);
                    return Slot(Arc::clone(self));
                }
            }
            self.freed.notified().await;
        }
    }

    /// Wider: more start at once. Narrower: those that run finish, and none starts until fewer than `width`
    /// run.
    pub fn resize(&self, width: NonZeroUsize) {
        let mut state = lock(&self.state);
        state.width = width.get();
        self.metrics.width.set(state.width as f64);
        drop(state);
        self.freed.notify_one();
    }

    pub fn width(&self) -> usize {
        lock(&self.state).width
    }

    pub fn running(&self) -> usize {
        lock(&self.state).running
    }

    pub fn metrics(&self) -> &StageMetrics {
        &self.metrics
    }
}

/// The right to run one handler.
pub(crate) struct Slot(Arc<Slots>);

impl Drop for Slot {
    fn drop(&mut self) {
        let mut state = lock(&self.0.state);
        state.running -= 1;
        self.0.metrics.inflight.set(state.running as f64);
        drop(state);
        self.0.freed.notify_one();
    }
}
