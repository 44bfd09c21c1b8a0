//! A disk that loses what was not synced: torn tails, holes, names that did not reach it, and death at any write. It
//! fails, it is full for a while, and now and then it changes a byte that it had promised to keep.
//!
//! Names are a journal in order, as ext4 and XFS keep it: a crash takes a suffix of it. Bytes behind the last sync of a
//! file survive up to a random length, with random holes. After a failed sync of a file the bytes that it was to make
//! durable stay in doubt whatever is synced later, as Linux has it.

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
    Dir,
    File(usize),
}

#[derive(Default)]
struct File {
    live: Vec<u8>,
    synced: usize,
    /// What a failed sync has left in doubt.
    doubt: Vec<(usize, usize)>,
}

type Names = BTreeMap<String, Node>;
/// Names given and taken away together.
type Change = Vec<(String, Option<Node>)>;

#[derive(Default)]
struct Medium {
    files: Vec<File>,
    names: Names,
    durable: Names,
    /// What happened to names since they were last synced.
    journal: Vec<Change>,
    locks: BTreeSet<String>,
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
    for (name, node) in change {
        match node {
            Some(node) => names.insert(name.clone(), *node),
            None => names.remove(name),
        };
    }
}

impl SimDisk {
    /// An empty one.
    pub fn new(world: World) -> Self {
        Self { medium: Arc::default(), world, boot: 0, root: "" }
    }

    /// The same disk, seen from a directory that is there.
    pub fn below(&self, root: &'static str) -> Self {
        Self { root, ..self.clone() }
    }

