//! Capabilities that were found good lately, so that a bearer who asks often does not have the whole chain computed each time.
//!
//! The law: what is remembered is never more than what verifying again would say. So a memory lives and dies with its
//! keyring, whose reload is what revokes keys and tokens; the times of caveats and of the key are looked at on every
//! question; and only what was found good is kept, so that forgers cost their whole chain every time and leave nothing.
//!
//! No secret is kept. What makes a token a secret is the signature at its end; of that the hash is kept, which opens no door,
//! and compared in constant time. What stands before it, who may do what, is kept and compared as it is, which costs a
//! fraction of hashing it. Discharges bring signatures of their own; with them the whole is hashed.
//!
//! Bounded: a place is chosen by the hash and holds the last token that came to it. That a bearer may narrow its token in
//! endless ways costs others a second check, and no memory. No lock, no age, no sweep.

use crate::capability::Grant;
use crate::error::Denied;
use arc_swap::ArcSwapOption;
use std::sync::Arc;
use std::time::Duration;

/// Tokens kept: four for each of a thousand busy tenants. Half a kilobyte each, or all of 8 KiB for the longest: 32 MiB at worst,
/// and only bearers of good tokens can bring that about.
const PLACES: usize = 4096;

/// Characters at the end of a token that hold its signature: 32 bytes are 43 characters of base64url at most, and up to two of
/// padding may follow. A hash of 64 costs no more than one of 45.
const SECRET_CHARS: usize = 64;

pub(crate) struct Remembered(Box<[ArcSwapOption<Known>]>);

/// A token that was found good.
struct Known {
    open: Box<str>,
    secret: blake3::Hash,
    grant: Grant,
}

impl Default for Remembered {
    fn default() -> Self {
        Self((0..PLACES).map(|_| ArcSwapOption::empty()).collect())
    }
}

impl Remembered {
    /// What `verify` would say of `token` at `now` (Unix time); it is asked unless the answer is known.
    pub fn or_verify(
        &self,
        token: &str,
        now: Duration,
        verify: impl FnOnce() -> Result<Grant, Denied>,
    ) -> Result<Grant, Denied> {
        let secret_at = if memchr::memchr(b',', token.as_bytes()).is_some() {
            0
        } else {
            token.len().saturating_sub(SECRET_CHARS)
        };
        // Within a character there is no token of ours.
        let Some((open, secret)) = token.split_at_checked(secret_at) else { return verify() };
        let secret = blake3::hash(secret.as_bytes());
        let [low, high, ..] = *secret.as_bytes();
        let place = &self.0[usize::from(u16::from_le_bytes([low, high])) % PLACES];
        if let Some(known) = &*place.load()
            && known.secret == secret
            && *known.open == *open
            && known.grant.holds_at(now)
        {
            return Ok(known.grant.clone());
        }
        let grant = verify()?;
        place.store(Some(Arc::new(Known { open: open.into(), secret, grant: grant.clone() })));
        Ok(grant)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capability::{Caveat, Keyring, keygen};
    use rewarder_model::Reason;
    use rewarder_model::world::testing::SeededEntropy;
    use std::cell::Cell;

    fn keyring() -> Keyring {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys.json");
        keygen(&path, None, &SeededEntropy::new(1)).unwrap();
        Keyring::load(&path).unwrap()
    }

    fn mint(keys: &Keyring, caveats: &[&str]) -> String {
        let caveats: Vec<Caveat> = caveats.iter().map(|text| text.parse().unwrap()).collect();
        keys.mint(&caveats, &SeededEntropy::new(9)).unwrap()
    }

    /// Asks at these seconds, and says how often the chain was computed.
    fn asked(
        remembered: &Remembered,
        keys: &Keyring,
        token: &str,
        at: u64,
    ) -> (Result<Grant, Denied>, usize) {
        let (now, computed) = (Duration::from_secs(at), Cell::new(0));
        let answer = remembered.or_verify(token, now, || {
            computed.set(computed.get() + 1);
            keys.verify(token, now)
        });
        assert_eq!(answer, keys.verify(token, now), "at {at}");
        (answer, computed.get())
    }

    #[test]
    fn the_answer_is_that_of_the_keyring_at_every_time() {
        let (remembered, keys) = (Remembered::default(), keyring());
        let token = mint(
            &keys,
            &[
                "tenant = acme",
                "scope = rewarder.run",
                "not_before = 1970-01-01T00:01:40Z",
                "expires = 1970-01-01T00:03:20Z",
                "expires = 1970-01-01T00:05:00Z",
            ],
        );
        let counts = [99, 100, 101, 199, 200, 250, 150, 99]
            .map(|at| (at, asked(&remembered, &keys, &token, at)))
            .map(|(at, (answer, computed))| (at, answer.is_ok(), computed));
        let expected = [
            (99, false, 1),
            (100, true, 1),
            (101, true, 0),
            (199, true, 0),
            (200, false, 1),
            (250, false, 1),
            (150, true, 0),
            (99, false, 1),
        ];
        assert_eq!(counts, expected, "a clock that is set back is believed as well");
    }

    #[test]
    fn what_does_not_verify_is_never_kept_and_costs_its_chain_every_time() {
        let (remembered, keys) = (Remembered::default(), keyring());
        let token = mint(&keys, &["tenant = acme", "scope = rewarder.run"]);
        assert_eq!(asked(&remembered, &keys, &token, 1).1, 1);
        assert_eq!(asked(&remembered, &keys, &token, 1).1, 0);
        // What stands before that is the location, which no signature covers.
        for at in 24..token.len() {
            let mut forged = token.clone().into_bytes();
            // Two lower bits more than the last character holds would be the same signature again.
            forged[at] = if matches!(forged[at], b'A'..=b'D') { b'Z' } else { b'A' };
            let forged = String::from_utf8(forged).unwrap();
            let (answer, computed) = asked(&remembered, &keys, &forged, 1);
            assert_eq!((answer.map_err(|denied| denied.reason), computed), (Err(Reason::Unauth), 1), "{at}");
        }
        assert_eq!(remembered.0.iter().filter(|place| place.load().is_some()).count(), 1);
        assert_eq!(asked(&remembered, &keys, &token, 1).1, 0, "a forgery takes nobody's place");
    }

    #[test]
    fn a_place_holds_one() {
        let (remembered, keys) = (Remembered::default(), keyring());
        let token = mint(&keys, &["tenant = acme", "scope = rewarder.run"]);
        let narrowed = |n: usize| {
            let caveat = format!("max_pool_minor_units = {n}").parse().unwrap();
            crate::capability::keyring::attenuate(&token, &caveat).unwrap()
        };
        for n in 1..2 * PLACES {
            assert_eq!(asked(&remembered, &keys, &narrowed(n), 1).1, 1);
        }
        assert!(remembered.0.iter().filter(|place| place.load().is_some()).count() > PLACES / 2);
        assert_eq!(asked(&remembered, &keys, &narrowed(2 * PLACES), 1).1, 1);
        assert_eq!(asked(&remembered, &keys, &narrowed(2 * PLACES), 1).1, 0);
    }
}
