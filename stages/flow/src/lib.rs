//! How jobs move: bounded queues that are fair between their keys, stages with a width, drain, backoff, and
//! the bridge to rayon. There is no domain here; a payload is whatever the assembly says.
//!
//! ```text
//!  door --try_push--> [queue]-> stage --push.await--> [queue]-> stage ... -> answer
//!   |                  bound     width                 bound     width         |
//!   +---------- the ticket travels with the payload and is answered once -----+
//! ```
//!
//! The laws, each kept in one file and tested at its foot:
//!
//! 1. *Every ticket is answered exactly once* ([`mod@ticket`]): by completion, by a refusal, by a panic that the
//!    stage caught, or as [`Unanswered::Lost`] when a drain cuts it off. A handler never holds the ticket, so
//!    it cannot lose one.
//! 2. *Nothing waits unbounded, nothing is dropped* ([`mod@queue`]): the door refuses, stages wait. While a
//!    finished job waits for room in the next queue it keeps its slot, so the most that can be inside is the
//!    sum of all queues and widths.
//! 3. *Fair between keys, first in first out within one* (`lanes`): a thousand jobs of one key delay
//!    another key's job by one.
//! 4. *Numbers cannot drift*: depth, wait, inflight and width are written by the queue and the slots
//!    themselves, in the critical section that makes the change.
//! 5. *CPU work never runs on an async thread* ([`pool`]), and a panic fails its own job only ([`stage`]).
//! 6. *Time and chance are passed in* (`rewarder_model::world`).

pub mod backoff;
pub mod config;
pub mod error;
mod lanes;
pub mod metrics;
pub mod panicked;
pub mod pipeline;
pub mod pool;
pub mod queue;
mod slots;
pub mod stage;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod ticket;

pub use backoff::Backoff;
pub use config::{StageConfig, StageOverride};
pub use error::{ConfigError, PoolError, PushError, Unanswered, UnknownStage};
pub use panicked::Panicked;
pub use pipeline::{Controls, Drained, Pipeline, StageState};
pub use pool::{Lane, Pool};
pub use queue::{Keyed, Receiver, Sender, queue};
pub use stage::{Context, Step};
pub use ticket::{Answer, Door, Envelope, Ticket, ticket};

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks, poisoned or not. Nothing in this crate leaves a half-made change behind when it panics, and one
/// panicking job must not take the queue of all the others with it.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
