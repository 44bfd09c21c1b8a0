//! The disk that is a directory of the machine.
//!
//! The law: durable means durable, so a directory is opened and fsynced like a file. A lock is `flock`, which
//! the kernel drops when the process dies, however it dies; a file with a process id in it would outlive its
//! process.

use super::{Disk, Entry, Guard, ReadAt, WriteFile};
use rustix::io::ReadWriteFlags;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, IoSliceMut, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

/// Nobody but the service reads what tenants upload.
const DIR_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;
/// Zeros that are written and synced at once.
const PREALLOCATED_STEP: usize = 512 * 1024;

/// A directory.
#[derive(Debug)]
pub struct RealDisk {
    root: PathBuf,
}

impl RealDisk {
    /// A disk below `root`, which is made if it is missing, and durable as a name when this returns: what is synced below
    /// a directory that a power cut takes away is lost with it.
    ///
    /// # Errors
    /// When the directory can be neither found nor made.
    pub fn new(root: &Path) -> io::Result<Self> {
        let missing = root.ancestors().take_while(|dir| !dir.as_os_str().is_empty() && !dir.exists()).count();
        fs::DirBuilder::new().recursive(true).mode(DIR_MODE).create(root)?;
        // Also the parent of one that is there: whoever made it may not have come to this.
        for made in root.ancestors().take(missing.max(1)) {
            let parent =
                made.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
            match File::open(parent).and_then(|parent| parent.sync_all()) {
                // One that may not be read cannot be synced by us either.
                Err(error) if error.kind() != io::ErrorKind::PermissionDenied => return Err(error),
                _ => {}
            }
        }
        Ok(Self { root: root.to_owned() })
    }
}

struct RealFile {
    file: File,
    /// A sync that was begun and not asked after yet.
    syncing: Option<JoinHandle<io::Result<()>>>,
}

impl RealFile {
    fn boxed(file: File) -> Box<dyn WriteFile> {
        Box::new(Self { file, syncing: None })
    }

    /// How the sync ended that was begun, if one was; it is waited for. The system tells an error once for each open file, which
    /// the two share: one that is told there must not be lost here.
    fn synced(&mut self) -> io::Result<()> {
        let failed = |_| io::Error::other("the thread that synced a file broke off");
        self.syncing.take().map_or(Ok(()), |thread| thread.join().map_err(failed)?)
    }
}

impl WriteFile for RealFile {
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)
    }

    fn preallocate(&mut self, len: u64) -> io::Result<()> {
        // Not fallocate: its blocks are marked as never written, and taking the mark away costs each sync what growing does.
        // In steps, each synced: whoever syncs another file meanwhile waits behind one of them, not behind all.
        let zeros = vec![0; PREALLOCATED_STEP];
        let begin = self.file.stream_position()?;
        let end = begin.saturating_add(len);
        for at in (begin..end).step_by(zeros.len()) {
            let count = usize::try_from(end - at).map_or(zeros.len(), |left| left.min(zeros.len()));
            self.file.write_all_at(&zeros[..count], at)?;
            self.file.sync_data()?;
        }
        Ok(())
    }

    fn sync_soon(&mut self) -> io::Result<()> {
        if self.syncing.as_ref().is_some_and(|thread| !thread.is_finished()) {
            return Ok(());
        }
        self.synced()?;
        let file = self.file.try_clone()?;
        // Without a thread for it the sync comes later, all at once.
        self.syncing = std::thread::Builder::new().spawn(move || file.sync_data()).ok();
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        // The length of a file that grew is part of what fdatasync makes durable; its times are not, and nobody needs them.
        self.synced()?;
        self.file.sync_data()
    }
}

struct RealRead {
    file: File,
    len: u64,
}

impl ReadAt for RealRead {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.file.read_at(buf, offset) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }

    fn read_ready(&self, offset: u64, buf: &mut [u8]) -> bool {
        let wanted = buf.len();
        // What is in memory only; where a file system cannot tell, the answer is an error, and that is a no.
        let read =
            rustix::io::preadv2(&self.file, &mut [IoSliceMut::new(buf)], offset, ReadWriteFlags::NOWAIT);
        read.is_ok_and(|count| count == wanted)
    }
}

impl Disk for RealDisk {
    fn make_dir(&self, path: &Path) -> io::Result<()> {
        fs::DirBuilder::new().mode(DIR_MODE).create(self.root.join(path))
    }

    fn create_new(&self, path: &Path) -> io::Result<Box<dyn WriteFile>> {
        let file =
            OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(self.root.join(path))?;
        Ok(RealFile::boxed(file))
    }

    fn append(&self, path: &Path) -> io::Result<Box<dyn WriteFile>> {
        Ok(RealFile::boxed(OpenOptions::new().append(true).open(self.root.join(path))?))
    }

    fn truncate(&self, path: &Path, len: u64) -> io::Result<()> {
        let file = OpenOptions::new().write(true).open(self.root.join(path))?;
        file.set_len(len)?;
        file.sync_all()
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn ReadAt>> {
        let file = File::open(self.root.join(path))?;
        let len = file.metadata()?.len();
        Ok(Arc::new(RealRead { file, len }))
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::hard_link(self.root.join(from), self.root.join(to))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(self.root.join(from), self.root.join(to)).map_err(|error| match error.kind() {
            // ENOTEMPTY and EEXIST are both allowed by POSIX for a directory that holds something.
            io::ErrorKind::DirectoryNotEmpty => io::ErrorKind::AlreadyExists.into(),
            _ => error,
        })
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let path = self.root.join(path);
        if fs::symlink_metadata(&path)?.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        File::open(self.root.join(path))?.sync_all()
    }

    fn list(&self, path: &Path) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(self.root.join(path))? {
            let entry = entry?;
            let meta = match entry.metadata() {
                // Another replica may remove a temporary name while we look.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                other => other?,
            };
            let Ok(name) = entry.file_name().into_string() else { continue };
            let is_dir = meta.is_dir();
            entries.push(Entry { name, is_dir, len: if is_dir { 0 } else { meta.len() } });
        }
        Ok(entries)
    }

    fn file_len(&self, path: &Path) -> io::Result<Option<u64>> {
        match fs::metadata(self.root.join(path)) {
            Ok(meta) => Ok(meta.is_file().then_some(meta.len())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn try_lock(&self, path: &Path) -> io::Result<Option<Guard>> {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(FILE_MODE)
            .open(self.root.join(path))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Box::new(file))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}
