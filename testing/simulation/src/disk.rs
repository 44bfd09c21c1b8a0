//! A disk that loses what was not synced: torn tails, holes, names that did not reach it, and death at any write. It
//! fails, it is full for a while, and now and then it changes a byte that it had promised to keep.
//!
//! Each directory reaches the medium by itself, in the order of its changes: a crash takes a suffix of that, whatever other
//! directories keep; only a rename is kept by both or by neither. That is less than ext4 and XFS promise. Bytes behind the last sync of a file
//! survive up to a random length, with random holes. After a failed sync of a file the bytes that it was to make durable
//! stay in doubt whatever is synced later, as Linux has it.

use crate::world::World;
use rewarder_model::world::disk::{Disk, Entry, Guard, ReadAt, WriteFile};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bytes that reach the medium together.
const SECTOR: usize = 64;
/// Of so many operations one fails, while the disk does.
const FAILS_ONE_IN: u64 = 40;

#[derive(Clone, Copy, PartialEq)]
enum Node {
    Dir(usize),
    File(usize),
}

#[derive(Default)]
struct File {
    live: Vec<u8>,
    /// As long as the file is, with zeros behind what was written.
    len: usize,
    synced: usize,
    /// What a failed sync has left in doubt.
    doubt: Vec<(usize, usize)>,
}

impl File {
    fn length(&self) -> usize {
        self.live.len().max(self.len)
    }
}

type Names = BTreeMap<String, Node>;

/// Names of one directory, given and taken away together.
struct Change {
    names: Vec<(String, Option<Node>)>,
    /// A rename between directories is one: what one of them keeps of it, the other keeps too.
    rename: Option<u64>,
}

#[derive(Default)]
struct Dir {
    live: Names,
    durable: Names,
    /// What happened to it since it was last synced.
    journal: Vec<Change>,
}

struct Medium {
    files: Vec<File>,
    /// The first is the root.
    dirs: Vec<Dir>,
    renames: u64,
    /// Files that are locked.
    locks: BTreeSet<usize>,
    /// The machine dies at the operation that brings this to 0.
    fuse: Option<u64>,
    boots: u64,
    failing: bool,
    full: bool,
    faults: BTreeMap<&'static str, u64>,
}

/// The medium, which outlives the service.
#[derive(Clone)]
pub struct SimDisk {
    medium: Arc<Mutex<Medium>>,
    world: World,
    boot: u64,
    root: &'static str,
}

fn missing() -> io::Error {
    io::ErrorKind::NotFound.into()
}

fn down() -> io::Error {
    io::Error::other("the machine is down")
}

fn apply(names: &mut Names, change: &Change) {
    for (name, node) in &change.names {
        match node {
            Some(node) => names.insert(name.clone(), *node),
            None => names.remove(name),
        };
    }
}

impl SimDisk {
    /// An empty one.
    pub fn new(world: World) -> Self {
        let medium = Medium {
            files: Vec::new(),
            dirs: vec![Dir::default()],
            renames: 0,
            locks: BTreeSet::new(),
            fuse: None,
            boots: 0,
            failing: false,
            full: false,
            faults: BTreeMap::new(),
        };
        Self { medium: Arc::new(Mutex::new(medium)), world, boot: 0, root: "" }
    }

    /// The same disk, seen from a directory that is there.
    pub fn below(&self, root: &'static str) -> Self {
        Self { root, ..self.clone() }
    }

    fn medium(&self) -> MutexGuard<'_, Medium> {
        self.medium.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The machine dies `n` operations from now; whether operations may fail until then.
    pub fn arm(&self, fuse: Option<u64>, failing: bool) {
        let mut medium = self.medium();
        medium.fuse = fuse;
        medium.failing = failing;
    }

    /// Whether there is room on it.
    pub fn fill(&self, full: bool) {
        let mut medium = self.medium();
        if full && !medium.full {
            *medium.faults.entry("disk full").or_default() += 1;
        }
        medium.full = full;
    }

    /// Whether the fuse has burnt down.
    pub fn is_dead(&self) -> bool {
        self.medium().fuse == Some(0)
    }

