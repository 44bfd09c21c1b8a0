//! The spool: every intent that is on its way to a ledger, from before its first byte goes out until it is
//! settled. The *quarantine* is what it holds and nobody is sending right now.
//!
//! The laws:
//!
//! 1. **Durable first.** [`Spool::admit`] returns when the intent is on the disk; only then may it be sent.
//!    Many that wait share one write and one fsync (a committer takes what is waiting).
//! 2. **Bounded** by entries and by bytes. What does not fit is refused before anything is sent, and so is
//!    what the disk has no room for.
//! 3. **Settled is forgotten, not erased at once.** That an entry is gone is written without waiting for the
//!    disk: lost in a crash, the ledger is asked about it again and says `dup`.
//! 4. **After a restart everything is unknown.** An entry that was being sent may have been settled, so the
//!    ledger is asked before anything is sent.
//! 5. One run key has one entry, in its place in the order.
//!
//! Under amnesia there is no log; entries live in memory only and are zeroed when they go.
//!
//! Why all entries are in memory too: the spool is bounded, and looking for one must not wait for a disk.

mod log;
mod record;

#[cfg(test)]
mod tests;

pub use log::{Found, ReadError, SPOOL_DIR};

use crate::audit::clip;
use crate::config::QuarantineConfig;
use crate::ledger::Record;
use crate::plant;
use log::{CommitError, Log, Said};
use rewarder_model::world::disk::{Disk, Guard, WriteFile};
use rewarder_model::world::{Clock, Spawn};
use rewarder_model::{Cid, Intent};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;
use zeroize::Zeroizing;

/// Longest cause that is kept.
const CAUSE_BYTES_MAX: usize = 256;
/// What an entry is charged beside the names in its intent: the cause with every character escaped, seven CIDs, the
/// amounts at their longest, and the names of all members.
const ENTRY_BYTES: u64 = 6 * CAUSE_BYTES_MAX as u64 + 1280;
/// Operations in one group: a write of a megabyte or two still ends in a few milliseconds.
const GROUP_MAX: usize = 1024;
/// How long another process's lock is waited for: a batch run or a restart lets go within this time.
const LOCK_WAIT: Duration = Duration::from_secs(2);
/// Between two tries.
const LOCK_POLL: Duration = Duration::from_millis(50);

/// Why something could not be kept.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// As many entries or bytes as it may hold, or as the disk has room for.
    #[error("the spool is full")]
    Full,
    /// Another process has it.
    #[error(
        "the spool in this STATE_DIR is in use by another process: a svc-rewarder is running on this STATE_DIR; submit \
         the job to it, stop it, or choose another STATE_DIR"
    )]
    InUse,
    /// It cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// It cannot be written; nothing of it was kept.
    #[error("the spool cannot be written: {0}")]
    Void(io::Error),
    /// It cannot be written, and what was written could not be taken back: it may be there after a crash.
    #[error("the spool cannot be written, and may hold what was to be written: {0}")]
    Uncertain(io::Error),
    /// An entry that we did not write, or not this version of us.
    #[error("an entry of the spool holds and cannot be understood; start the version that wrote it")]
    Unreadable,
    /// The committer ended before its time.
    #[error("the spool's committer was broken off")]
    Broken,
}

/// Who acts next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It is being sent.
    Sending,
    /// It is sent again by itself.
    Pending,
    /// It waits for an operator.
    Operator,
}

/// An intent in the spool.
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
    /// Submissions to a ledger so far.
    pub attempts: u64,
    /// When it was first emitted.
    pub first_unix_ms: u64,
    /// When it was last tried.
    pub last_unix_ms: u64,
    /// With what its epoch is settled instead: it will never be delivered, and waits for an operator to know that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settled_by: Option<Record>,
    /// An operator has given it up: it is not sent again, and goes once its run says so.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dropped: bool,
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
    /// Submissions so far, those of earlier emissions included.
    pub attempts: u64,
    /// When it ended.
    pub last_unix_ms: u64,
    /// With what the epoch is settled instead.
    pub settled_by: Option<Record>,
}

/// The spool. Cheap to clone; all clones are one spool.
#[derive(Clone)]
pub struct Spool(Arc<Inner>);

struct Inner {
    config: QuarantineConfig,
    spawn: Arc<dyn Spawn>,
    /// None under amnesia.
    log: Option<Mutex<Log>>,
    reserve: Arc<Reserve>,
    found: Found,
    index: Mutex<Index>,
    queue: Mutex<Queue>,
    _lock: Option<Guard>,
}

