//! The emission latch: off means that nothing is emitted until an operator says why it may be again.
//!
//! The law: setting it takes effect in memory before anything else, and survives a restart; releasing it
//! takes effect after its reason is in the audit log. What cannot be read is taken for set: an emission too
//! few can be made up for.

use crate::audit::{Audit, AuditError, clip, millis};
use crate::plant;
use rewarder_model::world::disk::{Disk, read_whole};
use serde::{Deserialize, Serialize};
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Name of the file in `STATE_DIR`; there while the latch is set.
pub const LATCH_FILE: &str = "latch.json";
/// What it is called while it is written.
const TEMPORARY: &str = "latch.json.tmp";
/// Longest latch file that is read: a reason of a kilobyte, escaped.
const LATCH_BYTES_MAX: u64 = 16 * 1024;
/// Longest reason that is kept.
const REASON_BYTES_MAX: usize = 1024;
/// What the audit log calls it.
const SUBJECT: &str = "emission";

/// Why emission is off, and since when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Latched {
    /// What happened.
    pub reason: String,
    /// When.
    pub since_unix_ms: u64,
}

/// The latch could not be written.
#[derive(Debug, thiserror::Error)]
pub enum LatchError {
    /// The disk failed.
    #[error("cannot read or write the emission latch {LATCH_FILE} in STATE_DIR: {0}")]
    Io(io::Error),
    /// The audit log failed.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// A release has to say why.
    #[error("a release of the emission latch needs a reason")]
    NoReason,
}

/// The latch.
pub struct Latch {
    disk: Option<Arc<dyn Disk>>,
    audit: Arc<Audit>,
    set: AtomicBool,
    latched: Mutex<Option<Latched>>,
}

impl Latch {
    /// The latch on the disk of STATE_DIR as it was left; `None` keeps it in memory.
    ///
    /// # Errors
    /// When the disk cannot be read.
    pub fn open(disk: Option<Arc<dyn Disk>>, audit: Arc<Audit>) -> Result<Self, LatchError> {
        let mut latched = None;
        if let Some(disk) = &disk {
            latched = match read_whole(&**disk, Path::new(LATCH_FILE), LATCH_BYTES_MAX) {
                // Too long to be ours is as unreadable as any.
                Err(error) if error.kind() != io::ErrorKind::InvalidData => {
                    return Err(LatchError::Io(error));
                }
                Ok(None) => None,
                read => Some(
                    read.ok().flatten().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_else(
                        || Latched {
                            reason: format!("the latch file {LATCH_FILE} in STATE_DIR cannot be read"),
                            since_unix_ms: 0,
                        },
                    ),
                ),
            };
        }
        Ok(Self { disk, audit, set: latched.is_some().into(), latched: latched.into() })
    }

    /// Whether emission is off. Read before every single submission, so it is one load.
    pub fn is_set(&self) -> bool {
        self.set.load(Ordering::SeqCst)
    }

