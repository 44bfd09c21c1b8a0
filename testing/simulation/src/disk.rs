//! A disk that loses what was not synced: torn tails, holes, names that did not reach it, and death at any write.
//!
//! Names are a journal in order, as ext4 and XFS keep it: a crash takes a suffix of it. Bytes behind the last sync
//! of a file survive up to a random length, with random holes.

use crate::world::World;
use rewarder_model::world::Entropy;
use rewarder_model::world::disk::{Disk, Entry, Guard, ReadAt, WriteFile};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bytes that reach the medium together.
const SECTOR: usize = 64;

#[derive(Clone)]
enum Node {
    Dir,
    File(usize),
}

#[derive(Default)]
struct File {
    live: Vec<u8>,
    synced: usize,
}

type Names = BTreeMap<PathBuf, Node>;

#[derive(Default)]
struct Medium {
    files: Vec<File>,
    names: Names,
    /// The names after each change since they were last synced, the synced ones first.
    journal: Vec<Names>,
    locks: u64,
    /// The machine dies at the operation that brings this to 0.
    fuse: Option<u64>,
    boots: u64,
    failing: bool,
    faults: u64,
}

/// The medium, which outlives the service.
#[derive(Clone)]
pub struct SimDisk {
    medium: Arc<Mutex<Medium>>,
    world: World,
    boot: u64,
}

fn missing() -> io::Error {
    io::ErrorKind::NotFound.into()
}

impl SimDisk {
    /// An empty one.
    pub fn new(world: World) -> Self {
        let medium = Medium { journal: vec![Names::new()], ..Medium::default() };
        Self { medium: Arc::new(Mutex::new(medium)), world, boot: 0 }
    }

    fn medium(&self) -> MutexGuard<'_, Medium> {
        self.medium.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The machine dies `n` operations from now; whether writes may fail until then.
    pub fn arm(&self, fuse: Option<u64>, failing: bool) {
        let mut medium = self.medium();
        medium.fuse = fuse;
        medium.failing = failing;
    }

    /// Whether the fuse has burnt down.
    pub fn is_dead(&self) -> bool {
        self.medium().fuse == Some(0)
    }

    /// I/O errors given so far.
    pub fn faults(&self) -> u64 {
        self.medium().faults
    }

    /// The disk after a crash; what the old service still holds of it is dead.
    pub fn reboot(&self) -> Self {
        let mut guard = self.medium();
        let medium = &mut *guard;
        let kept = usize::try_from(self.world.below(medium.journal.len() as u64)).unwrap_or(0);
        medium.names = medium.journal[kept].clone();
        medium.journal = vec![medium.names.clone()];
        for file in &mut medium.files {
            let tail = file.live.len() - file.synced;
            let keep = usize::try_from(self.world.below(tail as u64 + 1)).unwrap_or(0);
            file.live.truncate(file.synced + keep);
            for sector in file.live[file.synced..].chunks_mut(SECTOR) {
                if self.world.one_in(4) {
                    sector.fill(0);
                }
            }
            file.synced = file.live.len();
        }
        medium.boots += 1;
        medium.locks = 0;
        medium.fuse = None;
        let boot = medium.boots;
        drop(guard);
        Self { boot, ..self.clone() }
    }

    /// What every operation goes through.
    fn enter(&self, may_fail: bool) -> io::Result<MutexGuard<'_, Medium>> {
        let mut medium = self.medium();
        if medium.boots != self.boot || medium.fuse == Some(0) {
            return Err(io::Error::other("the machine is down"));
        }
        if let Some(fuse) = &mut medium.fuse {
            *fuse -= 1;
            if *fuse == 0 {
                return Err(io::Error::other("the machine is down"));
            }
        }
        if may_fail && medium.failing && self.world.one_in(40) {
            medium.faults += 1;
            let kind = if self.world.one_in(2) { io::ErrorKind::StorageFull } else { io::ErrorKind::Other };
            return Err(kind.into());
        }
        Ok(medium)
    }
}

impl Medium {
    fn file(&self, path: &Path) -> io::Result<usize> {
        match self.names.get(path) {
            Some(Node::File(file)) => Ok(*file),
            _ => Err(missing()),
        }
    }

    fn insert(&mut self, path: &Path, node: Node) -> io::Result<()> {
        let parent = path.parent().unwrap_or(Path::new(""));
        if parent != Path::new("") && !matches!(self.names.get(parent), Some(Node::Dir)) {
            return Err(missing());
        }
        if self.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.names.insert(path.to_owned(), node);
        self.journal.push(self.names.clone());
        Ok(())
    }
}