#[derive(Default)]
struct Index {
    kept: BTreeMap<u64, Kept>,
    by_run_key: BTreeMap<Cid, u64>,
    /// Places that are reserved for entries under way to the disk.
    reserved: BTreeMap<Cid, u64>,
    next: u64,
    bytes: u64,
    /// Bytes of the entries' JSON.
    live: u64,
    /// Entries that are being sent: the depth is asked for at each emission, and counting would take as long as the
    /// quarantine is deep.
    sending: usize,
}

/// An entry as it is held: its JSON, zeroed when it goes, and what is looked at often.
#[derive(Clone)]
struct Kept {
    json: Arc<Zeroizing<Vec<u8>>>,
    run_key: Cid,
    epoch: EpochMark,
    state: State,
    charge: u64,
}

/// Tells most epochs apart without reading their entries.
type EpochMark = [u8; 8];

fn epoch_mark(intent: &Intent) -> EpochMark {
    let name = [intent.tenant.as_str(), intent.epoch_id.as_str()].join("\n");
    let mut mark = EpochMark::default();
    mark.copy_from_slice(&Cid::of(name.as_bytes()).as_bytes()[..size_of::<EpochMark>()]);
    mark
}

#[derive(Default)]
struct Queue {
    operations: Vec<Operation>,
    running: bool,
}

struct Operation {
    payload: Vec<u8>,
    /// What the index takes over when the group is durable.
    keep: Option<(u64, Kept)>,
    /// Who waits; nobody for what need not be durable by itself.
    done: Option<oneshot::Sender<Result<(), SpoolError>>>,
}

/// What an intent takes of the spool's bytes, whatever its cause will be: so that an update always fits. No name holds a
/// character that JSON escapes.
fn charge(intent: &Intent) -> u64 {
    let names = intent.tenant.as_str().len() + intent.epoch_id.as_str().len() + intent.asset.as_str().len();
    names as u64 + ENTRY_BYTES
}

impl Kept {
    fn of(entry: &Entry) -> Self {
        let json = Zeroizing::new(serde_json::to_vec(entry).unwrap_or_default());
        let (run_key, epoch, charge) =
            (entry.intent.run_key, epoch_mark(&entry.intent), charge(&entry.intent));
        Self { json: Arc::new(json), run_key, epoch, state: entry.state, charge }
    }

    fn entry(&self) -> Option<Entry> {
        serde_json::from_slice(&self.json).ok()
    }
}

impl Index {
    fn insert(&mut self, seq: u64, kept: Kept) {
        self.live += kept.json.len() as u64;
        self.sending += usize::from(kept.state == State::Sending);
        self.by_run_key.insert(kept.run_key, seq);
        if let Some(before) = self.kept.insert(seq, kept) {
            self.forget(&before);
        }
    }

    fn take(&mut self, seq: u64) -> Option<Kept> {
        let kept = self.kept.remove(&seq)?;
        self.by_run_key.remove(&kept.run_key);
        self.bytes = self.bytes.saturating_sub(kept.charge);
        self.forget(&kept);
        Some(kept)
    }

    fn forget(&mut self, kept: &Kept) {
        self.live = self.live.saturating_sub(kept.json.len() as u64);
        self.sending = self.sending.saturating_sub(usize::from(kept.state == State::Sending));
    }
}

