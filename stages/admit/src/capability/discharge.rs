//! Caveats that another service discharges (libmacaroons' third-party caveats), so that an upstream such as
//! `ron-auth` can say who somebody is, for a minute, without knowing our keys.
//!
//! ```text
//! root's caveat   vid  = nonce | secretbox(key = signature so far, nonce, derived key of the discharge)
//!                 sig' = HMAC(sig, HMAC(sig, vid) | HMAC(sig, id))
//! discharge       a macaroon whose identifier is the caveat's id, keyed with the derived key
//! bound           HMAC(0, HMAC(0, root's signature) | HMAC(0, discharge's signature))
//! ```
//!
//! The binding ties a discharge to one root: whoever sees it in transit cannot use it with another. So it happens
//! before sending, and a narrower root needs a new binding. On the wire they travel together,
//! `Authorization: Bearer root,discharge,discharge`, a comma being no character of base64url.
//!
//! All caveats of a discharge must hold as those of the root do: the one who discharges may narrow.

use super::caveat::Caveat;
use super::keyring::{chained, derive};
use super::wire::{self, Macaroon, RawCaveat};
use crate::error::{Denied, TokenError};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hmac::{self, HMAC_SHA256};
use crypto_secretbox::aead::{AeadInPlace, KeyInit};
use crypto_secretbox::{Nonce, Tag as BoxTag, XSalsa20Poly1305};
use rewarder_model::Reason;
use rewarder_model::world::Entropy;
use std::borrow::Cow;
use zeroize::Zeroizing;

/// Most discharges beside a capability: an identity, a device, a second factor, and room. It bounds the work.
pub const DISCHARGES_MAX: usize = 8;

/// Longest capability with its discharges: two of the longest tokens, what servers commonly take as one header.
pub const PRESENTED_CHARS_MAX: usize = 2 * wire::TOKEN_CHARS_MAX;

const NONCE_BYTES: usize = 24;
const TAG_BYTES: usize = 16;
const KEY_BYTES: usize = 32;

/// A capability as it is sent: the root, then its discharges.
pub(crate) struct Presented(Vec<Vec<u8>>);

impl Presented {
    /// Decodes what follows `Bearer `.
    pub fn decode(text: &str) -> Result<Self, TokenError> {
        if text.len() > PRESENTED_CHARS_MAX {
            return Err(TokenError::TooLong);
        }
        // One more than may be, so that the count below sees it.
        let parts: Vec<_> =
            text.split(',').take(DISCHARGES_MAX + 2).map(wire::decode).collect::<Result<_, _>>()?;
        if parts.len() > DISCHARGES_MAX + 1 { Err(TokenError::TooManyDischarges) } else { Ok(Self(parts)) }
    }

    /// Reads them all, the root first.
    pub fn parse(&self) -> Result<Vec<Macaroon<'_>>, TokenError> {
        self.0.iter().map(|bytes| Macaroon::parse(bytes)).collect()
    }
}

/// One macaroon's own chain.
pub(super) struct Walked<'a> {
    pub signature: hmac::Tag,
    /// For each caveat of others: its number from 1, and the signature that its vid is sealed with.
    pub others: Vec<(usize, RawCaveat<'a>, hmac::Tag)>,
}

/// Computes the signature from the root key and the content.
pub(super) fn walk<'a>(root: &hmac::Key, macaroon: &Macaroon<'a>) -> Walked<'a> {
    let mut others = Vec::new();
    let mut signature = hmac::sign(root, macaroon.identifier);
    for (index, caveat) in macaroon.caveats.iter().enumerate() {
        if caveat.is_third_party() {
            others.push((index + 1, *caveat, signature));
        }
        let key = chained(&signature);
        signature = match caveat.verification {
            None => hmac::sign(&key, caveat.text),
            Some(vid) => sign_pair(&key, vid, caveat.text),
        };
    }
    Walked { signature, others }
}

/// Checks the discharges of a root whose signature holds, and gives the caveats that have to hold besides its own.
///
/// Each caveat needs a discharge of its own, also those within discharges, and none may be left over: so the work is
/// bounded by what was sent, and a chain of discharges cannot go round in a circle.
pub(super) fn check<'a>(
    root: &Macaroon<'a>,
    walked: Walked<'a>,
    discharges: &[Macaroon<'a>],
) -> Result<Vec<&'a [u8]>, Denied> {
    let mut texts = Vec::new();
    let mut unused: Vec<&Macaroon<'a>> = discharges.iter().collect();
    let mut needed = walked.others;
    while let Some((number, caveat, sealed_with)) = needed.pop() {
        let key =
            caveat.verification.and_then(|vid| open(&sealed_with, vid)).ok_or_else(Denied::unverified)?;
        let Some(at) = unused.iter().position(|discharge| discharge.identifier == caveat.text) else {
            let detail = format!(
                "caveat number {number} is to be discharged by another service: send its discharge after the capability, \
                 `Bearer ROOT,DISCHARGE`"
            );
            return Err(Denied::new(Reason::Caveat, Cow::Owned(detail)));
        };
        let discharge = unused.swap_remove(at);
        let walked = walk(&hmac::Key::new(HMAC_SHA256, &*key), discharge);
        let bound = bound(root.signature, walked.signature.as_ref());
        verify_slices_are_equal(bound.as_ref(), discharge.signature).map_err(|_| Denied::unverified())?;
        texts.extend(discharge.caveats.iter().filter(|c| !c.is_third_party()).map(|c| c.text));
        needed.extend(walked.others);
    }
    if unused.is_empty() { Ok(texts) } else { Err(Denied::unverified()) }
}