struct Writer(SimDisk, usize);

impl WriteFile for Writer {
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        let part = usize::try_from(self.0.world.below(bytes.len() as u64 + 1)).unwrap_or(0);
        let entered = self.0.enter(true);
        let failed = match entered {
            Ok(mut medium) => {
                medium.files[self.1].live.extend_from_slice(bytes);
                return Ok(());
            }
            Err(error) => error,
        };
        // A failed write may have written some of it.
        let mut medium = self.0.medium();
        if medium.boots == self.0.boot {
            medium.files[self.1].live.extend_from_slice(&bytes[..part]);
        }
        Err(failed)
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut medium = self.0.enter(true)?;
        let file = &mut medium.files[self.1];
        file.synced = file.live.len();
        Ok(())
    }
}

struct Reader(Vec<u8>);

impl ReadAt for Reader {
    fn len(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let rest = usize::try_from(offset).ok().and_then(|at| self.0.get(at..)).unwrap_or_default();
        let n = rest.len().min(buf.len());
        buf[..n].copy_from_slice(&rest[..n]);
        Ok(n)
    }
}

struct Unlock(SimDisk);

impl Drop for Unlock {
    fn drop(&mut self) {
        let mut medium = self.0.medium();
        if medium.boots == self.0.boot {
            medium.locks = 0;
        }
    }
}

impl Disk for SimDisk {
    fn make_dir(&self, path: &Path) -> io::Result<()> {
        self.enter(false)?.insert(path, Node::Dir)
    }

    fn create_new(&self, path: &Path) -> io::Result<Box<dyn WriteFile>> {
        let mut medium = self.enter(false)?;
        let id = medium.files.len();
        medium.insert(path, Node::File(id))?;
        medium.files.push(File::default());
        Ok(Box::new(Writer(self.clone(), id)))
    }

    fn append(&self, path: &Path) -> io::Result<Box<dyn WriteFile>> {
        let id = self.enter(false)?.file(path)?;
        Ok(Box::new(Writer(self.clone(), id)))
    }

    fn truncate(&self, path: &Path, len: u64) -> io::Result<()> {
        let mut medium = self.enter(true)?;
        let id = medium.file(path)?;
        let file = &mut medium.files[id];
        file.live.truncate(usize::try_from(len).unwrap_or(usize::MAX));
        file.synced = file.live.len();
        Ok(())
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn ReadAt>> {
        let medium = self.enter(false)?;
        let id = medium.file(path)?;
        Ok(Arc::new(Reader(medium.files[id].live.clone())))
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut medium = self.enter(false)?;
        let id = medium.file(from)?;
        medium.insert(to, Node::File(id))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut medium = self.enter(false)?;
        let id = medium.file(from)?;
        medium.names.remove(from);
        medium.names.insert(to.to_owned(), Node::File(id));
        let names = medium.names.clone();
        medium.journal.push(names);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut medium = self.enter(false)?;
        if !medium.names.contains_key(path) {
            return Err(missing());
        }
        medium.names.retain(|name, _| !name.starts_with(path));
        let names = medium.names.clone();
        medium.journal.push(names);
        Ok(())
    }

    fn sync_dir(&self, _path: &Path) -> io::Result<()> {
        let mut medium = self.enter(false)?;
        medium.journal = vec![medium.names.clone()];
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<Entry>> {
        let medium = self.enter(false)?;
        let here = medium.names.iter().filter(|(name, _)| name.parent() == Some(path));
        Ok(here
            .filter_map(|(name, node)| {
                let name = name.file_name()?.to_str()?.to_owned();
                Some(match node {
                    Node::Dir => Entry { name, is_dir: true, len: 0 },
                    Node::File(id) => Entry { name, is_dir: false, len: medium.files[*id].live.len() as u64 },
                })
            })
            .collect())
    }

    fn file_len(&self, path: &Path) -> io::Result<Option<u64>> {
        let medium = self.enter(false)?;
        Ok(medium.file(path).ok().map(|id| medium.files[id].live.len() as u64))
    }

    fn try_lock(&self, path: &Path) -> io::Result<Option<Guard>> {
        match self.create_new(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let mut medium = self.enter(false)?;
        if medium.locks > 0 {
            return Ok(None);
        }
        medium.locks = 1;
        Ok(Some(Box::new(Unlock(self.clone()))))
    }
}
