//! Settled runs that were answered lately, ready to be told again without asking the store.
//!
//! The law: only what the ledger has settled is kept, so that nothing here becomes stale; at most [`RECENT_MAX`], the oldest go first.

use crate::pipeline::Done;
use rewarder_model::{Cid, EpochId, LedgerResult, TenantId};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// Runs that are kept: about two kilobytes each.
const RECENT_MAX: usize = 1024;

/// Which run, by what it was asked by: the same three that make its run key, without the hash that it takes to make it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct RecentKey {
    /// Whose.
    pub tenant: TenantId,
    /// Of which epoch.
    pub epoch: EpochId,
    /// Of which snapshot.
    pub inputs_cid: Cid,
    /// By which policy.
    pub policy_hash: Cid,
}

/// A settled run as it is told again. A dry run tells nothing about the ledger; a settled run told again is a dup.
pub struct Again {
    /// To one that would pay.
    pub wet: Arc<Done>,
    /// To a dry one.
    pub dry: Arc<Done>,
}

impl Again {
    fn of(done: &Done) -> Self {
        let told = |result| Arc::new(done.again(result));
        Self { wet: told(LedgerResult::Dup), dry: told(LedgerResult::None) }
    }
}

/// Answers of settled runs.
#[derive(Default)]
pub struct Recent {
    runs: HashMap<RecentKey, Arc<Again>, ahash::RandomState>,
    order: VecDeque<RecentKey>,
}

impl Recent {
    /// The run, if it is kept.
    pub fn get(&self, key: &RecentKey) -> Option<Arc<Again>> {
        self.runs.get(key).cloned()
    }

    /// Keeps a run if the ledger has settled it.
    pub fn keep(&mut self, tenant: TenantId, epoch: EpochId, done: &Done) {
        if done.ledger == LedgerResult::None {
            return;
        }
        let (inputs_cid, policy_hash) = (done.manifest.inputs.cid, done.manifest.policy.hash);
        let key = RecentKey { tenant, epoch, inputs_cid, policy_hash };
        if self.runs.insert(key.clone(), Arc::new(Again::of(done))).is_some() {
            return;
        }
        self.order.push_back(key);
        if self.order.len() > RECENT_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.runs.remove(&oldest);
        }
    }
}
