//! Canonical texts in memory, for proofs: the ones asked for last, within a bound.

use rewarder_model::Cid;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

/// Most bytes kept. One larger text is read each time it is asked for.
const BYTES_MAX: usize = 64 << 20;

/// Texts by root. A root determines its text, so nothing here can become stale.
#[derive(Default)]
pub struct Texts(Mutex<VecDeque<(Cid, Arc<[u8]>)>>);

impl Texts {
    /// The text with this root, if it was asked for lately.
    pub fn get(&self, root: &Cid) -> Option<Arc<[u8]>> {
        let mut texts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = texts.iter().position(|(other, _)| other == root)?;
        // The last asked for stands last.
        let found = texts.remove(at)?;
        let text = found.1.clone();
        texts.push_back(found);
        Some(text)
    }

    /// Keeps a text.
    pub fn put(&self, root: Cid, text: Arc<[u8]>) {
        let mut texts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if text.len() > BYTES_MAX || texts.iter().any(|(other, _)| *other == root) {
            return;
        }
        texts.push_back((root, text));
        while texts.iter().map(|(_, text)| text.len()).sum::<usize>() > BYTES_MAX {
            texts.pop_front();
        }
    }
}
