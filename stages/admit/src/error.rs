//! How this floor says no. Each carries the contract's reason; the edge prints it.

use rewarder_model::Reason;
use std::borrow::Cow;
use std::path::PathBuf;
use std::time::Duration;

/// A capability does not let its bearer do this.
///
/// `detail` is for the bearer: it names which of scope, caveat, tenant or expiry failed. For a capability
/// that does not verify it is always the same sentence, so that a forger learns nothing from it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {detail}")]
pub struct Denied {
    /// The word of the contract.
    pub reason: Reason,
    /// What failed, and what to do.
    pub detail: Cow<'static, str>,
}

impl Denied {
    pub(crate) fn new(reason: Reason, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { reason, detail: detail.into() }
    }

    /// For whatever does not verify: no such key, a wrong signature, an unreadable form. One answer for all.
    pub(crate) fn unverified() -> Self {
        Self::new(Reason::Unauth, "the capability does not verify; ask its issuer for a new one")
    }
}

/// Too many or too fast; the same request may pass after `retry_after`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{reason}, retry after {retry_after:?}")]
pub struct Refused {
    /// The word of the contract.
    pub reason: Reason,
    /// How long to wait: exact for rates, a guess for places.
    pub retry_after: Duration,
}

/// A token cannot be read, told to its bearer by `ronctl`. The service answers `unauth` instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Over the size limit.
    #[error("the token is longer than {} characters", crate::capability::TOKEN_CHARS_MAX)]
    TooLong,
    /// Not base64url.
    #[error("the token is not base64url (RFC 4648 §5)")]
    Encoding,
    /// Not a version 2 binary macaroon.
    #[error("the token is not a macaroon in the version 2 binary format: {0}")]
    Form(&'static str),
    /// Over the limit of caveats.
    #[error("the token has more than {} caveats", crate::capability::CAVEATS_MAX)]
    TooManyCaveats,
    /// Over the limit of discharges.
    #[error("more than {} discharges come with the token", crate::capability::discharge::DISCHARGES_MAX)]
    TooManyDischarges,
    /// To be minted without tenant or scope.
    #[error("a capability needs a tenant and a scope: to one without, its bearer could add any")]
    Boundless,
}

/// A text is not a caveat of this service. It says the rule and never repeats the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct CaveatError(pub &'static str);

/// The key file cannot be used. Never holds a secret.
#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    /// The system refused.
    #[error("cannot {act} the key file {}: {source}", path.display())]
    Io {
        /// What was tried.
        act: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Others may read it.
    #[error("the key file {} has mode {mode:04o}: others may read it; run `chmod 600 {}`", path.display(), path.display())]
    Mode {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Its content is not what it should be.
    #[error("the key file {} is not usable: {rule}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// The rule that it breaks, and where.
        rule: String,
    },
}
