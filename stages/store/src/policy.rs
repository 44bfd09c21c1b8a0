//! A policy id belongs to its tenant and binds to one hash, for good (contract §3).
//!
//! The law: of any number of writers with different hashes, in any number of processes, one wins and the
//! others hear which hash did. The file with the hash is complete and durable before it gets the name, so no
//! reader ever sees half of it.

use crate::error::StoreError;
use crate::store::{BINDS, Store};
use rewarder_model::{Cid, PolicyId, TenantId};
use std::path::{Path, PathBuf};

/// What a binding came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// The id was free.
    New,
    /// The id was bound to this hash before.
    Same,
    /// The id is bound to this other hash (409 `policy_conflict`).
    Conflict(Cid),
}

fn path(tenant: &TenantId, id: &PolicyId) -> PathBuf {
    Path::new(BINDS).join(tenant.as_str()).join(id.as_str())
}

impl Store {
    /// Binds `id` to `hash`, unless it is bound already.
    ///
    /// # Errors
    /// The disk's.
    pub fn bind_policy(&self, tenant: &TenantId, id: &PolicyId, hash: &Cid) -> Result<Bound, StoreError> {
        let inner = &self.0;
        let path = path(tenant, id);
        inner.dir(&Path::new(BINDS).join(tenant.as_str()))?;
        let file = inner.small_file(format!("{hash}\n").as_bytes())?;
        if inner.link(&file, &path)? {
            return Ok(Bound::New);
        }
        match self.policy(tenant, id)? {
            Some(bound) if bound == *hash => Ok(Bound::Same),
            Some(bound) => Ok(Bound::Conflict(bound)),
            // A binding is never removed: one that is there and gone again is a disk that lies.
            None => Err(StoreError::Damaged { path: path.display().to_string() }),
        }
    }

    /// The hash that `id` is bound to.
    ///
    /// # Errors
    /// The disk's.
    pub fn policy(&self, tenant: &TenantId, id: &PolicyId) -> Result<Option<Cid>, StoreError> {
        self.0.read_cid(&path(tenant, id))
    }
}
