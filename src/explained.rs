//! What explains a run, read once and kept for whoever asks next: a run never changes, so that nothing here becomes stale.
//! Which run an epoch has does change, and is looked up by each request before it comes here.
//!
//! Bounded in bytes; who asked last stays longest. A run that is larger by itself than the bound is read each time.

use crate::pipeline::SharedSource;
use crate::proof::Tree;
use crate::refusal::Refusal;
use crate::why::Kept;
use rewarder_decode::Lookup;
use rewarder_model::{Cid, Manifest, Policy, TenantId};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Most bytes kept: an epoch of ten million rows and a million recipients, with room for small ones beside it.
const BYTES_MAX: usize = 96 << 20;
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

impl Explained {
    fn bytes(&self) -> usize {
        self.text.len() + self.tree.bytes() + self.rows.bytes()
    }
}

/// A tenant's run.
type Key = (TenantId, Cid);

/// The runs that were asked for last.
#[derive(Default)]
pub struct Runs {
    /// The last one at the end.
    kept: Mutex<VecDeque<(Key, Arc<Explained>)>>,
    /// Held while a run is read: of many who ask for the same one, one reads it, and there is memory for one more than are kept.
    reading: Mutex<()>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Runs {
    /// The run, kept or read now. It blocks.
    ///
    /// # Errors
    /// Those of `read`.
    pub fn get(
        &self,
        tenant: &TenantId,
        run_key: &Cid,
        read: impl FnOnce() -> Result<Explained, Refusal>,
    ) -> Result<Arc<Explained>, Refusal> {
        let key = (tenant.clone(), *run_key);
        if let Some(explained) = self.kept(&key) {
            return Ok(explained);
        }
        let _reading = lock(&self.reading);
        if let Some(explained) = self.kept(&key) {
            return Ok(explained);
        }
        let explained = Arc::new(read()?);
        if explained.bytes() <= BYTES_MAX {
            let mut kept = lock(&self.kept);
            kept.push_back((key, explained.clone()));
            while kept.iter().map(|(_, run)| run.bytes()).sum::<usize>() > BYTES_MAX {
                kept.pop_front();
            }
        }
        Ok(explained)
    }

    fn kept(&self, key: &Key) -> Option<Arc<Explained>> {
        let mut kept = lock(&self.kept);
        let at = kept.iter().position(|(other, _)| other == key)?;
        let found = kept.remove(at)?;
        let explained = found.1.clone();
        kept.push_back(found);
        Some(explained)
    }
}