    /// Faults by kind so far.
    pub fn faults(&self) -> BTreeMap<&'static str, u64> {
        self.medium().faults.clone()
    }

    /// The bytes of a file as a process sees them, behind the disk's back.
    pub fn peek(&self, path: &str) -> Option<Vec<u8>> {
        let medium = self.medium();
        let file = medium.file("", Path::new(path)).ok()?;
        Some(medium.files[file].live.clone())
    }

    /// The disk after a crash; what the old service still holds of it is dead. `rot` changes a durable byte of the spool.
    pub fn reboot(&self, rot: bool) -> Self {
        let mut guard = self.medium();
        let medium = &mut *guard;
        let mut kept = Vec::new();
        for dir in &medium.dirs {
            let all = dir.journal.len();
            kept.push(if all == 0 {
                0
            } else {
                usize::try_from(self.world.below(all as u64 + 1)).unwrap_or(0)
            });
        }
        medium.keep(kept);
        for dir in &mut medium.dirs {
            if !dir.journal.is_empty() {
                *medium.faults.entry("names lost").or_default() += 1;
                dir.journal.clear();
                dir.live = dir.durable.clone();
            }
        }
        for file in &mut medium.files {
            let tail = file.live.len() - file.synced;
            if tail > 0 {
                let keep = usize::try_from(self.world.below(tail as u64 + 1)).unwrap_or(0);
                let lost = if keep < tail { "write torn" } else { "unsynced write kept" };
                *medium.faults.entry(lost).or_default() += 1;
                file.live.truncate(file.synced + keep);
                for sector in file.live[file.synced..].chunks_mut(SECTOR) {
                    if self.world.one_in(4) {
                        sector.fill(0);
                    }
                }
                file.synced = file.live.len();
            }
            for (from, to) in std::mem::take(&mut file.doubt) {
                let to = to.min(file.live.len());
                for sector in file.live[from.min(to)..to].chunks_mut(SECTOR) {
                    if self.world.one_in(4) {
                        *medium.faults.entry("write lost").or_default() += 1;
                        sector.fill(0);
                    }
                }
            }
        }
        if rot
            && let Some(Node::Dir(spool)) = medium.dirs[0].live.get("spool")
            && let Some(Node::File(id)) = medium.dirs[*spool]
                .live
                .iter()
                .rfind(|(name, _)| name.ends_with(".log"))
                .map(|(_, node)| *node)
            && let Some(file) = medium.files.get_mut(id).filter(|file| !file.live.is_empty())
        {
            let at = usize::try_from(self.world.below(file.live.len() as u64)).unwrap_or(0);
            file.live[at] ^= 1 << self.world.below(8);
            *medium.faults.entry("bit rot").or_default() += 1;
        }
        medium.boots += 1;
        medium.locks.clear();
        medium.fuse = None;
        let boot = medium.boots;
        drop(guard);
        Self { boot, ..self.clone() }
    }

    /// What every operation goes through; one that `takes` room fails on a full disk.
    fn enter(&self, may_fail: bool, takes: bool) -> io::Result<MutexGuard<'_, Medium>> {
        let mut guard = self.medium();
        let medium = &mut *guard;
        if medium.boots != self.boot || medium.fuse == Some(0) {
            return Err(down());
        }
        if let Some(fuse) = &mut medium.fuse {
            *fuse -= 1;
            if *fuse == 0 {
                return Err(down());
            }
        }
        if takes && medium.full {
            return Err(io::ErrorKind::StorageFull.into());
        }
        if may_fail && medium.failing && self.world.one_in(FAILS_ONE_IN) {
            *medium.faults.entry("I/O error").or_default() += 1;
            let kind =
                if takes && self.world.one_in(2) { io::ErrorKind::StorageFull } else { io::ErrorKind::Other };
            return Err(kind.into());
        }
        Ok(guard)
    }
}

