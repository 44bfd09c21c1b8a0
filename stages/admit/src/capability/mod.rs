//! Capabilities: macaroons in libmacaroons' version 2 binary form, so that `pymacaroons` reads
//! and mints them.
//!
//! ```text
//! root = HMAC(HMAC("macaroons-key-generator", secret), identifier)
//! sig  = HMAC(...HMAC(HMAC(root, caveat 1), caveat 2)..., caveat n)
//! ```
//!
//! Anyone who holds a token can add a caveat, since the signature so far is the key of the next step; nobody
//! can take one away. So a caveat may only ever narrow: several of one kind must all hold, and one that is
//! not known here refuses.
//!
//! One file each: `wire` the bytes, [`caveat`] the language, [`timestamp`] its dates, `key_file` the secrets,
//! [`mod@discharge`] what other services have to say, [`client_cert`] who is at the other end,
//! [`keyring`] the chain, [`grant`] what a verified token allows, [`mod@inspect`] what an unverified one says.

pub mod caveat;
pub mod client_cert;
pub mod discharge;
pub mod grant;
pub mod inspect;
mod key_file;
pub mod keyring;
pub mod timestamp;
mod wire;

pub use caveat::{Caveat, Scope};
pub use client_cert::{CertFingerprint, ClientCert};
pub use discharge::{bind, discharge, require_discharge};
pub use grant::Grant;
pub use inspect::{Inspection, inspect};
pub use key_file::{FILE_BYTES_MAX, KEYS_MAX, REVOKED_MAX, Rotated, keygen, revoke, rotate};
pub use keyring::{Keyring, attenuate};
pub use timestamp::{Timestamp, expiry};
pub use wire::{CAVEATS_MAX, TOKEN_CHARS_MAX};

pub(crate) use discharge::Presented;
pub(crate) use keyring::nobodys;
