//! What can go wrong in the store, and which word of the contract a caller hears for it.

use rewarder_model::{Cid, Reason};
use std::io;

/// A failed store operation. Nothing of it is visible to a reader, and its temporary names are gone or swept
/// at next open.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The bytes hash to something else than the name they came with.
    #[error("the bytes have the CID {actual}, not {named}")]
    CidMismatch {
        /// The name in the request.
        named: Cid,
        /// What the bytes hash to.
        actual: Cid,
    },
    /// The object is larger than one of its kind may be.
    #[error("the object is larger than {limit} bytes")]
    TooBig {
        /// The limit that the caller passed.
        limit: u64,
    },
    /// The store has no room left.
    #[error(
        "the store is full: it holds {limit} bytes at most (STORE_MAX_BYTES), uploads under way included"
    )]
    Full {
        /// `STORE_MAX_BYTES`.
        limit: u64,
    },
    /// The disk under the store has no room left.
    #[error("the disk under the store is full")]
    DiskFull,
    /// The stored object was damaged and has been set aside; the next upload of the same bytes heals it.
    #[error("the stored object was damaged and has been set aside, upload it again")]
    SetAside,
    /// A run under the same key has another manifest: a fault of ours, since a run key determines the
    /// manifest.
    #[error("run {run_key} is stored with another manifest")]
    RunDiffers {
        /// The run.
        run_key: Cid,
    },
    /// A name of a part is not `[a-z0-9][a-z0-9._-]*`, or it is a reserved one, or stands there twice.
    #[error("`{0}` cannot be the name of a part")]
    PartName(String),
    /// A delivery record larger than its bound.
    #[error("a delivery record of {len} bytes is larger than {limit}")]
    DeliveryTooBig {
        /// Bytes that came.
        len: usize,
        /// Bytes that are taken.
        limit: usize,
    },
    /// No run under that key.
    #[error("there is no run {run_key} of this tenant")]
    NoRun {
        /// The run.
        run_key: Cid,
    },
    /// A small file of ours does not hold what we wrote.
    #[error("the file {path} of the store is damaged")]
    Damaged {
        /// Path below the store's directory.
        path: String,
    },
    /// The disk failed.
    #[error("cannot {doing}: {source}")]
    Io {
        /// What was being done, with the path below the store's directory.
        doing: String,
        /// What the disk said.
        source: io::Error,
    },
}

impl StoreError {
    /// The word with which a request that met this error is answered.
    pub const fn reason(&self) -> Reason {
        match self {
            Self::CidMismatch { .. } => Reason::CidMismatch,
            Self::TooBig { .. } => Reason::BodyTooBig,
            Self::Full { .. } | Self::DiskFull => Reason::StoreFull,
            _ => Reason::Internal,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_of_the_contract() {
        let cid = Cid::of(b"");
        assert_eq!(StoreError::CidMismatch { named: cid, actual: cid }.reason(), Reason::CidMismatch);
        assert_eq!(StoreError::TooBig { limit: 1 }.reason(), Reason::BodyTooBig);
        assert_eq!(StoreError::Full { limit: 1 }.reason(), Reason::StoreFull);
        assert_eq!(StoreError::SetAside.reason(), Reason::Internal);
    }
}
