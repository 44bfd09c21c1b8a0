//! Signs commitments with Ed25519 (RFC 8032) and, where post-quantum is required, with ML-DSA-65 (FIPS 204) beside it; and
//! checks such signatures for auditors.
//!
//! The law: what is signed is `svc-rewarder|attestation|v1|{commitment}` and nothing else; the keys never
//! leave this file's types, their bytes in memory are zeroed, and nothing prints them. A key file that others
//! may read is refused rather than used: by then it is not a secret.
//!
//! Why both and not the newer one alone: an attestation holds as long as one of the two is unbroken, Ed25519 because it is
//! old and looked at by everybody, ML-DSA-65 because a quantum computer does not help against it. Its signing draws random
//! bits, so that two signatures of one commitment differ; that is why attestations stand beside the manifest.
//!
//! A key file holds the 32-byte seed as 64 hex digits, which is what is made if there is none; a raw seed
//! and PKCS#8 (DER or PEM, as `openssl genpkey -algorithm ed25519` or `ml-dsa-65` writes it) are read too.

use crate::files;
use aws_lc_rs::signature::{
    ED25519, Ed25519KeyPair, KeyPair, ML_DSA_65, ML_DSA_65_SIGNING, PqdsaKeyPair, UnparsedPublicKey,
    VerificationAlgorithm,
};
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

/// A signature scheme.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// RFC 8032.
    Ed25519,
    /// FIPS 204, without a context string.
    MlDsa65,
}

impl Algorithm {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Ed25519, Self::MlDsa65];

    /// The value of `algorithm`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ed25519 => "Ed25519",
            Self::MlDsa65 => "ML-DSA-65",
        }
    }

    /// Name of the key file in `STATE_DIR`.
    pub const fn key_file(self) -> &'static str {
        match self {
            Self::Ed25519 => "attest.key",
            Self::MlDsa65 => "attest-ml-dsa-65.key",
        }
    }

    fn verification(self) -> &'static dyn VerificationAlgorithm {
        match self {
            Self::Ed25519 => &ED25519,
            Self::MlDsa65 => &ML_DSA_65,
        }
    }
}

/// A PKCS#8 file in PEM is about 120 bytes for Ed25519; for ML-DSA-65, seed and expanded key, 5.6 kB.
const KEY_FILE_BYTES_MAX: u64 = 16 * 1024;
/// Both schemes begin from so many random bytes.
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
    #[error(
        "the key file {0} holds neither a seed (64 hex digits or 32 bytes) nor a key of {algorithm} in PKCS#8",
        algorithm = .1.as_str()
    )]
    NotAKey(PathBuf, Algorithm),
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

/// One key of one scheme. Its secret is freed zeroed by the crypto library; the copies read on the way here are
/// zeroed too.
enum Pair {
    Ed25519(Ed25519KeyPair),
    MlDsa65(PqdsaKeyPair),
}

/// The keys that sign.
pub struct AttestKey {
    pairs: Vec<Pair>,
}

impl fmt::Debug for AttestKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AttestKey").field("key_ids", &self.key_ids()).finish_non_exhaustive()
    }
}

impl AttestKey {
    /// The keys in `state_dir`, made with mode 0600 if there are none; under amnesia (`None`) ones that nobody
    /// keeps. ML-DSA-65 is there if `post_quantum` is required.
    ///
    /// # Errors
    /// When a file cannot be read or made, can be read by others, or holds no key.
    pub fn open(
        state_dir: Option<&Path>,
        entropy: &dyn Entropy,
        post_quantum: bool,
    ) -> Result<Self, AttestError> {
        let wanted = if post_quantum { &Algorithm::ALL[..] } else { &[Algorithm::Ed25519] };
        let pairs = wanted.iter().map(|algorithm| Pair::open(*algorithm, state_dir, entropy));
        Ok(Self { pairs: pairs.collect::<Result<_, _>>()? })
    }

    /// Names the keys: the CID of each public key.
    pub fn key_ids(&self) -> Vec<Cid> {
        self.pairs.iter().map(Pair::key_id).collect()
    }

    /// Vouches for a commitment.
    ///
    /// # Errors
    /// When the crypto library fails.
    pub fn attest(&self, commitment: &Cid) -> Result<Attestation, AttestError> {
        let message = signed_bytes(commitment);
        let signatures = self.pairs.iter().map(|pair| {
            Ok(Signature {
                algorithm: pair.algorithm().as_str().into(),
                key_id: pair.key_id().to_string(),
                public_key: STANDARD.encode(pair.public_key()),
                signature: STANDARD.encode(pair.sign(&message)?),
            })
        });
        Ok(Attestation { commitment: *commitment, signatures: signatures.collect::<Result<_, _>>()? })
    }
}

