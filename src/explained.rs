//! What is told of a run, read once and kept for whoever asks next: a run never changes, so that nothing here becomes stale.
//! Which run an epoch has and where its delivery stands do change, and are looked up by each request.
//!
//! Bounded in bytes; who asked last stays longest. A run that is larger by itself than the bound is read each time.

use crate::pipeline::SharedSource;
use crate::proof::Tree;
use crate::refusal::Refusal;
use crate::why::Kept;
use rewarder_decode::Lookup;
use rewarder_model::{Cid, Manifest, Policy, TenantId};
use rewarder_store::Run;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What is kept of runs.
pub trait OfRun {
    /// Most bytes that all of it may take together.
    const BYTES_MAX: usize;
    /// Whether it is so large that only one is read at a time.
    const ONE_BY_ONE: bool;
    /// How many this one takes.
    fn bytes(&self) -> usize;
}

/// Most bytes that the rows of one run may take to be noted: those of ten million rows of a million actors. Beyond that all
/// actors' keys are read for each question, four bytes a row.
pub const ROWS_BYTES_MAX: u64 = 48 << 20;

/// A run's parts, open.
pub struct Explained {
    /// What is committed to.
    pub manifest: Manifest,
    /// The derivation.
    pub kept: Kept,
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
    const ONE_BY_ONE: bool = true;

    fn bytes(&self) -> usize {
        self.text.len() + self.tree.bytes() + self.rows.bytes()
    }
}

/// What stands in the answer for a run and never changes: all but where its delivery stands.
pub struct Signed {
    /// The run, open.
    pub run: Run,
    /// The answer up to the delivery.
    pub before: Vec<u8>,
    /// The answer after the delivery.
    pub after: Vec<u8>,
    /// The hash of both.
    pub hash: Cid,
}

impl OfRun for Signed {
    /// Some hundred runs: one takes two kilobytes, with a signature of ML-DSA-65 seven.
    const BYTES_MAX: usize = 1 << 20;
    const ONE_BY_ONE: bool = false;

    fn bytes(&self) -> usize {
        size_of::<Self>() + self.before.len() + self.after.len()
    }
}

/// A tenant's run.
type Key = (TenantId, Cid);

/// The runs that were asked for last.
pub struct Runs<T> {
    /// The last one at the end.
    kept: Mutex<VecDeque<(Key, Arc<T>)>>,
    /// Held while a run is read: of many who ask for the same one, one reads it, and there is memory for one more than are kept.
    reading: Mutex<()>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<T> Default for Runs<T> {
    fn default() -> Self {
        Self { kept: Mutex::default(), reading: Mutex::default() }
    }
}

impl<T: OfRun> Runs<T> {
    /// The run, kept or read now. It blocks.
    ///
    /// # Errors
    /// Those of `read`.
    pub fn get(
        &self,
        tenant: &TenantId,
        run_key: &Cid,
        read: impl FnOnce() -> Result<T, Refusal>,
    ) -> Result<Arc<T>, Refusal> {
        let key = (tenant.clone(), *run_key);
        if let Some(kept) = self.kept(&key) {
            return Ok(kept);
        }
        let _reading = T::ONE_BY_ONE.then(|| lock(&self.reading));
        if let Some(kept) = self.kept(&key) {
            return Ok(kept);
        }
        let read = Arc::new(read()?);
        if read.bytes() <= T::BYTES_MAX {
            let mut kept = lock(&self.kept);
            // Who read the same beside us has read the same bytes.
            kept.retain(|(other, _)| *other != key);
            kept.push_back((key, read.clone()));
            while kept.iter().map(|(_, run)| run.bytes()).sum::<usize>() > T::BYTES_MAX {
                kept.pop_front();
            }
        }
        Ok(read)
    }

    fn kept(&self, key: &Key) -> Option<Arc<T>> {
        let mut kept = lock(&self.kept);
        // Who asked last is most likely to ask next, and the hash settles it without the name.
        let at = kept.iter().rposition(|((tenant, run), _)| *run == key.1 && *tenant == key.0)?;
        let found = kept.remove(at)?;
        let read = found.1.clone();
        kept.push_back(found);
        Some(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;

    struct Small;

    impl OfRun for Small {
        const BYTES_MAX: usize = 3;
        const ONE_BY_ONE: bool = false;

        fn bytes(&self) -> usize {
            1
        }
    }

    #[test]
    fn small_ones_are_read_beside_each_other_and_kept_once_within_the_bound() {
        let (runs, tenant) = (Runs::<Small>::default(), "acme".parse::<TenantId>().unwrap());
        let both = Barrier::new(2);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let read = || {
                        both.wait();
                        Ok(Small)
                    };
                    runs.get(&tenant, &Cid::of(b"0"), read).unwrap()
                });
            }
        });
        assert_eq!(lock(&runs.kept).len(), 1);
        let never = || -> Result<Small, Refusal> { panic!("it is kept") };
        runs.get(&tenant, &Cid::of(b"0"), never).unwrap();
        for n in 1..9u8 {
            runs.get(&tenant, &Cid::of(&[n]), || Ok(Small)).unwrap();
        }
        assert_eq!(lock(&runs.kept).len(), Small::BYTES_MAX);
    }
}
