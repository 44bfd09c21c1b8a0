//! The port to a file system: the few operations that the laws of store and emit need, and nothing else.
//!
//! The law that every implementation keeps: [`Disk::link`] and [`Disk::make_dir`] never replace anything, and
//! exactly one of several callers succeeds; [`Disk::rename`] replaces a file at once or not at all, and never
//! a directory that holds something. What was synced survives a crash.
//!
//! Paths are relative to the root of the disk. Why not `std::fs` in place: the tests watch the order of these
//! calls and stop a store after any of them, and a simulator can lose what was not synced.

mod memory;
mod real;

pub use memory::MemoryDisk;
pub use real::RealDisk;

use std::any::Any;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// A file system, as far as the house needs one.
pub trait Disk: Send + Sync + 'static {
    /// Makes one directory; `AlreadyExists` if the name is taken.
    fn make_dir(&self, path: &Path) -> io::Result<()>;
    /// Creates a file for writing; `AlreadyExists` if the name is taken.
    fn create_new(&self, path: &Path) -> io::Result<Box<dyn WriteFile>>;
    /// Opens a file that is there for appending.
    fn append(&self, path: &Path) -> io::Result<Box<dyn WriteFile>>;
    /// Cuts a file to its first `len` bytes; durable when it returns.
    fn truncate(&self, path: &Path, len: u64) -> io::Result<()>;
    /// Opens a file for reading.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn ReadAt>>;
    /// Gives the file `from` a second name; `AlreadyExists` if the name is taken.
    fn link(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Moves a file over whatever file has the name, or a directory to a free name (`AlreadyExists`
    /// otherwise).
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file, or a directory with all that is in it.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in a directory durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// What is in a directory, in no order.
    fn list(&self, path: &Path) -> io::Result<Vec<Entry>>;
    /// Length of a file; `None` if there is none.
    fn file_len(&self, path: &Path) -> io::Result<Option<u64>>;
    /// Takes an exclusive lock on a file (made if missing) until the guard drops or the process ends; `None`
    /// if held.
    fn try_lock(&self, path: &Path) -> io::Result<Option<Guard>>;
}

/// Holds a lock while it lives.
pub type Guard = Box<dyn Any + Send + Sync>;

/// A file being written.
pub trait WriteFile: Send {
    /// Appends all of `bytes`.
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Makes what was written durable.
    fn sync(&mut self) -> io::Result<()>;
    /// Writes `len` zeros behind the end; what is written later goes over them, and [`Self::sync`] is then quicker, since
    /// neither the file's length nor its place on the disk changes. It promises nothing: there may be fewer zeros, or none.
    fn preallocate(&mut self, _len: u64) -> io::Result<()> {
        Ok(())
    }
    /// Lets the disk begin with what was written, so that a later [`Self::sync`] has less to wait for. It promises nothing.
    fn sync_soon(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A file that several threads read at once.
pub trait ReadAt: Send + Sync {
    /// Bytes in the file.
    fn len(&self) -> u64;
    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Reads up to `buf.len()` bytes from `offset`; 0 at the end.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize>;
    /// Fills all of `buf` from `offset` if nobody has to wait for the disk for it; otherwise says no, and `buf` holds anything.
    fn read_ready(&self, _offset: u64, _buf: &mut [u8]) -> bool {
        false
    }
}

/// A name in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The last component; names that are not UTF-8 are not ours and are left out.
    pub name: String,
    /// Whether it is a directory.
    pub is_dir: bool,
    /// Bytes of a file; 0 for a directory.
    pub len: u64,
}

/// All bytes of a file, `None` if there is none; for files that are small by their own law.
///
/// # Errors
/// The disk's, or `InvalidData` if the file is longer than `limit`.
pub fn read_whole(disk: &dyn Disk, path: &Path, limit: u64) -> io::Result<Option<Vec<u8>>> {
    let file = match disk.open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let len = usize::try_from(file.len()).ok().filter(|len| *len as u64 <= limit);
    let len =
        len.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the file is too long to be ours"))?;
    let mut bytes = vec![0; len];
    let mut done = 0;
    while done < len {
        match file.read_at(done as u64, &mut bytes[done..])? {
            0 => break,
            n => done += n,
        }
    }
    bytes.truncate(done);
    Ok(Some(bytes))
}