impl Spool {
    /// The spool on `disk` with what it held; `None` keeps it in memory.
    ///
    /// # Errors
    /// [`SpoolError::InUse`] if another process has it for longer than a moment, or the disk's.
    pub async fn open(
        disk: Option<Arc<dyn Disk>>,
        config: QuarantineConfig,
        clock: &dyn Clock,
        spawn: Arc<dyn Spawn>,
    ) -> Result<Self, SpoolError> {
        let mut lock = None;
        if let Some(disk) = &disk {
            let give_up = clock.monotonic() + LOCK_WAIT;
            let dir = Path::new(SPOOL_DIR);
            loop {
                match disk.make_dir(dir) {
                    Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                        return Err(SpoolError::Void(error));
                    }
                    _ => {}
                }
                lock = disk.try_lock(&dir.join("lock")).map_err(SpoolError::Void)?;
                if lock.is_some() {
                    disk.sync_dir(Path::new("")).map_err(SpoolError::Void)?;
                    break;
                }
                if clock.monotonic() >= give_up {
                    return Err(SpoolError::InUse);
                }
                clock.sleep(LOCK_POLL).await;
            }
        }
        let (sender, receiver) = oneshot::channel();
        let reserve = Reserve::new(disk.clone(), config.preallocated_bytes);
        let work = Box::new(move || {
            let _ = sender.send(read(disk, config.preallocated_bytes));
        });
        if !spawn.blocking(work).await {
            return Err(SpoolError::Broken);
        }
        let (log, found, index) = receiver.await.map_err(|_| SpoolError::Broken)??;
        if found.corrupt_records > 0 {
            tracing::error!(
                records = found.corrupt_records,
                set_aside = found.set_aside.join(" "),
                entries = found.entries,
                page = "SpoolDamaged",
                "the disk has changed records of the spool; the others were read, and runs whose delivery was promised are \
                 looked for in the store"
            );
        }
        if found.entries > 0 || found.torn_bytes > 0 {
            tracing::info!(
                entries = found.entries,
                records = found.records,
                torn_bytes = found.torn_bytes,
                "the spool was read"
            );
        }
        let index = Mutex::new(index);
        let log = log.map(Mutex::new);
        Ok(Self(Arc::new(Inner {
            config,
            spawn,
            log,
            reserve,
            found,
            index,
            queue: Mutex::default(),
            _lock: lock,
        })))
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.0.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.0.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether what is kept is lost with the process (`volatile: true`).
    pub fn is_volatile(&self) -> bool {
        self.0.log.is_none()
    }

    /// What opening it found.
    pub fn found(&self) -> &Found {
        &self.0.found
    }

    /// Most entries that it holds.
    pub fn entries_max(&self) -> u64 {
        self.0.config.entries_max
    }

    /// Entries, places that are reserved for more included, and the bytes that they are charged.
    pub fn usage(&self) -> (u64, u64) {
        let index = self.index();
        let reserved = index.reserved.values().filter(|seq| !index.kept.contains_key(seq)).count();
        ((index.kept.len() + reserved) as u64, index.bytes)
    }

    /// Takes an intent in; when this returns it is as durable as the spool is. An entry of the same run is
    /// returned as it stands. `unknown`: a ledger may have settled it before.
    ///
    /// # Errors
    /// [`SpoolError::Full`] and [`SpoolError::Void`], when nothing of it was kept; others when it is uncertain.
    pub async fn admit(
        &self,
        intent: &Intent,
        state: State,
        unknown: bool,
        cause: &str,
        unix_ms: u64,
    ) -> Result<Entry, SpoolError> {
        let charge = charge(intent);
        let (seq, kept, entry) = {
            let mut index = self.index();
            if let Some(kept) = index.by_run_key.get(&intent.run_key).and_then(|seq| index.kept.get(seq)) {
                return kept.entry().ok_or(SpoolError::Unreadable);
            }
            let reserved = if plant::is("place_not_reserved") { 0 } else { index.reserved.len() };
            let places = (index.kept.len() + reserved) as u64;
            if places >= self.0.config.entries_max
                || index.bytes.saturating_add(charge) > self.0.config.bytes_max
                || index.reserved.contains_key(&intent.run_key)
            {
                return Err(SpoolError::Full);
            }
            let seq = index.next;
            index.next += 1;
            index.bytes += charge;
            index.reserved.insert(intent.run_key, seq);
            let entry = Entry {
                seq,
                intent: intent.clone(),
                state,
                unknown,
                cause: clip(cause, CAUSE_BYTES_MAX).to_owned(),
                attempts: 0,
                first_unix_ms: unix_ms,
                last_unix_ms: unix_ms,
                settled_by: None,
                dropped: false,
            };
            (seq, Kept::of(&entry), entry)
        };
        let written = self.write(seq, kept).await;
        let mut index = self.index();
        index.reserved.remove(&intent.run_key);
        if written.is_err() && !plant::is("place_not_given_back") {
            index.bytes = index.bytes.saturating_sub(charge);
        }
        written.map(|()| entry)
    }

    /// Number of entries that are in quarantine: nobody is sending them right now.
    pub fn depth(&self) -> u64 {
        let index = self.index();
        index.kept.len().saturating_sub(index.sending) as u64
    }

    /// What is in quarantine, oldest first.
    pub fn list(&self) -> Vec<Entry> {
        let index = self.index();
        index.kept.values().filter(|kept| kept.state != State::Sending).filter_map(Kept::entry).collect()
    }

