//! What the ledger is told, and what it answers (contract §6, ledger protocol).

use crate::cid::Cid;
use crate::manifest::Manifest;
use crate::money::Amount;
use crate::name::{Asset, EpochId, TenantId};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;

/// One payout for one epoch, keyed by `run_key`; settled at most once for each (tenant, epoch).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Intent {
    /// Idempotency key: the same computation has the same key everywhere and for ever.
    pub run_key: Cid,
    /// Half of the settlement key.
    pub tenant: TenantId,
    /// The other half.
    pub epoch_id: EpochId,
    /// CID of the manifest.
    pub commitment: Cid,
    /// CID of the canonical allocations.
    pub allocations_root: Cid,
    /// What is paid.
    pub asset: Asset,
    /// Sum of all payouts.
    pub payout_minor_units: Amount,
    /// Number of payouts.
    pub recipients: u64,
    /// CID of the policy.
    pub policy_hash: Cid,
    /// CID of the snapshot.
    pub inputs_cid: Cid,
}

impl Intent {
    /// What the ledger is told about the run with this manifest, whose CID is `commitment`.
    pub fn of(manifest: &Manifest, commitment: Cid) -> Self {
        Self {
            run_key: manifest.run_key,
            tenant: manifest.tenant.clone(),
            epoch_id: manifest.epoch_id.clone(),
            commitment,
            allocations_root: manifest.allocations_root,
            asset: manifest.totals.asset.clone(),
            payout_minor_units: manifest.totals.payout_minor_units,
            recipients: manifest.totals.recipients,
            policy_hash: manifest.policy.hash,
            inputs_cid: manifest.inputs.cid,
        }
    }
}

/// What became of an intent, as the answer to a compute request says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LedgerResult {
    /// Settled now.
    Accepted,
    /// Had been settled before, with our commitment.
    Dup,
    /// Nothing was emitted: a dry run, an unpayable run, or one held in quarantine.
    None,
}

impl LedgerResult {
    /// The word of the contract.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Dup => "dup",
            Self::None => "none",
        }
    }
}

impl fmt::Display for LedgerResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