impl Medium {
    /// The directory that this path names.
    fn dir<'a>(&self, mut names: impl Iterator<Item = &'a str>) -> io::Result<usize> {
        names.try_fold(0, |dir, name| match self.dirs[dir].live.get(name) {
            Some(Node::Dir(id)) => Ok(*id),
            _ => Err(missing()),
        })
    }

    /// The directory in which the last name of this path is, and that name.
    fn at<'a>(&self, root: &str, path: &'a Path) -> io::Result<(usize, &'a str)> {
        let path = path.to_str().unwrap_or_default();
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        Ok((self.dir(names(root).chain(names(parent)))?, name))
    }

    fn file(&self, root: &str, path: &Path) -> io::Result<usize> {
        let (dir, name) = self.at(root, path)?;
        match self.dirs[dir].live.get(name) {
            Some(Node::File(file)) => Ok(*file),
            _ => Err(missing()),
        }
    }

    fn change(&mut self, dir: usize, names: Vec<(String, Option<Node>)>, rename: Option<u64>) {
        let change = Change { names, rename };
        apply(&mut self.dirs[dir].live, &change);
        self.dirs[dir].journal.push(change);
    }

    /// Makes the first so many changes of each directory durable, and those that renames bring with them.
    fn keep(&mut self, mut kept: Vec<usize>) {
        loop {
            let renames: BTreeSet<u64> = (self.dirs.iter().zip(&kept))
                .flat_map(|(dir, kept)| dir.journal[..*kept].iter().filter_map(|change| change.rename))
                .collect();
            let mut more = false;
            for (dir, kept) in self.dirs.iter().zip(&mut kept) {
                let of = |change: &Change| change.rename.is_some_and(|rename| renames.contains(&rename));
                let brought = dir.journal.iter().rposition(of).map_or(0, |at| at + 1);
                more |= brought > *kept;
                *kept = brought.max(*kept);
            }
            if !more {
                break;
            }
        }
        for (dir, kept) in self.dirs.iter_mut().zip(kept) {
            for change in dir.journal.drain(..kept) {
                apply(&mut dir.durable, &change);
            }
        }
    }

    fn insert(&mut self, root: &str, path: &Path, node: Node) -> io::Result<()> {
        let (dir, name) = self.at(root, path)?;
        if self.dirs[dir].live.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.change(dir, vec![(name.to_owned(), Some(node))], None);
        Ok(())
    }

    /// Removes a name, after all that is below it.
    fn remove(&mut self, dir: usize, name: &str) {
        if let Some(Node::Dir(below)) = self.dirs[dir].live.get(name).copied() {
            let names: Vec<_> = self.dirs[below].live.keys().cloned().collect();
            names.iter().for_each(|name| self.remove(below, name));
        }
        self.change(dir, vec![(name.to_owned(), None)], None);
    }
}

/// The names of a path.
fn names(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter(|name| !name.is_empty())
}

struct Writer(SimDisk, usize);

