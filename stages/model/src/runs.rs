//! The port between delivery and whoever keeps runs: which run has an epoch, and what became of it.
//!
//! The law that every implementation keeps: of all runs of one (tenant, epoch) at most one holds the claim; a claim and a
//! delivery record are durable when the call returns, and the first writer of a claim wins. Calls may block on a disk.

use crate::cid::Cid;
use crate::name::{EpochId, TenantId};
use crate::reason::Reason;
use std::fmt;

/// What a claim came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// The epoch is this run's now.
    Claimed,
    /// It was this run's before.
    Same,
    /// It is this other run's (409 `epoch_conflict`).
    Conflict(Cid),
}

/// All claims.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Claims {
    /// Which run has which epoch, in an order that does not change.
    pub read: Vec<(TenantId, EpochId, Cid)>,
    /// Claims that are there and cannot be read, and why: their epochs are some run's, and nobody can tell which.
    pub unread: Vec<(TenantId, EpochId, RunsError)>,
}

/// The keeper of runs failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunsError {
    /// The word with which a request that met this is answered.
    pub reason: Reason,
    /// What failed.
    pub detail: String,
}

impl fmt::Display for RunsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

impl std::error::Error for RunsError {}

/// Keeps runs, their claims and their delivery records.
pub trait Runs: Send + Sync + 'static {
    /// Makes `run_key` the epoch's run, unless another one is.
    ///
    /// # Errors
    /// Its own, also when the epoch has a claim that cannot be read.
    fn claim(&self, tenant: &TenantId, epoch: &EpochId, run_key: &Cid) -> Result<Claim, RunsError>;

    /// Gives a claim up. True if `run_key` held it.
    ///
    /// # Errors
    /// Its own.
    fn unclaim(&self, tenant: &TenantId, epoch: &EpochId, run_key: &Cid) -> Result<bool, RunsError>;

    /// Whose the epoch is, if it is claimed.
    ///
    /// # Errors
    /// Its own.
    fn holder(&self, tenant: &TenantId, epoch: &EpochId) -> Result<Option<Cid>, RunsError>;

    /// All claims.
    ///
    /// # Errors
    /// Its own, but not for single claims that cannot be read.
    fn claimed(&self) -> Result<Claims, RunsError>;

    /// The bytes of a run's manifest; `None` if there is no such run.
    ///
    /// # Errors
    /// Its own.
    fn manifest(&self, tenant: &TenantId, run_key: &Cid) -> Result<Option<Vec<u8>>, RunsError>;

    /// A run's delivery record, if it has one.
    ///
    /// # Errors
    /// Its own.
    fn delivery(&self, tenant: &TenantId, run_key: &Cid) -> Result<Option<Vec<u8>>, RunsError>;

    /// Replaces a run's delivery record.
    ///
    /// # Errors
    /// Its own, also when there is no such run.
    fn keep_delivery(&self, tenant: &TenantId, run_key: &Cid, json: &[u8]) -> Result<(), RunsError>;
}
