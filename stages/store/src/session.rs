//! Names under way. Each process has a directory of its own below `tmp/`, held by a lock that dies with the
//! process.
//!
//! The law: a temporary name is removed when its owner is done with it, and when its owner died, by the next
//! one who opens the store; never while its owner lives. The age of a file, which sweepers often go by, says
//! nothing about that: an upload may be slow, and a clock may jump.

use crate::disk::{Disk, Guard};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Where the sessions are.
pub(crate) const TMP: &str = "tmp";
const LOCK: &str = "lock";
/// Sessions that may live at once: far more replicas than share a directory, and a bound to the search for a
/// free name.
const SESSIONS_MAX: u32 = 10_000;

/// This process's temporary names.
pub(crate) struct Session {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    next: AtomicU64,
    lock: Option<Guard>,
}

impl Session {
    /// Removes what dead processes left and takes a name of its own.
    pub(crate) fn open(disk: &Arc<dyn Disk>) -> io::Result<Self> {
        for entry in disk.list(Path::new(TMP))? {
            sweep(&**disk, &Path::new(TMP).join(entry.name))?;
        }
        for n in 0..SESSIONS_MAX {
            let dir = Path::new(TMP).join(n.to_string());
            match disk.make_dir(&dir) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                other => other?,
            }
            // Between our making the directory and our taking the lock, another one's sweep may have taken it
            // away.
            match disk.try_lock(&dir.join(LOCK)) {
                Ok(Some(lock)) if disk.file_len(&dir.join(LOCK))?.is_some() => {
                    return Ok(Self { disk: disk.clone(), dir, next: AtomicU64::new(0), lock: Some(lock) });
                }
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Err(io::Error::other("too many sessions share this directory"))
    }

    /// A name that nobody else uses. It, and what it names, goes when the guard drops.
    pub(crate) fn name(&self) -> Temporary {
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        Temporary { disk: self.disk.clone(), path: self.dir.join(n.to_string()) }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.disk.remove(&self.dir);
        drop(self.lock.take());
    }
}

/// Removes a session whose owner is dead.
fn sweep(disk: &dyn Disk, dir: &Path) -> io::Result<()> {
    let gone =
        |error: &io::Error| matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory);
    match disk.try_lock(&dir.join(LOCK)) {
        Ok(None) => Ok(()),
        Ok(Some(_lock)) => match disk.remove(dir) {
            Err(error) if !gone(&error) => Err(error),
            _ => Ok(()),
        },
        Err(error) if gone(&error) => Ok(()),
        Err(error) => Err(error),
    }
}

/// A temporary name; removed when dropped.
pub(crate) struct Temporary {
    disk: Arc<dyn Disk>,
    path: PathBuf,
}

impl Temporary {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // It may have been renamed into place; and if the disk refuses, the next open sweeps.
        let _ = self.disk.remove(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{MemoryDisk, RealDisk};

    fn check(disk: Arc<dyn Disk>) {
        disk.make_dir(Path::new(TMP)).unwrap();
        let living = Session::open(&disk).unwrap();
        let under_way = living.name();
        disk.create_new(under_way.path()).unwrap().write_all(b"slow").unwrap();
        // A process that died: its directory is there and nobody holds its lock.
        disk.make_dir(Path::new("tmp/77")).unwrap();
        disk.create_new(Path::new("tmp/77/0")).unwrap().write_all(b"dead").unwrap();
        let other = Session::open(&disk).unwrap();
        assert_ne!(living.dir, other.dir);
        assert_eq!(disk.file_len(under_way.path()).unwrap(), Some(4), "a living upload stays");
        assert_eq!(disk.file_len(Path::new("tmp/77/0")).unwrap(), None, "a dead one goes");
        drop(under_way);
        drop((living, other));
        assert_eq!(disk.list(Path::new(TMP)).unwrap(), []);
    }

    #[test]
    fn the_dead_are_swept_and_the_living_are_not() {
        check(Arc::new(MemoryDisk::default()));
        let dir = tempfile::tempdir().unwrap();
        check(Arc::new(RealDisk::new(dir.path()).unwrap()));
    }
}