impl WriteFile for Writer {
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        let part = usize::try_from(self.0.world.below(bytes.len() as u64 + 1)).unwrap_or(0);
        let failed = match self.0.enter(true, true) {
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

    fn preallocate(&mut self, len: u64) -> io::Result<()> {
        let mut medium = self.0.enter(true, true)?;
        let file = &mut medium.files[self.1];
        file.len = file.live.len() + usize::try_from(len).unwrap_or(0);
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        match self.0.enter(true, false) {
            Ok(mut medium) => {
                let file = &mut medium.files[self.1];
                file.synced = file.live.len();
                Ok(())
            }
            Err(error) => {
                let mut medium = self.0.medium();
                if medium.boots == self.0.boot && medium.fuse != Some(0) {
                    let file = &mut medium.files[self.1];
                    file.doubt.push((file.synced, file.live.len()));
                }
                Err(error)
            }
        }
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

struct Unlock(SimDisk, usize);

impl Drop for Unlock {
    fn drop(&mut self) {
        let mut medium = self.0.medium();
        if medium.boots == self.0.boot {
            medium.locks.remove(&self.1);
        }
    }
}

impl Disk for SimDisk {
    fn make_dir(&self, path: &Path) -> io::Result<()> {
        let mut medium = self.enter(true, true)?;
        let id = medium.dirs.len();
        medium.insert(self.root, path, Node::Dir(id))?;
        medium.dirs.push(Dir::default());
        Ok(())
    }

    fn create_new(&self, path: &Path) -> io::Result<Box<dyn WriteFile>> {
        let mut medium = self.enter(true, true)?;
        let id = medium.files.len();
        medium.insert(self.root, path, Node::File(id))?;
        medium.files.push(File::default());
        Ok(Box::new(Writer(self.clone(), id)))
    }

    fn append(&self, path: &Path) -> io::Result<Box<dyn WriteFile>> {
        let id = self.enter(false, false)?.file(self.root, path)?;
        Ok(Box::new(Writer(self.clone(), id)))
    }

    fn truncate(&self, path: &Path, len: u64) -> io::Result<()> {
        let mut medium = self.enter(true, false)?;
        let id = medium.file(self.root, path)?;
        let file = &mut medium.files[id];
        file.live.truncate(usize::try_from(len).unwrap_or(usize::MAX));
        file.len = 0;
        file.synced = file.live.len();
        for (_, to) in &mut file.doubt {
            *to = file.synced.min(*to);
        }
        Ok(())
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn ReadAt>> {
        let medium = self.enter(false, false)?;
        let file = &medium.files[medium.file(self.root, path)?];
        let mut bytes = file.live.clone();
        bytes.resize(file.length(), 0);
        Ok(Arc::new(Reader(bytes)))
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut medium = self.enter(true, true)?;
        let id = medium.file(self.root, from)?;
        medium.insert(self.root, to, Node::File(id))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut medium = self.enter(true, false)?;
        let ((from_dir, from), (to_dir, to)) = (medium.at(self.root, from)?, medium.at(self.root, to)?);
        let node = *medium.dirs[from_dir].live.get(from).ok_or_else(missing)?;
        match (node, medium.dirs[to_dir].live.get(to)) {
            (Node::Dir(_), Some(_)) => return Err(io::ErrorKind::AlreadyExists.into()),
            (Node::File(_), Some(Node::Dir(_))) => return Err(io::ErrorKind::IsADirectory.into()),
            _ => {}
        }
        let (gone, here) = ((from.to_owned(), None), (to.to_owned(), Some(node)));
        if from_dir == to_dir {
            medium.change(to_dir, vec![gone, here], None);
        } else {
            medium.renames += 1;
            let rename = Some(medium.renames);
            medium.change(to_dir, vec![here], rename);
            medium.change(from_dir, vec![gone], rename);
        }
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut medium = self.enter(true, false)?;
        let (dir, name) = medium.at(self.root, path)?;
        if !medium.dirs[dir].live.contains_key(name) {
            return Err(missing());
        }
        medium.remove(dir, name);
        Ok(())
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut medium = self.enter(true, false)?;
        let path = path.to_str().unwrap_or_default();
        let id = medium.dir(names(self.root).chain(names(path)))?;
        let mut kept = vec![0; medium.dirs.len()];
        kept[id] = medium.dirs[id].journal.len();
        medium.keep(kept);
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<Entry>> {
        let medium = self.enter(false, false)?;
        let path = path.to_str().unwrap_or_default();
        let id = medium.dir(names(self.root).chain(names(path)))?;
        let entry = |(name, node): (&String, &Node)| {
            let (name, is_dir) = (name.clone(), matches!(node, Node::Dir(_)));
            let len = if let Node::File(id) = node { medium.files[*id].length() as u64 } else { 0 };
            Entry { name, is_dir, len }
        };
        Ok(medium.dirs[id].live.iter().map(entry).collect())
    }

    fn file_len(&self, path: &Path) -> io::Result<Option<u64>> {
        let medium = self.enter(false, false)?;
        Ok(medium.file(self.root, path).ok().map(|id| medium.files[id].length() as u64))
    }

    fn try_lock(&self, path: &Path) -> io::Result<Option<Guard>> {
        match self.create_new(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let mut medium = self.enter(false, false)?;
        let id = medium.file(self.root, path)?;
        if !medium.locks.insert(id) {
            return Ok(None);
        }
        Ok(Some(Box::new(Unlock(self.clone(), id))))
    }
}
