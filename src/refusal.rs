//! A no with its reason: what every floor's errors become before they are answered, by HTTP or by a command.

use rewarder_model::Reason;
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