    /// The places of the entries that are sent again by themselves, oldest first.
    pub fn pending(&self) -> Vec<u64> {
        let index = self.index();
        index.kept.iter().filter(|(_, kept)| kept.state == State::Pending).map(|(seq, _)| *seq).collect()
    }

    /// The entry at a place.
    pub fn show(&self, seq: u64) -> Option<Entry> {
        self.index().kept.get(&seq).and_then(Kept::entry)
    }

    /// The entry of a run.
    pub fn find(&self, run_key: &Cid) -> Option<Entry> {
        let index = self.index();
        index.by_run_key.get(run_key).and_then(|seq| index.kept.get(seq)).and_then(Kept::entry)
    }

    /// Another run of the intent's epoch that may be settled from here: on its way, held, or waiting for an operator.
    pub fn other_run(&self, intent: &Intent) -> Option<Cid> {
        let mark = epoch_mark(intent);
        let index = self.index();
        let others = index.kept.values().filter(|kept| kept.epoch == mark && kept.run_key != intent.run_key);
        let mut others = others.filter_map(Kept::entry).filter(|entry| entry.settled_by.is_none());
        let same =
            |entry: &Entry| entry.intent.tenant == intent.tenant && entry.intent.epoch_id == intent.epoch_id;
        others.find(same).map(|entry| entry.intent.run_key)
    }

    /// Where a run stands and who acts next, without reading its entry.
    pub fn state(&self, run_key: &Cid) -> Option<(u64, State)> {
        let index = self.index();
        let seq = *index.by_run_key.get(run_key)?;
        Some((seq, index.kept.get(&seq)?.state))
    }

    /// Whoever was sending this run is gone without a word: it is sent again by itself, and asked about first.
    /// Only in memory, since after a crash it is so whatever the disk says.
    pub fn orphaned(&self, run_key: &Cid) {
        let mut index = self.index();
        let Some(seq) = index.by_run_key.get(run_key).copied() else { return };
        let sending = index.kept.get(&seq).filter(|kept| kept.state == State::Sending);
        if let Some(mut entry) = sending.and_then(Kept::entry) {
            (entry.state, entry.unknown) = (State::Pending, true);
            entry.cause = "the emission was broken off".to_owned();
            index.insert(seq, Kept::of(&entry));
        }
    }

    /// Notes how an emission of an entry ended, durably; `None` if it is gone. If the disk does not take it,
    /// it holds in memory, and after a crash the entry is as unknown as any: nothing is lost by that.
    pub async fn update(&self, seq: u64, hold: &Hold) -> Option<Entry> {
        let mut entry = self.show(seq)?;
        entry.state = hold.state;
        entry.unknown = hold.unknown;
        entry.cause = clip(&hold.cause, CAUSE_BYTES_MAX).to_owned();
        entry.attempts = hold.attempts;
        entry.last_unix_ms = hold.last_unix_ms;
        entry.settled_by = hold.settled_by;
        let kept = Kept::of(&entry);
        if let Err(error) = self.write(seq, kept.clone()).await {
            tracing::error!(%error, seq, "what became of an emission could not be written; it holds in memory");
            let mut index = self.index();
            if index.kept.contains_key(&seq) {
                index.insert(seq, kept);
            }
        }
        Some(entry)
    }

    /// Takes an entry out: it is settled. Written behind, with the next group.
    pub fn settle(&self, seq: u64) -> Option<Entry> {
        let entry = self.index().take(seq)?.entry();
        if !self.is_volatile() {
            self.enqueue(Operation { payload: log::gone(seq), keep: None, done: None });
        }
        entry
    }

    /// Notes durably that an operator gives an entry up: from then on nobody sends it, whatever else comes between.
    ///
    /// # Errors
    /// The disk's; the entry stays as it was.
    pub async fn give_up(&self, seq: u64) -> Result<(), SpoolError> {
        let Some(mut entry) = self.show(seq).filter(|entry| !entry.dropped) else { return Ok(()) };
        (entry.state, entry.dropped) = (State::Operator, true);
        entry.cause = "an operator drops it".to_owned();
        self.write(seq, Kept::of(&entry)).await
    }

