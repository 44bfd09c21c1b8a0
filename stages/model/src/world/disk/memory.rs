//! The disk that forgets: a tree of names over bytes in memory, for amnesia.
//!
//! The law: the same answers as a directory, no system call on any file, and every byte is zeroed when its
//! last name and last reader are gone. Bytes are kept in segments, so that a gigabyte is neither copied while
//! it grows nor asked of the allocator in one piece.

use super::{Disk, Entry, Guard, ReadAt, WriteFile};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use zeroize::Zeroizing;

/// Bytes of a full segment: large enough that a gigabyte is a few thousand of them.
const SEGMENT_BYTES: usize = 256 * 1024;
/// Bytes that the first segment starts with: small files (claims, policies) stay small.
const SEGMENT_BYTES_MIN: usize = 256;

/// A tree of files in memory.
#[derive(Default)]
pub struct MemoryDisk {
    tree: Mutex<BTreeMap<PathBuf, Node>>,
    locks: Arc<Mutex<BTreeSet<PathBuf>>>,
}

#[derive(Clone)]
enum Node {
    Dir,
    File(Arc<RwLock<Bytes>>),
}

/// Segments, all full but the last.
#[derive(Default)]
struct Bytes {
    segments: Vec<Zeroizing<Vec<u8>>>,
    len: u64,
}

impl Bytes {
    fn push(&mut self, mut bytes: &[u8]) {
        self.len += bytes.len() as u64;
        while !bytes.is_empty() {
            let room = match self.segments.last() {
                Some(last) if last.len() < SEGMENT_BYTES => SEGMENT_BYTES - last.len(),
                _ => {
                    self.segments.push(Zeroizing::new(Vec::new()));
                    SEGMENT_BYTES
                }
            };
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            if let Some(last) = self.segments.last_mut() {
                extend(last, now);
            }
            bytes = later;
        }
    }

    fn truncate(&mut self, len: u64) {
        let Ok(keep) = usize::try_from(len) else { return };
        if len >= self.len {
            return;
        }
        self.segments.truncate(keep.div_ceil(SEGMENT_BYTES));
        let before = self.segments.len().saturating_sub(1) * SEGMENT_BYTES;
        if let Some(last) = self.segments.last_mut() {
            let cut = keep.saturating_sub(before).min(last.len());
            last[cut..].fill(0);
            last.truncate(cut);
        }
        self.len = len;
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> usize {
        let Ok(offset) = usize::try_from(offset) else { return 0 };
        let mut done = 0;
        while done < buf.len() {
            let at = offset.saturating_add(done);
            let Some(rest) = self.segments.get(at / SEGMENT_BYTES).and_then(|s| s.get(at % SEGMENT_BYTES..))
            else {
                break;
            };
            let n = rest.len().min(buf.len() - done);
            if n == 0 {
                break;
            }
            buf[done..done + n].copy_from_slice(&rest[..n]);
            done += n;
        }
        done
    }
}

/// Appends without leaving a copy behind: a `Vec` that grows by itself frees its old bytes as they are.
fn extend(segment: &mut Zeroizing<Vec<u8>>, bytes: &[u8]) {
    let len = segment.len() + bytes.len();
    if len > segment.capacity() {
        let capacity = (2 * segment.capacity()).max(len).clamp(SEGMENT_BYTES_MIN, SEGMENT_BYTES);
        let mut larger = Vec::with_capacity(capacity);
        larger.extend_from_slice(segment);
        *segment = Zeroizing::new(larger);
    }
    segment.extend_from_slice(bytes);
}

impl WriteFile for Arc<RwLock<Bytes>> {
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write().unwrap_or_else(PoisonError::into_inner).push(bytes);
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl ReadAt for RwLock<Bytes> {
    fn len(&self) -> u64 {
        self.read().unwrap_or_else(PoisonError::into_inner).len
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        Ok(self.read().unwrap_or_else(PoisonError::into_inner).read_at(offset, buf))
    }

    fn read_ready(&self, offset: u64, buf: &mut [u8]) -> bool {
        ReadAt::read_at(self, offset, buf).is_ok_and(|count| count == buf.len())
    }
}

impl MemoryDisk {
    fn tree(&self) -> MutexGuard<'_, BTreeMap<PathBuf, Node>> {
        self.tree.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn missing() -> io::Error {
    io::ErrorKind::NotFound.into()
}

fn taken() -> io::Error {
    io::ErrorKind::AlreadyExists.into()
}

/// Paths order by component, so that a directory's whole tree stands right behind it.
fn below<'t>(
    tree: &'t BTreeMap<PathBuf, Node>,
    dir: &'t Path,
) -> impl Iterator<Item = (&'t PathBuf, &'t Node)> {
    tree.range(dir.to_owned()..)
        .take_while(move |(path, _)| path.starts_with(dir))
        .filter(move |(path, _)| *path != dir)
}

/// A name can only be made in a directory that is there.
fn insert(tree: &mut BTreeMap<PathBuf, Node>, path: &Path, node: Node) -> io::Result<()> {
    let parent = path.parent().unwrap_or(Path::new(""));
    if parent != Path::new("") && !matches!(tree.get(parent), Some(Node::Dir)) {
        return Err(missing());
    }
    if tree.contains_key(path) {
        return Err(taken());
    }
    tree.insert(path.to_owned(), node);
    Ok(())
}

impl Disk for MemoryDisk {
    fn make_dir(&self, path: &Path) -> io::Result<()> {
        insert(&mut self.tree(), path, Node::Dir)
    }

