//! The sealed store and the result store: what came in under a CID, what a run left behind, and which run an
//! epoch has.
//!
//! The laws:
//!
//! 1. **Bytes are what their name says.** An object is stored only after all its bytes have hashed to its
//!    CID; until then it has a temporary name that nobody can read.
//! 2. **Answered means durable.** Write under a temporary name, fsync the file, give it its name, fsync the
//!    directory; only then does a call return. The second of two twins waits for that directory too.
//! 3. **What another tenant stored stays unseen.** Bytes are kept once, visibility is kept per (tenant, kind,
//!    CID).
//! 4. **First writer wins.** A policy binding and an epoch's claim are made by hard link, which fails if the
//!    name exists, so that the law holds between threads and between replicas on one directory. No lock in
//!    memory carries a law.
//! 5. **Bounded.** Each object has its own limit, the whole store has one, and uploads under way count.
//!
//! All laws are written once, over the port [`Disk`]: [`RealDisk`] is a directory, [`MemoryDisk`] is amnesia.
//! A second implementation of the laws for memory would be a second place to get them wrong.
//!
//! This floor blocks: call it from blocking threads. It has no metric of its own in the contract;
//! [`Store::used_bytes`] is there for whoever wants to show one.
//!
//! ```text
//! objects/{hex}                      sealed bytes, once
//! corrupt/{hex}.{n}                  what did not hash to its name any more
//! seen/{tenant}.{kind}/{hex}         empty marker: this tenant uploaded it
//! binds/{tenant}/{policy_id}         the CID that the id is bound to, for good
//! runs/{tenant}/{hex}/{part}         a run, renamed into place as a whole; `delivery.json` is replaced later
//! claims/{tenant}/{epoch_id}         run key of the run that was handed to delivery
//! latest/{tenant}/{epoch_id}         run key of the last run of any kind
//! tmp/{session}/                     names under way, of one process; swept at open when its lock is free
//! ```

mod config;
mod epoch;
mod error;
mod object;
mod policy;
mod run;
mod runs;
mod sealed;
mod session;
mod space;
mod store;

#[cfg(test)]
mod tests;

pub use config::StoreConfig;
pub use epoch::EpochRun;
pub use error::StoreError;
pub use object::{Object, ObjectReader};
pub use policy::Bound;
pub use rewarder_model::Claim;
pub use rewarder_model::world::disk::{self, Disk, MemoryDisk, RealDisk};
pub use run::{DELIVERY, MANIFEST, PART_NAME_BYTES_MAX, Part, PartWriter, Put as RunPut, Run};
pub use sealed::{Kind, Put, Writer};
pub use store::Store;
