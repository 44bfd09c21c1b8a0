//! The store as delivery sees it.

use crate::error::StoreError;
use crate::run::MANIFEST;
use crate::store::Store;
use rewarder_model::{Cid, Claim, Claims, EpochId, Runs, RunsError, TenantId};

/// Largest manifest that is read: several times what its fields can add up to.
const MANIFEST_BYTES_MAX: u64 = 64 * 1024;

impl From<StoreError> for RunsError {
    fn from(error: StoreError) -> Self {
        Self { reason: error.reason(), detail: error.to_string() }
    }
}

impl Runs for Store {
    fn claim(&self, tenant: &TenantId, epoch: &EpochId, run_key: &Cid) -> Result<Claim, RunsError> {
        Ok(self.claim_epoch(tenant, epoch, run_key)?)
    }

    fn unclaim(&self, tenant: &TenantId, epoch: &EpochId, run_key: &Cid) -> Result<bool, RunsError> {
        Ok(self.release_claim(tenant, epoch, run_key)?)
    }

    fn holder(&self, tenant: &TenantId, epoch: &EpochId) -> Result<Option<Cid>, RunsError> {
        Ok(self.epoch_run(tenant, epoch)?.filter(|run| run.claimed).map(|run| run.run_key))
    }

    fn claimed(&self) -> Result<Claims, RunsError> {
        Ok(self.claims()?)
    }

    fn manifest(&self, tenant: &TenantId, run_key: &Cid) -> Result<Option<Vec<u8>>, RunsError> {
        let Some(run) = self.run(tenant, run_key)? else { return Ok(None) };
        let Some(part) = run.part(MANIFEST)? else { return Ok(None) };
        part.read_all(MANIFEST_BYTES_MAX).map(Some).map_err(|source| {
            StoreError::Io { doing: format!("read the manifest of run {run_key}"), source }.into()
        })
    }

    fn delivery(&self, tenant: &TenantId, run_key: &Cid) -> Result<Option<Vec<u8>>, RunsError> {
        let Some(run) = self.run(tenant, run_key)? else { return Ok(None) };
        Ok(run.delivery()?)
    }

    fn keep_delivery(&self, tenant: &TenantId, run_key: &Cid, json: &[u8]) -> Result<(), RunsError> {
        Ok(self.set_delivery(tenant, run_key, json)?)
    }
}
