//! Which run an epoch has.
//!
//! The law: of all runs of one (tenant, epoch), at most one is handed to delivery here, and it is the epoch's
//! run from then on. Dry and unpayable runs are only its *latest*, which a claim overrides (contract §1: only
//! a run handed to delivery occupies the key). The claim is durable before the first byte goes to a ledger;
//! the ledger's own settle-once law stands behind it and is the one that counts.

use crate::error::StoreError;
use crate::store::{CLAIMS, LATEST, Store};
use rewarder_model::{Cid, Claim, Claims, EpochId, TenantId};
use std::io;
use std::path::{Path, PathBuf};

/// Tries to take or read a claim that others give up and take at the same moment.
const CLAIM_TRIES_MAX: u32 = 8;

/// The run of an epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EpochRun {
    /// Its key.
    pub run_key: Cid,
    /// Whether it was handed to delivery; otherwise it is merely the latest.
    pub claimed: bool,
}

fn path(root: &str, tenant: &TenantId, epoch: &EpochId) -> PathBuf {
    Path::new(root).join(tenant.as_str()).join(epoch.as_str())
}

impl Store {
    /// Makes `run_key` the epoch's run, unless another one is. Put the run first, so that a claim never
    /// points nowhere.
    ///
    /// # Errors
    /// The disk's.
    pub fn claim_epoch(
        &self,
        tenant: &TenantId,
        epoch: &EpochId,
        run_key: &Cid,
    ) -> Result<Claim, StoreError> {
        let inner = &self.0;
        let path = path(CLAIMS, tenant, epoch);
        inner.dir(&Path::new(CLAIMS).join(tenant.as_str()))?;
        let file = inner.small_file(format!("{run_key}\n").as_bytes())?;
        for _ in 0..CLAIM_TRIES_MAX {
            if inner.link(&file, &path)? {
                return Ok(Claim::Claimed);
            }
            match inner.read_cid(&path)? {
                Some(holder) if holder == *run_key => return Ok(Claim::Same),
                Some(holder) => return Ok(Claim::Conflict(holder)),
                None => {} // given up in between
            }
        }
        Err(StoreError::Damaged { path: path.display().to_string() })
    }

    /// Gives up a claim that the ledger has refused because the epoch is another run's there: without this, a
    /// replica that lost the race would refuse the winner for ever. True if `run_key` held the claim.
    ///
    /// The claim is moved away before it is read, so that two callers cannot both give it up. If it turns out
    /// to be another run's, it is put back; in that moment a third run could claim, and the ledger would
    /// refuse one of them.
    ///
    /// # Errors
    /// The disk's.
    pub fn release_claim(
        &self,
        tenant: &TenantId,
        epoch: &EpochId,
        run_key: &Cid,
    ) -> Result<bool, StoreError> {
        let inner = &self.0;
        let path = path(CLAIMS, tenant, epoch);
        if inner.read_cid(&path)? != Some(*run_key) {
            return Ok(false);
        }
        let away = inner.session.name();
        match inner.disk.rename(&path, away.path()) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(inner.io("release", &path)(error)),
        }
        let ours = inner.read_cid(away.path())? == Some(*run_key);
        if !ours {
            inner.link(&away, &path)?;
        }
        inner.sync(&Path::new(CLAIMS).join(tenant.as_str()))?;
        Ok(ours)
    }

    /// Makes a run that is stored the epoch's latest.
    ///
    /// # Errors
    /// The disk's.
    pub(crate) fn make_latest(
        &self,
        tenant: &TenantId,
        epoch: &EpochId,
        run_key: &Cid,
    ) -> Result<(), StoreError> {
        let inner = &self.0;
        inner.dir(&Path::new(LATEST).join(tenant.as_str()))?;
        let file = inner.small_file(format!("{run_key}\n").as_bytes())?;
        inner.replace(&file, &path(LATEST, tenant, epoch))
    }

    /// A stored run was asked for again: it is the epoch's latest, unless the epoch is claimed.
    ///
    /// # Errors
    /// The disk's.
    pub fn asked_again(&self, tenant: &TenantId, epoch: &EpochId, run_key: &Cid) -> Result<(), StoreError> {
        match self.epoch_run(tenant, epoch)? {
            Some(shown) if shown.claimed || shown.run_key == *run_key => Ok(()),
            _ => self.make_latest(tenant, epoch, run_key),
        }
    }

    /// The epoch's run: the claimed one, or else the latest.
    ///
    /// # Errors
    /// The disk's.
    pub fn epoch_run(&self, tenant: &TenantId, epoch: &EpochId) -> Result<Option<EpochRun>, StoreError> {
        for (root, claimed) in [(CLAIMS, true), (LATEST, false)] {
            if let Some(run_key) = self.0.read_cid(&path(root, tenant, epoch))? {
                return Ok(Some(EpochRun { run_key, claimed }));
            }
        }
        Ok(None)
    }

    /// All claims: after a crash, those whose run has no delivery record are to be handed to delivery again. One that cannot
    /// be read is told with the others, and stands for them that come: [`claim_epoch`](Self::claim_epoch) fails at it.
    ///
    /// # Errors
    /// The disk's, where it cannot say which claims there are.
    pub fn claims(&self) -> Result<Claims, StoreError> {
        let list = |dir: &Path| self.0.disk.list(dir).map_err(self.0.io("list", dir));
        let mut claims = Claims::default();
        for tenant in list(Path::new(CLAIMS))? {
            let Ok(tenant_id) = tenant.name.parse::<TenantId>() else { continue };
            for epoch in list(&Path::new(CLAIMS).join(&tenant.name))? {
                let Ok(epoch_id) = epoch.name.parse::<EpochId>() else { continue };
                match self.0.read_cid(&path(CLAIMS, &tenant_id, &epoch_id)) {
                    Ok(Some(run_key)) => claims.read.push((tenant_id.clone(), epoch_id, run_key)),
                    Ok(None) => {}
                    Err(error) => claims.unread.push((tenant_id.clone(), epoch_id, error.into())),
                }
            }
        }
        claims.read.sort_unstable();
        claims.unread.sort_unstable_by(|(a, b, _), (c, d, _)| (a, b).cmp(&(c, d)));
        Ok(claims)
    }
}