    /// Takes an entry out durably: it was dropped, and its run says so.
    ///
    /// # Errors
    /// The disk's; the entry stays.
    pub async fn remove(&self, seq: u64) -> Result<Option<Entry>, SpoolError> {
        if self.show(seq).is_none() {
            return Ok(None);
        }
        if !self.is_volatile() {
            let (done, written) = oneshot::channel();
            self.enqueue(Operation { payload: log::gone(seq), keep: None, done: Some(done) });
            written.await.unwrap_or(Err(SpoolError::Broken))?;
        }
        Ok(self.index().take(seq).and_then(|kept| kept.entry()))
    }

    /// Zeroes everything, under amnesia at the end of the process. On disk the entries stay.
    pub fn wipe(&self) {
        *self.index() = Index::default();
    }

    async fn write(&self, seq: u64, kept: Kept) -> Result<(), SpoolError> {
        if self.is_volatile() {
            self.index().insert(seq, kept);
            return Ok(());
        }
        let (done, written) = oneshot::channel();
        let payload = log::put(&kept.json);
        self.enqueue(Operation { payload, keep: Some((seq, kept)), done: Some(done) });
        written.await.unwrap_or(Err(SpoolError::Broken))
    }

    /// Hands an operation to the committer, and starts one if none runs.
    fn enqueue(&self, operation: Operation) {
        {
            let mut queue = self.queue();
            queue.operations.push(operation);
            if std::mem::replace(&mut queue.running, true) {
                return;
            }
        }
        let this = self.clone();
        // Nobody waits for the committer, only for what it commits: a task that did would cost a wake-up for each group.
        drop(self.0.spawn.blocking(Box::new(move || this.commit_all())));
    }

    /// Commits group after group until nothing waits. Blocks on the disk.
    fn commit_all(&self) {
        /// However the committer ends, the next operation starts another one.
        struct Ends<'a>(&'a Spool);
        impl Drop for Ends<'_> {
            fn drop(&mut self) {
                let mut queue = self.0.queue();
                queue.running = false;
                if std::thread::panicking() {
                    // Whoever waits hears that it was broken off.
                    queue.operations.clear();
                }
            }
        }
        let ends = Ends(self);
        loop {
            let group: Vec<Operation> = {
                let mut queue = self.queue();
                if queue.operations.is_empty() {
                    queue.running = false;
                    std::mem::forget(ends);
                    return;
                }
                let count = queue.operations.len().min(GROUP_MAX);
                queue.operations.drain(..count).collect()
            };
            self.commit(group);
        }
    }

    fn commit(&self, mut group: Vec<Operation>) {
        let Some(log) = &self.0.log else { return };
        let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
        let payloads: Vec<_> =
            group.iter_mut().map(|operation| std::mem::take(&mut operation.payload)).collect();
        let durable = group.iter().any(|operation| operation.done.is_some());
        let written = log.commit(&payloads, durable);
        if written.is_ok() {
            let mut index = self.index();
            for operation in &mut group {
                if let Some((seq, kept)) = operation.keep.take()
                    // What was settled while its update was under way stays settled.
                    && (index.kept.contains_key(&seq) || index.reserved.get(&kept.run_key) == Some(&seq))
                {
                    index.insert(seq, kept);
                }
            }
        }
        let same = |error: &io::Error| io::Error::new(error.kind(), error.to_string());
        for done in group.into_iter().filter_map(|operation| operation.done) {
            let _ = done.send(match &written {
                Ok(()) => Ok(()),
                Err(CommitError::Void(error)) if is_full(error) => Err(SpoolError::Full),
                Err(CommitError::Void(error)) => Err(SpoolError::Void(same(error))),
                Err(CommitError::Uncertain(error)) => Err(SpoolError::Uncertain(same(error))),
            });
        }
        if let Err(CommitError::Void(error) | CommitError::Uncertain(error)) = &written {
            tracing::error!(%error, "the spool cannot be written");
        }
        let live = self.index().live;
        if log.wants_checkpoint(live)
            && let Err(error) = self.checkpoint(&mut log)
        {
            tracing::warn!(%error, "the spool's log could not be shortened; it goes on as it is");
        }
    }

    fn checkpoint(&self, log: &mut Log) -> io::Result<()> {
        // The bytes are shared, not copied.
        let live: Vec<_> = self.index().kept.values().map(|kept| kept.json.clone()).collect();
        let planted = usize::from(plant::is("checkpoint_leaves_one_out"));
        let payloads: Vec<_> = live.iter().skip(planted).map(|json| log::put(json)).collect();
        log.checkpoint(payloads.iter().map(Vec::as_slice), self.0.reserve.take())?;
        let (reserve, segment) = (self.0.reserve.clone(), log.segment());
        drop(self.0.spawn.blocking(Box::new(move || reserve.refill(segment))));
        Ok(())
    }
}

