//! Taking turns by run key: who hands a run over, brings its claim to an end or drops it does so alone. What one of them has
//! read of claim, record and spool still holds when it acts on it.
//!
//! Why not one lock for all: a delivery lasts as long as the ledger's deadline.

use rewarder_model::Cid;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::OwnedMutexGuard;

type Locks = BTreeMap<Cid, Arc<tokio::sync::Mutex<()>>>;

/// Whose turn it is; as many entries as there are runs on their way.
#[derive(Debug, Clone, Default)]
pub(crate) struct Turns(Arc<Mutex<Locks>>);

/// A turn; over when dropped.
pub(crate) struct Turn {
    // Before the place: whoever gives that up last finds nothing held.
    _held: OwnedMutexGuard<()>,
    _place: Place,
}

/// A place in the line, from before it is one's turn: who goes away while waiting gives it up too.
struct Place {
    turns: Turns,
    run_key: Cid,
    /// Taken when the place is given up.
    lock: Option<Arc<tokio::sync::Mutex<()>>>,
}

impl Turns {
    fn locks(&self) -> MutexGuard<'_, Locks> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for one's turn at a run; first come, first served.
    pub(crate) async fn take(&self, run_key: &Cid) -> Turn {
        let lock = self.locks().entry(*run_key).or_default().clone();
        let place = Place { turns: self.clone(), run_key: *run_key, lock: Some(lock.clone()) };
        Turn { _held: lock.lock_owned().await, _place: place }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut locks = self.turns.locks();
        // Under the lock of the map: of two that go at once, the second one finds the map's own alone.
        self.lock = None;
        if locks.get(&self.run_key).is_some_and(|lock| Arc::strong_count(lock) == 1) {
            locks.remove(&self.run_key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Poll;

    #[tokio::test]
    async fn one_at_a_time_by_run_and_nothing_is_left() {
        let turns = Turns::default();
        let (a, b) = (Cid::of(b"a"), Cid::of(b"b"));
        let first = turns.take(&a).await;
        let other = turns.take(&b).await;
        let waiting = {
            let turns = turns.clone();
            tokio::spawn(async move { drop(turns.take(&a).await) })
        };
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop((first, other));
        waiting.await.unwrap();
        assert!(turns.locks().is_empty());
    }

    /// Whoever waits may go away: before it is its turn, and after it has been given to it and nobody has told it yet.
    #[tokio::test]
    async fn nothing_is_left_of_who_goes_away_while_waiting() {
        let turns = Turns::default();
        let a = Cid::of(b"a");
        for behind in [false, true] {
            let first = turns.take(&a).await;
            let mut waiting = Box::pin(turns.take(&a));
            assert!(
                std::future::poll_fn(|context| Poll::Ready(waiting.as_mut().poll(context).is_pending()))
                    .await
            );
            if behind {
                drop(first);
                drop(waiting);
            } else {
                drop(waiting);
                drop(first);
            }
            assert!(turns.locks().is_empty(), "given its turn: {behind}");
        }
    }
}
