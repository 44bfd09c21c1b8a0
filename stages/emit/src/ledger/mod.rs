//! The ledger port: what delivery asks of a ledger, and what it may hear.
//!
//! The law of every backend: (tenant, epoch) settles at most once; the same run key again is a dup with the
//! stored values; another run key is a conflict with the stored values. An error says as data what may have
//! happened, and only [`Verdict::Retry`] and [`Verdict::Refused`] claim that nothing did. One conformance
//! suite ([`conformance`](crate::conformance)) runs on each backend.

mod embedded;
mod http;
mod postgres;
mod url;

pub use embedded::{EmbeddedLedger, LEDGER_FILE, PAGE_MAX};
pub use http::HttpLedger;
pub use postgres::PostgresLedger;
pub use url::{LedgerUrl, LedgerUrlError, PostgresUrl, shown};

use rewarder_model::world::BoxFuture;
use rewarder_model::{Cid, Intent};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// A ledger. Futures may be dropped at any time; what was under way then is unknown.
pub trait Ledger: Send + Sync + 'static {
    /// Hands over an intent.
    fn submit<'a>(&'a self, intent: &'a Intent) -> BoxFuture<'a, Result<Answer, LedgerError>>;
    /// Asks what became of a run key.
    fn lookup<'a>(&'a self, run_key: &'a Cid) -> BoxFuture<'a, Result<Option<Record>, LedgerError>>;
    /// Asks whether it is there at all; settles nothing. A question about a run key that nobody can have does: whoever says
    /// "not found" is there, and has looked.
    fn probe(&self) -> BoxFuture<'_, Result<(), LedgerError>> {
        Box::pin(async move { self.lookup(&Cid::of(b"svc-rewarder|probe")).await.map(drop) })
    }
}

/// What a ledger answers to an intent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Settled now.
    Accepted,
    /// This run key was settled before, with this.
    Dup(Record),
    /// The epoch was settled before, with this other run.
    Conflict(Record),
}

/// What stands in a ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Record {
    /// The run that was settled.
    pub run_key: Cid,
    /// Its manifest.
    pub commitment: Cid,
}

/// A failed attempt.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct LedgerError {
    /// What may have happened, and what to do.
    pub verdict: Verdict,
    /// The ledger asked for this much patience.
    pub retry_after: Option<Duration>,
    /// For people; holds no payload.
    pub detail: String,
}

/// What a failed attempt means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing was settled by it; send again.
    Retry,
    /// Nothing was settled and nothing will be: for an operator.
    Refused,
    /// The request left and the outcome is not known; ask before sending again.
    Unknown,
}

impl LedgerError {
    pub(crate) fn new(verdict: Verdict, detail: impl Into<String>) -> Self {
        Self { verdict, retry_after: None, detail: detail.into() }
    }
}
