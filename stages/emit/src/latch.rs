//! The emission latch: off means that nothing is emitted until an operator says why it may be again.
//!
//! The law: setting it takes effect in memory before anything else, and survives a restart; releasing it
//! takes effect after its reason is in the audit log. What cannot be read is taken for set: an emission too
//! few can be made up for.

use crate::audit::{Audit, AuditError, clip, millis};
use crate::files;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Name of the file in `STATE_DIR`; there while the latch is set.
pub const LATCH_FILE: &str = "latch.json";
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
    #[error("cannot write the emission latch {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the disk said.
        source: io::Error,
    },
    /// The audit log failed.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// A release has to say why.
    #[error("a release of the emission latch needs a reason")]
    NoReason,
}

/// The latch.
pub struct Latch {
    path: Option<PathBuf>,
    audit: Arc<Audit>,
    set: AtomicBool,
    latched: Mutex<Option<Latched>>,
}

impl Latch {
    /// The latch in `state_dir` as it was left; `None` keeps it in memory.
    ///
    /// # Errors
    /// When the directory cannot be made or read.
    pub fn open(state_dir: Option<&Path>, audit: Arc<Audit>) -> Result<Self, LatchError> {
        let path = state_dir.map(|dir| dir.join(LATCH_FILE));
        let mut latched = None;
        if let (Some(dir), Some(path)) = (state_dir, &path) {
            let io = |source| LatchError::Io { path: path.clone(), source };
            files::make_dir(dir).map_err(io)?;
            latched = match std::fs::read(path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                other => Some(serde_json::from_slice(&other.map_err(io)?).unwrap_or_else(|_| Latched {
                    reason: format!("the latch file {} cannot be read", path.display()),
                    since_unix_ms: 0,
                })),
            };
        }
        Ok(Self { path, audit, set: latched.is_some().into(), latched: latched.into() })
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
    /// When the disk fails; emission is off all the same, until a restart.
    pub fn set(&self, reason: &str, unix: Duration) -> Result<(), LatchError> {
        self.set.store(true, Ordering::SeqCst);
        let mut latched = self.latched.lock().unwrap_or_else(PoisonError::into_inner);
        // A release that held the lock until now must not undo this.
        self.set.store(true, Ordering::SeqCst);
        let now = latched.get_or_insert_with(|| Latched {
            reason: clip(reason, REASON_BYTES_MAX).into(),
            since_unix_ms: millis(unix),
        });
        if let Some(path) = &self.path {
            let bytes = serde_json::to_vec(now).unwrap_or_default();
            files::replace(path, &bytes).map_err(|source| LatchError::Io { path: path.clone(), source })?;
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
        self.audit.append("release", SUBJECT, reason, unix)?;
        if let Some(path) = &self.path {
            files::remove(path).map_err(|source| LatchError::Io { path: path.clone(), source })?;
        }
        *latched = None;
        self.set.store(false, Ordering::SeqCst);
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_millis(1_700_000_000_123);

    fn open(dir: Option<&Path>) -> Latch {
        Latch::open(dir, Arc::new(Audit::open(dir).unwrap())).unwrap()
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
