//! Client certificates by their fingerprints: a stolen capability that names one is of no use without its key.
//!
//! The TLS side puts a [`ClientCert`] into the extensions of each request of a connection whose client proved that it
//! holds the certificate's key; nothing that a client merely sends, such as a header, may ever become one.

use crate::error::CaveatError;
use aws_lc_rs::digest::{SHA256, digest};
use std::fmt;
use std::str::FromStr;

/// The certificate that the peer of a connection has proven.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientCert {
    sha256: [u8; 32],
    b3: [u8; 32],
}

impl ClientCert {
    /// That of the DER bytes of an end-entity certificate.
    pub fn of_der(der: &[u8]) -> Self {
        let mut sha256 = [0; 32];
        sha256.copy_from_slice(digest(&SHA256, der).as_ref());
        Self { sha256, b3: *blake3::hash(der).as_bytes() }
    }

    /// What `openssl x509 -fingerprint -sha256` prints, without the colons.
    pub fn sha256(&self) -> CertFingerprint {
        CertFingerprint { function: Function::Sha256, hash: self.sha256 }
    }

    /// What `b3sum` prints for the DER file.
    pub fn b3(&self) -> CertFingerprint {
        CertFingerprint { function: Function::Blake3, hash: self.b3 }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Function {
    Sha256,
    Blake3,
}

impl Function {
    const fn prefix(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256:",
            Self::Blake3 => "b3:",
        }
    }
}

/// The name of a certificate in a caveat: `sha256:` or `b3:` and 64 lowercase hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CertFingerprint {
    function: Function,
    hash: [u8; 32],
}

impl CertFingerprint {
    /// Whether it names this certificate. Fingerprints are public, so that the comparison need not hide its time.
    pub fn is_of(&self, cert: &ClientCert) -> bool {
        self.hash
            == match self.function {
                Function::Sha256 => cert.sha256,
                Function::Blake3 => cert.b3,
            }
    }
}

impl FromStr for CertFingerprint {
    type Err = CaveatError;

    fn from_str(text: &str) -> Result<Self, CaveatError> {
        const RULE: CaveatError = CaveatError(
            "a client certificate is `sha256:` or `b3:` and 64 lowercase hex digits of its DER's hash",
        );
        let read = |function: Function| {
            let hex = text.strip_prefix(function.prefix())?;
            let is_lower = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
            if hex.len() != 64 || !hex.bytes().all(is_lower) {
                return None;
            }
            let mut hash = [0; 32];
            for (byte, at) in hash.iter_mut().zip((0..64).step_by(2)) {
                *byte = u8::from_str_radix(&hex[at..at + 2], 16).ok()?;
            }
            Some(Self { function, hash })
        };
        read(Function::Sha256).or_else(|| read(Function::Blake3)).ok_or(RULE)
    }
}

impl fmt::Display for CertFingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.function.prefix())?;
        self.hash.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_what_it_reads_and_is_the_hash_of_the_bytes() {
        let cert = ClientCert::of_der(b"abc");
        // FIPS 180-2, appendix B.1
        let sha256 = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(cert.sha256().to_string(), sha256);
        for text in [sha256, &cert.b3().to_string()] {
            let named: CertFingerprint = text.parse().unwrap();
            assert!(named.is_of(&cert) && !named.is_of(&ClientCert::of_der(b"abd")));
            assert_eq!(named.to_string(), text);
        }
        for bad in ["", "sha256:", "md5:00", &sha256[7..], &sha256.to_uppercase(), &format!("{sha256}0")] {
            assert!(bad.parse::<CertFingerprint>().is_err(), "{bad}");
        }
    }
}
