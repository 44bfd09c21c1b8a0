//! A ledger of our own in one redb file, or in memory under amnesia: the default, and a real one.
//!
//! The law, settle-once, is one durable write transaction: look up (tenant, epoch) and the run key, then
//! insert both or neither. redb has one writer at a time, so nothing can come in between. What a dup or a
//! conflict reports was committed durably before.
//!
//! ```text
//! settlements  (tenant, epoch) -> intent as JSON
//! run_keys     run key          -> (tenant, epoch)
//! ```
//!
//! Many that wait share one transaction and so one commit (group commit): whoever comes while a commit is under way goes
//! with the next one. Inside a group the order of arrival decides, as if each had come alone. Whoever has gone away
//! before his group begins is left out: nothing was settled for him, and a caller that comes back again and again
//! while the disk stands still does not fill the desk. After a failed commit redb takes no more writes until the file is
//! opened again: every later intent fails, none is settled on a disk that lies.

use super::{Answer, Ledger, LedgerError, Record, Verdict};
use crate::redb_file::{self, DbError};
use redb::{Database, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition};
use rewarder_model::world::{BoxFuture, Clock};
use rewarder_model::{Cid, EpochId, Intent, TenantId};
use std::collections::VecDeque;
use std::ops::Bound;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;

/// Intents in one transaction: what a transaction holds in memory stays small, and nobody waits for a long one.
const GROUP_MAX: usize = 512;

/// Intents that wait at once, a few KiB each: half a minute of a slow disk at full groups. More are turned away, having
/// settled nothing.
const WAITING_MAX: usize = 16_384;
/// What whoever is turned away is asked for: many groups are through by then.
const BUSY_PATIENCE: Duration = Duration::from_secs(1);
/// Settlements in one page of a listing: below a MiB of JSON.
pub const PAGE_MAX: usize = 1000;

/// Name of the file in `STATE_DIR`.
pub const LEDGER_FILE: &str = "ledger.redb";

const SETTLEMENTS: TableDefinition<'static, (&str, &str), &[u8]> = TableDefinition::new("settlements");
const RUN_KEYS: TableDefinition<'static, &[u8; 32], (&str, &str)> = TableDefinition::new("run_keys");

/// A ledger in one file, or in memory. Cheap to clone; all clones are one ledger.
#[derive(Clone)]
pub struct EmbeddedLedger {
    db: Arc<Database>,
    desk: Arc<Mutex<Desk>>,
}

/// Intents that wait for the next group, at most [`WAITING_MAX`].
#[derive(Default)]
struct Desk {
    waiting: VecDeque<(Intent, oneshot::Sender<Result<Answer, LedgerError>>)>,
    running: bool,
}

impl EmbeddedLedger {
    /// The ledger in `state_dir`; `None` keeps it in memory.
    ///
    /// # Errors
    /// [`DbError::InUse`] if another process has it for longer than a moment, or the disk's.
    pub async fn open(state_dir: Option<&Path>, clock: &dyn Clock) -> Result<Self, DbError> {
        let path = state_dir.unwrap_or(Path::new("")).join(LEDGER_FILE);
        let failed = |source| DbError::Failed { path: path.clone(), source: Box::new(source) };
        let db = match state_dir {
            Some(_) => redb_file::open(&path, clock).await?,
            None => redb_file::in_memory().map_err(|error| failed(error.into()))?,
        };
        // So that a reader never meets a ledger without tables.
        let make = || -> Result<(), redb::Error> {
            let txn = redb_file::write(&db)?;
            txn.open_table(SETTLEMENTS)?;
            txn.open_table(RUN_KEYS)?;
            Ok(txn.commit()?)
        };
        make().map_err(failed)?;
        Ok(Self { db: Arc::new(db), desk: Arc::default() })
    }

    /// Number of settlements: what a test for "never twice, never lost" counts. Blocks.
    ///
    /// # Errors
    /// The disk's.
    pub fn count(&self) -> Result<u64, LedgerError> {
        let count =
            || -> Result<u64, redb::Error> { Ok(self.db.begin_read()?.open_table(SETTLEMENTS)?.len()?) };
        count().map_err(|error| storage(Verdict::Retry, &error))
    }

    /// The intent that settled an epoch. Blocks.
    ///
    /// # Errors
    /// The disk's.
    pub fn settlement(&self, tenant: &TenantId, epoch: &EpochId) -> Result<Option<Intent>, LedgerError> {
        let get = || -> Result<Option<Vec<u8>>, redb::Error> {
            let table = self.db.begin_read()?.open_table(SETTLEMENTS)?;
            Ok(table.get((tenant.as_str(), epoch.as_str()))?.map(|value| value.value().to_vec()))
        };
        get().map_err(|error| storage(Verdict::Retry, &error))?.map(|json| stored(&json)).transpose()
    }

