//! The keys: they verify and mint. Adding a caveat needs none.
//!
//! Several keys are live at once; the last one mints, so that a new key is added at the end. A [`Keyring`] keeps
//! only the derived keys, inside aws-lc, which wipes them.

use super::caveat::Caveat;
use super::discharge::{self, Presented};
use super::grant::Grant;
use super::key_file::{KeyFile, hex};
use super::timestamp::Timestamp;
use super::wire::{self, Macaroon};
use crate::error::{Denied, KeyringError, TokenError};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hmac::{self, HMAC_SHA256};
use rewarder_model::Reason;
use rewarder_model::world::Entropy;
use std::collections::HashSet;
use std::fmt;
use std::path::Path;
use std::time::Duration;

/// libmacaroons derives every root key with this one, so that any secret becomes a good HMAC key.
const GENERATOR: &[u8] = b"macaroons-key-generator";

/// Where a token may be used; a hint for people, covered by no signature.
const LOCATION: &[u8] = b"svc-rewarder";

/// Twice as many as needed for nonces that never meet; the nonce names the token, it is no secret.
const NONCE_BYTES: usize = 16;

/// The live keys.
pub struct Keyring {
    /// At least one.
    keys: Vec<Key>,
    /// Identifiers of tokens that are refused although they verify.
    revoked: HashSet<Box<[u8]>>,
}

struct Key {
    id: Box<str>,
    root: hmac::Key,
    /// From then on it verifies nothing.
    retire_after: Option<Timestamp>,
}

impl Key {
    fn is_retired(&self, now: Duration) -> bool {
        self.retire_after.is_some_and(|end| now >= end.unix())
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keyring").field("ids", &self.ids().collect::<Vec<_>>()).finish_non_exhaustive()
    }
}

impl Keyring {
    /// Reads the key file. Refuses one that others than its owner may read.
    pub fn load(path: &Path) -> Result<Self, KeyringError> {
        let file = KeyFile::read(path)?;
        let keys = file.keys.iter().map(|key| Key {
            id: key.id.as_str().into(),
            root: derive(&*key.secret_hex.0),
            retire_after: key.retire_after,
        });
        let revoked = file.revoked.iter().map(|id| id.as_bytes().into());
        Ok(Self { keys: keys.collect(), revoked: revoked.collect() })
    }

    /// The keys' ids, the minting one last.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.keys.iter().map(|key| &*key.id)
    }

    /// The keys' ids and when each ends, the minting one last: what an operator may see.
    pub fn state(&self) -> impl Iterator<Item = (&str, Option<Timestamp>)> {
        self.keys.iter().map(|key| (&*key.id, key.retire_after))
    }

    /// How many tokens and keys are revoked.
    pub fn revoked(&self) -> usize {
        self.revoked.len()
    }

    /// What the token, with its discharges if it needs some, allows at `now` (Unix time), if it verifies and its times hold.
    ///
    /// Whatever is wrong with its form, key or signature gets one and the same answer, and a token of
    /// readable form always costs its whole chain. Its caveats are looked at only after the signature holds.
    pub fn verify(&self, token: &str, now: Duration) -> Result<Grant, Denied> {
        let presented = Presented::decode(token).map_err(|_| Denied::unverified())?;
        let macaroons = presented.parse().map_err(|_| Denied::unverified())?;
        let (macaroon, discharges) = macaroons.split_first().ok_or_else(Denied::unverified)?;
        let is_named = |key: &&Key| key_id(macaroon.identifier) == Some(&*key.id) && !key.is_retired(now);
        let named = self.keys.iter().find(is_named);
        // For an unknown key the work is done with another one, and thrown away.
        let root = &named.unwrap_or(&self.keys[0]).root;
        let walked = discharge::walk(root, macaroon);
        let is_ours = verify_slices_are_equal(walked.signature.as_ref(), macaroon.signature).is_ok();
        let Some(named) = named.filter(|_| is_ours) else {
            return Err(Denied::unverified());
        };
        if self.revoked.contains(macaroon.identifier) {
            let detail = "the capability was revoked; ask its issuer for a new one";
            return Err(Denied::new(Reason::Unauth, detail));
        }
        let discharged = discharge::check(macaroon, walked, discharges)?;
        let own = macaroon.caveats.iter().filter(|caveat| !caveat.is_third_party()).map(|caveat| caveat.text);
        Grant::of(own.chain(discharged), now).map(|grant| grant.until(named.retire_after))
    }

    /// Makes a token with these caveats, signed by the last key.
    ///
    /// A tenant and a scope must be among them. A token that lacks one grants nothing as it is, but its
    /// bearer could add any, and the chain cannot tell who added what: it is the one case in which a caveat
    /// would widen.
    pub fn mint(&self, caveats: &[Caveat], entropy: &dyn Entropy) -> Result<String, TokenError> {
        if caveats.len() > wire::CAVEATS_MAX {
            return Err(TokenError::TooManyCaveats);
        }
        let names = |is: fn(&Caveat) -> bool| caveats.iter().any(is);
        if !names(|c| matches!(c, Caveat::Tenant(_))) || !names(|c| matches!(c, Caveat::Scope(_))) {
            return Err(TokenError::Boundless);
        }
        let key = &self.keys[self.keys.len() - 1];
        let mut nonce = [0; NONCE_BYTES];
        entropy.fill(&mut nonce);
        let identifier = format!("{}:{}", key.id, hex(&nonce).as_str());
        let texts: Vec<String> = caveats.iter().map(Caveat::to_string).collect();
        let mut bytes = wire::begin(LOCATION, identifier.as_bytes());
        texts.iter().for_each(|text| wire::add_caveat(&mut bytes, text.as_bytes()));
        let signature = chain(&key.root, identifier.as_bytes(), texts.iter().map(String::as_bytes));
        wire::close(&mut bytes, signature.as_ref());
        wire::encode(&bytes)
    }
}

