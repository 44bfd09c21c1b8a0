//! Sealed objects: bytes under their own hash.
//!
//! ```text
//! writer(tenant, kind, cid, limit, declared)   takes the declared bytes from the store's space
//!   write(chunk)*                              hashes and writes under a temporary name
//! commit()                                     hash = cid?  fsync, link objects/{hex}, fsync dir,
//!                                              mark seen/{tenant}.{kind}/{hex}, fsync dir
//! ```
//!
//! The law: a tenant sees what it uploaded itself and nothing else. A second tenant's upload of bytes that
//! are there costs it exactly what the first one's did — the same space while it runs, the same writes, the
//! same fsyncs, the same answer — so that neither an answer nor a stopwatch tells what others have stored.
//! Only a repetition by the same tenant is cheap: it is hashed, not written, and it is answered even when the
//! store is full.
//!
//! Why a link and not a rename: a rename cannot say which of two twins came first, and the accounting needs
//! to know.

use crate::disk::WriteFile;
use crate::error::StoreError;
use crate::object::Object;
use crate::session::Temporary;
use crate::space::Charge;
use crate::store::{CORRUPT, Inner, OBJECTS, SEEN, Store};
use rewarder_model::{Cid, TenantId};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes read at once when a stored object is hashed again.
const REHASH_CHUNK_BYTES: usize = 128 * 1024;

/// An upload lets the disk begin each time that so many bytes have come: by its end most of them are durable, and what is left
/// takes a moment. Smaller parts would keep the disk busy with waiting.
const SYNC_EVERY_BYTES: u64 = 8 << 20;

/// What a tenant says the bytes are. The same bytes may be both; seeing them as one does not show them as the
/// other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// `rewarder.snapshot.v1`.
    Snapshot,
    /// `rewarder.policy.v1`.
    Policy,
}

impl Kind {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Snapshot => "snapshot",
            Self::Policy => "policy",
        }
    }
}

/// What an upload came to, as its tenant sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// This tenant's first (201).
    Created,
    /// This tenant had uploaded it before (200).
    Existing,
}

fn object_path(cid: &Cid) -> PathBuf {
    Path::new(OBJECTS).join(cid.hex())
}

fn seen_path(tenant: &TenantId, kind: Kind, cid: &Cid) -> PathBuf {
    // No tenant holds a dot, so that this name has one reading.
    Path::new(SEEN).join(format!("{tenant}.{}", kind.as_str())).join(cid.hex())
}

impl Store {
    /// Begins an upload. `limit` is the most bytes that an object of this kind may have; `declared_len` is
    /// what the sender says it will be, if it says so, and is taken from the store's space at once.
    ///
    /// # Errors
    /// [`StoreError::TooBig`], [`StoreError::Full`], or the disk's.
    pub fn writer(
        &self,
        tenant: &TenantId,
        kind: Kind,
        cid: Cid,
        limit: u64,
        declared_len: Option<u64>,
    ) -> Result<Writer, StoreError> {
        if declared_len.is_some_and(|len| len > limit) {
            return Err(StoreError::TooBig { limit });
        }
        let inner = self.0.clone();
        let sink = if self.contains(tenant, kind, &cid)? {
            None
        } else {
            let charge = Charge::new(&inner.space, declared_len.unwrap_or(0))?;
            let name = inner.session.name();
            let file = inner.disk.create_new(name.path()).map_err(inner.io("create", name.path()))?;
            Some(Sink { file, name, charge })
        };
        let hasher = blake3::Hasher::new();
        Ok(Writer { inner, tenant: tenant.clone(), kind, cid, limit, len: 0, hasher, sink })
    }

