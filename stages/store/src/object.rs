//! Stored bytes, open for reading: a length and reads at any position, by several threads at once.
//!
//! The law: an object that is open stays readable, whatever happens to its name. It does *not* vouch for its
//! bytes: a disk can rot, so that decode hashes again while it reads, and reports what it finds with
//! `Store::quarantine_corrupt`.

use crate::disk::ReadAt;
use std::fmt;
use std::io::{self, Read};
use std::sync::Arc;

/// Bytes in the store. Cheap to clone.
#[derive(Clone)]
pub struct Object(Arc<dyn ReadAt>);

impl Object {
    pub(crate) fn new(file: Arc<dyn ReadAt>) -> Self {
        Self(file)
    }

    /// Bytes in the object.
    pub fn len(&self) -> u64 {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads up to `buf.len()` bytes from `offset`; 0 at the end.
    ///
    /// # Errors
    /// What the disk says.
    pub fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read_at(offset, buf)
    }

    /// Fills `buf` from `offset`.
    ///
    /// # Errors
    /// `UnexpectedEof` if the object ends before, or what the disk says.
    pub fn read_exact_at(&self, mut offset: u64, mut buf: &mut [u8]) -> io::Result<()> {
        while !buf.is_empty() {
            let n = self.read_at(offset, buf)?;
            if n == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            offset += n as u64;
            buf = &mut buf[n..];
        }
        Ok(())
    }

    /// Fills `buf` from `offset` if nobody has to wait for the disk for it; otherwise says no, and `buf` holds anything.
    pub fn read_ready(&self, offset: u64, buf: &mut [u8]) -> bool {
        self.0.read_ready(offset, buf)
    }

    /// All bytes, if there are at most `limit`: for manifests and policies, never for snapshots.
    ///
    /// # Errors
    /// `FileTooLarge` above the limit, or what the disk says.
    pub fn read_all(&self, limit: u64) -> io::Result<Vec<u8>> {
        let len = self.len();
        if len > limit {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let mut bytes = vec![0; usize::try_from(len).map_err(|_| io::ErrorKind::FileTooLarge)?];
        self.read_exact_at(0, &mut bytes)?;
        Ok(bytes)
    }

    /// Reads from the start to the end.
    pub fn reader(&self) -> ObjectReader {
        ObjectReader { object: self.clone(), offset: 0 }
    }
}

impl fmt::Debug for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Object").field("len", &self.len()).finish_non_exhaustive()
    }
}

/// [`Read`] over an [`Object`].
#[derive(Debug)]
pub struct ObjectReader {
    object: Object,
    offset: u64,
}

impl Read for ObjectReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.object.read_at(self.offset, buf)?;
        self.offset += n as u64;
        Ok(n)
    }
}