    /// Why, if it is.
    pub fn latched(&self) -> Option<Latched> {
        self.latched.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The audit log.
    pub fn audit(&self) -> &Arc<Audit> {
        &self.audit
    }

    /// Turns emission off in memory; whoever calls this calls [`set`](Self::set) next, which may wait for the disk.
    pub fn set_in_memory(&self, reason: &str, unix: Duration) {
        self.set.store(true, Ordering::SeqCst);
        let mut latched = self.latched.lock().unwrap_or_else(PoisonError::into_inner);
        self.set.store(true, Ordering::SeqCst);
        latched.get_or_insert_with(|| Latched {
            reason: clip(reason, REASON_BYTES_MAX).into(),
            since_unix_ms: millis(unix),
        });
    }

    /// Turns emission off. The first reason stands; later ones are only in the audit log. Blocks on the disk.
    ///
    /// # Errors
    /// [`LatchError::Io`]: emission is off all the same, but perhaps not after a restart. [`LatchError::Audit`]: it is off
    /// for good, and the audit log does not tell of it.
    pub fn set(&self, reason: &str, unix: Duration) -> Result<(), LatchError> {
        self.set.store(true, Ordering::SeqCst);
        let mut latched = self.latched.lock().unwrap_or_else(PoisonError::into_inner);
        // A release that held the lock until now must not undo this.
        self.set.store(true, Ordering::SeqCst);
        let now = latched.get_or_insert_with(|| Latched {
            reason: clip(reason, REASON_BYTES_MAX).into(),
            since_unix_ms: millis(unix),
        });
        if let Some(disk) = self.disk.as_ref().filter(|_| !plant::is("latch_in_memory_only")) {
            replace(&**disk, &serde_json::to_vec(now).unwrap_or_default()).map_err(LatchError::Io)?;
        }
        self.audit.append("latch", SUBJECT, reason, unix)?;
        Ok(())
    }

    /// Turns emission on again, with the operator's reason. False if it was on. Blocks on the disk.
    ///
    /// # Errors
    /// When there is no reason, or the disk fails; emission stays off then.
    pub fn release(&self, reason: &str, unix: Duration) -> Result<bool, LatchError> {
        if reason.trim().is_empty() {
            return Err(LatchError::NoReason);
        }
        let mut latched = self.latched.lock().unwrap_or_else(PoisonError::into_inner);
        if latched.is_none() {
            return Ok(false);
        }
        if !plant::is("release_forgets_the_audit") {
            self.audit.append("release", SUBJECT, reason, unix)?;
        }
        if let Some(disk) = &self.disk {
            remove(&**disk, LATCH_FILE)
                .and_then(|()| disk.sync_dir(Path::new("")))
                .map_err(LatchError::Io)?;
        }
        *latched = None;
        self.set.store(false, Ordering::SeqCst);
        Ok(true)
    }
}

fn remove(disk: &dyn Disk, name: &str) -> io::Result<()> {
    match disk.remove(Path::new(name)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// The latch file holds exactly `bytes`, durably: a reader sees the old ones or the new ones.
fn replace(disk: &dyn Disk, bytes: &[u8]) -> io::Result<()> {
    remove(disk, TEMPORARY)?;
    let mut file = disk.create_new(Path::new(TEMPORARY))?;
    file.write_all(bytes)?;
    file.sync()?;
    disk.rename(Path::new(TEMPORARY), Path::new(LATCH_FILE))?;
    disk.sync_dir(Path::new(""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rewarder_model::world::disk::RealDisk;

    const NOW: Duration = Duration::from_millis(1_700_000_000_123);

    fn open(dir: Option<&Path>) -> Latch {
        let disk = dir.map(|dir| Arc::new(RealDisk::new(dir).unwrap()) as Arc<dyn Disk>);
        Latch::open(disk.clone(), Arc::new(Audit::open(disk).unwrap())).unwrap()
    }

    fn check(dir: Option<&Path>, reopen: impl Fn(Latch) -> Latch) {
        let latch = open(dir);
        assert!(!latch.is_set());
        assert!(!latch.release("nothing to release", NOW).unwrap());
        latch.set("invariant breach", NOW).unwrap();
        latch.set("and another", NOW).unwrap();
        let latch = reopen(latch);
        assert!(latch.is_set());
        assert_eq!(
            latch.latched().unwrap(),
            Latched { reason: "invariant breach".into(), since_unix_ms: 1_700_000_000_123 }
        );
        assert!(matches!(latch.release(" ", NOW), Err(LatchError::NoReason)));
        assert!(latch.is_set());
        assert!(latch.release("rolled back to 1.2", NOW).unwrap());
        let latch = reopen(latch);
        assert!(!latch.is_set() && latch.latched().is_none());
        let acts: Vec<_> = latch.audit.lines().unwrap().into_iter().map(|line| line.act).collect();
        assert_eq!(acts, ["latch", "latch", "release"]);
    }

    #[test]
    fn survives_a_restart_on_disk_and_works_in_memory() {
        let dir = tempfile::tempdir().unwrap();
        check(Some(dir.path()), |_| open(Some(dir.path())));
        check(None, |latch| latch);
    }

    #[test]
    fn what_cannot_be_read_is_set() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(LATCH_FILE), b"{").unwrap();
        assert!(open(Some(dir.path())).is_set());
    }
}
