//! What the service and the batch command stand on, opened from settings: ledger, store, spool and latch; and why a start fails.

use crate::config::Settings;
use crate::world::Runtime;
use rewarder_emit::ledger::LEDGER_FILE;
use rewarder_emit::{
    Audit, BreakerConfig, DbError, Deliverer, DeliveryConfig, EmbeddedLedger, HealthConfig, HttpLedger,
    Latch, Ledger, LedgerUrl, PostgresLedger, QuarantineConfig, ReemitConfig, Spool, Surroundings,
};
use rewarder_model::world::disk::{Disk, RealDisk};
use rewarder_model::world::{Clock, Entropy, Spawn};
use rewarder_store::{Store, StoreConfig};
use std::path::Path;
use std::sync::Arc;

/// What the service cannot start without.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct StartError {
    message: String,
    /// Whether the same start may succeed later: a port that is taken, a disk that is full.
    pub may_pass: bool,
}

impl StartError {
    /// What somebody has to mend first.
    pub fn of(message: String) -> Self {
        Self { message, may_pass: false }
    }

    /// What may have passed when it is tried again.
    pub fn passing(message: String) -> Self {
        Self { message, may_pass: true }
    }
}

pub(crate) fn failed(what: &str) -> impl Fn(&dyn std::fmt::Display) -> StartError + '_ {
    move |e| StartError::of(format!("{what}: {e}"))
}

fn unusable<'a>(dir: &'a Path, what: &'a str) -> impl Fn(&dyn std::fmt::Display) -> StartError + 'a {
    let dir = dir.display();
    move |e| {
        StartError::passing(format!(
            "state_dir = {dir} cannot be used: {what}: {e}; it has to be a directory that may be made and written, on a disk with \
             room. One that was in use holds what is promised and what is paid: mend or restore it, do not name an empty one instead"
        ))
    }
}

/// The state directory, unless nothing may be written.
pub(crate) fn state_dir(settings: &Settings) -> Option<&Path> {
    (!settings.amnesia_mode).then_some(settings.state_dir.as_path())
}

/// Says that an embedded ledger is gone of which there are traces. It may also be the first one here, after another kind of
/// ledger; so it is no reason not to start.
fn tell_of_a_lost_ledger(dir: &Path) {
    // An empty file is none: redb begins anew in it.
    let is_gone = std::fs::metadata(dir.join(LEDGER_FILE)).map_or(true, |file| file.len() == 0);
    let claims = std::fs::read_dir(dir.join("store/claims"));
    if is_gone && claims.is_ok_and(|mut claims| claims.next().is_some()) {
        tracing::error!(
            dir = %dir.display(),
            "the store holds runs that were handed to delivery, and there is no embedded ledger: what it knew to be paid may be \
             paid again. Unless another ledger was used until now, stop and restore {LEDGER_FILE}"
        );
    }
}

/// Opens the ledger that the settings name.
///
/// # Errors
/// When it cannot be had.
pub async fn ledger(
    url: &LedgerUrl,
    state_dir: Option<&Path>,
    clock: &Arc<dyn Clock>,
) -> Result<Arc<dyn Ledger>, StartError> {
    Ok(match url {
        LedgerUrl::Embedded => {
            state_dir.inspect(|dir| tell_of_a_lost_ledger(dir));
            let what = "the embedded ledger cannot be opened";
            Arc::new(EmbeddedLedger::open(state_dir, &**clock).await.map_err(|e| match (&e, state_dir) {
                (DbError::Failed { .. }, Some(dir)) => unusable(dir, what)(&e),
                _ => failed(what)(&e),
            })?)
        }
        LedgerUrl::Http(base) => Arc::new(HttpLedger::new(base).with_clock(clock.clone())),
        LedgerUrl::Postgres(url) => Arc::new(PostgresLedger::new(url.config())),
    })
}

/// The sealed store.
///
/// # Errors
/// When it cannot be opened.
pub fn store(settings: &Settings) -> Result<Store, StartError> {
    let dir = state_dir(settings).map(|dir| dir.join("store"));
    let store = StoreConfig { dir, store_bytes_max: settings.store_max_bytes };
    Store::open(&store).map_err(|e| match state_dir(settings) {
        Some(dir) => unusable(dir, "the sealed store cannot be opened")(&e),
        None => failed("the sealed store cannot be opened")(&e),
    })
}

/// When a brownout begins and ends, from settings.
pub(crate) fn breaker(settings: &Settings) -> BreakerConfig {
    BreakerConfig {
        health: HealthConfig {
            p99_max: settings.brownout_p99_ms.into(),
            // Counts are between 1 and a million.
            failures_max: settings.brownout_failures.0 as u32,
            ..HealthConfig::default()
        },
        exit_p95: settings.brownout_exit_p95_ms.into(),
        exit_after: settings.brownout_exit_ms.into(),
        probe_every: settings.brownout_probe_ms.into(),
    }
}

/// The disk under the state directory; none under amnesia.
///
/// # Errors
/// When the directory cannot be made.
fn disk(settings: &Settings) -> Result<Option<Arc<dyn Disk>>, StartError> {
    let Some(dir) = state_dir(settings) else { return Ok(None) };
    let disk = RealDisk::new(dir).map_err(|e| unusable(dir, "it cannot be made")(&e))?;
    Ok(Some(Arc::new(disk)))
}

/// Everything that delivery needs, from settings.
///
/// # Errors
/// When the state directory cannot be used.
pub async fn deliverer(
    settings: &Settings,
    clock: &Arc<dyn Clock>,
    entropy: &Arc<dyn Entropy>,
) -> Result<Arc<Deliverer>, StartError> {
    let ledger = ledger(&settings.ledger_url, state_dir(settings), clock).await?;
    deliverer_with(settings, clock, entropy, ledger).await
}

/// The same with a ledger of one's own.
///
/// # Errors
/// When the state directory cannot be used.
pub async fn deliverer_with(
    settings: &Settings,
    clock: &Arc<dyn Clock>,
    entropy: &Arc<dyn Entropy>,
    ledger: Arc<dyn Ledger>,
) -> Result<Arc<Deliverer>, StartError> {
    let disk = disk(settings)?;
    let spawn: Arc<dyn Spawn> = Arc::new(Runtime);
    let audit =
        Arc::new(Audit::open(disk.clone()).map_err(|e| failed("the audit log cannot be opened")(&e))?);
    let latch = Arc::new(
        Latch::open(disk.clone(), audit).map_err(|e| failed("the emission latch cannot be read")(&e))?,
    );
    let quarantine = QuarantineConfig {
        entries_max: settings.quarantine_max_entries.0 as u64,
        bytes_max: settings.quarantine_max_bytes,
        ..QuarantineConfig::default()
    };
    let spool = Spool::open(disk, quarantine, &**clock, spawn.clone())
        .await
        .map_err(|e| failed("the spool cannot be opened")(&e))?;
    let (clock, entropy) = (clock.clone(), entropy.clone());
    let around = Surroundings { ledger, spool, latch, clock, entropy, spawn };
    let delivery = DeliveryConfig::within(settings.ledger_deadline_ms.into(), settings.ledger_max_retries);
    Ok(Deliverer::new(around, delivery, ReemitConfig::default(), breaker(settings)))
}
