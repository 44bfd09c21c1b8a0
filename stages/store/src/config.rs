//! Settings of the store. The limit of a single object comes with each call, since the edge knows which
//! setting bounds it.

use std::path::PathBuf;

/// Where the store is and how much it may hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreConfig {
    /// Directory on disk; `None` is amnesia: memory only, nothing written.
    pub dir: Option<PathBuf>,
    /// `STORE_MAX_BYTES`: objects, set-aside objects and runs together, uploads under way included.
    pub store_bytes_max: u64,
}

impl Default for StoreConfig {
    /// In memory, 8 GiB: eight snapshots of the largest size that `SNAPSHOT_MAX_BYTES` allows by default.
    fn default() -> Self {
        Self { dir: None, store_bytes_max: 8 << 30 }
    }
}
