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
    turns: Turns,
    run_key: Cid,
    _held: OwnedMutexGuard<()>,
}

impl Turns {
    fn locks(&self) -> MutexGuard<'_, Locks> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for one's turn at a run; first come, first served.
    pub(crate) async fn take(&self, run_key: &Cid) -> Turn {
        let lock = self.locks().entry(*run_key).or_default().clone();
        Turn { turns: self.clone(), run_key: *run_key, _held: lock.lock_owned().await }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut locks = self.turns.locks();
        // The map's own and the held one: nobody waits. Who comes later makes another one under the lock of the map.
        if locks.get(&self.run_key).is_some_and(|lock| Arc::strong_count(lock) <= 2) {
            locks.remove(&self.run_key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
