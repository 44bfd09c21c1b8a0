//! Opens a redb file that only one process can have at a time, and says whose it is when it cannot be had.

use crate::files;
use redb::{Database, DatabaseError, Durability, WriteTransaction};
use rewarder_model::world::Clock;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long the file's lock is waited for: a batch run or a restart of the service lets go within this time.
const LOCK_WAIT: Duration = Duration::from_secs(2);
/// Between two tries.
const LOCK_POLL: Duration = Duration::from_millis(50);
/// redb would take a gigabyte for its cache; a ledger's hot pages are a few hundred.
const CACHE_BYTES: usize = 8 << 20;

/// Why a redb file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DbError {
    /// Another process has it.
    #[error(
        "{0} is in use by another process: a svc-rewarder or svc-ledger is running on this state directory; \
         submit the job to it, stop it, or choose another state directory or LEDGER_URL"
    )]
    InUse(PathBuf),
    /// The file cannot be opened or written.
    #[error("cannot use {path}: {source}")]
    Failed {
        /// The file.
        path: PathBuf,
        /// What redb said.
        source: Box<redb::Error>,
    },
}

/// The file at `path`, made if missing; waits a moment for its lock.
pub(crate) async fn open(path: &Path, clock: &dyn Clock) -> Result<Database, DbError> {
    let give_up = clock.monotonic() + LOCK_WAIT;
    loop {
        let file = path.to_owned();
        let opened = tokio::task::spawn_blocking(move || {
            if let Some(dir) = file.parent() {
                files::make_dir(dir).map_err(redb::Error::Io)?;
            }
            let db = redb::Builder::new().set_cache_size(CACHE_BYTES).create(&file)?;
            // redb syncs the file, but not the name of a file that it has just made.
            if let Some(dir) = file.parent() {
                files::sync_dir(dir).map_err(redb::Error::Io)?;
            }
            Ok::<_, redb::Error>(db)
        });
        let failed = |source| DbError::Failed { path: path.to_owned(), source: Box::new(source) };
        match opened.await {
            Ok(Ok(db)) => return Ok(db),
            Ok(Err(redb::Error::DatabaseAlreadyOpen)) if clock.monotonic() < give_up => {
                clock.sleep(LOCK_POLL).await;
            }
            Ok(Err(redb::Error::DatabaseAlreadyOpen)) => return Err(DbError::InUse(path.to_owned())),
            Ok(Err(error)) => return Err(failed(error)),
            Err(_) => return Err(failed(redb::Error::Io(std::io::Error::other("the opening thread died")))),
        }
    }
}

/// A database in memory: amnesia.
pub(crate) fn in_memory() -> Result<Database, DatabaseError> {
    redb::Builder::new()
        .set_cache_size(CACHE_BYTES)
        .create_with_backend(redb::backends::InMemoryBackend::new())
}

/// A transaction whose commit is durable when it returns.
pub(crate) fn write(db: &Database) -> Result<WriteTransaction, redb::Error> {
    let mut txn = db.begin_write()?;
    txn.set_durability(Durability::Immediate)?;
    Ok(txn)
}
