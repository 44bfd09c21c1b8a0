//! The quarantine buffer: intents that could not be delivered, kept in order until they are, or until an
//! operator acts.
//!
//! The law: a place is reserved *before* the first byte goes to a ledger ([`Quarantine::reserve`]), and only
//! a reserved place can be filled, so that what must be kept always fits; a place that is not filled is given
//! back when dropped. Bounded by entries and by bytes, reserved places included. On disk each change is one
//! durable transaction of a redb file, which checks its own sums; under amnesia the same entries live in
//! memory only.
//!
//! One run key has one entry: keeping an intent again updates it, in its old place in the order.
//!
//! Why all entries are in memory too: the buffer is bounded, and looking for one must not wait for a disk.

use crate::audit::clip;
use crate::config::QuarantineConfig;
use crate::redb_file::{self, DbError};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use rewarder_model::world::Clock;
use rewarder_model::{Cid, Intent};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Name of the file in `STATE_DIR`.
pub const QUARANTINE_FILE: &str = "quarantine.redb";
/// Longest cause that is kept.
const CAUSE_BYTES_MAX: usize = 256;
/// What an entry is charged beside its intent's JSON: the cause with every character escaped, and the other
/// members.
const ENTRY_OVERHEAD_BYTES: u64 = 6 * CAUSE_BYTES_MAX as u64 + 256;

const ENTRIES: TableDefinition<'static, u64, &[u8]> = TableDefinition::new("entries");

/// Why something could not be kept.
#[derive(Debug, thiserror::Error)]
pub enum QuarantineError {
    /// As many entries or bytes as it may hold.
    #[error("the quarantine buffer is full")]
    Full,
    /// The file cannot be had.
    #[error(transparent)]
    Open(#[from] DbError),
    /// The file cannot be read or written.
    #[error("the quarantine file failed: {0}")]
    Storage(Box<redb::Error>),
    /// An entry that we did not write, or not this version of us.
    #[error("entry {0} of the quarantine file cannot be read")]
    Unreadable(u64),
}

impl<E: Into<redb::Error>> From<E> for QuarantineError {
    fn from(error: E) -> Self {
        Self::Storage(Box::new(error.into()))
    }
}

/// Who acts next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It is sent again by itself.
    Pending,
    /// It waits for an operator.
    Operator,
}

/// A quarantined intent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its place in the order; never used twice while anything is kept.
    pub seq: u64,
    /// What is to be settled.
    pub intent: Intent,
    /// Who acts next.
    pub state: State,
    /// Whether a ledger may have settled it: then it is asked before anything is sent.
    pub unknown: bool,
    /// Why it is here, as of the last attempt.
    pub cause: String,
    /// Attempts at a ledger so far.
    pub attempts: u64,
    /// When it was first emitted.
    pub first_unix_ms: u64,
    /// When it was last tried.
    pub last_unix_ms: u64,
}

/// What an undelivered emission leaves with the intent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hold {
    /// Who acts next.
    pub state: State,
    /// Whether a ledger may have settled it.
    pub unknown: bool,
    /// Why.
    pub cause: String,
    /// Attempts of this emission.
    pub attempts: u32,
    /// When it began.
    pub first_unix_ms: u64,
    /// When it ended.
    pub last_unix_ms: u64,
}

/// The buffer. Cheap to clone; all clones are one buffer.
#[derive(Clone)]
pub struct Quarantine(Arc<Inner>);

struct Inner {
    config: QuarantineConfig,
    shelf: Option<Database>,
    index: Mutex<Index>,
}

#[derive(Default)]
struct Index {
    entries: BTreeMap<u64, Entry>,
    by_run_key: BTreeMap<Cid, u64>,
    next: u64,
    /// Of entries and of reserved places.
    places: u64,
    bytes: u64,
}

/// A reserved place. Dropped, it is free again.
pub struct Place {
    quarantine: Quarantine,
    bytes: u64,
    filled: bool,
}

