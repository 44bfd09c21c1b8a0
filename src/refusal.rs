//! A no with its reason: what every floor's errors become before they are answered, by HTTP or by a command.

use rewarder_emit::HandoverError;
use rewarder_model::Reason;
use rewarder_store::StoreError;
use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

/// Why a job is not done. The detail says what was wrong, where, and what to do, without payload or secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The word of the contract.
    pub reason: Reason,
    /// A sentence for a person.
    pub detail: Cow<'static, str>,
    /// When to try again, if trying again can help.
    pub retry_after: Option<Duration>,
}

impl Refusal {
    /// A refusal that says so much.
    pub fn new(reason: Reason, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { reason, detail: detail.into(), retry_after: None }
    }

    /// The same, with a time after which to try again.
    pub fn retry_after(self, after: Duration) -> Self {
        Self { retry_after: Some(after), ..self }
    }
}

impl Refusal {
    /// What a command says of it to a person.
    pub fn in_words(&self) -> String {
        match self.reason {
            // Their titles speak of a service, and the detail of a command's own files.
            Reason::InputsNotFound | Reason::Internal => self.to_string(),
            reason => format!("{}\n  {self}", reason.title()),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason, self.detail)
    }
}

impl std::error::Error for Refusal {}

/// A fault of ours: said in the log, and not to the caller.
pub(crate) fn internal(error: &dyn std::fmt::Display) -> Refusal {
    tracing::error!(%error, "a job failed");
    Refusal::new(Reason::Internal, "the service failed on this job; its log says how")
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        let reason = error.reason();
        if reason == Reason::Internal {
            tracing::error!(%error, "the store failed");
            return Refusal::new(reason, "the store failed; the service's log says how");
        }
        Refusal::new(reason, error.to_string())
    }
}

impl From<HandoverError> for Refusal {
    fn from(error: HandoverError) -> Self {
        match error {
            HandoverError::Conflict(other) => {
                Refusal::new(Reason::EpochConflict, format!("this epoch already has run {other}"))
            }
            HandoverError::Emit(e) if e.reason() != Reason::Internal => {
                Refusal::new(e.reason(), e.to_string()).retry_after(Duration::from_secs(30))
            }
            HandoverError::Runs(e) if e.reason != Reason::Internal => Refusal::new(e.reason, e.detail),
            HandoverError::Runs(e) => {
                tracing::error!(error = %e, "the store failed");
                Refusal::new(Reason::Internal, "the store failed; the service's log says how")
            }
            other => internal(&other),
        }
    }
}

impl From<rewarder_admit::Denied> for Refusal {
    fn from(denied: rewarder_admit::Denied) -> Self {
        Refusal::new(denied.reason, denied.detail)
    }
}
