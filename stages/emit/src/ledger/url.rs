//! `LEDGER_URL`: which ledger, read once at start so that a wrong one stops the start with a fix.

use http::Uri;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;
use std::str::FromStr;

/// Which ledger.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum LedgerUrl {
    /// `embedded:` — our own, in `STATE_DIR` or, under amnesia, in memory.
    #[default]
    Embedded,
    /// `http://host[:port][/base]` — a `svc-ledger`; no slash at the end.
    Http(String),
}

/// Why it is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LedgerUrlError {
    /// TLS comes later.
    #[error("https:// ledgers are not supported yet; use http:// to a local proxy that speaks TLS")]
    Https,
    /// PostgreSQL comes later.
    #[error("postgres:// ledgers are not supported yet; use embedded: or http://")]
    Postgres,
    /// Credentials, a query or a fragment.
    #[error("a ledger url is http://host[:port][/path] without user, query and fragment")]
    Form,
    /// Something else.
    #[error("a ledger url begins with embedded: or http://")]
    Scheme,
}

impl FromStr for LedgerUrl {
    type Err = LedgerUrlError;

    fn from_str(text: &str) -> Result<Self, LedgerUrlError> {
        let scheme = text.split_once(':').map_or("", |(scheme, _)| scheme).to_ascii_lowercase();
        match scheme.as_str() {
            "embedded" if text.len() == "embedded:".len() => Ok(Self::Embedded),
            "postgres" | "postgresql" => Err(LedgerUrlError::Postgres),
            "https" => Err(LedgerUrlError::Https),
            "http" => {
                let uri: Uri = text.parse().map_err(|_| LedgerUrlError::Form)?;
                let authority = uri.authority().filter(|a| !a.as_str().contains('@') && !a.host().is_empty());
                let authority = authority.ok_or(LedgerUrlError::Form)?;
                // A relative form such as `http:h` is read by some parsers as a host named `http`.
                if uri.query().is_some() || text.contains('#') || !text[scheme.len()..].starts_with("://") {
                    return Err(LedgerUrlError::Form);
                }
                Ok(Self::Http(format!("http://{authority}{}", uri.path().trim_end_matches('/'))))
            }
            _ => Err(LedgerUrlError::Scheme),
        }
    }
}

impl fmt::Display for LedgerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Embedded => "embedded:",
            Self::Http(url) => url,
        })
    }
}

impl Serialize for LedgerUrl {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for LedgerUrl {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        let check = |text: &str, expect: Result<&str, LedgerUrlError>| {
            assert_eq!(
                text.parse::<LedgerUrl>().map(|url| url.to_string()),
                expect.map(str::to_owned),
                "{text}"
            );
        };
        check("embedded:", Ok("embedded:"));
        check("http://ledger", Ok("http://ledger"));
        check("http://127.0.0.1:9000/v1/", Ok("http://127.0.0.1:9000/v1"));
        check("HTTP://[::1]:9000", Ok("http://[::1]:9000"));
        check("https://ledger", Err(LedgerUrlError::Https));
        check("postgres://u:p@db/x", Err(LedgerUrlError::Postgres));
        check("postgresql://db", Err(LedgerUrlError::Postgres));
        for bad in ["http://", "http://u:p@h", "http://h?x", "http://h/#x", "http:h", "http:///x"] {
            check(bad, Err(LedgerUrlError::Form));
        }
        for bad in ["", "embedded", "embedded:x", "ftp://h", "ledger:9000"] {
            check(bad, Err(LedgerUrlError::Scheme));
        }
    }
}
