//! What a run left behind: named parts, written once and together, and a delivery record that changes later.
//!
//! The law: a run is there with all its parts or not at all — they are written and fsynced in a directory of
//! their own, which is then renamed to the run's name. A run key determines the manifest, so a second
//! `put_run` under the same key is the same run, and one with another manifest is refused as a fault of ours.
//! Only the delivery record is ever replaced, and it is not refused for want of space: when it is written,
//! money has moved.

use crate::disk::WriteFile;
use crate::error::StoreError;
use crate::object::Object;
use crate::space::Charge;
use crate::store::{RUNS, Store};
use rewarder_model::{Cid, EpochId, TenantId};
use std::collections::BTreeSet;
use std::fmt;
use std::io::{self, Write};
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};

/// Longest name of a part.
pub const PART_NAME_BYTES_MAX: usize = 64;
/// The part whose bytes the run key determines.
pub const MANIFEST: &str = "manifest.json";
/// The part that is replaced; no one may write it with the others.
pub const DELIVERY: &str = "delivery.json";
/// Largest delivery record: it holds a ledger's answer and a few times.
const DELIVERY_BYTES_MAX: usize = 64 * 1024;
/// Largest manifest that is compared: several times what its fields can add up to.
const MANIFEST_BYTES_MAX: u64 = 64 * 1024;

/// Writes one part; it is called once.
pub type PartWriter<'a> = dyn FnMut(&mut (dyn Write + Send)) -> io::Result<()> + Send + 'a;

/// Where the bytes of a part come from.
pub enum Part<'a> {
    /// They are here.
    Bytes(&'a [u8]),
    /// They are made while they are written, so that a large table need not be in memory.
    Write(&'a mut PartWriter<'a>),
}

impl fmt::Debug for Part<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => write!(f, "Bytes({})", bytes.len()),
            Self::Write(_) => f.write_str("Write"),
        }
    }
}

/// What became of a run that was put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// It is new.
    Created,
    /// It was there, with the same manifest.
    Existing,
}

fn run_path(tenant: &TenantId, run_key: &Cid) -> PathBuf {
    Path::new(RUNS).join(tenant.as_str()).join(run_key.hex())
}