/// Adds a caveat to a token. This needs no key and asks nobody.
pub fn attenuate(token: &str, caveat: &Caveat) -> Result<String, TokenError> {
    let bytes = wire::decode(token)?;
    let macaroon = Macaroon::parse(&bytes)?;
    if macaroon.caveats.len() == wire::CAVEATS_MAX {
        return Err(TokenError::TooManyCaveats);
    }
    let text = caveat.to_string();
    let signature = hmac::sign(&hmac::Key::new(HMAC_SHA256, macaroon.signature), text.as_bytes());
    let mut narrowed = wire::open(&bytes).to_vec();
    wire::add_caveat(&mut narrowed, text.as_bytes());
    wire::close(&mut narrowed, signature.as_ref());
    wire::encode(&narrowed)
}

/// A token of good form that nobody has issued: its name and its signature are random. Whoever affirms it affirms anything.
pub(crate) fn nobodys(entropy: &dyn Entropy) -> String {
    let (mut nonce, mut signature) = ([0; NONCE_BYTES], [0; 32]);
    entropy.fill(&mut nonce);
    entropy.fill(&mut signature);
    let mut bytes = wire::begin(LOCATION, format!("nobody:{}", hex(&nonce).as_str()).as_bytes());
    wire::close(&mut bytes, &signature);
    // Some hundred bytes are no token that is too long.
    wire::encode(&bytes).unwrap_or_default()
}

/// The key id of `{key id}:{nonce}`.
pub(super) fn key_id(identifier: &[u8]) -> Option<&str> {
    std::str::from_utf8(identifier).ok()?.split_once(':').map(|(id, _)| id)
}

pub(super) fn derive(secret: &[u8]) -> hmac::Key {
    chained(&derive_tag(secret))
}

/// The derived key's bytes: only for sealing it into a vid.
pub(super) fn derive_tag(secret: &[u8]) -> hmac::Tag {
    hmac::sign(&hmac::Key::new(HMAC_SHA256, GENERATOR), secret)
}

fn chain<'a>(root: &hmac::Key, identifier: &[u8], caveats: impl Iterator<Item = &'a [u8]>) -> hmac::Tag {
    caveats.fold(hmac::sign(root, identifier), |signature, text| hmac::sign(&chained(&signature), text))
}

/// A signature as the key of what follows it.
pub(super) fn chained(signature: &hmac::Tag) -> hmac::Key {
    hmac::Key::new(HMAC_SHA256, signature.as_ref())
}

