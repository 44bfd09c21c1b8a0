//! The real world: the system's clock, tokio's timer, the operating system's random bits.

use crate::refusal::{Refusal, internal};
use rewarder_model::world::{BoxFuture, Clock, Entropy, Spawn};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The system's clock.
#[derive(Debug, Clone, Copy)]
pub struct SystemClock {
    start: Instant,
}

impl SystemClock {
    /// Monotonic time counts from here.
    pub fn start() -> Self {
        Self { start: Instant::now() }
    }
}

impl Clock for SystemClock {
    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }

    fn unix(&self) -> Duration {
        // A clock before 1970 is broken; zero makes every capability "not yet" or unexpired, and the logs show it.
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(duration))
    }
}

/// The operating system's random bits.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    fn fill(&self, bytes: &mut [u8]) {
        // The generator of aws-lc cannot fail once the process runs (it aborts if the system has no randomness at all).
        aws_lc_rs::rand::fill(bytes).expect("the system has random bits");
    }
}

/// The async runtime that the process runs on. Only for use from within it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Runtime;

impl Spawn for Runtime {
    fn spawn(&self, future: BoxFuture<'static, ()>) {
        tokio::spawn(future);
    }

    fn blocking(&self, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, bool> {
        let task = tokio::task::spawn_blocking(work);
        Box::pin(async move { task.await.is_ok() })
    }
}

/// Runs what blocks on a thread that may block.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    tokio::task::spawn_blocking(work).await.map_err(|e| internal(&e))?
}