/// Adds a caveat that `location` has to discharge, which knows `secret` under the name `id`. It needs no key of ours.
///
/// # Errors
/// When the token cannot be read or becomes too large.
pub fn require_discharge(
    token: &str,
    location: &str,
    secret: &[u8],
    id: &[u8],
    entropy: &dyn Entropy,
) -> Result<String, TokenError> {
    let bytes = wire::decode(token)?;
    let macaroon = Macaroon::parse(&bytes)?;
    if macaroon.caveats.len() == wire::CAVEATS_MAX {
        return Err(TokenError::TooManyCaveats);
    }
    let mut nonce = [0; NONCE_BYTES];
    entropy.fill(&mut nonce);
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    key.copy_from_slice(derived(secret).as_ref());
    let sealing = XSalsa20Poly1305::new_from_slice(macaroon.signature)
        .map_err(|_| TokenError::Form("its signature is not 32 bytes long"))?;
    let tag = sealing
        .encrypt_in_place_detached(Nonce::from_slice(&nonce), b"", &mut *key)
        .map_err(|_| TokenError::TooLong)?;
    let vid = [&nonce[..], &tag[..], &key[..]].concat();
    let signature = sign_pair(&hmac::Key::new(HMAC_SHA256, macaroon.signature), &vid, id);
    let mut narrowed = wire::open(&bytes).to_vec();
    wire::add_third_party_caveat(&mut narrowed, location.as_bytes(), id, &vid);
    wire::close(&mut narrowed, signature.as_ref());
    wire::encode(&narrowed)
}

/// Makes the discharge of what is known under `id`, not yet bound to a root: what the other service does.
///
/// # Errors
/// When it becomes too large.
pub fn discharge(location: &str, secret: &[u8], id: &[u8], caveats: &[Caveat]) -> Result<String, TokenError> {
    if caveats.len() > wire::CAVEATS_MAX {
        return Err(TokenError::TooManyCaveats);
    }
    let texts: Vec<String> = caveats.iter().map(Caveat::to_string).collect();
    let mut bytes = wire::begin(location.as_bytes(), id);
    texts.iter().for_each(|text| wire::add_caveat(&mut bytes, text.as_bytes()));
    let signature = texts.iter().fold(hmac::sign(&derive(secret), id), |signature, text| {
        hmac::sign(&chained(&signature), text.as_bytes())
    });
    wire::close(&mut bytes, signature.as_ref());
    wire::encode(&bytes)
}

/// Binds discharges to the root and joins them, ready to be sent. The root must not change afterwards.
///
/// # Errors
/// When one cannot be read, or there are too many.
pub fn bind<'a>(root: &str, discharges: impl IntoIterator<Item = &'a str>) -> Result<String, TokenError> {
    let bytes = wire::decode(root)?;
    let root_signature = Macaroon::parse(&bytes)?.signature;
    let mut presented = root.to_owned();
    for text in discharges {
        let bytes = wire::decode(text)?;
        let signature = bound(root_signature, Macaroon::parse(&bytes)?.signature);
        let mut sealed = wire::open(&bytes).to_vec();
        wire::close(&mut sealed, signature.as_ref());
        presented.push(',');
        presented.push_str(&wire::encode(&sealed)?);
    }
    Presented::decode(&presented)?;
    Ok(presented)
}

fn derived(secret: &[u8]) -> hmac::Tag {
    super::keyring::derive_tag(secret)
}

fn sign_pair(key: &hmac::Key, first: &[u8], second: &[u8]) -> hmac::Tag {
    let (first, second) = (hmac::sign(key, first), hmac::sign(key, second));
    let mut context = hmac::Context::with_key(key);
    context.update(first.as_ref());
    context.update(second.as_ref());
    context.sign()
}

fn bound(root: &[u8], discharge: &[u8]) -> hmac::Tag {
    sign_pair(&hmac::Key::new(HMAC_SHA256, &[0; KEY_BYTES]), root, discharge)
}

/// The discharge's key, if the vid was sealed with this signature.
fn open(signature: &hmac::Tag, vid: &[u8]) -> Option<Zeroizing<[u8; KEY_BYTES]>> {
    let (nonce, rest) = vid.split_at_checked(NONCE_BYTES)?;
    let (tag, sealed) = rest.split_at_checked(TAG_BYTES)?;
    let mut key = Zeroizing::new(<[u8; KEY_BYTES]>::try_from(sealed).ok()?);
    let opening = XSalsa20Poly1305::new_from_slice(signature.as_ref()).ok()?;
    opening
        .decrypt_in_place_detached(Nonce::from_slice(nonce), b"", &mut *key, BoxTag::from_slice(tag))
        .ok()?;
    Some(key)
}