#[cfg(test)]
mod tests {
    use super::super::caveat::Scope;
    use super::*;
    use proptest::prelude::*;
    use rewarder_model::world::testing::SeededEntropy;
    use rewarder_model::{Amount, EpochId};

    const NOW: Duration = Duration::from_secs(1_795_475_645); // 2026-11-23T23:14:05Z

    // Minted by pymacaroons 0.13 with the secret 00 01 .. 1f: `tests/interop.py mint`.
    const PLAIN: &str =
        "AgEMc3ZjLXJld2FyZGVyAg5rMTpweW1hY2Fyb29ucwAABiBbZDgx7vsGeXVGVPq4wL8v7X_Nvg1aU_SpcJWREZ7Tbw";
    const FULL: &str = "AgEMc3ZjLXJld2FyZGVyAg5rMTpweW1hY2Fyb29ucwACDXRlbmFudCA9IGFjbWUAAiVzY29wZSA9IHJld2FyZGVyLnJ1biByZXdhcmRlci5pbnNwZWN0AAIUZXBvY2hfcHJlZml4ID0gMjAyNi0AAiFub3RfYmVmb3JlID0gMjAyNi0wMS0wMVQwMDowMDowMFoAAh5leHBpcmVzID0gMjAyNy0wMS0wMVQwMDowMDowMFoAAh1tYXhfcG9vbF9taW5vcl91bml0cyA9IDI1MDAwMAACDmRyeV9ydW4gPSB0cnVlAAAGIPAi33PfEKgs9QZstcWuRJFbB0petKrmlnNKkztNWmcX";
    const NO_LOCATION: &str = "AgEAAg5rMTpweW1hY2Fyb29ucwACDXRlbmFudCA9IGFjbWUAAiVzY29wZSA9IHJld2FyZGVyLnJ1biByZXdhcmRlci5pbnNwZWN0AAAGIJZ5F-t2mvcniIqMJJ5nEpj3Sanz-YJ_VrXpaiqKz7pm";
    const LONG: &str = "AgEBeAIOazE6cHltYWNhcm9vbnMAAkl0ZW5hbnQgPSBhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhAALFAXNjb3BlID0gczAgczEgczIgczMgczQgczUgczYgczcgczggczkgczEwIHMxMSBzMTIgczEzIHMxNCBzMTUgczE2IHMxNyBzMTggczE5IHMyMCBzMjEgczIyIHMyMyBzMjQgczI1IHMyNiBzMjcgczI4IHMyOSBzMzAgczMxIHMzMiBzMzMgczM0IHMzNSBzMzYgczM3IHMzOCBzMzkgczQwIHM0MSBzNDIgczQzIHM0NCBzNDUgczQ2IHM0NyBzNDggczQ5AAAGIOXgYgcYfjroTjzjGDJGhauZGsNT7x6KyvAM1besrfaa";
    const THIRD_PARTY: &str = "AgEMc3ZjLXJld2FyZGVyAghrMTp0aGlyZAABFGh0dHBzOi8vYXV0aC5leGFtcGxlAgt3aG8gYXJlIHlvdQRIk5m-DdhMkDigD5nAasNJXlW_Yot-5aHBVHkRaYznq622Tom0fg0c1YftlBHnuPjb5892IvuLAO_ngOZDrK_1QTQpKRAEcnixAAAGIPIczD0NGBXTHZJj3sFi7UuUfxSLVOkXxVRLzEQmr1UN";

    /// A root and its discharge, bound: `tests/interop.py mint`.
    const PYMACAROONS_BOUND: &str = "AgEMc3ZjLXJld2FyZGVyAghrMTpib3VuZAACDXRlbmFudCA9IGFjbWUAARRodHRwczovL2F1dGguZXhhbXBsZQILd2hvIGFyZSB5b3UESLsb_3mZ1_XR3U68ZRlqBwArC0sFyOGZWjK9GudJhM9wp0tXeMzlrBQzGvWmsZ_fZKTElMwJList_lYh0pPigSqdagldAe08AAACInNjb3BlID0gcmV3YXJkZXIucnVuIHJld2FyZGVyLnNlYWwAAAYgybIl5Ji-NwijDKYO4K_JphzfuiGK4afoVCTWC6Oli64,AgEUaHR0cHM6Ly9hdXRoLmV4YW1wbGUCC3dobyBhcmUgeW91AAIOZHJ5X3J1biA9IHRydWUAAAYg0-s-H6zKKviAVCVyVrlPZoeTJY4trHBKLstddeUOACg";

