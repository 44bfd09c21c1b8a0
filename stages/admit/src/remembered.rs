//! Capabilities that were found good lately, so that a bearer who asks often does not have the whole chain computed each time.
//!
//! The law: what is remembered is never more than what verifying again would say. So a memory lives and dies with its
//! keyring, whose reload is what revokes keys and tokens; the times of caveats and of the key are looked at on every
//! question; and only what was found good is kept, so that forgers cost their whole chain every time and leave nothing. The
//! token itself is not kept but its hash, compared in constant time: what could be learned of a hash opens no door.
//!
//! Bounded: a place is chosen by the hash and holds the last token that came to it. That a bearer may narrow its token in
//! endless ways costs others a second check, and no memory. No lock, no age, no sweep.

use crate::capability::Grant;
use crate::error::Denied;
use arc_swap::ArcSwapOption;
use std::sync::Arc;
use std::time::Duration;

/// Tokens kept: four for each of a thousand busy tenants, about 300 bytes each.
const PLACES: usize = 4096;

pub(crate) struct Remembered(Box<[ArcSwapOption<(blake3::Hash, Grant)>]>);

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
        let hash = blake3::hash(token.as_bytes());
        let [low, high, ..] = *hash.as_bytes();
        let place = &self.0[usize::from(u16::from_le_bytes([low, high])) % PLACES];
        if let Some(known) = &*place.load()
            && known.0 == hash
            && known.1.holds_at(now)
        {
            return Ok(known.1.clone());
        }
        let grant = verify()?;
        place.store(Some(Arc::new((hash, grant.clone()))));
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
        let forged = format!("{}{}", &token[..token.len() - 1], if token.ends_with('A') { 'E' } else { 'A' });
        for _ in 0..3 {
            let (answer, computed) = asked(&remembered, &keys, &forged, 1);
            assert_eq!((answer.map_err(|denied| denied.reason), computed), (Err(Reason::Unauth), 1));
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
