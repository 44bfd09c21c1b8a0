//! The laws, run on every disk; and the disk that watches and fails.

mod conformance;
mod crash;
mod watched;

use crate::{Disk, Kind, MemoryDisk, Put, RealDisk, Store, StoreError};
use rewarder_model::{Cid, TenantId};
use std::sync::Arc;

pub(crate) const LIMIT: u64 = 1 << 20;

pub(crate) fn tenant(name: &str) -> TenantId {
    name.parse().unwrap()
}

pub(crate) fn upload(store: &Store, tenant: &TenantId, kind: Kind, bytes: &[u8]) -> Result<Put, StoreError> {
    let mut writer = store.writer(tenant, kind, Cid::of(bytes), LIMIT, None)?;
    for chunk in bytes.chunks(1000) {
        writer.write(chunk)?;
    }
    writer.commit()
}

pub(crate) fn read(store: &Store, tenant: &TenantId, kind: Kind, cid: &Cid) -> Option<Vec<u8>> {
    store.object(tenant, kind, cid).unwrap().map(|object| object.read_all(LIMIT).unwrap())
}

/// Runs `law` on a fresh disk of each kind.
pub(crate) fn on_each_disk(law: impl Fn(Arc<dyn Disk>)) {
    law(Arc::new(MemoryDisk::default()));
    let dir = tempfile::tempdir().unwrap();
    law(Arc::new(RealDisk::new(dir.path()).unwrap()));
}