    /// Minted by us with that secret; `tests/interop.py verify` finds both good.
    const OURS: &str = "AgEMc3ZjLXJld2FyZGVyAiNrMTpjMTVjMDI4OWVjMmQwYTkxNjdlYzhlNjVhMThkZWJiZQACDXRlbmFudCA9IGFjbWUAAhRzY29wZSA9IHJld2FyZGVyLnJ1bgACHmV4cGlyZXMgPSAyMDI3LTAxLTAxVDAwOjAwOjAwWgAABiC7BeWI7MoCzD5qzcV8C8hskNN5gqCwPV9o9oTI69HDrg";
    const OURS_ATTENUATED: &str = "AgEMc3ZjLXJld2FyZGVyAiNrMTpjMTVjMDI4OWVjMmQwYTkxNjdlYzhlNjVhMThkZWJiZQACDXRlbmFudCA9IGFjbWUAAhRzY29wZSA9IHJld2FyZGVyLnJ1bgACHmV4cGlyZXMgPSAyMDI3LTAxLTAxVDAwOjAwOjAwWgACDmRyeV9ydW4gPSB0cnVlAAAGIFOSD3J49FZcZc1nIgwrio-kjff8rRhNJBtwSyZ4B4zI";

    const SMALL: &str = "tenant = a\nscope = rewarder.run";

    fn ring(ids: &[&str]) -> Keyring {
        let secret = |n: u8| -> [u8; 32] { std::array::from_fn(|i| i as u8 ^ n) };
        let key = |(n, id): (usize, &&str)| Key {
            id: (*id).into(),
            root: derive(&secret(n as u8)),
            retire_after: None,
        };
        Keyring { keys: ids.iter().enumerate().map(key).collect(), revoked: HashSet::new() }
    }

    fn caveats(text: &str) -> Vec<Caveat> {
        text.lines().map(|line| line.trim().parse().unwrap()).collect()
    }

    fn mint(ring: &Keyring, text: &str) -> String {
        ring.mint(&caveats(text), &SeededEntropy::new(1)).unwrap()
    }

    #[test]
    fn verifies_what_pymacaroons_minted() {
        let ring = ring(&["k1"]);
        let grant = ring.verify(FULL, NOW).unwrap();
        assert_eq!(grant.tenant().as_str(), "acme");
        assert!(grant.allows(Scope::Run).is_ok() && grant.allows(Scope::Inspect).is_ok());
        assert!(grant.allows(Scope::Seal).is_err() && grant.allows_dry_run(false).is_err());
        assert!(grant.allows_pool(250_000.into()).is_ok() && grant.allows_pool(250_001.into()).is_err());
        assert_eq!(ring.verify(NO_LOCATION, NOW).unwrap().tenant().as_str(), "acme");
        assert_eq!(ring.verify(LONG, NOW).unwrap().tenant().as_str().len(), 64);
        // Its signature holds, so it may be told that a caveat is missing.
        assert_eq!(ring.verify(PLAIN, NOW).unwrap_err().reason, Reason::Tenant);
        // Its own signature holds, so it may be told that a discharge is missing.
        assert_eq!(ring.verify(THIRD_PARTY, NOW).unwrap_err().reason, Reason::Caveat);
        let padded = format!("{FULL}{}", "=".repeat((4 - FULL.len() % 4) % 4));
        assert_eq!(ring.verify(&padded, NOW), ring.verify(FULL, NOW));
    }

    #[test]
    fn mints_what_pymacaroons_verified() {
        let token =
            mint(&ring(&["k1"]), "tenant = acme\nscope = rewarder.run\nexpires = 2027-01-01T00:00:00Z");
        assert_eq!(token, OURS);
        assert_eq!(attenuate(&token, &caveats("dry_run = true")[0]).unwrap(), OURS_ATTENUATED);
    }

