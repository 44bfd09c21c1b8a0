//! The bytes of a macaroon, version 2 (libmacaroons `doc/format.txt`), and their base64url.
//!
//! ```text
//! 02  [01 len location]  02 len identifier  00            header
//!    ([01 len location]  02 len caveat  [04 len vid]  00)*  caveats; a location or vid makes one third-party
//! 00  06 20 signature                                       nothing after it
//! ```
//!
//! `len` is a LEB128 varint. One macaroon has one form here: fields in order and once, the shortest varints,
//! no bits left over in the base64. The location is a hint that no signature covers, and nothing is ever
//! decided by it.

use crate::error::TokenError;
use base64::Engine;
use base64::alphabet::URL_SAFE;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

/// Longest token, in characters of base64url: what fits into the header limits of common proxies.
pub const TOKEN_CHARS_MAX: usize = 8192;

/// Most caveats. An issuer needs seven; the rest is room for those who attenuate. It bounds the work of a
/// check.
pub const CAVEATS_MAX: usize = 64;

/// HMAC-SHA256.
pub(super) const SIGNATURE_BYTES: usize = 32;

const VERSION: u8 = 2;
const END: u8 = 0;
const LOCATION: u8 = 1;
const IDENTIFIER: u8 = 2;
const VERIFICATION: u8 = 4;
const SIGNATURE: u8 = 6;

/// Takes padding or none, as issuers differ; gives none.
const BASE64URL: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A macaroon within the bytes of its token. Any part may be a lie until the signature has been checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Macaroon<'a> {
    pub location: Option<&'a [u8]>,
    pub identifier: &'a [u8],
    pub caveats: Vec<RawCaveat<'a>>,
    pub signature: &'a [u8],
}

/// A caveat as it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RawCaveat<'a> {
    /// A restriction, or the name under which another service knows what it is to discharge.
    pub text: &'a [u8],
    /// Where that service is; a hint.
    pub location: Option<&'a [u8]>,
    /// The key of the discharge, sealed with the signature so far.
    pub verification: Option<&'a [u8]>,
}

impl RawCaveat<'_> {
    /// Whether another service is to discharge it. A location alone says so too: it is then without the means, and
    /// can never hold.
    pub fn is_third_party(&self) -> bool {
        self.location.is_some() || self.verification.is_some()
    }
}

/// The bytes of a token's text.
pub(super) fn decode(token: &str) -> Result<Vec<u8>, TokenError> {
    if token.len() > TOKEN_CHARS_MAX {
        return Err(TokenError::TooLong);
    }
    BASE64URL.decode(token).map_err(|_| TokenError::Encoding)
}

pub(super) fn encode(bytes: &[u8]) -> Result<String, TokenError> {
    let token = BASE64URL.encode(bytes);
    if token.len() > TOKEN_CHARS_MAX { Err(TokenError::TooLong) } else { Ok(token) }
}

impl<'a> Macaroon<'a> {
    pub fn parse(bytes: &'a [u8]) -> Result<Self, TokenError> {
        let mut rest = Rest(bytes);
        if rest.byte()? != VERSION {
            return Err(TokenError::Form("it does not begin with version 2"));
        }
        let location = rest.optional(LOCATION)?;
        let identifier = rest.field(IDENTIFIER)?;
        rest.end()?;
        let mut caveats = Vec::new();
        while rest.0.first() != Some(&END) {
            if caveats.len() == CAVEATS_MAX {
                return Err(TokenError::TooManyCaveats);
            }
            let location = rest.optional(LOCATION)?;
            let text = rest.field(IDENTIFIER)?;
            let verification = rest.optional(VERIFICATION)?;
            rest.end()?;
            caveats.push(RawCaveat { text, location, verification });
        }
        rest.end()?;
        let signature = rest.field(SIGNATURE)?;
        if signature.len() != SIGNATURE_BYTES {
            return Err(TokenError::Form("its signature is not 32 bytes long"));
        }
        if !rest.0.is_empty() {
            return Err(TokenError::Form("bytes follow the signature"));
        }
        Ok(Self { location, identifier, caveats, signature })
    }
}

/// The bytes without their signature and the end before it: where a caveat is added.
pub(super) fn open(bytes: &[u8]) -> &[u8] {
    // end of caveats, field type, length, signature
    &bytes[..bytes.len().saturating_sub(3 + SIGNATURE_BYTES)]
}

/// A macaroon without caveats, still open.
pub(super) fn begin(location: &[u8], identifier: &[u8]) -> Vec<u8> {
    let mut bytes = vec![VERSION];
    put(&mut bytes, LOCATION, location);
    put(&mut bytes, IDENTIFIER, identifier);
    bytes.push(END);
    bytes
}

pub(super) fn add_caveat(open: &mut Vec<u8>, text: &[u8]) {
    put(open, IDENTIFIER, text);
    open.push(END);
}

pub(super) fn add_third_party_caveat(open: &mut Vec<u8>, location: &[u8], id: &[u8], verification: &[u8]) {
    put(open, LOCATION, location);
    put(open, IDENTIFIER, id);
    put(open, VERIFICATION, verification);
    open.push(END);
}