    /// The settlement of a run. Blocks.
    ///
    /// # Errors
    /// The disk's.
    pub fn run(&self, run_key: &Cid) -> Result<Option<Intent>, LedgerError> {
        find(&self.db, run_key)
    }

    /// Settlements in the order of tenant and epoch, of one tenant or of all: at most [`PAGE_MAX`] and `limit`, after the
    /// settlement key `after`. For auditors. Blocks.
    ///
    /// # Errors
    /// The disk's.
    pub fn page(
        &self,
        tenant: Option<&TenantId>,
        after: Option<(&TenantId, &EpochId)>,
        limit: usize,
    ) -> Result<Vec<Intent>, LedgerError> {
        let read = || -> Result<Vec<Vec<u8>>, redb::Error> {
            let table = self.db.begin_read()?.open_table(SETTLEMENTS)?;
            // No name is empty, so that an empty epoch stands before all of a tenant.
            let first = (tenant.map_or("", TenantId::as_str), "");
            let begin = match after.map(|(tenant, epoch)| (tenant.as_str(), epoch.as_str())) {
                Some(after) if after > first => Bound::Excluded(after),
                _ => Bound::Included(first),
            };
            let mut found = Vec::new();
            for row in table.range::<(&str, &str)>((begin, Bound::Unbounded))? {
                let (key, value) = row?;
                let other = tenant.is_some_and(|tenant| key.value().0 != tenant.as_str());
                if other || found.len() >= limit.min(PAGE_MAX) {
                    break;
                }
                found.push(value.value().to_vec());
            }
            Ok(found)
        };
        let rows = read().map_err(|error| storage(Verdict::Retry, &error))?;
        rows.iter().map(|json| stored(json)).collect()
    }
}

/// A disk that stands still, until it is dropped.
#[cfg(test)]
pub(crate) struct StillDisk {
    txn: Option<redb::WriteTransaction>,
    ledger: EmbeddedLedger,
}

#[cfg(test)]
impl StillDisk {
    /// Waits until the first group has left the desk for the disk.
    pub(crate) async fn begun(&self) {
        while !self.ledger.desk().waiting.is_empty() {
            tokio::task::yield_now().await;
        }
    }
}

#[cfg(test)]
impl Drop for StillDisk {
    fn drop(&mut self) {
        self.txn.take();
    }
}

#[cfg(test)]
impl EmbeddedLedger {
    pub(crate) fn hold_the_disk(&self) -> StillDisk {
        // redb has one writer at a time.
        StillDisk { txn: Some(redb_file::write(&self.db).unwrap()), ledger: self.clone() }
    }
}

impl EmbeddedLedger {
    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Settles group after group until nobody waits. Blocks.
    fn settle_all(&self) {
        /// However it ends, the next intent starts it again.
        struct Ends<'a>(&'a EmbeddedLedger);
        impl Drop for Ends<'_> {
            fn drop(&mut self) {
                let mut desk = self.0.desk();
                desk.running = false;
                if std::thread::panicking() {
                    desk.waiting.clear();
                }
            }
        }
        let ends = Ends(self);
        loop {
            let (intents, senders): (Vec<_>, Vec<_>) = {
                let mut desk = self.desk();
                if desk.waiting.is_empty() {
                    // Under the same lock as the look, so that whoever comes next sees it.
                    desk.running = false;
                    std::mem::forget(ends);
                    return;
                }
                let count = desk.waiting.len().min(GROUP_MAX);
                desk.waiting.drain(..count).filter(|(_, sender)| !sender.is_closed()).unzip()
            };
            if intents.is_empty() {
                continue;
            }
            match settle(&self.db, &intents) {
                Ok(answers) => {
                    for (sender, answer) in senders.into_iter().zip(answers) {
                        let _ = sender.send(answer);
                    }
                }
                Err(error) => {
                    for sender in senders {
                        let _ = sender.send(Err(error.clone()));
                    }
                }
            }
        }
    }
}

/// Settles intents in their order, in one durable commit. The answers hold only if this returns them.
fn settle(db: &Database, intents: &[Intent]) -> Result<Vec<Result<Answer, LedgerError>>, LedgerError> {
    let before = |error: redb::Error| storage(Verdict::Retry, &error);
    let txn = redb_file::write(db).map_err(before)?;
    let mut answers = Vec::with_capacity(intents.len());
    {
        let mut settlements = txn.open_table(SETTLEMENTS).map_err(|e| before(e.into()))?;
        let mut run_keys = txn.open_table(RUN_KEYS).map_err(|e| before(e.into()))?;
        for intent in intents {
            match settle_one(&mut settlements, &mut run_keys, intent) {
                // That one alone: it has written nothing.
                Err(error) if error.verdict == Verdict::Refused => answers.push(Err(error)),
                other => answers.push(Ok(other?)),
            }
        }
    }
    if answers.contains(&Ok(Answer::Accepted)) {
        // From here on the outcome is in the disk's hands.
        txn.commit().map_err(|error| storage(Verdict::Unknown, &error.into()))?;
    } else {
        txn.abort().map_err(|error| before(error.into()))?;
    }
    Ok(answers)
}