impl Pair {
    fn open(
        algorithm: Algorithm,
        state_dir: Option<&Path>,
        entropy: &dyn Entropy,
    ) -> Result<Self, AttestError> {
        let Some(dir) = state_dir else {
            return Self::from_seed(algorithm, &*seed(entropy)).ok_or(AttestError::Crypto);
        };
        let path = dir.join(algorithm.key_file());
        let io = |source| AttestError::Io { path: path.clone(), source };
        match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                files::make_dir(dir).map_err(io)?;
                files::create(&path, hex(&*seed(entropy)).as_bytes()).map_err(io)?;
                // Another process may have been first: the file says which key it is.
                Self::read(algorithm, &path, File::open(&path).map_err(io)?)
            }
            other => Self::read(algorithm, &path, other.map_err(io)?),
        }
    }

    fn read(algorithm: Algorithm, path: &Path, file: File) -> Result<Self, AttestError> {
        let io = |source| AttestError::Io { path: path.to_owned(), source };
        if file.metadata().map_err(io)?.permissions().mode() & 0o077 != 0 {
            return Err(AttestError::Exposed(path.to_owned()));
        }
        // All of it at once, so that no growing buffer leaves a copy behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(KEY_FILE_BYTES_MAX as usize));
        file.take(KEY_FILE_BYTES_MAX).read_to_end(&mut bytes).map_err(io)?;
        Self::parse(algorithm, &bytes).ok_or_else(|| AttestError::NotAKey(path.to_owned(), algorithm))
    }

    fn parse(algorithm: Algorithm, bytes: &[u8]) -> Option<Self> {
        if bytes.len() == SEED_BYTES {
            return Self::from_seed(algorithm, bytes);
        }
        let text = std::str::from_utf8(bytes).ok().map(str::trim);
        let der = match text {
            Some(text) if text.len() == 2 * SEED_BYTES => return Self::from_seed(algorithm, &*unhex(text)?),
            Some(text) if text.starts_with("-----BEGIN PRIVATE KEY-----") => {
                let lines = text.lines().filter(|line| !line.starts_with("-----"));
                let joined = Zeroizing::new(lines.map(str::trim).collect::<String>());
                Zeroizing::new(STANDARD.decode(joined.as_bytes()).ok()?)
            }
            _ => Zeroizing::new(bytes.to_vec()),
        };
        match algorithm {
            Algorithm::Ed25519 => Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der).ok().map(Self::Ed25519),
            Algorithm::MlDsa65 => PqdsaKeyPair::from_pkcs8(&ML_DSA_65_SIGNING, &der).ok().map(Self::MlDsa65),
        }
    }

    fn from_seed(algorithm: Algorithm, seed: &[u8]) -> Option<Self> {
        match algorithm {
            Algorithm::Ed25519 => Ed25519KeyPair::from_seed_unchecked(seed).ok().map(Self::Ed25519),
            Algorithm::MlDsa65 => PqdsaKeyPair::from_seed(&ML_DSA_65_SIGNING, seed).ok().map(Self::MlDsa65),
        }
    }

    fn algorithm(&self) -> Algorithm {
        match self {
            Self::Ed25519(_) => Algorithm::Ed25519,
            Self::MlDsa65(_) => Algorithm::MlDsa65,
        }
    }

    /// 32 bytes, or 1,952.
    fn public_key(&self) -> &[u8] {
        match self {
            Self::Ed25519(pair) => pair.public_key().as_ref(),
            Self::MlDsa65(pair) => pair.public_key().as_ref(),
        }
    }

    fn key_id(&self) -> Cid {
        Cid::of(self.public_key())
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, AttestError> {
        match self {
            Self::Ed25519(pair) => {
                Ok(pair.try_sign(message).map_err(|_| AttestError::Crypto)?.as_ref().to_vec())
            }
            Self::MlDsa65(pair) => {
                let mut signature = vec![0; ML_DSA_65_SIGNING.signature_len()];
                let len = pair.sign(message, &mut signature).map_err(|_| AttestError::Crypto)?;
                signature.truncate(len);
                Ok(signature)
            }
        }
    }
}

/// A signature that holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holds {
    /// By which scheme.
    pub algorithm: Algorithm,
    /// By which key.
    pub key_id: Cid,
}

