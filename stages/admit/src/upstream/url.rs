//! Which verifier: `local:` or `http://host:port/path`.

use std::fmt;
use std::str::FromStr;

/// Who verifies capabilities.
#[derive(Clone, PartialEq, Eq)]
pub enum VerifierUrl {
    /// The keys of `CAP_KEYS_FILE`.
    Local,
    /// A service, at this address.
    Http(http::Uri),
}

/// Says the rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a verifier is `local:` or http://host:port/path, without user, query or fragment")]
pub struct VerifierUrlError;

impl FromStr for VerifierUrl {
    type Err = VerifierUrlError;

    fn from_str(text: &str) -> Result<Self, VerifierUrlError> {
        if text == "local:" {
            return Ok(Self::Local);
        }
        // A fragment would be dropped by the parser, and with it what somebody meant by it.
        let url: http::Uri = text.parse().map_err(|_| VerifierUrlError)?;
        let host = url.host().is_some_and(|host| !host.is_empty());
        let plain = url.authority().is_some_and(|authority| !authority.as_str().contains('@'));
        let port = url
            .authority()
            .map(|authority| (authority.as_str().len() > authority.host().len(), authority.port_u16()));
        let plain = plain && port.is_some_and(|(said, port)| !said || port.is_some_and(|port| port > 0));
        let bare = url.query().is_none() && !text.contains('#');
        if url.scheme_str() == Some("http") && host && plain && bare {
            Ok(Self::Http(url))
        } else {
            Err(VerifierUrlError)
        }
    }
}

impl fmt::Display for VerifierUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local => f.write_str("local:"),
            Self::Http(url) => write!(f, "{url}"),
        }
    }
}

impl fmt::Debug for VerifierUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_prints_and_nothing_else() {
        for good in [
            "local:",
            "http://127.0.0.1:7000/introspect",
            "http://[::1]:7000/",
            "http://ron-auth/v1/introspect",
        ] {
            assert_eq!(good.parse::<VerifierUrl>().unwrap().to_string(), good);
        }
        for bad in [
            "",
            "local",
            "https://a/",
            "ftp://a/",
            "http://",
            "http:///a",
            "/a",
            "http://u:p@a/",
            "http://a/?q",
            "http://a/#f",
            "http://a b/",
        ] {
            assert!(bad.parse::<VerifierUrl>().is_err(), "{bad}");
        }
    }
}