    #[test]
    fn the_last_key_mints_and_all_verify() {
        let (old, both, new) = (ring(&["k1"]), ring(&["k1", "k2"]), ring(&["k1", "k2"]));
        let token = mint(&old, SMALL);
        assert!(both.verify(&token, NOW).is_ok());
        let token = mint(&both, SMALL);
        assert!(content(&token).unwrap().0.starts_with(b"k2:"));
        assert!(new.verify(&token, NOW).is_ok());
        assert_eq!(old.verify(&token, NOW), Err(Denied::unverified()), "an unknown key");
    }

    #[test]
    fn a_forger_always_gets_the_same_answer() {
        let ring = ring(&["k1"]);
        let other = Keyring {
            keys: vec![Key {
                id: "k1".into(),
                root: derive(b"another secret of thirty-two byte"),
                retire_after: None,
            }],
            revoked: HashSet::new(),
        };
        for forged in [
            mint(&other, "tenant = acme\nscope = rewarder.run"),
            mint(&other, "tenant = acme\nscope = a\nexpires = 2020-01-01T00:00:00Z"),
            String::new(),
            "Ag".into(),
            "not base64!".into(),
            "A".repeat(9000),
        ] {
            assert_eq!(ring.verify(&forged, NOW), Err(Denied::unverified()));
        }
    }

    /// A token by our own key with this id, whatever bytes of caveats stand in it.
    fn sign(id: &str, caveats: &[u8], texts: &[&[u8]]) -> String {
        let identifier = format!("{id}:nonce");
        let mut bytes = wire::begin(LOCATION, identifier.as_bytes());
        bytes.extend_from_slice(caveats);
        let root = &ring(&["k1"]).keys[0].root;
        wire::close(&mut bytes, chain(root, identifier.as_bytes(), texts.iter().copied()).as_ref());
        wire::encode(&bytes).unwrap()
    }

    #[test]
    fn a_good_signature_is_not_enough() {
        let ring = ring(&["k1"]);
        let (plain, text) = (b"\x02\x0atenant = a\0", &[&b"tenant = a"[..]]);
        assert!(ring.verify(&sign("k1", plain, text), NOW).is_ok());
        assert_eq!(ring.verify(&sign("k2", plain, text), NOW), Err(Denied::unverified()), "the stand-in key");
        for third_party in [&b"\x02\x0atenant = a\x04\x01v\0"[..], b"\x01\x01l\x02\x0atenant = a\0"] {
            let token = sign("k1", third_party, text);
            assert_eq!(ring.verify(&token, NOW), Err(Denied::unverified()), "for others to discharge");
        }
    }

    #[test]
    fn bounded_in_size_and_caveats() {
        let ring = ring(&["k1"]);
        let mut token = mint(&ring, SMALL);
        let more = caveats("dry_run = true");
        for _ in 2..wire::CAVEATS_MAX {
            token = attenuate(&token, &more[0]).unwrap();
        }
        assert!(ring.verify(&token, NOW).is_ok());
        assert_eq!(attenuate(&token, &more[0]), Err(TokenError::TooManyCaveats));
        let many = vec![Caveat::DryRun; wire::CAVEATS_MAX + 1];
        assert_eq!(ring.mint(&many, &SeededEntropy::new(1)), Err(TokenError::TooManyCaveats));
        let long = caveats(&format!("tenant = a\nscope = {}", ["word"; 1500].join(" ")));
        assert_eq!(ring.mint(&long, &SeededEntropy::new(1)), Err(TokenError::TooLong));
    }

    #[test]
    fn what_its_bearer_could_widen_is_not_minted() {
        for text in ["tenant = a", "scope = rewarder.run", "dry_run = true"] {
            let minted = ring(&["k1"]).mint(&caveats(text), &SeededEntropy::new(1));
            assert_eq!(minted, Err(TokenError::Boundless), "{text}");
        }
    }

    #[test]
    fn a_key_ends_with_its_overlap_and_a_revoked_token_at_once() {
        let (mut ring, other) = (ring(&["k1"]), mint(&ring(&["k1"]), "tenant = b\nscope = rewarder.run"));
        let token = ring.mint(&caveats(SMALL), &SeededEntropy::new(2)).unwrap();
        ring.keys[0].retire_after = Timestamp::new(NOW);
        assert!(ring.verify(&token, NOW - Duration::from_nanos(1)).is_ok());
        assert_eq!(ring.verify(&token, NOW), Err(Denied::unverified()));
        ring.keys[0].retire_after = None;
        ring.revoked.insert(content(&token).unwrap().0.into());
        let narrower = attenuate(&token, &Caveat::DryRun).unwrap();
        for revoked in [&token, &narrower] {
            let denied = ring.verify(revoked, NOW).unwrap_err();
            assert_eq!(denied.reason, Reason::Unauth);
            assert!(denied.detail.contains("revoked"));
        }
        assert!(ring.verify(&other, NOW).is_ok());
    }