    /// Whether this tenant uploaded this object, and it is there.
    ///
    /// # Errors
    /// The disk's.
    pub fn contains(&self, tenant: &TenantId, kind: Kind, cid: &Cid) -> Result<bool, StoreError> {
        for path in [seen_path(tenant, kind, cid), object_path(cid)] {
            if self.0.disk.file_len(&path).map_err(self.0.io("look at", &path))?.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// An object that this tenant uploaded; `None` if it did not, whoever else did.
    ///
    /// # Errors
    /// The disk's.
    pub fn object(&self, tenant: &TenantId, kind: Kind, cid: &Cid) -> Result<Option<Object>, StoreError> {
        if !self.contains(tenant, kind, cid)? {
            return Ok(None);
        }
        self.0.open_object(cid)
    }

    /// Someone read bytes that are not those of `cid`. Hashes the stored ones again, and if they are wrong,
    /// sets them aside, so that the next upload stores good ones. True if something was set aside.
    ///
    /// The hash is taken again here because a report may be late: by then an upload may have healed the
    /// object.
    ///
    /// # Errors
    /// The disk's.
    pub fn quarantine_corrupt(&self, cid: &Cid) -> Result<bool, StoreError> {
        let inner = &self.0;
        let Some(object) = inner.open_object(cid)? else { return Ok(false) };
        // A disk that cannot even be read to the end is as bad as one that returns other bytes.
        if hash(&object).is_ok_and(|actual| actual == *cid) {
            return Ok(false);
        }
        inner.set_aside(cid)
    }
}

fn hash(object: &Object) -> io::Result<Cid> {
    let mut hasher = blake3::Hasher::new();
    let mut reader = object.reader();
    let mut buf = vec![0; REHASH_CHUNK_BYTES];
    loop {
        match reader.read(&mut buf)? {
            0 => return Ok(hasher.finalize().into()),
            n => hasher.update(&buf[..n]),
        };
    }
}

impl Inner {
    fn open_object(&self, cid: &Cid) -> Result<Option<Object>, StoreError> {
        let path = object_path(cid);
        match self.disk.open(&path) {
            Ok(file) => Ok(Some(Object::new(file))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.io("open", &path)(error)),
        }
    }

    fn set_aside(&self, cid: &Cid) -> Result<bool, StoreError> {
        let from = object_path(cid);
        let mut n = 0u32;
        let to = loop {
            let to = Path::new(CORRUPT).join(format!("{}.{n}", cid.hex()));
            if self.disk.file_len(&to).map_err(self.io("look at", &to))?.is_none() {
                break to;
            }
            n += 1;
        };
        match self.disk.rename(&from, &to) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(self.io("set aside", &from)(error)),
        }
        self.sync(Path::new(CORRUPT))?;
        self.sync(Path::new(OBJECTS))?;
        Ok(true)
    }
}

struct Sink {
    file: Box<dyn WriteFile>,
    name: Temporary,
    charge: Charge,
}

/// An upload under way. Dropped without [`Writer::commit`], it leaves nothing.
pub struct Writer {
    inner: Arc<Inner>,
    tenant: TenantId,
    kind: Kind,
    cid: Cid,
    limit: u64,
    len: u64,
    hasher: blake3::Hasher,
    /// `None`: this tenant has it already, and only the hash is wanted.
    sink: Option<Sink>,
}

impl Writer {
    /// Takes the next bytes.
    ///
    /// # Errors
    /// [`StoreError::TooBig`], [`StoreError::Full`], or the disk's; the upload is over then.
    pub fn write(&mut self, chunk: &[u8]) -> Result<(), StoreError> {
        let len = self.len.saturating_add(chunk.len() as u64);
        if len > self.limit {
            return Err(StoreError::TooBig { limit: self.limit });
        }
        if let Some(sink) = &mut self.sink {
            sink.charge.cover(len)?;
            let mut written = sink.file.write_all(chunk);
            if len / SYNC_EVERY_BYTES > self.len / SYNC_EVERY_BYTES {
                written = written.and_then(|()| sink.file.sync_soon());
            }
            written.map_err(self.inner.io("write", sink.name.path()))?;
        }
        self.hasher.update(chunk);
        self.len = len;
        Ok(())
    }

    /// Whether this tenant has the object already, so that nothing is written and no disk is waited for.
    pub fn only_verifies(&self) -> bool {
        self.sink.is_none()
    }

    /// Bytes taken so far.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether none were.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Ends the upload: all bytes are there, have the right hash, and are durable when this returns.
    ///
    /// # Errors
    /// [`StoreError::CidMismatch`], [`StoreError::SetAside`], or the disk's; nothing is stored then.
    pub fn commit(self) -> Result<Put, StoreError> {
        let Self { inner, tenant, kind, cid, len, hasher, sink, .. } = self;
        let actual = Cid::from(hasher.finalize());
        if actual != cid {
            return Err(StoreError::CidMismatch { named: cid, actual });
        }
        let path = object_path(&cid);
        let stored_len = |inner: &Inner| inner.disk.file_len(&path).map_err(inner.io("look at", &path));
        let Some(Sink { mut file, name, charge }) = sink else {
            // Good bytes passed by and a wrong length is on the disk: make room for the next upload to heal
            // it.
            return match stored_len(&inner)? {
                Some(stored) if stored == len => Ok(Put::Existing),
                Some(_) => inner.set_aside(&cid).and(Err(StoreError::SetAside)),
                None => Err(StoreError::SetAside),
            };
        };
        file.sync().map_err(inner.io("sync", name.path()))?;
        drop(file);
        if inner.link(&name, &path)? {
            charge.keep(len);
        } else if let Some(stored) = stored_len(&inner)?.filter(|stored| *stored != len) {
            // A crash that lost the end of a file, in spite of fsync, is healed on the spot.
            inner.replace(&name, &path)?;
            charge.keep(len);
            inner.space.release(stored);
        }
        let seen = seen_path(&tenant, kind, &cid);
        let dir = seen.parent().unwrap_or(Path::new(SEEN));
        inner.dir(dir)?;
        let put = match inner.disk.create_new(&seen) {
            Ok(_) => Put::Created,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Put::Existing,
            Err(error) => return Err(inner.io("mark", &seen)(error)),
        };
        inner.sync(dir)?;
        Ok(put)
    }
}
