//! The store: the disk, the space on it, and the few moves that all laws are made of.
//!
//! The moves: [`Inner::dir`] (a directory is durable before anything is put in it), [`Inner::small_file`]
//! (write, fsync under a temporary name), link or rename, [`Inner::sync`]. Every public operation is a
//! sequence of these.

use crate::config::StoreConfig;
use crate::disk::{Disk, MemoryDisk, RealDisk};
use crate::error::StoreError;
use crate::session::{Session, TMP, Temporary};
use crate::space::Space;
use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

pub(crate) const OBJECTS: &str = "objects";
pub(crate) const CORRUPT: &str = "corrupt";
pub(crate) const SEEN: &str = "seen";
pub(crate) const BINDS: &str = "binds";
pub(crate) const RUNS: &str = "runs";
pub(crate) const CLAIMS: &str = "claims";
pub(crate) const LATEST: &str = "latest";

/// Bytes of a file that holds a CID, with room to notice that it holds more.
const SMALL_FILE_BYTES_MAX: u64 = 128;

/// The sealed store and the result store. Cheap to clone; all clones are one store.
#[derive(Clone)]
pub struct Store(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) space: Arc<Space>,
    pub(crate) session: Session,
    /// Directories that this process has made durable. As many as there are tenants, times the kinds of
    /// names.
    dirs: Mutex<HashSet<PathBuf>>,
}

impl Store {
    /// Opens the store that `config` names: a directory, or memory.
    ///
    /// # Errors
    /// When the directory cannot be read or written.
    pub fn open(config: &StoreConfig) -> Result<Self, StoreError> {
        match &config.dir {
            None => Self::over(Arc::new(MemoryDisk::default()), config.store_bytes_max),
            Some(dir) => {
                let disk = RealDisk::new(dir).map_err(|source| StoreError::Io {
                    doing: format!("open the store in {}", dir.display()),
                    source,
                })?;
                Self::over(Arc::new(disk), config.store_bytes_max)
            }
        }
    }

    /// Opens a store over any disk: sweeps what crashed uploads left, and counts what is there.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn over(disk: Arc<dyn Disk>, store_bytes_max: u64) -> Result<Self, StoreError> {
        let io = |doing: &str| {
            let doing = doing.to_owned();
            move |source| StoreError::Io { doing, source }
        };
        for dir in [OBJECTS, CORRUPT, SEEN, BINDS, RUNS, CLAIMS, LATEST, TMP] {
            match disk.make_dir(Path::new(dir)) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(io(&format!("make the directory {dir}"))(error));
                }
                _ => {}
            }
        }
        disk.sync_dir(Path::new("")).map_err(io("sync the store's directory"))?;
        let session = Session::open(&disk).map_err(io("take a place for temporary files"))?;
        let used = [OBJECTS, CORRUPT, RUNS]
            .into_iter()
            .try_fold(0u64, |sum, dir| Ok(sum.saturating_add(bytes_below(&*disk, Path::new(dir))?)))
            .map_err(io("count what is stored"))?;
        Ok(Self(Arc::new(Inner {
            disk,
            space: Space::new(used, store_bytes_max),
            session,
            dirs: Mutex::default(),
        })))
    }

    /// Bytes of objects and runs, uploads under way included.
    pub fn used_bytes(&self) -> u64 {
        self.0.space.used()
    }

    /// `STORE_MAX_BYTES`.
    pub fn limit_bytes(&self) -> u64 {
        self.0.space.limit()
    }
}

/// Sum of all file lengths in a tree. Three levels at most (`runs/tenant/run/part`), so the recursion is
/// bounded.
fn bytes_below(disk: &dyn Disk, dir: &Path) -> io::Result<u64> {
    let mut sum = 0u64;
    for entry in disk.list(dir)? {
        sum = sum.saturating_add(if entry.is_dir {
            bytes_below(disk, &dir.join(&entry.name))?
        } else {
            entry.len
        });
    }
    Ok(sum)
}

impl Inner {
    /// An error of the disk, with what was being done. A full disk is a full store, whatever the accounting
    /// says.
    pub(crate) fn io(&self, verb: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
        let doing = format!("{verb} {}", path.display());
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreError::DiskFull,
            _ => StoreError::Io { doing, source },
        }
    }

    /// A durable directory `path` below a directory that is durable already.
    ///
    /// Each process syncs the parent once itself: that the directory is there does not mean that whoever made
    /// it has come to its fsync.
    pub(crate) fn dir(&self, path: &Path) -> Result<(), StoreError> {
        if self.dirs.lock().unwrap_or_else(PoisonError::into_inner).contains(path) {
            return Ok(());
        }
        match self.disk.make_dir(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(self.io("make the directory", path)(error));
            }
            _ => {}
        }
        self.sync(path.parent().unwrap_or(Path::new("")))?;
        self.dirs.lock().unwrap_or_else(PoisonError::into_inner).insert(path.to_owned());
        Ok(())
    }

    /// Makes the names in `dir` durable.
    pub(crate) fn sync(&self, dir: &Path) -> Result<(), StoreError> {
        self.disk.sync_dir(dir).map_err(self.io("sync the directory", dir))
    }

    /// A file with these bytes, durable, under a temporary name.
    pub(crate) fn small_file(&self, bytes: &[u8]) -> Result<Temporary, StoreError> {
        let name = self.session.name();
        let write = || {
            let mut file = self.disk.create_new(name.path())?;
            file.write_all(bytes)?;
            file.sync()
        };
        write().map_err(self.io("write", name.path()))?;
        Ok(name)
    }

    /// Gives a file its final name unless the name is taken, and makes either outcome durable. True if it was
    /// free.
    pub(crate) fn link(&self, from: &Temporary, to: &Path) -> Result<bool, StoreError> {
        let new = match self.disk.link(from.path(), to) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
            Err(error) => return Err(self.io("name", to)(error)),
        };
        self.sync(to.parent().unwrap_or(Path::new("")))?;
        Ok(new)
    }

    /// Gives a file its final name, over whatever had it.
    pub(crate) fn replace(&self, from: &Temporary, to: &Path) -> Result<(), StoreError> {
        self.disk.rename(from.path(), to).map_err(self.io("replace", to))?;
        self.sync(to.parent().unwrap_or(Path::new("")))
    }

    /// The CID that a small file of ours holds; `None` if there is no such file.
    pub(crate) fn read_cid(&self, path: &Path) -> Result<Option<rewarder_model::Cid>, StoreError> {
        let file = match self.disk.open(path) {
            Ok(file) => crate::object::Object::new(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.io("open", path)(error)),
        };
        let bytes = file.read_all(SMALL_FILE_BYTES_MAX).map_err(self.io("read", path))?;
        let cid = std::str::from_utf8(&bytes).ok().and_then(|text| text.trim_end().parse().ok());
        cid.map(Some).ok_or_else(|| StoreError::Damaged { path: path.display().to_string() })
    }
}
