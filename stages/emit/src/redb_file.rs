//! Opens a redb file that only one process can have at a time, and says whose it is when it cannot be had.

use crate::files;
use redb::{Database, DatabaseError, Durability, WriteTransaction};
use rewarder_model::world::Clock;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long the file's lock is waited for: a batch run or a restart of the service lets go within this time.
const LOCK_WAIT: Duration = Duration::from_secs(2);
/// Between two tries.
const LOCK_POLL: Duration = Duration::from_millis(50);
/// redb would take a gigabyte for its cache; a ledger's hot pages are a few hundred.
const CACHE_BYTES: usize = 8 << 20;

/// How the name of a file ends that is being made.
const UNFINISHED: &str = ".new";
/// Tries to make one: another process that starts at the same moment may sweep it away once.
const MAKE_TRIES_MAX: u32 = 8;

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
            make(&file)?;
            Ok::<_, redb::Error>(redb::Builder::new().set_cache_size(CACHE_BYTES).create(&file)?)
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

/// Makes an empty database unless there is a file of that name. redb takes several writes to make one, and cannot open what a
/// death in between leaves; so it is made under another name, and named when it is whole.
fn make(path: &Path) -> Result<(), redb::Error> {
    let failed = redb::Error::Io;
    if path.try_exists().map_err(failed)? {
        return Ok(());
    }
    let dir = files::parent(path);
    files::make_dir(dir).map_err(failed)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // What others left that died here. One that is alive makes its own again.
    for entry in fs::read_dir(dir).map_err(failed)?.flatten() {
        let other = entry.file_name();
        if other.to_string_lossy().strip_prefix(&*name).is_some_and(|rest| rest.ends_with(UNFINISHED)) {
            let _ = fs::remove_file(entry.path());
        }
    }
    let new = path.with_file_name(format!("{name}.{}{UNFINISHED}", std::process::id()));
    for _ in 0..MAKE_TRIES_MAX {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(files::FILE_MODE).open(&new).map_err(failed)?;
        drop(redb::Builder::new().set_cache_size(CACHE_BYTES).create(&new)?);
        // Whoever comes first has won, also between processes.
        match fs::hard_link(&new, path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(error)),
            _ => {}
        }
        let _ = fs::remove_file(&new);
        // redb syncs the file, but not its name.
        return files::sync_dir(dir).map_err(failed);
    }
    Err(failed(io::ErrorKind::NotFound.into()))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_death_left_half_made_is_made_again() {
        let home = std::env::temp_dir().join(format!("rewarder-redb-{}", std::process::id()));
        let path = home.join("ledger.redb");
        let _ = fs::remove_dir_all(&home);
        make(&path).unwrap();
        let whole = fs::read(&path).unwrap();
        // A death at each of some places, under the name that it had then; and one of another file, which is not ours to sweep.
        for cut in [0, 9, 4096, whole.len() / 2, whole.len()] {
            fs::remove_file(&path).unwrap();
            fs::write(home.join("ledger.redb.4711.new"), &whole[..cut]).unwrap();
            fs::write(home.join("keys.json.4711.new"), b"x").unwrap();
            make(&path).unwrap();
            assert!(redb::Builder::new().open(&path).is_ok(), "{cut}");
            assert!(!home.join("ledger.redb.4711.new").exists() && home.join("keys.json.4711.new").exists());
        }
        fs::write(&path, b"what is there stays").unwrap();
        make(&path).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"what is there stays");
        fs::remove_dir_all(&home).unwrap();
    }
}
