//! What a job comes to, and how that is answered.

use crate::refusal::Refusal;
use bytes::Bytes;
use rewarder_decode::Dictionary;
use rewarder_model::{Attestation, Cid, EpochId, LedgerResult, Manifest, Status, TenantId};
use rewarder_reward::Outcome;
use schemars::JsonSchema;
use serde::Serialize;
use std::sync::OnceLock;
use std::time::Duration;

/// A finished job.
#[derive(Debug)]
pub struct Done {
    /// What is committed to.
    pub manifest: Manifest,
    /// Its canonical bytes.
    pub manifest_bytes: Vec<u8>,
    /// CID of those.
    pub commitment: Cid,
    /// Signatures over it.
    pub attestation: Option<Attestation>,
    /// What the ledger said.
    pub ledger: LedgerResult,
    /// Held for re-emission.
    pub quarantine: bool,
    /// Held in memory only.
    pub volatile: bool,
    /// Where the time went.
    pub timings: Timings,
    /// The result itself, for a caller that keeps no store.
    pub computed: Option<(Outcome, Dictionary)>,
    /// The answer's bytes, made when the first caller is answered: a run that is told again is told in the same bytes.
    pub json: OnceLock<Bytes>,
}

/// Milliseconds by stage.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, JsonSchema)]
pub struct Timings {
    /// Verify, decode, score.
    pub decode: f64,
    /// Allocate, check, seal, store.
    pub reward: f64,
    /// Claim and deliver.
    pub emit: f64,
    /// All of it, waits included.
    pub total: f64,
}

pub(super) fn millis(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1e3
}

/// The answer of contract §6, for HTTP and for `run --json`.
#[derive(Debug, Serialize, JsonSchema)]
pub struct AnswerBody<'a> {
    epoch_id: &'a EpochId,
    tenant: &'a TenantId,
    run_key: &'a Cid,
    commitment: &'a Cid,
    status: Status,
    totals: &'a rewarder_model::Totals,
    ledger: LedgerAnswer,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    quarantine: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    volatile: bool,
    timings_ms: Timings,
}

#[derive(Debug, Serialize, JsonSchema)]
struct LedgerAnswer {
    result: LedgerResult,
}

impl Done {
    /// What is answered.
    pub fn body(&self) -> AnswerBody<'_> {
        AnswerBody {
            epoch_id: &self.manifest.epoch_id,
            tenant: &self.manifest.tenant,
            run_key: &self.manifest.run_key,
            commitment: &self.commitment,
            status: self.manifest.status,
            totals: &self.manifest.totals,
            ledger: LedgerAnswer { result: self.ledger },
            quarantine: self.quarantine,
            volatile: self.volatile,
            timings_ms: self.timings,
        }
    }

    /// What is answered, as JSON.
    pub fn json(&self) -> Bytes {
        // Our own answers have string keys and no maps that could fail.
        self.json.get_or_init(|| serde_json::to_vec(&self.body()).unwrap_or_default().into()).clone()
    }

    /// The same run, told again.
    pub fn again(&self, ledger: LedgerResult) -> Self {
        Self {
            manifest: self.manifest.clone(),
            manifest_bytes: self.manifest_bytes.clone(),
            commitment: self.commitment,
            attestation: self.attestation.clone(),
            ledger,
            quarantine: false,
            volatile: false,
            timings: Timings::default(),
            computed: None,
            json: OnceLock::new(),
        }
    }

    /// Why it is unpayable, as the problem that a caller gets.
    pub fn unpayable(&self) -> Option<Refusal> {
        let reason = self.manifest.reason?.reason();
        let totals = &self.manifest.totals;
        let detail = match totals.demanded_minor_units {
            Some(demanded) => format!(
                "the price list demands {demanded} {asset} and the budget is {budget}; nothing is paid",
                asset = totals.asset,
                budget = totals.budget_minor_units
            ),
            None => "the total of the scores reaches 10^38 at the policy's scale; nothing is paid".to_owned(),
        };
        Some(Refusal::new(reason, detail))
    }
}