pub(super) fn close(open: &mut Vec<u8>, signature: &[u8]) {
    open.push(END);
    put(open, SIGNATURE, signature);
}

fn put(bytes: &mut Vec<u8>, field: u8, data: &[u8]) {
    bytes.push(field);
    let mut len = data.len();
    while len >= 0x80 {
        bytes.push(len as u8 | 0x80);
        len >>= 7;
    }
    bytes.push(len as u8);
    bytes.extend_from_slice(data);
}

const CUT: TokenError = TokenError::Form("it is cut off");

struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn byte(&mut self) -> Result<u8, TokenError> {
        let (first, rest) = self.0.split_first().ok_or(CUT)?;
        self.0 = rest;
        Ok(*first)
    }

    fn end(&mut self) -> Result<(), TokenError> {
        if self.byte()? == END {
            Ok(())
        } else {
            Err(TokenError::Form("a field is not known, or not in order"))
        }
    }

    fn optional(&mut self, field: u8) -> Result<Option<&'a [u8]>, TokenError> {
        if self.0.first() == Some(&field) { self.field(field).map(Some) } else { Ok(None) }
    }

    fn field(&mut self, field: u8) -> Result<&'a [u8], TokenError> {
        if self.byte()? != field {
            return Err(TokenError::Form("a field is missing, or not in order"));
        }
        let len = self.len()?;
        let (data, rest) = self.0.split_at_checked(len).ok_or(CUT)?;
        self.0 = rest;
        Ok(data)
    }

    /// Two bytes hold 16 KiB, twice what any token has.
    fn len(&mut self) -> Result<usize, TokenError> {
        let low = self.byte()?;
        if low < 0x80 {
            return Ok(low.into());
        }
        match self.byte()? {
            0 => Err(TokenError::Form("a length is not in its shortest form")),
            high @ 1..0x80 => Ok(usize::from(low & 0x7f) | usize::from(high) << 7),
            _ => Err(TokenError::Form("a length is beyond every limit")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<u8> {
        let mut bytes = begin(b"here", b"k1:n");
        add_caveat(&mut bytes, &[b'x'; 300]);
        add_caveat(&mut bytes, b"");
        close(&mut bytes, &[7; 32]);
        bytes
    }

    #[test]
    fn reads_what_it_writes() {
        let bytes = sample();
        let macaroon = Macaroon::parse(&bytes).unwrap();
        assert_eq!((macaroon.location, macaroon.identifier), (Some(&b"here"[..]), &b"k1:n"[..]));
        assert_eq!(macaroon.caveats.iter().map(|c| c.text.len()).collect::<Vec<_>>(), [300, 0]);
        assert_eq!(macaroon.signature, [7; 32]);
        let mut again = open(&bytes).to_vec();
        close(&mut again, &[7; 32]);
        assert_eq!(again, bytes);
        let token = encode(&bytes).unwrap();
        assert_eq!(decode(&token).unwrap(), bytes);
        let padded = base64::engine::general_purpose::URL_SAFE.encode(&bytes);
        assert_eq!(decode(&padded).unwrap(), bytes);
    }

    #[test]
    fn every_cut_and_every_tail_is_refused() {
        let bytes = sample();
        for cut in 0..bytes.len() {
            assert!(Macaroon::parse(&bytes[..cut]).is_err(), "{cut}");
        }
        assert!(Macaroon::parse(&[&bytes[..], &[0]].concat()).is_err());
    }

    fn check(bytes: &[u8], error: TokenError) {
        assert_eq!(Macaroon::parse(bytes), Err(error));
    }

    #[test]
    fn refuses_other_forms() {
        check(b"TDAwMWVsb2NhdGlvbg", TokenError::Form("it does not begin with version 2"));
        check(&[2, 2, 0x81, 0, b'x'], TokenError::Form("a length is not in its shortest form"));
        check(&[2, 2, 0xff, 0xff, 1], TokenError::Form("a length is beyond every limit"));
        check(&[2, 2, 0xff, 0x7f, 1], CUT);
        check(&[2, 6, 0], TokenError::Form("a field is missing, or not in order"));
        check(&[2, 2, 0, 2, 0], TokenError::Form("a field is not known, or not in order"));
        let mut many = begin(b"", b"k1:n");
        (0..=CAVEATS_MAX).for_each(|_| add_caveat(&mut many, b"c"));
        close(&mut many, &[7; 32]);
        check(&many, TokenError::TooManyCaveats);
        assert_eq!(decode(&"A".repeat(TOKEN_CHARS_MAX + 1)), Err(TokenError::TooLong));
        for bad in ["Ag+A", "Ag A", "Ag==\n", "AgB", "A"] {
            assert_eq!(decode(bad), Err(TokenError::Encoding), "{bad:?}");
        }
    }

    #[test]
    fn what_names_another_service_is_third_party() {
        let mut bytes = begin(b"", b"k1:n");
        put(&mut bytes, IDENTIFIER, b"who");
        put(&mut bytes, VERIFICATION, b"vid");
        bytes.push(END);
        close(&mut bytes, &[7; 32]);
        assert!(Macaroon::parse(&bytes).unwrap().caveats[0].is_third_party());
    }
}
