//! What is told of a run, read once and kept for whoever asks next: a run never changes, nor does what the ledger has settled, so
//! that nothing here becomes stale. Which run an epoch has, and where its delivery stands until then, is looked up by each request.
//!
//! Bounded in bytes; who asked last stays longest. What is larger by itself than the bound is read each time. Reading takes as long as
//! a snapshot is large, so that few do it at once ([`Readers`]) and none of those who wait holds a thread.

use crate::proof::Tree;
use crate::refusal::Refusal;
use crate::source::SharedSource;
use crate::why;
use bytes::Bytes;
use rewarder_decode::Lookup;
use rewarder_model::{Cid, EpochId, Manifest, Policy, TenantId};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What is kept of runs.
pub trait OfRun {
    /// Most bytes that all of it may take together.
    const BYTES_MAX: usize;
    /// What it is found by, within its tenant.
    type Name: Clone + PartialEq;
    /// How many this one takes.
    fn bytes(&self) -> usize;
}

/// Most bytes that the rows of one run may take to be noted: those of ten million rows of a million actors. Beyond that all
/// actors' keys are read for each question, four bytes a row.
pub const ROWS_BYTES_MAX: u64 = 48 << 20;

/// Runs that are read at once, whoever asks: each holds one of the threads that wait for the disk, and memory for a table.
const READERS_MAX: usize = 2;

/// Bytes of a weight in memory: its name in an allocation of its own, and its share of a tree's node.
const WEIGHT_BYTES: usize = 128;

/// Bytes of a run that do not hang on its size: manifest, derivation, categories.
const FIXED_BYTES: usize = 16 * 1024;

/// Who reads runs.
#[derive(Clone)]
pub struct Readers(Arc<Semaphore>);

impl Default for Readers {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(READERS_MAX)))
    }
}

impl Readers {
    /// Waits for one's turn, which lasts until it is dropped: it belongs to the work, not to who waits for it. First come, first
    /// served; nothing if the service ends.
    pub async fn turn(&self) -> Option<OwnedSemaphorePermit> {
        self.0.clone().acquire_owned().await.ok()
    }
}

/// A run's parts, open.
pub struct Explained {
    /// What is committed to.
    pub manifest: Manifest,
    /// The derivation.
    pub kept: why::Kept,
    /// The policy.
    pub policy: Policy,
    /// The canonical text.
    pub text: Vec<u8>,
    /// Its hash tree.
    pub tree: Tree,
    /// The snapshot's rows.
    pub rows: Lookup<SharedSource>,
}

impl OfRun for Explained {
    /// An epoch of ten million rows and a million recipients, with room for small ones beside it.
    const BYTES_MAX: usize = 96 << 20;
    /// The run key.
    type Name = Cid;

    fn bytes(&self) -> usize {
        let weights = WEIGHT_BYTES * self.policy.weights().len();
        FIXED_BYTES + weights + self.text.len() + self.tree.bytes() + self.rows.bytes()
    }
}

/// The whole answer for an epoch that is settled: its run and its delivery are final.
pub struct Settled {
    /// Manifest, attestation and delivery as they are answered.
    pub body: Bytes,
    /// Their tag.
    pub etag: String,
}

impl OfRun for Settled {
    /// Some thousand epochs: one takes three kilobytes, with a signature of ML-DSA-65 eight.
    const BYTES_MAX: usize = 4 << 20;
    type Name = EpochId;

    fn bytes(&self) -> usize {
        size_of::<Self>() + self.body.len() + self.etag.len()
    }
}

/// Kept under a tenant's name for it.
type Kept<T> = ((TenantId, <T as OfRun>::Name), Arc<T>);

/// The runs that were asked for last.
pub struct Runs<T: OfRun> {
    /// The last one at the end.
    kept: Mutex<VecDeque<Kept<T>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<T: OfRun> Default for Runs<T> {
    fn default() -> Self {
        Self { kept: Mutex::default() }
    }
}

impl<T: OfRun> Runs<T> {
    /// The run, kept or read now, which blocks.
    ///
    /// # Errors
    /// Those of `read`.
    pub fn get(
        &self,
        tenant: &TenantId,
        name: &T::Name,
        read: impl FnOnce() -> Result<T, Refusal>,
    ) -> Result<Arc<T>, Refusal> {
        if let Some(kept) = self.kept(tenant, name) {
            return Ok(kept);
        }
        let read = Arc::new(read()?);
        self.keep(tenant, name, read.clone());
        Ok(read)
    }

    /// What is kept under this name. It does not block.
    pub fn kept(&self, tenant: &TenantId, name: &T::Name) -> Option<Arc<T>> {
        let mut kept = lock(&self.kept);
        // Who asked last is most likely to ask next.
        let at = kept.iter().rposition(|((whose, known), _)| known == name && whose == tenant)?;
        let found = kept.remove(at)?;
        let run = found.1.clone();
        kept.push_back(found);
        Some(run)
    }

    /// Keeps what was read, in place of what is kept under this name.
    pub fn keep(&self, tenant: &TenantId, name: &T::Name, run: Arc<T>) {
        if run.bytes() > T::BYTES_MAX {
            return;
        }
        let key = (tenant.clone(), name.clone());
        let mut kept = lock(&self.kept);
        kept.retain(|(other, _)| *other != key);
        kept.push_back((key, run));
        while kept.iter().map(|(_, run)| run.bytes()).sum::<usize>() > T::BYTES_MAX {
            kept.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Small;

    impl OfRun for Small {
        const BYTES_MAX: usize = 3;
        type Name = u8;

        fn bytes(&self) -> usize {
            1
        }
    }

    #[test]
    fn each_is_read_once_and_the_last_ones_are_kept_within_the_bound() {
        let (runs, tenant) = (Runs::<Small>::default(), "acme".parse::<TenantId>().unwrap());
        let other = "other".parse::<TenantId>().unwrap();
        let never = || -> Result<Small, Refusal> { panic!("it is kept") };
        runs.get(&tenant, &0, || Ok(Small)).unwrap();
        runs.get(&tenant, &0, never).unwrap();
        assert!(runs.kept(&other, &0).is_none());
        for n in 1..9 {
            runs.get(&tenant, &n, || Ok(Small)).unwrap();
            // Who is asked for again stays.
            runs.get(&tenant, &0, never).unwrap();
        }
        runs.keep(&tenant, &0, Arc::new(Small));
        let kept: Vec<u8> = lock(&runs.kept).iter().map(|((_, name), _)| *name).collect();
        assert_eq!(kept, [7, 8, 0]);
    }

    #[tokio::test]
    async fn a_turn_belongs_to_the_work_and_not_to_who_waits_for_it() {
        let readers = Readers::default();
        let mut turns = Vec::new();
        for _ in 0..READERS_MAX {
            turns.push(readers.turn().await);
        }
        let waits = tokio::spawn({
            let readers = readers.clone();
            async move { readers.turn().await.is_some() }
        });
        tokio::task::yield_now().await;
        assert!(!waits.is_finished());
        // Handed over to a thread, it lasts as long as that works.
        let work = turns.pop();
        std::thread::spawn(move || drop(work)).join().unwrap();
        assert!(waits.await.unwrap());
    }

    #[test]
    fn what_failed_is_read_again() {
        let (runs, tenant) = (Runs::<Small>::default(), "acme".parse::<TenantId>().unwrap());
        let failed = || Err(Refusal::new(rewarder_model::Reason::Internal, "the disk"));
        assert!(runs.get(&tenant, &0, failed).is_err());
        assert!(runs.get(&tenant, &0, || Ok(Small)).is_ok());
    }
}
