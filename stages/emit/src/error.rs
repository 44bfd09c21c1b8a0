//! What can go wrong around an emission, and which word of the contract a caller hears for it. What a
//! *ledger* says is not here: that is an [`Outcome`](crate::Outcome).

use crate::audit::AuditError;
use crate::latch::LatchError;
use crate::plant;
use crate::spool::SpoolError;
use rewarder_model::Reason;

/// Nothing was emitted, or an operator's act did not take effect.
#[derive(Debug, thiserror::Error)]
pub enum EmitError {
    /// Emission is off.
    #[error("emission is latched off: {0}")]
    Latched(String),
    /// No room in the spool or on its disk, so nothing was sent.
    #[error("the quarantine buffer is full, nothing was sent")]
    SpoolFull,
    /// The spool's disk failed before anything was sent.
    #[error("nothing was sent: {0}")]
    Spool(SpoolError),
    /// The latch could not be written; it is set in memory all the same.
    #[error(transparent)]
    Latch(#[from] LatchError),
    /// The audit log could not be written.
    #[error(transparent)]
    Audit(AuditError),
    /// An operator has to say why.
    #[error("an operator's act needs a reason")]
    NoReason,
    /// The run is being sent at this moment.
    #[error("the run is on its way to the ledger right now, try again in a moment")]
    OnItsWay,
    /// The entry is not an operator's to release.
    #[error("the entry does not wait for an operator, it is sent again by itself")]
    NotWaiting,
    /// The entry was given up.
    #[error(
        "the entry was dropped, and what is left of that was not done: drop it once more; the next start does it too"
    )]
    Dropped,
    /// A task of ours ended before its time.
    #[error("an emission task was broken off")]
    Broken,
}

impl From<SpoolError> for EmitError {
    fn from(error: SpoolError) -> Self {
        match error {
            SpoolError::Full => Self::SpoolFull,
            other => Self::Spool(other),
        }
    }
}

impl EmitError {
    /// The word with which a request that met this error is answered.
    pub const fn reason(&self) -> Reason {
        match self {
            Self::Latched(_) => Reason::Latched,
            Self::SpoolFull => Reason::SpoolFull,
            _ => Reason::Internal,
        }
    }

    /// Whether it is certain that nothing of the intent was sent or kept.
    pub fn is_void(&self) -> bool {
        match self {
            Self::Spool(SpoolError::Void(_)) => !plant::is("void_taken_as_uncertain"),
            other => matches!(other, Self::Latched(_) | Self::SpoolFull),
        }
    }
}
