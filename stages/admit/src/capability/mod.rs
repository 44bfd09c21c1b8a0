//! Capabilities: first-party macaroons in libmacaroons' version 2 binary form, so that `pymacaroons` reads
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
//! [`keyring`] the chain, [`grant`] what a verified token allows, [`mod@inspect`] what an unverified one says.

pub mod caveat;
pub mod grant;
pub mod inspect;
mod key_file;
pub mod keyring;
pub mod timestamp;
mod wire;

pub use caveat::{Caveat, Scope};
pub use grant::Grant;
pub use inspect::{Inspection, inspect};
pub use key_file::{FILE_BYTES_MAX, KEYS_MAX, keygen};
pub use keyring::{Keyring, attenuate};
pub use timestamp::{Timestamp, expiry};
pub use wire::{CAVEATS_MAX, TOKEN_CHARS_MAX};
