//! What can go wrong around an emission, and which word of the contract a caller hears for it. What a
//! *ledger* says is not here: that is an [`Outcome`](crate::Outcome).

use crate::latch::LatchError;
use crate::quarantine::QuarantineError;
use rewarder_model::Reason;

/// Nothing was emitted, or (the last three) what became of it could not be written down.
#[derive(Debug, thiserror::Error)]
pub enum EmitError {
    /// Emission is off.
    #[error("emission is latched off: {0}")]
    Latched(String),
    /// No place in the quarantine buffer, so nothing was sent.
    #[error("the quarantine buffer is full, nothing was sent")]
    SpoolFull,
    /// The quarantine's storage failed.
    #[error(transparent)]
    Quarantine(QuarantineError),
    /// The latch could not be written; it is set in memory all the same.
    #[error(transparent)]
    Latch(#[from] LatchError),
    /// A task of ours ended before its time.
    #[error("an emission task was broken off")]
    Broken,
}

impl From<QuarantineError> for EmitError {
    fn from(error: QuarantineError) -> Self {
        match error {
            QuarantineError::Full => Self::SpoolFull,
            other => Self::Quarantine(other),
        }
    }
}

impl EmitError {
    /// The word with which a request that met this error is answered.
    pub const fn reason(&self) -> Reason {
        match self {
            Self::Latched(_) => Reason::Latched,
            Self::SpoolFull => Reason::SpoolFull,
            Self::Quarantine(_) | Self::Latch(_) | Self::Broken => Reason::Internal,
        }
    }
}