fn check_part_name(name: &str) -> Result<(), StoreError> {
    let bytes = name.as_bytes();
    let good = (1..=PART_NAME_BYTES_MAX).contains(&bytes.len())
        && bytes[0].is_ascii_alphanumeric()
        && bytes.iter().all(|c| matches!(c, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-'))
        && name != DELIVERY;
    if good { Ok(()) } else { Err(StoreError::PartName(name.chars().take(PART_NAME_BYTES_MAX).collect())) }
}

impl Store {
    /// Stores a run with all its parts, and makes it the epoch's latest. The parts' writers run beside each
    /// other, each on a thread of its own.
    ///
    /// # Errors
    /// [`StoreError::Full`], [`StoreError::RunDiffers`], [`StoreError::PartName`], or the disk's; nothing is
    /// stored then.
    pub fn put_run(
        &self,
        tenant: &TenantId,
        epoch: &EpochId,
        run_key: &Cid,
        parts: &mut [(&str, Part<'_>)],
    ) -> Result<Put, StoreError> {
        let mut names = BTreeSet::new();
        for (name, _) in &*parts {
            check_part_name(name)?;
            if !names.insert(*name) {
                return Err(StoreError::PartName((*name).to_owned()));
            }
        }
        let put = match self.stored_run_is_the_same(tenant, run_key, parts)? {
            true => Put::Existing,
            false => self.write_run(tenant, run_key, parts)?,
        };
        self.make_latest(tenant, epoch, run_key)?;
        Ok(put)
    }

    fn write_run(
        &self,
        tenant: &TenantId,
        run_key: &Cid,
        parts: &mut [(&str, Part<'_>)],
    ) -> Result<Put, StoreError> {
        let inner = &self.0;
        let dir = inner.session.name();
        inner.disk.make_dir(dir.path()).map_err(inner.io("make the directory", dir.path()))?;
        // Beside each other: the large parts are made while they are written, and each waits for the disk.
        let written = std::thread::scope(|scope| {
            let (first, others) = match parts.split_last_mut() {
                Some((last, others)) => (Some(last), others),
                None => (None, &mut [][..]),
            };
            let threads: Vec<_> = others
                .iter_mut()
                .map(|(name, part)| scope.spawn(|| self.write_part(dir.path(), name, part)))
                .collect();
            let first = first.map(|(name, part)| self.write_part(dir.path(), name, part));
            let others =
                threads.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)));
            others.chain(first).collect::<Result<Vec<_>, _>>()
        })?;
        inner.sync(dir.path())?;
        let runs = Path::new(RUNS).join(tenant.as_str());
        inner.dir(&runs)?;
        let path = run_path(tenant, run_key);
        let new = match inner.disk.rename(dir.path(), &path) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
            Err(error) => return Err(inner.io("name", &path)(error)),
        };
        inner.sync(&runs)?;
        if new {
            written.into_iter().for_each(|(charge, len)| charge.keep(len));
            return Ok(Put::Created);
        }
        self.stored_run_is_the_same(tenant, run_key, parts)?;
        Ok(Put::Existing)
    }

    /// Writes one part, durable when it returns; what it takes of the store's space, and its length.
    fn write_part(&self, dir: &Path, name: &str, part: &mut Part<'_>) -> Result<(Charge, u64), StoreError> {
        let inner = &self.0;
        let path = dir.join(name);
        let file = inner.disk.create_new(&path).map_err(inner.io("create", &path))?;
        let mut charge = Charge::new(&inner.space, 0)?;
        let mut out = Counted { file, charge: &mut charge, len: 0, refused: None };
        let written = match part {
            Part::Bytes(bytes) => out.write_all(bytes),
            Part::Write(write) => write(&mut out),
        };
        if let Some(error) = out.refused.take() {
            return Err(error);
        }
        written.and_then(|()| out.file.sync()).map_err(inner.io("write", &path))?;
        let len = out.len;
        Ok((charge, len))
    }

    /// False if there is no such run; an error if there is one with another manifest.
    fn stored_run_is_the_same(
        &self,
        tenant: &TenantId,
        run_key: &Cid,
        parts: &[(&str, Part<'_>)],
    ) -> Result<bool, StoreError> {
        let Some(run) = self.run(tenant, run_key)? else { return Ok(false) };
        let ours = parts.iter().find_map(|(name, part)| match part {
            Part::Bytes(bytes) if *name == MANIFEST => Some(*bytes),
            _ => None,
        });
        let theirs = run.part(MANIFEST)?.map(|part| part.read_all(MANIFEST_BYTES_MAX)).transpose();
        let theirs = theirs.map_err(self.0.io("read", &run.path))?;
        match (ours, theirs) {
            (Some(ours), Some(theirs)) if ours != theirs => Err(StoreError::RunDiffers { run_key: *run_key }),
            _ => {
                // Whoever made it may not have come to its fsync yet.
                self.0.sync(&Path::new(RUNS).join(tenant.as_str()))?;
                Ok(true)
            }
        }
    }

    /// A tenant's run.
    ///
    /// # Errors
    /// The disk's.
    pub fn run(&self, tenant: &TenantId, run_key: &Cid) -> Result<Option<Run>, StoreError> {
        let path = run_path(tenant, run_key);
        match self.0.disk.list(&path) {
            Ok(_) => Ok(Some(Run { store: self.clone(), path, run_key: *run_key })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.0.io("look at", &path)(error)),
        }
    }

    /// Replaces a run's delivery record.
    ///
    /// # Errors
    /// [`StoreError::NoRun`], [`StoreError::DeliveryTooBig`], or the disk's.
    pub fn set_delivery(&self, tenant: &TenantId, run_key: &Cid, json: &[u8]) -> Result<(), StoreError> {
        let inner = &self.0;
        if json.len() > DELIVERY_BYTES_MAX {
            return Err(StoreError::DeliveryTooBig { len: json.len(), limit: DELIVERY_BYTES_MAX });
        }
        let Some(run) = self.run(tenant, run_key)? else {
            return Err(StoreError::NoRun { run_key: *run_key });
        };
        let path = run.path.join(DELIVERY);
        let before = inner.disk.file_len(&path).map_err(inner.io("look at", &path))?.unwrap_or(0);
        let file = inner.small_file(json)?;
        inner.replace(&file, &path)?;
        inner.space.force(json.len() as u64);
        inner.space.release(before);
        Ok(())
    }
}

/// A stored run.
#[derive(Clone)]
pub struct Run {
    store: Store,
    path: PathBuf,
    run_key: Cid,
}

impl Run {
    /// Its key.
    pub fn run_key(&self) -> &Cid {
        &self.run_key
    }

    /// The names of its parts, sorted.
    ///
    /// # Errors
    /// The disk's.
    pub fn parts(&self) -> Result<Vec<String>, StoreError> {
        let entries = self.store.0.disk.list(&self.path).map_err(self.store.0.io("list", &self.path))?;
        let mut names: Vec<_> =
            entries.into_iter().map(|entry| entry.name).filter(|name| name != DELIVERY).collect();
        names.sort_unstable();
        Ok(names)
    }

    /// A part, open for reading; `None` if the run has no part of that name.
    ///
    /// # Errors
    /// The disk's.
    pub fn part(&self, name: &str) -> Result<Option<Object>, StoreError> {
        // The name may come from a request: only names that could have been written are looked up.
        if check_part_name(name).is_err() { Ok(None) } else { self.open(name) }
    }

    /// The delivery record as it is now.
    ///
    /// # Errors
    /// The disk's.
    pub fn delivery(&self) -> Result<Option<Vec<u8>>, StoreError> {
        let Some(object) = self.open(DELIVERY)? else { return Ok(None) };
        let path = self.path.join(DELIVERY);
        object.read_all(DELIVERY_BYTES_MAX as u64).map(Some).map_err(self.store.0.io("read", &path))
    }

    fn open(&self, name: &str) -> Result<Option<Object>, StoreError> {
        let path = self.path.join(name);
        match self.store.0.disk.open(&path) {
            Ok(file) => Ok(Some(Object::new(file))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.store.0.io("open", &path)(error)),
        }
    }
}

impl fmt::Debug for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Run").field("run_key", &self.run_key).finish_non_exhaustive()
    }
}

/// Writes through to the disk while it takes the bytes from the store's space.
struct Counted<'c> {
    file: Box<dyn WriteFile>,
    charge: &'c mut Charge,
    len: u64,
    /// `io::Error` cannot carry our error without a downcast; it is kept here instead.
    refused: Option<StoreError>,
}

impl Write for Counted<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let len = self.len.saturating_add(buf.len() as u64);
        if let Err(error) = self.charge.cover(len) {
            self.refused = Some(error);
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.file.write_all(buf)?;
        self.len = len;
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
