//! The nouns of the house. Every floor speaks in these words, and no floor knows another.
//!
//! The law: a value of one of these types is *valid*. Constructors check, fields are private where a wrong value could be
//! made, so that a `Cid` is a CID, an `Amount` is below 10^38 and a `Policy` has passed every rule of the contract.
//! No noun does I/O or reads a clock. [`world`] names what the outside has to pass in, and has the real disk beside its port;
//! [`memory`] asks the system for pages and keeps them.
//!
//! A type enters this crate when two floors use it, not before.

pub mod attestation;
pub mod bits;
pub mod cid;
pub mod intent;
pub mod manifest;
pub mod memory;
pub mod metric;
pub mod money;
pub mod name;
pub mod names;
pub mod policy;
pub mod reason;
pub mod runs;
pub mod schema;
pub mod snapshot;
pub mod world;

pub use attestation::{Attestation, Signature};
pub use bits::Bits;
pub use cid::{Cid, run_key};
pub use intent::{Intent, LedgerResult};
pub use manifest::{Manifest, Status, Totals, Unpayable};
pub use metric::{Kind, Metric};
pub use money::Amount;
pub use name::{Asset, Category, EpochId, PolicyId, TenantId};
pub use names::Names;
pub use policy::{Excess, Mode, Policy, PolicyError, Rounding};
pub use reason::Reason;
pub use runs::{Claim, Claims, Runs, RunsError};
pub use snapshot::SnapshotHeader;
