//! The caveat language (contract §6): `name = value`, one caveat a line each.

use super::client_cert::CertFingerprint;
use super::timestamp::Timestamp;
use crate::error::CaveatError;
use rewarder_model::{Amount, TenantId};
use std::fmt;
use std::str::FromStr;

/// Longest epoch prefix: an epoch id's own limit.
const EPOCH_PREFIX_MAX: usize = 128;

/// Longest scope word.
const SCOPE_CHARS_MAX: usize = 64;

/// What a route needs. Others' scopes may stand in a capability too; they grant nothing here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    /// Store snapshots.
    Seal,
    /// Store policies.
    Policy,
    /// Run epochs.
    Run,
    /// Read results.
    Inspect,
}

impl Scope {
    /// All, in the order in which they are numbered.
    pub const ALL: [Self; 4] = [Self::Seal, Self::Policy, Self::Run, Self::Inspect];

    /// The word on the wire, and the label of `auth_failures_total`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Seal => "rewarder.seal",
            Self::Policy => "rewarder.policy",
            Self::Run => "rewarder.run",
            Self::Inspect => "rewarder.inspect",
        }
    }

    /// What it lets its bearer do, in words.
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Seal => "store snapshots",
            Self::Policy => "store policies",
            Self::Run => "run epochs",
            Self::Inspect => "read results",
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One restriction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caveat {
    /// `tenant = acme`: on behalf of this tenant only.
    Tenant(TenantId),
    /// `scope = rewarder.run rewarder.inspect`: for these only.
    Scope(ScopeWords),
    /// `epoch_prefix = 2026-`: epochs whose id begins so.
    EpochPrefix(EpochPrefix),
    /// `not_before = 2026-01-01T00:00:00Z`: from then on.
    NotBefore(Timestamp),
    /// `expires = 2027-01-01T00:00:00Z`: before then only, not at that moment.
    Expires(Timestamp),
    /// `max_pool_minor_units = 250000`: pools up to this, and this.
    MaxPool(Amount),
    /// `client_cert = sha256:HEX` or `b3:HEX`: only over a connection with this client certificate.
    ClientCert(CertFingerprint),
    /// `dry_run = true`: dry runs only. There is no `false`, for a caveat cannot widen.
    DryRun,
}

/// One or more scope words with single spaces between them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScopeWords(Box<str>);

impl ScopeWords {
    /// The words.
    pub fn words(&self) -> impl Iterator<Item = &str> {
        self.0.split(' ')
    }
}

impl FromStr for ScopeWords {
    type Err = CaveatError;

    fn from_str(text: &str) -> Result<Self, CaveatError> {
        let is_char = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-');
        let is_word = |w: &str| (1..=SCOPE_CHARS_MAX).contains(&w.len()) && w.bytes().all(is_char);
        if text.split(' ').all(is_word) {
            Ok(Self(text.into()))
        } else {
            Err(CaveatError("a scope is words of a-z, 0-9, '.', '_' and '-' with single spaces between them"))
        }
    }
}

/// The beginning of epoch ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EpochPrefix(Box<str>);

impl EpochPrefix {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for EpochPrefix {
    type Err = CaveatError;

    fn from_str(text: &str) -> Result<Self, CaveatError> {
        let is_char = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b':' | b'-');
        if (1..=EPOCH_PREFIX_MAX).contains(&text.len()) && text.bytes().all(is_char) {
            Ok(Self(text.into()))
        } else {
            Err(CaveatError("an epoch prefix is 1 to 128 of A-Z, a-z, 0-9, '.', '_', ':' and '-'"))
        }
    }
}

impl FromStr for Caveat {
    type Err = CaveatError;

    fn from_str(text: &str) -> Result<Self, CaveatError> {
        let (name, value) =
            text.split_once(" = ").ok_or(CaveatError("a caveat is written `name = value`"))?;
        match name {
            "tenant" => value.parse().map(Self::Tenant).map_err(|error| CaveatError(error.0)),
            "scope" => value.parse().map(Self::Scope),
            "epoch_prefix" => value.parse().map(Self::EpochPrefix),
            "not_before" => value.parse().map(Self::NotBefore),
            "expires" => value.parse().map(Self::Expires),
            "max_pool_minor_units" => value
                .parse()
                .map(Self::MaxPool)
                .map_err(|_| CaveatError("a largest pool is 1 to 38 decimal digits")),
            "client_cert" => value.parse().map(Self::ClientCert),
            "dry_run" if value == "true" => Ok(Self::DryRun),
            "dry_run" => Err(CaveatError("dry_run can only be true")),
            _ => Err(CaveatError(
                "a caveat is one of tenant, scope, epoch_prefix, not_before, expires, max_pool_minor_units, client_cert and dry_run",
            )),
        }
    }
}

impl fmt::Display for Caveat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tenant(tenant) => write!(f, "tenant = {tenant}"),
            Self::Scope(words) => write!(f, "scope = {}", words.0),
            Self::EpochPrefix(prefix) => write!(f, "epoch_prefix = {}", prefix.0),
            Self::NotBefore(from) => write!(f, "not_before = {from}"),
            Self::Expires(end) => write!(f, "expires = {end}"),
            Self::MaxPool(most) => write!(f, "max_pool_minor_units = {most}"),
            Self::ClientCert(cert) => write!(f, "client_cert = {cert}"),
            Self::DryRun => f.write_str("dry_run = true"),
        }
    }
}

impl Caveat {
    /// What it means, in words.
    pub fn meaning(&self) -> String {
        match self {
            Self::Tenant(tenant) => format!("only on behalf of tenant {tenant}"),
            Self::Scope(words) => {
                let known = Scope::ALL.into_iter().filter(|s| words.words().any(|w| w == s.as_str()));
                let known: Vec<_> = known.map(Scope::meaning).collect();
                if known.is_empty() {
                    "nothing of this service".into()
                } else {
                    format!("only to {}", known.join(", "))
                }
            }
            Self::EpochPrefix(prefix) => format!("only epochs whose id begins with {}", prefix.0),
            Self::NotBefore(from) => format!("not before {from}"),
            Self::Expires(end) => format!("only until {end}"),
            Self::MaxPool(most) => format!("only pools of at most {most} minor units"),
            Self::ClientCert(cert) => format!("only over a connection with the client certificate {cert}"),
            Self::DryRun => "only dry runs, which pay nobody".into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_what_it_reads() {
        for text in [
            "tenant = acme",
            "scope = rewarder.run",
            "scope = rewarder.run rewarder.inspect other.service",
            "epoch_prefix = 2026-",
            "not_before = 2026-01-01T00:00:00Z",
            "expires = 2027-01-01T00:00:00.5Z",
            "max_pool_minor_units = 99999999999999999999999999999999999999",
            "dry_run = true",
        ] {
            assert_eq!(text.parse::<Caveat>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn refuses_other_forms() {
        for bad in [
            "",
            "tenant",
            "tenant=acme",
            "tenant =acme",
            "tenant  = acme",
            "tenant = ",
            "tenant = Acme",
            "tenant = acme ",
            "Tenant = acme",
            "scope = ",
            "scope = a  b",
            "scope = a\tb",
            "scope = *",
            "epoch_prefix = ",
            "epoch_prefix = a/b",
            "expires = 2h",
            "expires = 2027-01-01",
            "max_pool_minor_units = 01",
            "max_pool_minor_units = -1",
            "dry_run = false",
            "dry_run = True",
            "client_cert = x",
        ] {
            assert!(bad.parse::<Caveat>().is_err(), "{bad:?}");
        }
    }
}