    const ISSUER: &[u8] = b"another key of 32 bytes, exactly";

    #[test]
    fn a_discharge_opens_its_own_root_and_no_other() {
        let (ring, entropy) = (ring(&["k1"]), SeededEntropy::new(5));
        let need = |token: &str, id: &[u8]| {
            discharge::require_discharge(token, "https://auth.example", ISSUER, id, &entropy).unwrap()
        };
        let say = |secret: &[u8], id: &[u8], text: &str| {
            discharge::discharge("https://auth.example", secret, id, &caveats(text)).unwrap()
        };
        let bind = |root: &str, parts: &[&str]| discharge::bind(root, parts.iter().copied()).unwrap();
        let reason = |text: &str| ring.verify(text, NOW).map(|_| ()).map_err(|denied| denied.reason);
        let plain = ring.mint(&caveats("tenant = a\nscope = rewarder.run rewarder.seal"), &entropy).unwrap();
        let root = need(&plain, b"who");
        let good = say(ISSUER, b"who", "scope = rewarder.run\nexpires = 2027-01-01T00:00:00Z");

        let grant = ring.verify(&bind(&root, &[&good]), NOW).unwrap();
        assert!(grant.allows(Scope::Run).is_ok() && grant.allows(Scope::Seal).is_err(), "it narrows");
        assert_eq!(reason(&root), Err(Reason::Caveat), "missing");
        assert_eq!(reason(&format!("{root},{good}")), Err(Reason::Unauth), "not bound");
        let narrower = attenuate(&root, &Caveat::DryRun).unwrap();
        let stolen = bind(&root, &[&good]).replace(&root, &narrower);
        assert_eq!(reason(&stolen), Err(Reason::Unauth), "bound to another root");
        assert_eq!(reason(&bind(&narrower, &[&good])), Ok(()));
        let forged = say(b"a key that the issuer never had.", b"who", "dry_run = true");
        assert_eq!(reason(&bind(&root, &[&forged])), Err(Reason::Unauth), "by another key");
        let other = say(ISSUER, b"what", "dry_run = true");
        assert_eq!(reason(&bind(&root, &[&other])), Err(Reason::Caveat), "of another id");
        assert_eq!(reason(&bind(&root, &[&good, &other])), Err(Reason::Unauth), "one too many");
        assert_eq!(reason(&bind(&plain, &[&good])), Err(Reason::Unauth), "none was asked for");
        let late = say(ISSUER, b"who", "expires = 2020-01-01T00:00:00Z");
        assert_eq!(reason(&bind(&root, &[&late])), Err(Reason::Caveat), "its own caveats count");

        // Two caveats need two discharges, and a discharge may need one itself.
        let twice = need(&root, b"who");
        assert_eq!(reason(&bind(&twice, &[&good])), Err(Reason::Caveat));
        assert_eq!(reason(&bind(&twice, &[&good, &good])), Ok(()));
        let nested = need(&good, b"device");
        let device = say(ISSUER, b"device", "dry_run = true");
        assert_eq!(reason(&bind(&root, &[&nested])), Err(Reason::Caveat));
        let grant = ring.verify(&bind(&root, &[&device, &nested]), NOW).unwrap();
        assert!(grant.allows_dry_run(false).is_err());

        // Its vid, sealed with another signature, opens nothing: a caveat cannot be moved.
        let moved = need(&attenuate(&plain, &Caveat::DryRun).unwrap(), b"who");
        let (from, onto) = (wire::decode(&moved).unwrap(), wire::decode(&root).unwrap());
        let (from, onto) = (Macaroon::parse(&from).unwrap(), Macaroon::parse(&onto).unwrap());
        assert_ne!(from.caveats.last().unwrap().verification, onto.caveats.last().unwrap().verification);
        let many = vec![&*good; discharge::DISCHARGES_MAX + 1];
        assert_eq!(discharge::bind(&root, many), Err(TokenError::TooManyDischarges));
    }

