//! A stage: a queue, a width and a handler.
//!
//! The runner waits for a job, *then* for a slot, and only then takes the job out of the queue: were it to
//! take the job first, one more than the sizes say would be inside. The handler sees the payload; the ticket
//! stays here. When the handler is done the job moves on to the next queue, and its slot stays taken until
//! that queue has room: this is the whole of backpressure.

use crate::panicked::Panicked;
use crate::queue::{Receiver, Sender};
use crate::slots::{Slot, Slots};
use crate::ticket::Envelope;
use futures::FutureExt;
use rewarder_model::world::Clock;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;

/// What a handler makes of a job.
#[derive(Debug)]
pub enum Step<U, A> {
    /// On to the next stage. A last stage has none: there `U` is [`Infallible`](std::convert::Infallible).
    Next(U),
    /// The job ends here, done or refused, with this answer.
    Done(A),
}

/// What a handler may know of the job beside its payload.
#[derive(Debug, Clone)]
pub struct Context {
    /// The stage that runs.
    pub stage: &'static str,
    /// The fairness key.
    pub key: Arc<str>,
    /// When the job came in, on the monotonic clock.
    pub entered: Duration,
}

/// Told of every panic: the stage, and the message (for logs and events, never for a tenant).
pub(crate) type OnPanic = Arc<dyn Fn(&'static str, &str) + Send + Sync>;

/// What all jobs of a stage share.
pub(crate) struct Stage<H, U, A> {
    pub name: &'static str,
    pub handler: H,
    pub next: Option<Sender<Envelope<U, A>>>,
    pub slots: Arc<Slots>,
    pub clock: Arc<dyn Clock>,
    pub on_panic: OnPanic,
}

impl<H, U: Send + 'static, A: Send + 'static> Stage<H, U, A> {
    /// Works until the queue is closed and empty and every job has moved on. Then the sender to the next
    /// stage is dropped with `self`, and that stage comes to its end in turn. Dropping this future cuts off
    /// the jobs that run.
    pub async fn run<T, F>(self: Arc<Self>, mut queue: Receiver<Envelope<T, A>>)
    where
        T: Send + 'static,
        H: Fn(T, Context) -> F + Send + Sync + 'static,
        F: Future<Output = Step<U, A>> + Send + 'static,
    {
        // Dropping the set aborts its tasks.
        let mut running = JoinSet::new();
        while queue.ready().await {
            let slot = self.slots.take().await;
            let Some(envelope) = queue.try_pop() else { continue };
            // Tasks that have ended; at most as many as the stage was ever wide.
            while running.try_join_next().is_some() {}
            running.spawn(Arc::clone(&self).work(envelope, slot));
        }
        while running.join_next().await.is_some() {}
    }

    async fn work<T, F>(self: Arc<Self>, envelope: Envelope<T, A>, slot: Slot)
    where
        H: Fn(T, Context) -> F,
        F: Future<Output = Step<U, A>>,
    {
        let Envelope { ticket, payload } = envelope;
        let context = Context { stage: self.name, key: Arc::clone(ticket.key()), entered: ticket.entered() };
        let begun = self.clock.monotonic();
        // Unwind safe: the payload is gone after a panic, and what handlers share is behind locks and
        // atomics. The call stands inside the block because a handler may panic before it returns its future.
        let step = AssertUnwindSafe(async { (self.handler)(payload, context).await }).catch_unwind().await;
        self.slots.metrics().service.record(self.clock.monotonic().saturating_sub(begun).as_secs_f64());
        match step {
            Ok(Step::Next(payload)) => {
                if let Some(next) = &self.next {
                    // An error means that the next stage was cut off; the envelope is dropped and so
                    // answered.
                    let _ = next.push(Envelope { ticket, payload }).await;
                }
                drop(slot);
            }
            // The slot first, as with what the ticket holds: who has the answer finds the gauges already
            // right.
            Ok(Step::Done(answer)) => {
                drop(slot);
                ticket.answer(answer);
            }
            Err(payload) => {
                (self.on_panic)(self.name, &Panicked::of(payload).message);
                drop(slot);
                ticket.panicked(self.name);
            }
        }
    }
}