/// What an intent takes of the buffer's bytes, whatever its cause will be: so that a reserved place is always
/// enough.
fn charge(intent: &Intent) -> u64 {
    serde_json::to_vec(intent).map_or(0, |json| json.len() as u64) + ENTRY_OVERHEAD_BYTES
}

impl Quarantine {
    /// The buffer in `state_dir` with what it held; `None` keeps it in memory.
    ///
    /// # Errors
    /// When the file cannot be had or holds something else.
    pub async fn open(
        state_dir: Option<&Path>,
        config: QuarantineConfig,
        clock: &dyn Clock,
    ) -> Result<Self, QuarantineError> {
        let mut index = Index::default();
        let mut shelf = None;
        if let Some(dir) = state_dir {
            let path: PathBuf = dir.join(QUARANTINE_FILE);
            let db = redb_file::open(&path, clock).await?;
            let txn = redb_file::write(&db)?;
            for item in txn.open_table(ENTRIES)?.iter()? {
                let (seq, json) = item?;
                let seq = seq.value();
                let entry: Entry =
                    serde_json::from_slice(json.value()).map_err(|_| QuarantineError::Unreadable(seq))?;
                index.places += 1;
                index.bytes += charge(&entry.intent);
                index.by_run_key.insert(entry.intent.run_key, seq);
                index.entries.insert(seq, entry);
                index.next = seq + 1;
            }
            txn.commit()?;
            if !index.entries.is_empty() {
                tracing::info!(
                    entries = index.entries.len(),
                    "the quarantine buffer holds undelivered intents"
                );
            }
            shelf = Some(db);
        }
        Ok(Self(Arc::new(Inner { config, shelf, index: index.into() })))
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.0.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether what is kept is lost with the process (`volatile: true`).
    pub fn is_volatile(&self) -> bool {
        self.0.shelf.is_none()
    }

    /// Reserves a place for `intent`, before anything of it goes to a ledger.
    ///
    /// # Errors
    /// [`QuarantineError::Full`].
    pub fn reserve(&self, intent: &Intent) -> Result<Place, QuarantineError> {
        let bytes = charge(intent);
        let mut index = self.index();
        if index.places >= self.0.config.entries_max
            || index.bytes.saturating_add(bytes) > self.0.config.bytes_max
        {
            return Err(QuarantineError::Full);
        }
        index.places += 1;
        index.bytes += bytes;
        Ok(Place { quarantine: self.clone(), bytes, filled: false })
    }

    /// Number of entries; reserved places are none.
    pub fn depth(&self) -> u64 {
        self.index().entries.len() as u64
    }

    /// All entries, oldest first.
    pub fn list(&self) -> Vec<Entry> {
        self.index().entries.values().cloned().collect()
    }

    /// The places of the entries that are sent again by themselves, oldest first.
    pub fn pending(&self) -> Vec<u64> {
        self.index()
            .entries
            .values()
            .filter(|entry| entry.state == State::Pending)
            .map(|entry| entry.seq)
            .collect()
    }

    /// The entry at a place.
    pub fn show(&self, seq: u64) -> Option<Entry> {
        self.index().entries.get(&seq).cloned()
    }

    /// The entry of a run.
    pub fn find(&self, run_key: &Cid) -> Option<Entry> {
        let index = self.index();
        index.by_run_key.get(run_key).and_then(|seq| index.entries.get(seq)).cloned()
    }

    /// Notes another emission of an entry; `None` if it is gone. Blocks on the disk.
    ///
    /// # Errors
    /// The disk's; the entry stays as it was.
    pub fn update(&self, seq: u64, hold: &Hold) -> Result<Option<Entry>, QuarantineError> {
        let mut index = self.index();
        let Some(mut entry) = index.entries.get(&seq).cloned() else { return Ok(None) };
        entry.state = hold.state;
        entry.unknown = hold.unknown;
        entry.cause = clip(&hold.cause, CAUSE_BYTES_MAX).to_owned();
        entry.attempts += u64::from(hold.attempts);
        entry.last_unix_ms = hold.last_unix_ms;
        self.store(&entry)?;
        index.entries.insert(seq, entry.clone());
        Ok(Some(entry))
    }

    /// Takes an entry out: it is settled, or an operator drops it. Blocks on the disk.
    ///
    /// # Errors
    /// The disk's; the entry stays.
    pub fn remove(&self, seq: u64) -> Result<Option<Entry>, QuarantineError> {
        let mut index = self.index();
        if !index.entries.contains_key(&seq) {
            return Ok(None);
        }
        if let Some(db) = &self.0.shelf {
            let txn = redb_file::write(db)?;
            txn.open_table(ENTRIES)?.remove(seq)?;
            txn.commit()?;
        }
        let entry = index.entries.remove(&seq);
        if let Some(entry) = &entry {
            index.by_run_key.remove(&entry.intent.run_key);
            index.places = index.places.saturating_sub(1);
            index.bytes = index.bytes.saturating_sub(charge(&entry.intent));
        }
        Ok(entry)
    }

    /// One durable transaction for one entry.
    fn store(&self, entry: &Entry) -> Result<(), QuarantineError> {
        let Some(db) = &self.0.shelf else { return Ok(()) };
        let json = serde_json::to_vec(entry).map_err(|_| QuarantineError::Unreadable(entry.seq))?;
        let txn = redb_file::write(db)?;
        txn.open_table(ENTRIES)?.insert(entry.seq, json.as_slice())?;
        txn.commit()?;
        Ok(())
    }

    /// Whether the file's own sums and ours agree: for tests and `ronctl`. Blocks.
    ///
    /// # Errors
    /// The disk's.
    pub fn is_consistent(&self) -> Result<bool, QuarantineError> {
        let index = self.index();
        let Some(db) = &self.0.shelf else { return Ok(true) };
        let table = db.begin_read()?.open_table(ENTRIES)?;
        let mut stored = 0;
        for item in table.iter()? {
            let (seq, json) = item?;
            if serde_json::from_slice(json.value()).ok().as_ref() != index.entries.get(&seq.value()) {
                return Ok(false);
            }
            stored += 1;
        }
        Ok(stored == index.entries.len())
    }
}

impl Place {
    /// Keeps the intent in this place; if its run is here already, that entry is updated and the place given
    /// back. Blocks on the disk.
    ///
    /// # Errors
    /// The disk's; the place is given back and nothing is kept.
    pub fn keep(mut self, intent: Intent, hold: &Hold) -> Result<Entry, QuarantineError> {
        let quarantine = self.quarantine.clone();
        loop {
            let found = quarantine.find(&intent.run_key);
            if let Some(entry) = found {
                match quarantine.update(entry.seq, hold)? {
                    Some(entry) => return Ok(entry),
                    None => continue, // settled and removed in between
                }
            }
            let mut index = quarantine.index();
            if index.by_run_key.contains_key(&intent.run_key) {
                continue;
            }
            let entry = Entry {
                seq: index.next,
                intent,
                state: hold.state,
                unknown: hold.unknown,
                cause: clip(&hold.cause, CAUSE_BYTES_MAX).to_owned(),
                attempts: hold.attempts.into(),
                first_unix_ms: hold.first_unix_ms,
                last_unix_ms: hold.last_unix_ms,
            };
            quarantine.store(&entry)?;
            index.next += 1;
            index.by_run_key.insert(entry.intent.run_key, entry.seq);
            index.entries.insert(entry.seq, entry.clone());
            self.filled = true;
            return Ok(entry);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.filled {
            let mut index = self.quarantine.index();
            index.places = index.places.saturating_sub(1);
            index.bytes = index.bytes.saturating_sub(self.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::world::{HandClock, intent};

    fn hold(state: State) -> Hold {
        Hold {
            state,
            unknown: true,
            cause: "\u{1}".repeat(400),
            attempts: 3,
            first_unix_ms: 1,
            last_unix_ms: 2,
        }
    }

    async fn open(dir: Option<&Path>, entries_max: u64, bytes_max: u64) -> Quarantine {
        Quarantine::open(dir, QuarantineConfig { entries_max, bytes_max }, &HandClock::new()).await.unwrap()
    }

    async fn check(dir: Option<&Path>) {
        let q = open(dir, 3, 1 << 20).await;
        let places: Vec<_> = (0..3).map(|n| q.reserve(&intent(n)).unwrap()).collect();
        assert!(matches!(q.reserve(&intent(9)), Err(QuarantineError::Full)), "reserved places count");
        assert_eq!(q.depth(), 0);
        let mut seqs = Vec::new();
        for (n, place) in places.into_iter().enumerate() {
            let entry = place.keep(intent(n as u64), &hold(State::Pending)).unwrap();
            assert!(serde_json::to_vec(&entry).unwrap().len() as u64 <= charge(&entry.intent));
            seqs.push(entry.seq);
        }
        assert_eq!(q.pending(), seqs);
        assert!(q.reserve(&intent(9)).is_err());
        q.update(seqs[1], &hold(State::Operator)).unwrap();
        assert_eq!(q.show(seqs[1]).unwrap().attempts, 6);
        assert_eq!(q.pending(), [seqs[0], seqs[2]]);
        assert_eq!(q.remove(seqs[0]).unwrap().unwrap().intent, intent(0));
        assert_eq!(q.remove(seqs[0]).unwrap(), None);
        let again = q.reserve(&intent(2)).unwrap().keep(intent(2), &hold(State::Pending)).unwrap();
        assert_eq!((again.seq, again.attempts), (seqs[2], 6), "one run, one entry, its old place");
        drop(q.reserve(&intent(5)).unwrap());
        assert_eq!(q.reserve(&intent(5)).unwrap().keep(intent(5), &hold(State::Pending)).unwrap().seq, 3);
        assert!(q.find(&intent(5).run_key).is_some() && q.find(&intent(0).run_key).is_none());
        assert!(q.is_consistent().unwrap());
        assert_eq!(q.is_volatile(), dir.is_none());
    }

    #[tokio::test]
    async fn memory_and_disk_keep_the_same_law() {
        check(None).await;
        let dir = tempfile::tempdir().unwrap();
        check(Some(dir.path())).await;
        let q = open(Some(dir.path()), 3, 1 << 20).await;
        assert_eq!(
            q.list().iter().map(|e| (e.seq, e.attempts)).collect::<Vec<_>>(),
            [(1, 6), (2, 6), (3, 3)]
        );
        assert!(q.reserve(&intent(9)).is_err(), "what was kept counts after a restart");
    }

    #[tokio::test]
    async fn bytes_are_bounded_exactly() {
        let each = charge(&intent(0));
        let q = open(None, 100, 2 * each).await;
        let _one = q.reserve(&intent(0)).unwrap();
        let _two = q.reserve(&intent(0)).unwrap();
        assert!(q.reserve(&intent(0)).is_err());
        let q = open(None, 100, 2 * each - 1).await;
        let _one = q.reserve(&intent(0)).unwrap();
        assert!(q.reserve(&intent(0)).is_err());
    }

    #[tokio::test]
    async fn a_file_in_use_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let _held = open(Some(dir.path()), 1, 1).await;
        let clock = crate::tests::world::HastyClock::default();
        let Err(error) = Quarantine::open(Some(dir.path()), QuarantineConfig::default(), &clock).await else {
            panic!("opened twice");
        };
        assert!(error.to_string().contains("is running on this STATE_DIR"), "{error}");
    }
}
