//! What a token says, in words, for its bearer and for operators. This needs no key, so nothing here is
//! proven.

use super::caveat::Caveat;
use super::grant::Grant;
use super::keyring::key_id;
use super::wire::{self, Macaroon};
use crate::error::TokenError;
use serde::Serialize;
use std::fmt;
use std::time::Duration;

/// A token's content. It holds no signature: showing it to somebody gives nothing away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Inspection {
    /// The key that is said to have signed it.
    pub key_id: Option<String>,
    /// Key id and nonce.
    pub identifier: String,
    /// Where it is said to belong.
    pub location: Option<String>,
    /// Its caveats, in order.
    pub caveats: Vec<InspectedCaveat>,
    /// Why no service would take it now, whoever signed it.
    pub refused: Option<String>,
}

/// A caveat and its meaning.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct InspectedCaveat {
    /// As it stands, control characters escaped.
    pub text: String,
    /// What it does.
    pub meaning: String,
}

/// Reads a token. `now` is Unix time.
pub fn inspect(token: &str, now: Duration) -> Result<Inspection, TokenError> {
    // Discharges may follow; they say nothing without the root, and their issuer is the one to ask.
    let bytes = wire::decode(token.split(',').next().unwrap_or_default())?;
    let macaroon = Macaroon::parse(&bytes)?;
    let caveats = macaroon.caveats.iter().map(|raw| {
        let meaning = match std::str::from_utf8(raw.text).ok().map(str::parse::<Caveat>) {
            _ if raw.is_third_party() => match raw.location {
                Some(place) => format!("only with a discharge from {}", printable(place)),
                None => "only with a discharge from another service".to_owned(),
            },
            Some(Ok(caveat)) => caveat.meaning(),
            _ => "not known here, so the capability allows nothing".to_owned(),
        };
        InspectedCaveat { text: printable(raw.text), meaning }
    });
    let caveats = caveats.collect();
    // What other services say is in their discharges, so that only what stands here can be judged.
    let own = macaroon.caveats.iter().filter(|raw| !raw.is_third_party()).map(|raw| raw.text);
    let refused = Grant::of(own, now).err().map(|denied| denied.detail.into_owned());
    Ok(Inspection {
        key_id: key_id(macaroon.identifier).map(|id| printable(id.as_bytes())),
        identifier: printable(macaroon.identifier),
        location: macaroon.location.map(printable),
        caveats,
        refused,
    })
}

/// Nothing in a token may move the cursor of the terminal that shows it.
fn printable(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).escape_debug().to_string()
}

impl fmt::Display for Inspection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.key_id {
            Some(id) => writeln!(f, "a capability said to be signed by key {id}")?,
            None => writeln!(f, "a macaroon of another service: its identifier is {}", self.identifier)?,
        }
        let width = self.caveats.iter().map(|caveat| caveat.text.len()).max().unwrap_or(0);
        for caveat in &self.caveats {
            writeln!(f, "  {:width$}  {}", caveat.text, caveat.meaning)?;
        }
        match &self.refused {
            Some(why) => write!(f, "it would be refused now: {why}"),
            None => write!(f, "nothing that it says keeps it from holding now"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(caveats: &[&[u8]]) -> String {
        let mut bytes = wire::begin(b"svc-rewarder", b"k1:n");
        caveats.iter().for_each(|text| wire::add_caveat(&mut bytes, text));
        wire::close(&mut bytes, &[7; 32]);
        wire::encode(&bytes).unwrap()
    }

    #[test]
    fn explains_in_words() {
        let text = |caveats: &[&[u8]]| inspect(&token(caveats), Duration::ZERO).unwrap().to_string();
        assert_eq!(
            text(&[b"tenant = acme", b"scope = rewarder.run x", b"dry_run = true"]),
            "a capability said to be signed by key k1\n  \
             tenant = acme           only on behalf of tenant acme\n  \
             scope = rewarder.run x  only to run epochs\n  \
             dry_run = true          only dry runs, which pay nobody\n\
             nothing that it says keeps it from holding now"
        );
        assert!(text(&[]).ends_with("it would be refused now: the capability names no tenant"));
        assert!(text(&[b"tenant = a", b"x = \x1b[2J"]).contains("x = \\u{1b}[2J"));
    }
}
