//! Signatures over a commitment, kept beside the manifest and never in it (contract §5).

use crate::cid::Cid;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What this service vouches for: signatures over one commitment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Attestation {
    /// The manifest's CID; the signed bytes are `svc-rewarder|attestation|v1|{commitment}`.
    pub commitment: Cid,
    /// One signature for each key.
    pub signatures: Vec<Signature>,
}

/// One key's signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Signature {
    /// `Ed25519` (RFC 8032), or `ML-DSA-65` (FIPS 204, no context string).
    pub algorithm: String,
    /// Names the key: the CID of the public key's bytes.
    pub key_id: String,
    /// The public key, base64 (RFC 4648 §4).
    pub public_key: String,
    /// The signature, base64 (RFC 4648 §4).
    pub signature: String,
}

/// The bytes that are signed for `commitment`.
pub fn signed_bytes(commitment: &Cid) -> Vec<u8> {
    format!("svc-rewarder|attestation|v1|{commitment}").into_bytes()
}
