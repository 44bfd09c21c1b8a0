//! The sealed snapshot's own words about itself: its schema metadata (contract §2).

use crate::money::Amount;
use crate::name::{Asset, EpochId, TenantId};

/// The metadata keys of `rewarder.snapshot.v1`, each of which stands in the schema exactly once.
pub mod key {
    /// Names the format and its version.
    pub const SCHEMA: &str = "rewarder.schema";
    /// Whose epoch it is.
    pub const TENANT: &str = "rewarder.tenant";
    /// Which epoch it is.
    pub const EPOCH: &str = "rewarder.epoch";
    /// What is paid.
    pub const ASSET: &str = "rewarder.asset";
    /// How much there is to pay.
    pub const POOL: &str = "rewarder.pool_minor_units";
    /// The prefix of all of them; no other key may have it.
    pub const PREFIX: &str = "rewarder.";
}

/// The value of [`key::SCHEMA`].
pub const SCHEMA_V1: &str = "snapshot.v1";

/// The column names, in order: `dictionary<uint32, utf8>`, `dictionary<uint8, utf8>`, `uint64`.
pub const COLUMNS: [&str; 3] = ["actor", "category", "units"];

/// Most bytes of metadata that one message of the stream may have.
pub const MESSAGE_METADATA_BYTES_MAX: usize = 64 * 1024;

/// Whose epoch a snapshot holds and what there is to pay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotHeader {
    /// Owner of the epoch.
    pub tenant: TenantId,
    /// The epoch.
    pub epoch: EpochId,
    /// What is paid.
    pub asset: Asset,
    /// The pool in minor units of the asset.
    pub pool: Amount,
}
