//! A ticket makes a job answerable exactly once.
//!
//! The law is in the types: [`Ticket::answer`] consumes it, so there is no second answer, and a ticket that
//! is dropped instead closes the channel, which the waiting side reads as [`Unanswered::Lost`]. So there is
//! no way not to answer. The ticket stays with the stage's runner while handlers see the payload alone: they
//! cannot lose what they never hold.

use crate::error::Unanswered;
use crate::queue::{Keyed, Sender};
use std::future::Future;
use std::num::NonZeroU32;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;
use tokio::sync::oneshot;

/// The right to one answer of type `A`.
pub struct Ticket<A> {
    key: Arc<str>,
    weight: NonZeroU32,
    entered: Duration,
    // Before `reply`, for fields are dropped in this order: who has the answer finds the place already free.
    held: Option<Box<dyn Send>>,
    reply: oneshot::Sender<Result<A, Unanswered>>,
}

/// The waiting side of a [`Ticket`]. Dropping it does not stop the job: work that was accepted is finished.
#[must_use = "the answer arrives only where it is awaited"]
pub struct Answer<A>(oneshot::Receiver<Result<A, Unanswered>>);

/// Makes a ticket for a job of the fairness key `key` that came in at `entered` (of the monotonic clock).
/// Whatever is `held`, such as a permit of the door, is let go just before the answer is given.
pub fn ticket<A>(key: Arc<str>, entered: Duration, held: Option<Box<dyn Send>>) -> (Ticket<A>, Answer<A>) {
    let (reply, answer) = oneshot::channel();
    (Ticket { key, weight: NonZeroU32::MIN, entered, held, reply }, Answer(answer))
}

impl<A> Ticket<A> {
    /// Between whose jobs the queues are fair.
    pub fn key(&self) -> &Arc<str> {
        &self.key
    }

    /// The same job, with its key's weight in the queues; 1 if nothing is said.
    pub fn weighing(self, weight: NonZeroU32) -> Self {
        Self { weight, ..self }
    }

    /// When the job came in, on the monotonic clock.
    pub fn entered(&self) -> Duration {
        self.entered
    }

    /// Answers the job.
    pub fn answer(self, answer: A) {
        self.finish(Ok(answer));
    }

    /// Answers for a stage that panicked.
    pub(crate) fn panicked(self, stage: &'static str) {
        self.finish(Err(Unanswered::Panicked { stage }));
    }

    fn finish(self, answer: Result<A, Unanswered>) {
        drop(self.held);
        // Nobody waits any more: the client went away, and the job's effects stand all the same.
        let _ = self.reply.send(answer);
    }
}

impl<A> Future for Answer<A> {
    type Output = Result<A, Unanswered>;

    fn poll(mut self: Pin<&mut Self>, context: &mut std::task::Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(ready!(Pin::new(&mut self.0).poll(context)).unwrap_or(Err(Unanswered::Lost)))
    }
}

/// A job on its way: the ticket and what the next stage needs.
pub struct Envelope<T, A> {
    /// The right to the answer.
    pub ticket: Ticket<A>,
    /// What the stage works on.
    pub payload: T,
}

impl<T, A> Keyed for Envelope<T, A> {
    fn key(&self) -> &Arc<str> {
        &self.ticket.key
    }

    fn weight(&self) -> NonZeroU32 {
        self.ticket.weight
    }
}

/// The sending end of a queue of jobs.
pub type Door<T, A> = Sender<Envelope<T, A>>;

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use std::sync::atomic::{AtomicBool, Ordering};

    struct Permit(Arc<AtomicBool>);

    impl Drop for Permit {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }

    fn check(finish: impl FnOnce(Ticket<u8>), expect: Result<u8, Unanswered>) {
        let free = Arc::new(AtomicBool::new(false));
        let (ticket, answer) = ticket("k".into(), Duration::ZERO, Some(Box::new(Permit(Arc::clone(&free)))));
        assert!(!free.load(Ordering::SeqCst));
        finish(ticket);
        assert_eq!(answer.now_or_never(), Some(expect));
        assert!(free.load(Ordering::SeqCst), "what was held is free");
    }

    #[test]
    fn every_end_of_a_ticket_is_an_answer() {
        check(|ticket| ticket.answer(7), Ok(7));
        check(|ticket| ticket.panicked("reward"), Err(Unanswered::Panicked { stage: "reward" }));
        check(drop, Err(Unanswered::Lost));
    }

    #[test]
    fn answering_nobody_is_no_fault() {
        let (ticket, answer) = ticket("k".into(), Duration::ZERO, None);
        drop(answer);
        ticket.answer(7);
    }
}
