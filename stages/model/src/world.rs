//! What the outside passes in. Flow, admission and delivery read no clock and draw no random bits of their own, so that a
//! simulator can stand in for both. The real ones are in the assembly (`src/world.rs`).

#[cfg(feature = "disk")]
pub mod disk;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

/// A future that can be kept in a box.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Time: one clock that never jumps, one that people read, and a timer.
pub trait Clock: Send + Sync + 'static {
    /// Time since some fixed moment; never goes back. For measuring and for deadlines.
    fn monotonic(&self) -> Duration;
    /// Time since 1970-01-01T00:00:00Z. For expiry and for records; may jump.
    fn unix(&self) -> Duration;
    /// Completes when `monotonic` has advanced by `duration`.
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()>;
}

/// Random bits.
pub trait Entropy: Send + Sync + 'static {
    /// Fills `bytes`; cryptographically strong in the real world, seeded in a simulation.
    fn fill(&self, bytes: &mut [u8]);

    /// A number below `limit`; 0 if `limit` is 0. The bias of one part in 2^64 / limit does not matter for jitter.
    fn below(&self, limit: u64) -> u64 {
        let mut bytes = [0; 8];
        self.fill(&mut bytes);
        u64::from_le_bytes(bytes).checked_rem(limit).unwrap_or(0)
    }
}

/// Somewhere for work to run beside its caller: a runtime, or the scheduler of a simulation.
pub trait Spawn: Send + Sync + 'static {
    /// Runs a future to its end, whoever waits for it or goes away.
    fn spawn(&self, future: BoxFuture<'static, ()>);
    /// Runs what blocks (an fsync) where blocking is allowed; true when it has run to its end, false if it was broken off
    /// by a panic or by the end of the process. Runs to its end also if the returned future is dropped.
    fn blocking(&self, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, bool>;
}
