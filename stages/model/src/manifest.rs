//! The manifest: what the sealed inputs determine, and nothing else (contract §5).
//!
//! Its bytes are RFC 8785 canonical JSON, and `commitment` is their CID. No ledger answer, clock, host or `dry_run` is in
//! it, so that a dry run, a replay and every replica give the same bytes.

use crate::cid::Cid;
use crate::money::Amount;
use crate::name::{Asset, EpochId, PolicyId, TenantId};
use crate::reason::Reason;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The value of `schema`.
pub const SCHEMA: &str = "rewarder.manifest.v1";
/// The value of `kernel`.
pub const KERNEL: &str = "v1";

/// `rewarder.manifest.v1`. Fields stand in the order of their names: that is what makes serde's output canonical.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// CID of the canonical allocations.
    pub allocations_root: Cid,
    /// The epoch.
    pub epoch_id: EpochId,
    /// What went in.
    pub inputs: Inputs,
    /// The version of the arithmetic.
    #[schemars(extend("const" = KERNEL))]
    pub kernel: String,
    /// The rule that was applied.
    pub policy: PolicyRef,
    /// Why nothing can be paid; there only when unpayable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Unpayable>,
    /// Identity of the computation.
    pub run_key: Cid,
    /// [`SCHEMA`].
    #[schemars(extend("const" = SCHEMA))]
    pub schema: String,
    /// Payable or not.
    pub status: Status,
    /// Owner of the epoch.
    pub tenant: TenantId,
    /// The sums.
    pub totals: Totals,
}

/// The sealed snapshot and its size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Inputs {
    /// Distinct actors among the rows.
    pub actors: u64,
    /// CID of the snapshot.
    pub cid: Cid,
    /// Number of rows.
    pub rows: u64,
}

/// The policy by hash and by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PolicyRef {
    /// CID of the policy file's bytes.
    pub hash: Cid,
    /// The id inside it.
    pub id: PolicyId,
}

/// The sums of a run, in minor units.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Totals {
    /// What is paid.
    pub asset: Asset,
    /// `min(pool, caps.epoch_minor_units)`.
    pub budget_minor_units: Amount,
    /// What a price list would have paid; there only when unpayable with `over_budget`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub demanded_minor_units: Option<Amount>,
    /// Sum of the payouts.
    pub payout_minor_units: Amount,
    /// The pool of the snapshot.
    pub pool_minor_units: Amount,
    /// Number of payouts.
    pub recipients: u64,
    /// `budget - payout`.
    pub residual_minor_units: Amount,
}

/// Whether the run can be paid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// It can.
    Ok,
    /// It cannot, and everyone who recomputes it finds the same.
    Unpayable,
}

/// Why a run is unpayable: a verdict on the inputs, never a fault of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Unpayable {
    /// The total of the scores reaches 10^38.
    Overflow,
    /// The price list demands more than the budget.
    OverBudget,
}

impl Unpayable {
    /// The word with which a request for such a run is answered.
    pub const fn reason(self) -> Reason {
        match self {
            Self::Overflow => Reason::Overflow,
            Self::OverBudget => Reason::OverBudget,
        }
    }
}

impl Manifest {
    /// The canonical bytes (RFC 8785). No string in a manifest needs an escape (every alphabet of contract §1 that comes in
    /// is free of quotes, backslashes and control characters) and all numbers are integers far below 2^53, so compact
    /// JSON with sorted names *is* the canonical form; the test below holds this to account.
    pub fn to_canonical_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a manifest has string keys and no map that could fail")
    }

    /// The CID of the canonical bytes.
    pub fn commitment(&self) -> Cid {
        Cid::of(&self.to_canonical_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example(reason: Option<Unpayable>) -> Manifest {
        Manifest {
            allocations_root: Cid::of(b""),
            epoch_id: "e1".parse().unwrap(),
            inputs: Inputs { actors: 2, cid: Cid::of(b"in"), rows: 20 },
            kernel: KERNEL.into(),
            policy: PolicyRef { hash: Cid::of(b"policy"), id: "p1".parse().unwrap() },
            reason,
            run_key: Cid::of(b"key"),
            schema: SCHEMA.into(),
            status: if reason.is_some() { Status::Unpayable } else { Status::Ok },
            tenant: "acme".parse().unwrap(),
            totals: Totals {
                asset: "r o/c".parse().unwrap(),
                budget_minor_units: 1.into(),
                demanded_minor_units: reason.map(|_| 2.into()),
                payout_minor_units: Amount::ZERO,
                pool_minor_units: 1.into(),
                recipients: 0,
                residual_minor_units: 1.into(),
            },
        }
    }

    /// Sorted names, no white space: parsed into a sorted map and printed again, the bytes are the same.
    #[test]
    fn bytes_are_canonical() {
        for reason in [None, Some(Unpayable::OverBudget)] {
            let bytes = example(reason).to_canonical_bytes();
            let sorted: std::collections::BTreeMap<String, serde_json::Value> =
                serde_json::from_slice(&bytes).unwrap();
            assert_eq!(serde_json::to_vec(&sorted).unwrap(), bytes);
            assert_eq!(serde_json::from_slice::<Manifest>(&bytes).unwrap(), example(reason));
        }
    }
}
