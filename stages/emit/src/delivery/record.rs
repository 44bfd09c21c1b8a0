//! What became of an emission, and the delivery record that is kept of it (`rewarder.delivery.v1`).

use super::machine::Outcome;
use crate::ledger::Record;
use crate::spool::Entry;
use rewarder_model::{Cid, Intent, LedgerResult};
use schemars::JsonSchema;
use serde::Serialize;

/// What became of an emission: the delivery record is [`Delivered::to_json`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivered {
    /// How it ended.
    pub outcome: Outcome,
    /// Submissions of the intent so far, as far as the spool knows; a question about it is none.
    pub attempts: u64,
    /// When it was first emitted.
    pub first_unix_ms: u64,
    /// When the last emission ended.
    pub last_unix_ms: u64,
    /// Whether it is held in memory only.
    pub volatile: bool,
}

/// What became of a run, as of its last emission.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Delivery")]
struct DeliveryRecord<'a> {
    #[schemars(extend("const" = "rewarder.delivery.v1"))]
    schema: &'static str,
    run_key: &'a Cid,
    commitment: &'a Cid,
    /// `dropped` by an operator; the others by the ledger or for want of it.
    #[schemars(extend("enum" = ["accepted", "dup", "conflict", "foreign_dup", "refused", "held", "dropped"]))]
    result: &'static str,
    /// What the ledger has instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    stored: Option<Record>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'a str>,
    quarantine: bool,
    volatile: bool,
    attempts: u64,
    first_unix_ms: u64,
    last_unix_ms: u64,
}

impl Delivered {
    /// The schema of the delivery record.
    pub fn schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        generator.subschema_for::<DeliveryRecord<'static>>()
    }

    /// The delivery record of a run whose entry an operator has dropped.
    pub(crate) fn dropped(entry: &Entry) -> Vec<u8> {
        let record = DeliveryRecord {
            schema: "rewarder.delivery.v1",
            run_key: &entry.intent.run_key,
            commitment: &entry.intent.commitment,
            result: "dropped",
            stored: None,
            detail: None,
            quarantine: false,
            volatile: false,
            attempts: entry.attempts,
            first_unix_ms: entry.first_unix_ms,
            last_unix_ms: entry.last_unix_ms,
        };
        serde_json::to_vec(&record).unwrap_or_default()
    }

    /// The word of the compute answer.
    pub const fn ledger_result(&self) -> LedgerResult {
        match self.outcome {
            Outcome::Accepted => LedgerResult::Accepted,
            Outcome::Dup => LedgerResult::Dup,
            _ => LedgerResult::None,
        }
    }

    /// Whether the money has moved.
    pub const fn is_settled(&self) -> bool {
        matches!(self.outcome, Outcome::Accepted | Outcome::Dup)
    }

    /// The delivery record of a run (`rewarder.delivery.v1`).
    pub fn to_json(&self, intent: &Intent) -> Vec<u8> {
        let (result, stored, detail) = match &self.outcome {
            Outcome::Accepted => ("accepted", None, None),
            Outcome::Dup => ("dup", None, None),
            Outcome::Conflict(record) => ("conflict", Some(*record), None),
            Outcome::ForeignDup(record) => ("foreign_dup", Some(*record), None),
            Outcome::Refused { detail } => ("refused", None, Some(detail.as_str())),
            Outcome::Held { detail, .. } => ("held", None, Some(detail.as_str())),
        };
        let quarantine =
            matches!(self.outcome, Outcome::Held { .. } | Outcome::Refused { .. } | Outcome::ForeignDup(_));
        let record = DeliveryRecord {
            schema: "rewarder.delivery.v1",
            run_key: &intent.run_key,
            commitment: &intent.commitment,
            result,
            stored,
            detail,
            quarantine,
            volatile: quarantine && self.volatile,
            attempts: self.attempts,
            first_unix_ms: self.first_unix_ms,
            last_unix_ms: self.last_unix_ms,
        };
        serde_json::to_vec(&record).unwrap_or_default()
    }
}
