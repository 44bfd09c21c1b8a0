//! The output file: written without a name beside its place, hashed on the way, made durable, then named.
//!
//! The law: the name `out` never stands for anything but a whole snapshot whose CID is the one returned. Whoever breaks off, even
//! with SIGKILL, leaves nothing: the system gives a file without a name back with the process. Where there are no such files (NFS,
//! no `/proc`) it has a temporary name, which is removed when this is dropped before [`Target::keep`].
//!
//! Hashing and writing have a thread of their own each: they must see the bytes in order, while the bodies are
//! made by all others in any order, and both in one take longer than the bodies do.

use crate::error::SealError;
use rewarder_model::Cid;
use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use std::fs::{File, Permissions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, sync_channel};
use tempfile::TempPath;

/// Bytes after which the disk is asked to begin: enough for it to write in long runs.
const FLUSH_BYTES: usize = 16 << 20;

/// Pieces that may wait between hashing and writing.
const HASHED_PIECES: usize = 2;

/// A file that is not there yet.
#[derive(Debug)]
pub(crate) struct Target<'a> {
    out: &'a Path,
    file: File,
    /// Its name until it is kept, if it has to have one.
    temporary: Option<TempPath>,
}

/// As any other file that a program makes: the umask decides.
const MODE: u32 = 0o666;

/// The directory of a file, also for a name without one.
pub(crate) fn directory(out: &Path) -> &Path {
    match out.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    }
}

/// Temporary names.
fn names() -> tempfile::Builder<'static, 'static> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".sealing-").suffix(".tmp").permissions(Permissions::from_mode(MODE));
    builder
}

/// The way to an open file that has no name.
fn way_to(file: &File) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

/// A file without a name in a directory, if the system can make one and name it later.
fn nameless(dir: &Path) -> Option<File> {
    let file =
        rustix::fs::open(dir, OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC, Mode::from_raw_mode(MODE));
    file.ok().map(File::from).filter(|file| std::fs::metadata(way_to(file)).is_ok())
}

/// Gives a file without a name a temporary one.
fn named(file: &File, dir: &Path) -> io::Result<TempPath> {
    let link = |name: &Path| {
        rustix::fs::linkat(CWD, way_to(file), CWD, name, AtFlags::SYMLINK_FOLLOW).map_err(io::Error::from)
    };
    Ok(names().make_in(dir, link)?.into_temp_path())
}

impl<'a> Target<'a> {
    /// A file in the directory of `out`, so that the rename cannot cross file systems.
    ///
    /// A device or a pipe that has the name is no place for a snapshot, and is not replaced by one.
    pub fn new(out: &'a Path) -> Result<Self, SealError> {
        if std::fs::metadata(out).is_ok_and(|about| !about.is_file()) {
            let source = io::Error::new(io::ErrorKind::AlreadyExists, "it is there, and no regular file");
            return Err(SealError::io("write", out)(source));
        }
        let dir = directory(out);
        if let Some(file) = nameless(dir) {
            return Ok(Self { out, file, temporary: None });
        }
        let named = names().tempfile_in(dir).map_err(SealError::io("create a file beside", out))?;
        let (file, temporary) = named.into_parts();
        Ok(Self { out, file, temporary: Some(temporary) })
    }

    /// Writes and hashes what comes, in order, until the sender is gone; hands each piece's memory back.
    ///
    /// The disk is asked to begin early, by a thread that waits for it: waiting at the end alone would leave
    /// it idle while pieces are made, and everyone else idle afterwards.
    pub fn fill(&mut self, pieces: Receiver<Vec<u8>>, used: &Sender<Vec<u8>>) -> io::Result<(Cid, u64)> {
        let file = &self.file;
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
        let Self { out, file, temporary } = self;
        file.sync_all().map_err(SealError::io("flush", out))?;
        let temporary = match temporary {
            Some(temporary) => temporary,
            // A link replaces nothing, so that it is given a name of its own first.
            None => named(&file, directory(out)).map_err(SealError::io("name a file beside", out))?,
        };
        temporary.persist(out).map_err(|e| e.error).map_err(SealError::io("rename to", out))?;
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
        for (keep, has_name) in [(false, false), (false, true), (true, false), (true, true)] {
            let mut target = Target::new(&out).unwrap();
            if has_name {
                target.temporary = Some(named(&target.file, dir.path()).unwrap());
            }
            let (tx, rx) = std::sync::mpsc::channel();
            tx.send(b"ab".to_vec()).unwrap();
            tx.send(b"c".to_vec()).unwrap();
            drop(tx);
            assert_eq!(target.fill(rx, &std::sync::mpsc::channel().0).unwrap(), (Cid::of(b"abc"), 3));
            // Without a name where the system can do that.
            let names = std::fs::read_dir(dir.path()).unwrap().count();
            assert_eq!(names, usize::from(target.temporary.is_some()));
            if keep {
                target.keep().unwrap();
                assert_eq!(std::fs::read(&out).unwrap(), b"abc");
                std::fs::remove_file(&out).unwrap();
            }
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        assert_eq!(directory(Path::new("x")), Path::new("."));
    }
}
