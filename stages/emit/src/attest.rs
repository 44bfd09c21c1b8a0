//! Signs commitments with Ed25519 (RFC 8032), and checks such signatures for auditors.
//!
//! The law: what is signed is `svc-rewarder|attestation|v1|{commitment}` and nothing else; the key never
//! leaves this file's types, its bytes in memory are zeroed, and nothing prints them. A key file that others
//! may read is refused rather than used: by then it is not a secret.
//!
//! The key file holds the 32-byte seed as 64 hex digits, which is what is made if there is none; a raw seed
//! and PKCS#8 (DER or PEM, as `openssl genpkey -algorithm ed25519` writes it) are read too.

use crate::files;
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rewarder_model::attestation::signed_bytes;
use rewarder_model::world::Entropy;
use rewarder_model::{Attestation, Cid, Signature};
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// Name of the key file in `STATE_DIR`.
pub const KEY_FILE: &str = "attest.key";
/// The value of `algorithm`.
pub const ALGORITHM: &str = "Ed25519";
/// A PKCS#8 file in PEM is about 120 bytes.
const KEY_FILE_BYTES_MAX: u64 = 4096;
const SEED_BYTES: usize = 32;

/// Why a key could not be had, or a signature does not hold.
#[derive(Debug, thiserror::Error)]
pub enum AttestError {
    /// The key file cannot be read or made.
    #[error("cannot use the key file {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the disk said.
        source: io::Error,
    },
    /// Others may read the key.
    #[error(
        "the key file {0} can be read by others, run `chmod 600` on it, or remove it to have a new key made"
    )]
    Exposed(PathBuf),
    /// Not a key.
    #[error("the key file {0} holds neither a seed (64 hex digits or 32 bytes) nor an Ed25519 key in PKCS#8")]
    NotAKey(PathBuf),
    /// The crypto library refused a seed or to sign.
    #[error("the crypto library failed")]
    Crypto,
    /// A signature that does not hold; the number is its place.
    #[error("signature {0} of the attestation does not hold: {1}")]
    Forged(usize, &'static str),
    /// No signature at all.
    #[error("the attestation holds no signature")]
    Unsigned,
}

/// A key that signs. Its secret is freed zeroed by the crypto library; the copies read on the way here are
/// zeroed too.
pub struct AttestKey {
    pair: Ed25519KeyPair,
}

impl fmt::Debug for AttestKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AttestKey").field("key_id", &self.key_id()).finish_non_exhaustive()
    }
}

impl AttestKey {
    /// The key in `state_dir`, made with mode 0600 if there is none; under amnesia (`None`) one that nobody
    /// keeps.
    ///
    /// # Errors
    /// When the file cannot be read or made, can be read by others, or holds no key.
    pub fn open(state_dir: Option<&Path>, entropy: &dyn Entropy) -> Result<Self, AttestError> {
        let Some(dir) = state_dir else { return Self::from_seed(&*seed(entropy)) };
        let path = dir.join(KEY_FILE);
        let io = |source| AttestError::Io { path: path.clone(), source };
        match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                files::make_dir(dir).map_err(io)?;
                files::create(&path, hex(&*seed(entropy)).as_bytes()).map_err(io)?;
                // Another process may have been first: the file says which key it is.
                Self::read(&path, File::open(&path).map_err(io)?)
            }
            other => Self::read(&path, other.map_err(io)?),
        }
    }

    fn read(path: &Path, file: File) -> Result<Self, AttestError> {
        let io = |source| AttestError::Io { path: path.to_owned(), source };
        if file.metadata().map_err(io)?.permissions().mode() & 0o077 != 0 {
            return Err(AttestError::Exposed(path.to_owned()));
        }
        // All of it at once, so that no growing buffer leaves a copy behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(KEY_FILE_BYTES_MAX as usize));
        file.take(KEY_FILE_BYTES_MAX).read_to_end(&mut bytes).map_err(io)?;
        Self::parse(&bytes).ok_or_else(|| AttestError::NotAKey(path.to_owned()))
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        if bytes.len() == SEED_BYTES {
            return Self::from_seed(bytes).ok();
        }
        let text = std::str::from_utf8(bytes).ok().map(str::trim);
        let der = match text {
            Some(text) if text.len() == 2 * SEED_BYTES => return Self::from_seed(&*unhex(text)?).ok(),
            Some(text) if text.starts_with("-----BEGIN PRIVATE KEY-----") => {
                let lines = text.lines().filter(|line| !line.starts_with("-----"));
                let joined = Zeroizing::new(lines.map(str::trim).collect::<String>());
                Zeroizing::new(STANDARD.decode(joined.as_bytes()).ok()?)
            }
            _ => Zeroizing::new(bytes.to_vec()),
        };
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der).ok()?;
        Some(Self { pair })
    }

    fn from_seed(seed: &[u8]) -> Result<Self, AttestError> {
        Ok(Self { pair: Ed25519KeyPair::from_seed_unchecked(seed).map_err(|_| AttestError::Crypto)? })
    }

    /// The public key, 32 bytes.
    pub fn public_key(&self) -> &[u8] {
        self.pair.public_key().as_ref()
    }

    /// Names the key: the CID of the public key.
    pub fn key_id(&self) -> Cid {
        Cid::of(self.public_key())
    }

    /// Vouches for a commitment.
    ///
    /// # Errors
    /// When the crypto library fails.
    pub fn attest(&self, commitment: &Cid) -> Result<Attestation, AttestError> {
        let signature = self.pair.try_sign(&signed_bytes(commitment)).map_err(|_| AttestError::Crypto)?;
        Ok(Attestation {
            commitment: *commitment,
            signatures: vec![Signature {
                algorithm: ALGORITHM.into(),
                key_id: self.key_id().to_string(),
                public_key: STANDARD.encode(self.public_key()),
                signature: STANDARD.encode(signature),
            }],
        })
    }
}

