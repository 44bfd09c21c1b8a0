//! Sealed bytes to columns: the decode floor.
//!
//! A snapshot is hostile until proven otherwise. The laws:
//!
//! 1. What is decoded is what was hashed, from one and the same reading of every byte; a reading that is given up leaves nothing
//!    behind. [`decode`] gives nothing back before the CID of the whole stream has held.
//! 2. Lengths, offsets, counts and keys are checked against the bytes that are there before memory is taken for them.
//!    Memory is the actor dictionary, or what of it is wanted, a few megabytes of blocks under way and, for a writer of huge batches, one batch.
//! 3. Every rule of contract §2 that can be broken has its own [`Fault`], and the message says where.
//! 4. Rows are handed on in batches as they come, by several threads at once, never held; what a [`RowSink`] makes of
//!    them must not depend on their order.
//!
//! ```text
//!   window k+1:  read + hash, leaf by leaf        } at the same time, on one rayon pool
//!   window k:    check keys, hand rows to lanes   }
//! ```

mod deferred;
mod dictionary;
mod error;
mod frame;
mod header;
mod lookup;
mod read;
mod source;
mod tree;

pub use dictionary::{Dictionary, Kind};
pub use error::{DecodeError, Fault, Place};
pub use lookup::{ActorRows, Lookup, actor_rows, header_of};
pub use read::{Decoded, Progress, RowSink, Rows, decode, hash};
pub use source::{FileSource, Source};