    #[test]
    fn discharges_interoperate_with_pymacaroons() {
        let ring = ring(&["k1"]);
        let grant = ring.verify(PYMACAROONS_BOUND, NOW).unwrap();
        assert_eq!(grant.tenant().as_str(), "acme");
        assert!(grant.allows(Scope::Run).is_ok() && grant.allows_dry_run(false).is_err());
        let (root, _) = PYMACAROONS_BOUND.split_once(',').unwrap();
        assert_eq!(ring.verify(root, NOW).unwrap_err().reason, Reason::Caveat);
    }

    #[test]
    fn debug_shows_ids_alone() {
        assert_eq!(format!("{:?}", ring(&["k1", "k2"])), "Keyring { ids: [\"k1\", \"k2\"], .. }");
    }

    /// Identifier, caveats, signature.
    type Content = (Vec<u8>, Vec<Vec<u8>>, Vec<u8>);

    /// The signed content of a token: two tokens with the same are the same capability.
    fn content(token: &str) -> Option<Content> {
        let bytes = wire::decode(token).ok()?;
        let m = Macaroon::parse(&bytes).ok()?;
        let texts = m.caveats.iter().map(|c| c.text.to_vec()).collect();
        Some((m.identifier.to_vec(), texts, m.signature.to_vec()))
    }

    /// One token made from genuine ones by some damage that a forger might try.
    fn mutate(genuine: &[String], entropy: &dyn Entropy) -> String {
        let below = |n: usize| entropy.below(n as u64) as usize;
        let token = &genuine[below(genuine.len())];
        let mut bytes = wire::decode(token).unwrap();
        match below(10) {
            0 => {
                let mut text = token.clone().into_bytes();
                let at = below(text.len());
                text[at] = entropy.below(128) as u8;
                return String::from_utf8(text).unwrap();
            }
            1 => return token[..below(token.len())].into(),
            2 => {
                bytes = vec![0; below(300)];
                entropy.fill(&mut bytes);
                if let Some(first) = bytes.first_mut() {
                    *first = 2;
                }
            }
            3 => {
                // another signature under the same content
                let at = bytes.len() - wire::SIGNATURE_BYTES;
                entropy.fill(&mut bytes[at..]);
            }
            4 | 5 => {
                // caveats left out, doubled or in another order under the same signature
                let m = Macaroon::parse(&bytes).unwrap();
                let mut forged = wire::begin(b"", m.identifier);
                for _ in 0..below(m.caveats.len() + 2) {
                    if !m.caveats.is_empty() {
                        wire::add_caveat(&mut forged, m.caveats[below(m.caveats.len())].text);
                    }
                }
                wire::close(&mut forged, m.signature);
                bytes = forged;
            }
            6 => {
                // the head of one and the tail of another
                let other = wire::decode(&genuine[below(genuine.len())]).unwrap();
                let cut = below(bytes.len().min(other.len()));
                bytes = [&bytes[..cut], &other[cut..]].concat();
            }
            7 => {
                bytes.remove(below(bytes.len()));
            }
            8 => bytes.insert(below(bytes.len() + 1), entropy.below(256) as u8),
            _ => {
                for _ in 0..=below(3) {
                    let at = below(bytes.len());
                    bytes[at] ^= 1 << below(8);
                }
            }
        }
        wire::encode(&bytes).unwrap()
    }