/// Checks every signature of an attestation, and that each key id is its key's. *Whose* key it is, is for the
/// auditor to know: compare the returned key ids with those that you trust.
///
/// # Errors
/// Names the first signature that does not hold; an attestation without any does not hold either.
pub fn verify(attestation: &Attestation) -> Result<Vec<Cid>, AttestError> {
    if attestation.signatures.is_empty() {
        return Err(AttestError::Unsigned);
    }
    let message = signed_bytes(&attestation.commitment);
    let check = |(n, signature): (usize, &Signature)| {
        let forged = |why| AttestError::Forged(n, why);
        if signature.algorithm != ALGORITHM {
            return Err(forged("the algorithm is not Ed25519"));
        }
        let key =
            STANDARD.decode(&signature.public_key).map_err(|_| forged("the public key is not base64"))?;
        let key_id = Cid::of(&key);
        if signature.key_id != key_id.to_string() {
            return Err(forged("the key id is not that of the public key"));
        }
        let bytes =
            STANDARD.decode(&signature.signature).map_err(|_| forged("the signature is not base64"))?;
        UnparsedPublicKey::new(&ED25519, key)
            .verify(&message, &bytes)
            .map_err(|_| forged("it is not by this key"))?;
        Ok(key_id)
    };
    attestation.signatures.iter().enumerate().map(check).collect()
}

fn seed(entropy: &dyn Entropy) -> Zeroizing<[u8; SEED_BYTES]> {
    let mut seed = Zeroizing::new([0; SEED_BYTES]);
    entropy.fill(&mut *seed);
    seed
}

fn hex(bytes: &[u8]) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(2 * bytes.len() + 1));
    for byte in bytes {
        for digit in [byte >> 4, byte & 15] {
            text.push(char::from_digit(digit.into(), 16).unwrap_or('0'));
        }
    }
    text.push('\n');
    text
}

fn unhex(text: &str) -> Option<Zeroizing<[u8; SEED_BYTES]>> {
    let mut seed = Zeroizing::new([0; SEED_BYTES]);
    let digit = |c: u8| char::from(c).to_digit(16).and_then(|d| u8::try_from(d).ok());
    for (byte, pair) in seed.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(seed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::world::Dice;

    /// RFC 8032 §7.1, test 1.
    const SEED: &str = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
    const PUBLIC: &str = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";

    fn file(bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(KEY_FILE);
        std::fs::write(&path, bytes).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        (dir, path)
    }

    #[test]
    fn every_form_of_the_same_key() {
        let raw = *unhex(SEED).unwrap();
        let der =
            [&[0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20], &raw[..]].concat();
        let pem =
            format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", STANDARD.encode(&der));
        for bytes in [&raw[..], SEED.as_bytes(), format!("{SEED}\n").as_bytes(), &der, pem.as_bytes()] {
            let (dir, _) = file(bytes);
            let key = AttestKey::open(Some(dir.path()), &Dice::new(1)).unwrap();
            assert_eq!(*hex(key.public_key()), format!("{PUBLIC}\n"));
        }
        for bytes in [&b""[..], b"short", &[7; 33], "z".repeat(64).as_bytes()] {
            let (dir, _) = file(bytes);
            assert!(matches!(AttestKey::open(Some(dir.path()), &Dice::new(1)), Err(AttestError::NotAKey(_))));
        }
    }

    #[test]
    fn a_key_is_made_once_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        let first = AttestKey::open(Some(&state), &Dice::new(1)).unwrap();
        let again = AttestKey::open(Some(&state), &Dice::new(2)).unwrap();
        assert_eq!(first.key_id(), again.key_id());
        let path = state.join(KEY_FILE);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(&state).unwrap().count(), 1, "no temporary file is left");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).unwrap();
        assert!(matches!(AttestKey::open(Some(&state), &Dice::new(1)), Err(AttestError::Exposed(_))));
    }

    #[test]
    fn signatures_hold_and_forgeries_do_not() {
        let key = AttestKey::open(None, &Dice::new(3)).unwrap();
        let good = key.attest(&Cid::of(b"manifest")).unwrap();
        assert_eq!(verify(&good).unwrap(), [key.key_id()]);
        let forge = |change: fn(&mut Attestation)| {
            let mut bad = good.clone();
            change(&mut bad);
            assert!(verify(&bad).is_err(), "{bad:?}");
        };
        forge(|a| a.commitment = Cid::of(b"other"));
        forge(|a| a.signatures.clear());
        forge(|a| a.signatures[0].key_id = Cid::of(b"").to_string());
        forge(|a| a.signatures[0].algorithm = "none".into());
        forge(|a| a.signatures[0].signature = STANDARD.encode([0; 64]));
        forge(|a| a.signatures[0].public_key = "?".into());
        assert!(!format!("{key:?}").contains("seed"));
    }
}
