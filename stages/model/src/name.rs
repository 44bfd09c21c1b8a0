//! Names and their alphabets (contract §1). A name that exists is valid; none is ever normalised.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Longest actor name, in bytes of UTF-8.
pub const ACTOR_BYTES_MAX: usize = 256;

/// Why a text is not a name of its kind. It says what the rule is and never repeats the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NameError(pub &'static str);

/// Hands a borrowed or owned string to `make`, so that a name can be read from any serde format without a copy of its own.
pub(crate) fn deserialize_text<'de, D: Deserializer<'de>, T>(
    d: D,
    make: impl FnOnce(&str) -> Result<T, D::Error>,
) -> Result<T, D::Error> {
    struct Text<F>(F);

    impl<'de, T, F: FnOnce(&str) -> T> de::Visitor<'de> for Text<F> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a string")
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
            Ok(self.0(text))
        }
    }

    d.deserialize_str(Text(make))?
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $rule:literal, $holds:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// What makes a text such a name, in words.
            pub const RULE: &'static str = $rule;

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                let holds: fn(&[u8]) -> bool = $holds;
                if holds(text.as_bytes()) { Ok(Self(text.into())) } else { Err(NameError(Self::RULE)) }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                deserialize_text(d, |text| text.parse().map_err(de::Error::custom))
            }
        }
    };
}

name!(
    /// Who owns an epoch and is billed for it.
    TenantId, "a tenant is 1 to 64 of a-z, 0-9 and -",
    |b| (1..=64).contains(&b.len()) && b.iter().all(|c| matches!(c, b'a'..=b'z' | b'0'..=b'9' | b'-'))
);

name!(
    /// One period of one tenant.
    EpochId, "an epoch id is 1 to 128 of A-Z, a-z, 0-9, '.', '_', ':' and '-', the first a letter or digit",
    is_id
);

name!(
    /// A policy's name; within a tenant it binds to one policy hash for good.
    PolicyId, "a policy id is 1 to 128 of A-Z, a-z, 0-9, '.', '_', ':' and '-', the first a letter or digit",
    is_id
);

name!(
    /// What is paid, for example `roc` or `usd`.
    Asset, "an asset is 1 to 64 of printable ASCII without quotes and backslash",
    is_label
);

name!(
    /// A kind of work; names a weight of the policy.
    Category, "a category is 1 to 64 of printable ASCII without quotes and backslash",
    is_label
);

fn is_id(b: &[u8]) -> bool {
    (1..=128).contains(&b.len())
        && b[0].is_ascii_alphanumeric()
        && b.iter().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b':' | b'-'))
}

fn is_label(b: &[u8]) -> bool {
    (1..=64).contains(&b.len())
        && b.iter().all(|c| matches!(c, b' '..=b'~') && !matches!(c, b'\'' | b'"' | b'\\'))
}

/// What is wrong with an actor's name, if anything: 1..=256 bytes of UTF-8 without control characters (Unicode Cc).
///
/// Actors are not a newtype: millions of them live in one dictionary, as bytes, and are compared as bytes.
pub fn check_actor(name: &[u8]) -> Result<(), NameError> {
    if name.is_empty() {
        return Err(NameError("an actor's name is empty"));
    }
    if name.len() > ACTOR_BYTES_MAX {
        return Err(NameError("an actor's name is longer than 256 bytes"));
    }
    let text = std::str::from_utf8(name).map_err(|_| NameError("an actor's name is not UTF-8"))?;
    if text.chars().any(char::is_control) {
        return Err(NameError("an actor's name holds a control character"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check<T: FromStr>(good: &[&str], bad: &[&str]) {
        for text in good {
            assert!(text.parse::<T>().is_ok(), "{text:?} should be taken");
        }
        for text in bad {
            assert!(text.parse::<T>().is_err(), "{text:?} should be refused");
        }
    }

    #[test]
    fn alphabets() {
        let long = "a".repeat(129);
        check::<TenantId>(&["a", "acme-2", "-", &long[..64]], &["", "Acme", "a_b", &long[..65], "é"]);
        check::<EpochId>(&["2026-03", "e1", "A:b_c.d", "0"], &["", ".a", "-a", "a/b", "a b", &long, ".."]);
        check::<Category>(&["views", "a b", "~", "{}"], &["", "it's", "\"", "\\", "a\tb", "ü", &long[..65]]);
    }

    #[test]
    fn actors() {
        assert!(check_actor("é\u{a0}…".as_bytes()).is_ok());
        assert!(check_actor(&[b'x'; 256]).is_ok());
        for bad in [&b""[..], &[b'x'; 257], b"\xff", b"a\nb", "a\u{85}b".as_bytes(), b"\x7f", b"\0"] {
            assert!(check_actor(bad).is_err(), "{bad:?}");
        }
    }
}