    /// `CAPABILITY_MUTATIONS=1000000` for the long run.
    #[test]
    fn no_mutated_or_random_token_verifies() {
        let tries = std::env::var("CAPABILITY_MUTATIONS").map_or(100_000, |n| n.parse::<usize>().unwrap());
        let ring = ring(&["k1", "k2"]);
        let entropy = SeededEntropy::new(0x0dd_ba11);
        let genuine: Vec<String> = [
            "tenant = acme\nscope = rewarder.run\nexpires = 2027-01-01T00:00:00Z",
            "tenant = acme\ntenant = acme\nscope = rewarder.run\nscope = rewarder.run rewarder.seal",
            "tenant = other\nscope = rewarder.inspect\nmax_pool_minor_units = 5\ndry_run = true",
        ]
        .map(|text| mint(&ring, text))
        .into();
        let contents: Vec<_> = genuine.iter().map(|token| content(token).unwrap()).collect();
        let (mut readable, mut unchanged) = (0, 0);
        for n in 0..tries {
            let token = mutate(&genuine, &entropy);
            let mutated = content(&token);
            readable += usize::from(mutated.is_some());
            // A changed location, or no change at all, leaves the same capability.
            if mutated.is_some_and(|m| contents.contains(&m)) {
                unchanged += 1;
                continue;
            }
            assert_eq!(ring.verify(&token, NOW), Err(Denied::unverified()), "mutation {n}: {token}");
        }
        println!(
            "{tries} mutations, {readable} of readable form, {unchanged} of them unchanged in what is signed"
        );
        assert!(readable > tries / 4 && unchanged < tries / 4, "the mutator reaches the signature check");
    }

    fn any_caveat() -> impl Strategy<Value = Caveat> {
        let moment =
            (1_795_475_640u64..1_795_475_650).prop_map(|s| Timestamp::new(Duration::from_secs(s)).unwrap());
        prop_oneof![
            "[ab]".prop_map(|t| Caveat::Tenant(t.parse().unwrap())),
            "rewarder\\.(run|seal)( rewarder\\.(run|inspect|policy)){0,3}"
                .prop_map(|s| Caveat::Scope(s.parse().unwrap())),
            "[ab]{1,3}".prop_map(|p| Caveat::EpochPrefix(p.parse().unwrap())),
            moment.clone().prop_map(Caveat::NotBefore),
            moment.prop_map(Caveat::Expires),
            (0u64..5).prop_map(|n| Caveat::MaxPool(n.into())),
            Just(Caveat::DryRun),
        ]
    }

    /// Every question that can be asked of a token, answered.
    fn allowed(ring: &Keyring, token: &str) -> Vec<bool> {
        let mut answers = Vec::new();
        for now in 1_795_475_638..1_795_475_652 {
            let grant = ring.verify(token, Duration::from_secs(now));
            let mut ask =
                |question: &dyn Fn(&Grant) -> bool| answers.push(grant.as_ref().is_ok_and(question));
            for tenant in ["a", "b"] {
                ask(&|g| g.allows_tenant(&tenant.parse().unwrap()).is_ok());
            }
            for scope in Scope::ALL {
                ask(&|g| g.allows(scope).is_ok());
            }
            for epoch in ["a", "b", "aa", "ab", "aab", "abab", "bab"] {
                ask(&|g| g.allows_epoch(&epoch.parse::<EpochId>().unwrap()).is_ok());
            }
            for pool in 0..6 {
                ask(&|g| g.allows_pool(Amount::from(pool)).is_ok());
            }
            ask(&|g| g.allows_dry_run(true).is_ok());
            ask(&|g| g.allows_dry_run(false).is_ok());
        }
        answers
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn attenuation_only_narrows(
            base in prop::collection::vec(any_caveat(), 0..5),
            more in prop::collection::vec(any_caveat(), 1..4),
        ) {
            let ring = ring(&["k1"]);
            let mut base = base;
            base.extend(caveats("tenant = a\nscope = rewarder.run rewarder.seal rewarder.inspect"));
            let entropy = SeededEntropy::new(3);
            let mut token = ring.mint(&base, &entropy).unwrap();
            let mut before = allowed(&ring, &token);
            for caveat in &more {
                token = attenuate(&token, caveat).unwrap();
                let after = allowed(&ring, &token);
                for (was, is) in before.iter().zip(&after) {
                    prop_assert!(*was || !*is, "{} widened by {}", token, caveat);
                }
                before = after;
            }
            base.extend(more);
            let at_once = ring.mint(&base, &SeededEntropy::new(3)).unwrap();
            prop_assert_eq!(at_once, token, "attenuated step by step is the same as minted at once");
        }

        #[test]
        fn no_text_panics(token in "\\PC{0,200}", bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let ring = ring(&["k1"]);
            for token in [token, wire::encode(&bytes).unwrap()] {
                prop_assert_eq!(ring.verify(&token, NOW), Err(Denied::unverified()));
                let _ = super::super::inspect(&token, NOW);
            }
        }
    }
}