fn settle_one(
    settlements: &mut redb::Table<'_, (&'static str, &'static str), &'static [u8]>,
    run_keys: &mut redb::Table<'_, &'static [u8; 32], (&'static str, &'static str)>,
    intent: &Intent,
) -> Result<Answer, LedgerError> {
    let before = |error: redb::StorageError| storage(Verdict::Retry, &error.into());
    let key = (intent.tenant.as_str(), intent.epoch_id.as_str());
    if let Some(value) = settlements.get(key).map_err(before)? {
        let record = record(&stored(value.value())?);
        let same = record.run_key == intent.run_key;
        return Ok(if same { Answer::Dup(record) } else { Answer::Conflict(record) });
    }
    // A run key covers its epoch, and its snapshot covers its tenant: standing under another key it cannot be
    // ours.
    if run_keys.get(intent.run_key.as_bytes()).map_err(before)?.is_some() {
        return Err(LedgerError::new(
            Verdict::Refused,
            "this run key is settled under another tenant or epoch",
        ));
    }
    let json = serde_json::to_vec(intent)
        .map_err(|_| LedgerError::new(Verdict::Refused, "the intent cannot be written as JSON"))?;
    settlements.insert(key, json.as_slice()).map_err(before)?;
    run_keys.insert(intent.run_key.as_bytes(), key).map_err(before)?;
    Ok(Answer::Accepted)
}

fn find(db: &Database, run_key: &Cid) -> Result<Option<Intent>, LedgerError> {
    let get = || -> Result<Option<Vec<u8>>, redb::Error> {
        let txn = db.begin_read()?;
        let Some(key) = txn.open_table(RUN_KEYS)?.get(run_key.as_bytes())? else { return Ok(None) };
        Ok(txn.open_table(SETTLEMENTS)?.get(key.value())?.map(|value| value.value().to_vec()))
    };
    let json = get().map_err(|error| storage(Verdict::Retry, &error))?;
    json.map(|json| stored(&json)).transpose()
}

fn record(intent: &Intent) -> Record {
    Record { run_key: intent.run_key, commitment: intent.commitment }
}

fn stored(json: &[u8]) -> Result<Intent, LedgerError> {
    serde_json::from_slice(json)
        .map_err(|_| LedgerError::new(Verdict::Refused, "a record of the embedded ledger cannot be read"))
}

fn storage(verdict: Verdict, error: &redb::Error) -> LedgerError {
    LedgerError::new(verdict, format!("the embedded ledger failed: {error}"))
}

/// redb blocks on the disk. A blocking task that has begun runs to its end even if the waiting future is
/// dropped.
async fn on_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, LedgerError> + Send + 'static,
) -> Result<T, LedgerError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|_| Err(LedgerError::new(Verdict::Unknown, "the thread of the embedded ledger died")))
}

impl Ledger for EmbeddedLedger {
    fn submit<'a>(&'a self, intent: &'a Intent) -> BoxFuture<'a, Result<Answer, LedgerError>> {
        let (sender, answer) = oneshot::channel();
        let first = {
            let mut desk = self.desk();
            if desk.waiting.len() >= WAITING_MAX {
                let full = LedgerError {
                    verdict: Verdict::Retry,
                    retry_after: Some(BUSY_PATIENCE),
                    detail: format!("{WAITING_MAX} intents already wait for the disk of the embedded ledger"),
                };
                return Box::pin(std::future::ready(Err(full)));
            }
            desk.waiting.push_back((intent.clone(), sender));
            !std::mem::replace(&mut desk.running, true)
        };
        if first {
            let this = self.clone();
            tokio::task::spawn_blocking(move || this.settle_all());
        }
        Box::pin(async move {
            let died = LedgerError::new(Verdict::Unknown, "the thread of the embedded ledger died");
            answer.await.unwrap_or(Err(died))
        })
    }

    fn lookup<'a>(&'a self, run_key: &'a Cid) -> BoxFuture<'a, Result<Option<Record>, LedgerError>> {
        let (db, run_key) = (self.db.clone(), *run_key);
        Box::pin(on_thread(move || Ok(find(&db, &run_key)?.as_ref().map(record))))
    }

    fn probe(&self) -> BoxFuture<'_, Result<(), LedgerError>> {
        let this = self.clone();
        Box::pin(on_thread(move || this.count().map(drop)))
    }
}
