//! The output file: written under a temporary name beside its place, hashed on the way, made durable, then
//! renamed.
//!
//! The law: the name `out` never stands for anything but a whole snapshot whose CID is the one returned. The
//! temporary file is removed when this is dropped before [`Target::keep`].
//!
//! Hashing and writing have a thread of their own each: they must see the bytes in order, while the bodies are
//! made by all others in any order, and both in one take longer than the bodies do.

use crate::error::SealError;
use rewarder_model::Cid;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, sync_channel};
use tempfile::NamedTempFile;

/// Bytes after which the disk is asked to begin: enough for it to write in long runs.
const FLUSH_BYTES: usize = 16 << 20;

/// Pieces that may wait between hashing and writing.
const HASHED_PIECES: usize = 2;

/// A file that is not there yet.
#[derive(Debug)]
pub(crate) struct Target<'a> {
    out: &'a Path,
    temp: NamedTempFile,
}

/// The directory of a file, also for a name without one.
pub(crate) fn directory(out: &Path) -> &Path {
    match out.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    }
}

impl<'a> Target<'a> {
    /// A temporary file in the directory of `out`, so that the rename cannot cross file systems.
    ///
    /// A device or a pipe that has the name is no place for a snapshot, and is not replaced by one.
    pub fn new(out: &'a Path) -> Result<Self, SealError> {
        if std::fs::metadata(out).is_ok_and(|about| !about.is_file()) {
            let source = io::Error::new(io::ErrorKind::AlreadyExists, "it is there, and no regular file");
            return Err(SealError::io("write", out)(source));
        }
        let mut builder = tempfile::Builder::new();
        builder.prefix(".sealing-").suffix(".tmp");
        #[cfg(unix)]
        {
            // As any other file that a program makes: the umask decides, not tempfile's 0600.
            use std::os::unix::fs::PermissionsExt;
            builder.permissions(std::fs::Permissions::from_mode(0o666));
        }
        let temp = builder.tempfile_in(directory(out)).map_err(SealError::io("create a file beside", out))?;
        Ok(Self { out, temp })
    }

    /// Writes and hashes what comes, in order, until the sender is gone; hands each piece's memory back.
    ///
    /// The disk is asked to begin early, by a thread that waits for it: waiting at the end alone would leave
    /// it idle while pieces are made, and everyone else idle afterwards.
    pub fn fill(&mut self, pieces: Receiver<Vec<u8>>, used: &Sender<Vec<u8>>) -> io::Result<(Cid, u64)> {
        let file = self.temp.as_file();
        std::thread::scope(|scope| {
            let (begin, asked) = sync_channel::<()>(1);
            // Its errors count: the system reports a failed write once, to whoever asks first.
            let flusher = scope.spawn(move || asked.iter().try_for_each(|()| file.sync_data()));
            let (write, hashed) = sync_channel::<Vec<u8>>(HASHED_PIECES);
            let writer = scope.spawn(move || {
                let (mut out, mut unflushed) = (file, 0);
                for mut piece in hashed {
                    out.write_all(&piece)?;
                    unflushed += piece.len();
                    if unflushed >= FLUSH_BYTES && begin.try_send(()).is_ok() {
                        unflushed = 0;
                    }
                    piece.clear();
                    let _ = used.send(piece);
                }
                io::Result::Ok(())
            });
            let (mut hasher, mut bytes) = (blake3::Hasher::new(), 0);
            for piece in pieces {
                hasher.update(&piece);
                bytes += piece.len() as u64;
                // The other side is gone when writing has failed, and it says why.
                if write.send(piece).is_err() {
                    break;
                }
            }
            drop(write);
            writer.join().unwrap_or_else(|_| Err(io::Error::other("the writing thread failed")))?;
            flusher.join().unwrap_or_else(|_| Err(io::Error::other("the flushing thread failed")))?;
            Ok((hasher.finalize().into(), bytes))
        })
    }

    /// Gives the file its name, once the disk has it.
    pub fn keep(self) -> Result<(), SealError> {
        let out = self.out;
        self.temp.as_file().sync_all().map_err(SealError::io("flush", out))?;
        self.temp.persist(out).map_err(|e| e.error).map_err(SealError::io("rename to", out))?;
        // The name is durable only with the directory. Not every file system can do that, and the file is
        // whole anyway.
        if let Ok(dir) = File::open(directory(out)) {
            let _ = dir.sync_all();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_until_it_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("x.arrows");
        for keep in [false, true] {
            let mut target = Target::new(&out).unwrap();
            let (tx, rx) = std::sync::mpsc::channel();
            tx.send(b"ab".to_vec()).unwrap();
            tx.send(b"c".to_vec()).unwrap();
            drop(tx);
            assert_eq!(target.fill(rx, &std::sync::mpsc::channel().0).unwrap(), (Cid::of(b"abc"), 3));
            if keep {
                target.keep().unwrap();
            }
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        assert_eq!(std::fs::read(&out).unwrap(), b"abc");
        assert_eq!(directory(Path::new("x")), Path::new("."));
    }
}