/// The file for the next checkpoint, made aside: nobody who waits for a group waits for its zeros.
struct Reserve {
    disk: Option<Arc<dyn Disk>>,
    len: u64,
    spare: Mutex<Spare>,
}

enum Spare {
    Missing,
    /// Somebody makes one.
    UnderWay,
    Ready(Box<dyn WriteFile>),
}

impl Reserve {
    fn new(disk: Option<Arc<dyn Disk>>, len: u64) -> Arc<Self> {
        Arc::new(Self { disk, len, spare: Mutex::new(Spare::Missing) })
    }

    fn spare(&self) -> MutexGuard<'_, Spare> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> Option<Box<dyn WriteFile>> {
        let mut spare = self.spare();
        match std::mem::replace(&mut *spare, Spare::Missing) {
            Spare::Ready(file) => Some(file),
            other => {
                *spare = other;
                None
            }
        }
    }

    /// Takes away what is before this segment, and makes the next spare file. Blocks on the disk.
    fn refill(&self, segment: u64) {
        let Some(disk) = &self.disk else { return };
        log::tidy(&**disk, segment);
        {
            let mut spare = self.spare();
            match *spare {
                Spare::Missing => *spare = Spare::UnderWay,
                _ => return,
            }
        }
        let made = log::spare(&**disk, self.len);
        *self.spare() = match made {
            Ok(file) => Spare::Ready(file),
            Err(error) => {
                // A full disk has perhaps room for what is to be kept.
                tracing::debug!(%error, "the spool's next segment could not be preallocated; it will grow with each group");
                Spare::Missing
            }
        };
    }
}

fn is_full(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}

/// Reads the log and replaces it by a checkpoint. Blocks on the disk.
fn read(disk: Option<Arc<dyn Disk>>, preallocated: u64) -> Result<(Option<Log>, Found, Index), SpoolError> {
    let mut index = Index { next: 1, ..Index::default() };
    let Some(disk) = disk else { return Ok((None, Found::default(), index)) };
    let mut entries: BTreeMap<u64, Entry> = BTreeMap::new();
    let mut by_run_key = BTreeMap::new();
    let mut unreadable = false;
    let mut next = 1;
    let (mut log, mut found) = Log::open(disk.clone(), |said| match said {
        Said::Put(json) => match serde_json::from_slice::<Entry>(json) {
            Ok(entry) => {
                next = next.max(entry.seq + 1);
                // One run key, one entry: it was taken in again when the one before was gone, and that was never made
                // durable.
                if let Some(before) = by_run_key.insert(entry.intent.run_key, entry.seq)
                    && before != entry.seq
                    && !plant::is("one_run_two_entries")
                {
                    entries.remove(&before);
                }
                entries.insert(entry.seq, entry);
            }
            Err(_) => unreadable = true,
        },
        Said::Gone(seq) => {
            next = next.max(seq + 1);
            entries.remove(&seq);
        }
    })?;
    if unreadable {
        return Err(SpoolError::Unreadable);
    }
    if plant::is("recovery_skips_the_last") {
        entries.pop_last();
    }
    index.next = next;
    for (seq, mut entry) in entries {
        if entry.state == State::Sending {
            entry.state = State::Pending;
            entry.cause = "the process ended while it was being sent".to_owned();
        }
        entry.unknown |= entry.state == State::Pending;
        index.bytes += charge(&entry.intent);
        index.insert(seq, Kept::of(&entry));
    }
    found.entries = index.kept.len() as u64;
    let planted = usize::from(plant::is("checkpoint_leaves_one_out"));
    let payloads: Vec<_> = index.kept.values().skip(planted).map(|kept| log::put(&kept.json)).collect();
    let spare = log::spare(&*disk, preallocated).ok();
    match log.checkpoint(payloads.iter().map(Vec::as_slice), spare) {
        Ok(()) => log::tidy(&*disk, log.segment()),
        // A full disk is no reason not to start: what is held can be delivered, and makes room.
        Err(error) => {
            tracing::warn!(%error, "the spool could not be rewritten at the start; it goes on as it was")
        }
    }
    Ok((Some(log), found, index))
}