/// Checks every signature of an attestation, and that each key id is its key's. *Whose* key it is, is for the
/// auditor to know: compare the returned key ids with those that you trust. Whoever requires post-quantum has to look that
/// [`Algorithm::MlDsa65`] is among them: a signature that was taken away leaves no trace.
///
/// # Errors
/// Names the first signature that does not hold; an attestation without any does not hold either.
pub fn verify(attestation: &Attestation) -> Result<Vec<Holds>, AttestError> {
    if attestation.signatures.is_empty() {
        return Err(AttestError::Unsigned);
    }
    let message = signed_bytes(&attestation.commitment);
    let check = |(n, signature): (usize, &Signature)| {
        let forged = |why| AttestError::Forged(n, why);
        let known = Algorithm::ALL.into_iter().find(|algorithm| algorithm.as_str() == signature.algorithm);
        let algorithm = known.ok_or_else(|| forged("the algorithm is neither Ed25519 nor ML-DSA-65"))?;
        let key =
            STANDARD.decode(&signature.public_key).map_err(|_| forged("the public key is not base64"))?;
        let key_id = Cid::of(&key);
        if signature.key_id != key_id.to_string() {
            return Err(forged("the key id is not that of the public key"));
        }
        let bytes =
            STANDARD.decode(&signature.signature).map_err(|_| forged("the signature is not base64"))?;
        UnparsedPublicKey::new(algorithm.verification(), key)
            .verify(&message, &bytes)
            .map_err(|_| forged("it is not by this key"))?;
        Ok(Holds { algorithm, key_id })
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

    fn file(algorithm: Algorithm, bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(algorithm.key_file());
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
            let (dir, _) = file(Algorithm::Ed25519, bytes);
            let key = AttestKey::open(Some(dir.path()), &Dice::new(1), false).unwrap();
            assert_eq!(*hex(key.pairs[0].public_key()), format!("{PUBLIC}\n"));
        }
        for bytes in [&b""[..], b"short", &[7; 33], "z".repeat(64).as_bytes()] {
            for algorithm in Algorithm::ALL {
                let (dir, _) = file(algorithm, bytes);
                let opened = AttestKey::open(Some(dir.path()), &Dice::new(1), true);
                assert!(matches!(opened, Err(AttestError::NotAKey(_, a)) if a == algorithm));
            }
        }
    }

    #[test]
    fn every_form_of_the_same_post_quantum_key() {
        let raw = *unhex(SEED).unwrap();
        let pair = PqdsaKeyPair::from_seed(&ML_DSA_65_SIGNING, &raw).unwrap();
        let der = pair.to_pkcs8v1().unwrap();
        let pem = format!(
            "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n",
            STANDARD.encode(der.as_ref())
        );
        for bytes in [&raw[..], SEED.as_bytes(), der.as_ref(), pem.as_bytes()] {
            let (dir, _) = file(Algorithm::MlDsa65, bytes);
            let key = AttestKey::open(Some(dir.path()), &Dice::new(1), true).unwrap();
            assert_eq!(key.pairs[1].public_key(), pair.public_key().as_ref());
        }
        // A key of the other scheme is none.
        let (dir, _) = file(Algorithm::Ed25519, der.as_ref());
        assert!(AttestKey::open(Some(dir.path()), &Dice::new(1), true).is_err());
    }

    #[test]
    fn a_key_is_made_once_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        let first = AttestKey::open(Some(&state), &Dice::new(1), false).unwrap();
        let again = AttestKey::open(Some(&state), &Dice::new(2), true).unwrap();
        let third = AttestKey::open(Some(&state), &Dice::new(3), true).unwrap();
        assert_eq!((first.key_ids().len(), again.key_ids().len()), (1, 2));
        assert_eq!(first.key_ids()[0], again.key_ids()[0]);
        assert_eq!(again.key_ids(), third.key_ids());
        assert_eq!(std::fs::read_dir(&state).unwrap().count(), 2, "no temporary file is left");
        for algorithm in Algorithm::ALL {
            let path = state.join(algorithm.key_file());
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
            std::fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).unwrap();
            let opened = AttestKey::open(Some(&state), &Dice::new(1), true);
            assert!(matches!(opened, Err(AttestError::Exposed(exposed)) if exposed == path));
            std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        }
    }

    #[test]
    fn signatures_hold_and_forgeries_do_not() {
        let key = AttestKey::open(None, &Dice::new(3), true).unwrap();
        let good = key.attest(&Cid::of(b"manifest")).unwrap();
        let held = verify(&good).unwrap();
        assert_eq!(held.iter().map(|held| held.algorithm).collect::<Vec<_>>(), Algorithm::ALL);
        assert_eq!(held.iter().map(|held| held.key_id).collect::<Vec<_>>(), key.key_ids());
        for n in 0..2 {
            let forge = |change: fn(&mut Attestation, usize)| {
                let mut bad = good.clone();
                change(&mut bad, n);
                assert!(verify(&bad).is_err(), "{n}");
            };
            forge(|a, _| a.commitment = Cid::of(b"other"));
            forge(|a, _| a.signatures.clear());
            forge(|a, n| a.signatures[n].key_id = Cid::of(b"").to_string());
            forge(|a, n| a.signatures[n].algorithm = "none".into());
            forge(|a, n| a.signatures[n].algorithm = Algorithm::ALL[1 - n].as_str().into());
            forge(|a, n| a.signatures[n].signature = STANDARD.encode([0; 64]));
            forge(|a, n| a.signatures[n].signature = a.signatures[1 - n].signature.clone());
            forge(|a, n| a.signatures[n].public_key = "?".into());
        }
        assert!(!format!("{key:?}").contains("seed"));
    }
}