    fn create_new(&self, path: &Path) -> io::Result<Box<dyn WriteFile>> {
        let file = Arc::new(RwLock::new(Bytes::default()));
        insert(&mut self.tree(), path, Node::File(file.clone()))?;
        Ok(Box::new(file))
    }

    fn append(&self, path: &Path) -> io::Result<Box<dyn WriteFile>> {
        match self.tree().get(path) {
            Some(Node::File(file)) => Ok(Box::new(file.clone())),
            _ => Err(missing()),
        }
    }

    fn truncate(&self, path: &Path, len: u64) -> io::Result<()> {
        match self.tree().get(path) {
            Some(Node::File(file)) => {
                file.write().unwrap_or_else(PoisonError::into_inner).truncate(len);
                Ok(())
            }
            _ => Err(missing()),
        }
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn ReadAt>> {
        match self.tree().get(path) {
            Some(Node::File(file)) => Ok(file.clone()),
            _ => Err(missing()),
        }
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut tree = self.tree();
        let node =
            tree.get(from).filter(|node| matches!(node, Node::File(_))).cloned().ok_or_else(missing)?;
        insert(&mut tree, to, node)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut tree = self.tree();
        let node = tree.get(from).cloned().ok_or_else(missing)?;
        match node {
            Node::File(_) => {
                if matches!(tree.get(to), Some(Node::Dir)) {
                    return Err(io::ErrorKind::IsADirectory.into());
                }
                let replaced = tree.remove(to);
                if let Err(error) = insert(&mut tree, to, node) {
                    tree.extend(replaced.map(|node| (to.to_owned(), node)));
                    return Err(error);
                }
                tree.remove(from);
            }
            Node::Dir => {
                insert(&mut tree, to, Node::Dir)?;
                let moved: Vec<_> =
                    below(&tree, from).map(|(path, node)| (path.clone(), node.clone())).collect();
                for (path, node) in moved {
                    tree.remove(&path);
                    if let Ok(rest) = path.strip_prefix(from) {
                        tree.insert(to.join(rest), node);
                    }
                }
                tree.remove(from);
            }
        }
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut tree = self.tree();
        let gone: Vec<_> = below(&tree, path).map(|(path, _)| path.clone()).collect();
        for path in gone {
            tree.remove(&path);
        }
        tree.remove(path).map(drop).ok_or_else(missing)
    }

    fn sync_dir(&self, _path: &Path) -> io::Result<()> {
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<Entry>> {
        let tree = self.tree();
        if !matches!(tree.get(path), Some(Node::Dir)) {
            return Err(missing());
        }
        let children = below(&tree, path).filter(|(child, _)| child.parent() == Some(path));
        Ok(children
            .filter_map(|(child, node)| {
                let name = child.file_name()?.to_str()?.to_owned();
                Some(match node {
                    Node::Dir => Entry { name, is_dir: true, len: 0 },
                    Node::File(file) => Entry { name, is_dir: false, len: ReadAt::len(&**file) },
                })
            })
            .collect())
    }

    fn file_len(&self, path: &Path) -> io::Result<Option<u64>> {
        Ok(match self.tree().get(path) {
            Some(Node::File(file)) => Some(ReadAt::len(&**file)),
            _ => None,
        })
    }

    fn try_lock(&self, path: &Path) -> io::Result<Option<Guard>> {
        match self.create_new(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        if !self.locks.lock().unwrap_or_else(PoisonError::into_inner).insert(path.to_owned()) {
            return Ok(None);
        }
        Ok(Some(Box::new(MemoryGuard { locks: self.locks.clone(), path: path.to_owned() })))
    }
}

struct MemoryGuard {
    locks: Arc<Mutex<BTreeSet<PathBuf>>>,
    path: PathBuf,
}

impl Drop for MemoryGuard {
    fn drop(&mut self) {
        self.locks.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_read_back_at_every_edge() {
        let mut bytes = Bytes::default();
        let all: Vec<u8> = (0..SEGMENT_BYTES * 2 + 77).map(|i| (i % 251) as u8).collect();
        for chunk in all.chunks(100_003) {
            bytes.push(chunk);
        }
        assert_eq!(bytes.len, all.len() as u64);
        for at in [
            0,
            1,
            SEGMENT_BYTES - 1,
            SEGMENT_BYTES,
            SEGMENT_BYTES * 2,
            all.len() - 1,
            all.len(),
            all.len() + 9,
        ] {
            let mut buf = vec![0; SEGMENT_BYTES + 3];
            let n = bytes.read_at(at as u64, &mut buf);
            assert_eq!(buf[..n], all[at.min(all.len())..(at + n).min(all.len())], "at {at}");
            assert_eq!(n, buf.len().min(all.len().saturating_sub(at)));
        }
        assert_eq!(bytes.read_at(u64::MAX, &mut [0]), 0);
        for len in [all.len() + 1, SEGMENT_BYTES * 2 + 5, SEGMENT_BYTES * 2, SEGMENT_BYTES - 1, 0] {
            bytes.truncate(len as u64);
            let len = len.min(all.len());
            let mut buf = vec![0; all.len()];
            assert_eq!((bytes.len, bytes.read_at(0, &mut buf)), (len as u64, len));
            assert_eq!(buf[..len], all[..len]);
        }
    }

    #[test]
    fn a_small_file_stays_small() {
        let mut bytes = Bytes::default();
        bytes.push(b"b3:");
        assert_eq!(bytes.segments[0].capacity(), SEGMENT_BYTES_MIN);
    }
}