    fn medium(&self) -> MutexGuard<'_, Medium> {
        self.medium.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn name(&self, path: &Path) -> String {
        let path = path.to_str().unwrap_or_default();
        match (self.root, path) {
            ("", _) => path.to_owned(),
            (root, "") => root.to_owned(),
            (root, _) => format!("{root}/{path}"),
        }
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
    pub fn peek(&self, name: &str) -> Option<Vec<u8>> {
        let medium = self.medium();
        match medium.names.get(name) {
            Some(Node::File(id)) => Some(medium.files[*id].live.clone()),
            _ => None,
        }
    }

    /// The disk after a crash; what the old service still holds of it is dead. `rot` changes a durable byte of the spool.
    pub fn reboot(&self, rot: bool) -> Self {
        let mut guard = self.medium();
        let medium = &mut *guard;
        let kept = usize::try_from(self.world.below(medium.journal.len() as u64 + 1)).unwrap_or(0);
        for change in &medium.journal[..kept] {
            apply(&mut medium.durable, change);
        }
        if kept < medium.journal.len() {
            *medium.faults.entry("names lost").or_default() += 1;
        }
        medium.journal.clear();
        medium.names = medium.durable.clone();
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
        if rot {
            let spool = medium.names.iter().filter(|(name, _)| name.ends_with(".log"));
            let files: Vec<_> = spool
                .filter_map(|(_, node)| if let Node::File(id) = node { Some(*id) } else { None })
                .collect();
            if let Some(file) =
                files.last().and_then(|id| medium.files.get_mut(*id)).filter(|file| !file.live.is_empty())
            {
                let at = usize::try_from(self.world.below(file.live.len() as u64)).unwrap_or(0);
                file.live[at] ^= 1 << self.world.below(8);
                *medium.faults.entry("bit rot").or_default() += 1;
            }
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
    fn file(&self, name: &str) -> io::Result<usize> {
        match self.names.get(name) {
            Some(Node::File(file)) => Ok(*file),
            _ => Err(missing()),
        }
    }

    fn change(&mut self, change: Change) {
        apply(&mut self.names, &change);
        self.journal.push(change);
    }

    fn insert(&mut self, name: String, node: Node) -> io::Result<()> {
        if let Some((parent, _)) = name.rsplit_once('/')
            && self.names.get(parent) != Some(&Node::Dir)
        {
            return Err(missing());
        }
        if self.names.contains_key(&name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.change(vec![(name, Some(node))]);
        Ok(())
    }

    /// A name and all that is below it.
    fn tree(&self, name: &str) -> Vec<(String, Node)> {
        let below = format!("{name}/");
        let own = self.names.get(name).map(|node| (name.to_owned(), *node));
        let rest = self.names.range(below.clone()..).take_while(|(name, _)| name.starts_with(&below));
        own.into_iter().chain(rest.map(|(name, node)| (name.clone(), *node))).collect()
    }
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

struct Unlock(SimDisk, String);

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
        self.enter(true, true)?.insert(self.name(path), Node::Dir)
    }

    fn create_new(&self, path: &Path) -> io::Result<Box<dyn WriteFile>> {
        let mut medium = self.enter(true, true)?;
        let id = medium.files.len();
        medium.insert(self.name(path), Node::File(id))?;
        medium.files.push(File::default());
        Ok(Box::new(Writer(self.clone(), id)))
    }

    fn append(&self, path: &Path) -> io::Result<Box<dyn WriteFile>> {
        let id = self.enter(false, false)?.file(&self.name(path))?;
        Ok(Box::new(Writer(self.clone(), id)))
    }

    fn truncate(&self, path: &Path, len: u64) -> io::Result<()> {
        let mut medium = self.enter(true, false)?;
        let id = medium.file(&self.name(path))?;
        let file = &mut medium.files[id];
        file.live.truncate(usize::try_from(len).unwrap_or(usize::MAX));
        file.synced = file.live.len();
        for (_, to) in &mut file.doubt {
            *to = file.synced.min(*to);
        }
        Ok(())
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn ReadAt>> {
        let medium = self.enter(false, false)?;
        let id = medium.file(&self.name(path))?;
        Ok(Arc::new(Reader(medium.files[id].live.clone())))
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut medium = self.enter(true, true)?;
        let id = medium.file(&self.name(from))?;
        medium.insert(self.name(to), Node::File(id))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut medium = self.enter(true, false)?;
        let (from, to) = (self.name(from), self.name(to));
        let tree = medium.tree(&from);
        match (tree.first().map(|(_, node)| *node), medium.names.get(&to)) {
            (None, _) => return Err(missing()),
            (Some(Node::Dir), Some(_)) => return Err(io::ErrorKind::AlreadyExists.into()),
            (Some(Node::File(_)), Some(Node::Dir)) => return Err(io::ErrorKind::IsADirectory.into()),
            _ => {}
        }
        let mut change: Change = tree.iter().map(|(name, _)| (name.clone(), None)).collect();
        change.extend(
            tree.into_iter().map(|(name, node)| (format!("{to}{}", &name[from.len()..]), Some(node))),
        );
        medium.change(change);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut medium = self.enter(true, false)?;
        let name = self.name(path);
        let tree = medium.tree(&name);
        if tree.is_empty() {
            return Err(missing());
        }
        medium.change(tree.into_iter().map(|(name, _)| (name, None)).collect());
        Ok(())
    }

    fn sync_dir(&self, _path: &Path) -> io::Result<()> {
        let mut guard = self.enter(true, false)?;
        let medium = &mut *guard;
        for change in medium.journal.drain(..) {
            apply(&mut medium.durable, &change);
        }
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<Entry>> {
        let medium = self.enter(false, false)?;
        let name = self.name(path);
        if !name.is_empty() && medium.names.get(&name) != Some(&Node::Dir) {
            return Err(missing());
        }
        let below = if name.is_empty() { name } else { format!("{name}/") };
        let names = medium.names.range(below.clone()..).take_while(|(name, _)| name.starts_with(&below));
        Ok(names
            .filter_map(|(name, node)| {
                let name = name[below.len()..].to_owned();
                (!name.contains('/')).then(|| match node {
                    Node::Dir => Entry { name, is_dir: true, len: 0 },
                    Node::File(id) => Entry { name, is_dir: false, len: medium.files[*id].live.len() as u64 },
                })
            })
            .collect())
    }

    fn file_len(&self, path: &Path) -> io::Result<Option<u64>> {
        let medium = self.enter(false, false)?;
        Ok(medium.file(&self.name(path)).ok().map(|id| medium.files[id].live.len() as u64))
    }

    fn try_lock(&self, path: &Path) -> io::Result<Option<Guard>> {
        match self.create_new(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let name = self.name(path);
        if !self.enter(false, false)?.locks.insert(name.clone()) {
            return Ok(None);
        }
        Ok(Some(Box::new(Unlock(self.clone(), name))))
    }
}
