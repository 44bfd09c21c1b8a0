//! A ledger in a table of a PostgreSQL server.
//!
//! The law, settle-once, is the database's: the primary key is (tenant, epoch), the run key is unique, and a submission
//! is one `INSERT … ON CONFLICT DO NOTHING`, a transaction by itself. Whether it was the one that settled is the number
//! of rows that it says; its answer comes after the commit. Rows are never changed, so what a dup or a conflict reports
//! can be read afterwards, by a statement that sees whatever won.
//!
//! ```text
//! no connection, before a statement left            retry
//! ERROR                                             retry: the transaction is gone
//! ERROR of class 22 or 23 (data, constraint)        refused: this intent will never be taken
//! FATAL, a lost connection, anything not understood unknown: the commit may have come before it
//! ```
//!
//! A session whose last statement did not come to a good end (its future dropped, an error) is closed and never used
//! again: an answer that is still on its way would be taken for that of the next question. The table is made by the first session, under an
//! advisory lock, and *looked at* by it: a table without the two constraints, or one that a crash empties (`UNLOGGED`),
//! is no ledger. It stands in a schema of its own, so that no `search_path` leads two services to two tables.
//!
//! There is no time in here but the server's: whoever calls bounds the wait. No TLS yet ([`super::url`] says which
//! addresses are taken for that reason).

use super::{Answer, Ledger, LedgerError, Record, Verdict};
use rewarder_model::world::BoxFuture;
use rewarder_model::{Cid, Intent};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;
use tokio_postgres::error::Severity;
use tokio_postgres::{Client, Config, NoTls, Row, Statement};

/// Most sessions at once. A server takes 100 by default, for all its clients; a submission is one round trip, so that
/// these few settle thousands a second.
const SESSIONS_MAX: usize = 16;
/// A server that does not take a connection in this time is down.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(5);
/// A server that acknowledges nothing for so long is gone, and with it the session.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// The server breaks statements off that take longer: more than any attempt waits, so that a broken-off attempt leaves no
/// session behind that waits for a lock for ever.
const STATEMENT_MS_MAX: u32 = 10_000;
/// "rewarder" in ASCII: no other program locks this by chance.
const SCHEMA_LOCK: i64 = 0x7265_7761_7264_6572;

/// What a session needs, whatever the server's or the role's defaults say: a conflict that is waited for is seen by the next
/// statement, and an answer comes after the disk has it. Other values of `synchronous_commit` than `off` were chosen with
/// standbys in mind, and stay.
const SESSION: &str = "SET default_transaction_isolation = 'read committed';
    SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'";

/// The table, as docs/LEDGER.md shows it.
const SCHEMA: &str = r#"CREATE SCHEMA IF NOT EXISTS rewarder;
CREATE TABLE IF NOT EXISTS rewarder.settlements (
    tenant             text COLLATE "C" NOT NULL,
    epoch_id           text COLLATE "C" NOT NULL,
    run_key            text COLLATE "C" NOT NULL UNIQUE,
    commitment         text NOT NULL,
    allocations_root   text NOT NULL,
    asset              text NOT NULL,
    payout_minor_units numeric(38, 0) NOT NULL CHECK (payout_minor_units >= 0),
    recipients         numeric(20, 0) NOT NULL CHECK (recipients >= 0),
    policy_hash        text NOT NULL,
    inputs_cid         text NOT NULL,
    settled_at         timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant, epoch_id)
);
"#;
const INSERT: &str =
    "INSERT INTO rewarder.settlements (run_key, tenant, epoch_id, commitment, allocations_root, asset,
        payout_minor_units, recipients, policy_hash, inputs_cid)
    VALUES ($1, $2, $3, $4, $5, $6, $7::text::numeric, $8::text::numeric, $9, $10)
    ON CONFLICT DO NOTHING";
const BY_EPOCH: &str =
    "SELECT run_key, commitment FROM rewarder.settlements WHERE tenant = $1 AND epoch_id = $2";
const BY_RUN_KEY: &str = "SELECT run_key, commitment FROM rewarder.settlements WHERE run_key = $1";

/// A ledger in a PostgreSQL database. Cheap to clone; all clones share its sessions.
#[derive(Clone)]
pub struct PostgresLedger(Arc<Pool>);

struct Pool {
    config: Config,
    places: Arc<Semaphore>,
    idle: Mutex<Vec<Session>>,
    /// Whether a session has seen that the table is what it has to be.
    looked: AtomicBool,
}

/// A connection that is between two statements.
struct Session {
    client: Client,
    driver: Driver,
    insert: Statement,
    by_epoch: Statement,
    by_run_key: Statement,
}

/// The task that moves a session's bytes; the socket is closed with it.
struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A session and its place. Dropped, the session is closed, unless it was given back.
struct Lease<'a> {
    session: Session,
    pool: &'a Pool,
    _place: OwnedSemaphorePermit,
}

impl Lease<'_> {
    /// The last statement was answered to its end: the next one may use the session.
    fn give_back(self) {
        if !self.session.client.is_closed() && !self.session.driver.0.is_finished() {
            // The place is given up after this, so that there are never more sessions than places.
            self.pool.idle().push(self.session);
        }
    }
}

impl PostgresLedger {
    /// A client of the database that `config` names, as [`PostgresUrl`](super::PostgresUrl) holds it. Connects at the first use.
    pub fn new(config: &Config) -> Self {
        let mut config = config.clone();
        config
            .application_name("svc-rewarder")
            .connect_timeout(CONNECT_TIME_MAX)
            .tcp_user_timeout(SILENCE_MAX)
            .keepalives_idle(SILENCE_MAX)
            .target_session_attrs(tokio_postgres::config::TargetSessionAttrs::ReadWrite);
        Self(Arc::new(Pool {
            config,
            places: Arc::new(Semaphore::new(SESSIONS_MAX)),
            idle: Mutex::default(),
            looked: AtomicBool::new(false),
        }))
    }

    async fn submit(&self, intent: &Intent) -> Result<Answer, LedgerError> {
        let lease = self.0.lease().await?;
        let session = &lease.session;
        let inserted = session
            .client
            .execute(
                &session.insert,
                &[
                    &intent.run_key.to_string(),
                    &intent.tenant.as_str(),
                    &intent.epoch_id.as_str(),
                    &intent.commitment.to_string(),
                    &intent.allocations_root.to_string(),
                    &intent.asset.as_str(),
                    &intent.payout_minor_units.to_string(),
                    &intent.recipients.to_string(),
                    &intent.policy_hash.to_string(),
                    &intent.inputs_cid.to_string(),
                ],
            )
            .await;
        let answer = match inserted {
            Ok(0) => session.standing(intent).await,
            Ok(_) => Ok(Answer::Accepted),
            Err(error) => Err(after(&error)),
        };
        if answer.is_ok() {
            lease.give_back();
        }
        answer
    }

    async fn lookup(&self, run_key: &Cid) -> Result<Option<Record>, LedgerError> {
        let lease = self.0.lease().await?;
        let found = lease.session.client.query_opt(&lease.session.by_run_key, &[&run_key.to_string()]).await;
        // A question settles nothing, so that it can always be asked again.
        let found = found.map_err(|error| read_failed(&error))?;
        lease.give_back();
        found.as_ref().map(record).transpose()
    }
}

impl Session {
    /// What stands where an intent could not be inserted.
    async fn standing(&self, intent: &Intent) -> Result<Answer, LedgerError> {
        let key: [&(dyn tokio_postgres::types::ToSql + Sync); 2] =
            [&intent.tenant.as_str(), &intent.epoch_id.as_str()];
        let found = self.client.query_opt(&self.by_epoch, &key).await.map_err(|error| read_failed(&error))?;
        if let Some(row) = found {
            let record = record(&row)?;
            let same = record.run_key == intent.run_key;
            return Ok(if same { Answer::Dup(record) } else { Answer::Conflict(record) });
        }
        let run_key = intent.run_key.to_string();
        let found = self
            .client
            .query_opt(&self.by_run_key, &[&run_key])
            .await
            .map_err(|error| read_failed(&error))?;
        Err(match found {
            // A run key covers its epoch, and its snapshot covers its tenant.
            Some(_) => {
                LedgerError::new(Verdict::Refused, "this run key is settled under another tenant or epoch")
            }
            None => LedgerError::new(
                Verdict::Retry,
                "what stood in the way of an intent was deleted from the database while it was looked at",
            ),
        })
    }
}

impl Pool {
    fn idle(&self) -> MutexGuard<'_, Vec<Session>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A session for one use; waits for a place.
    async fn lease(&self) -> Result<Lease<'_>, LedgerError> {
        let place = self.places.clone().acquire_owned().await;
        let place = place.map_err(|_| LedgerError::new(Verdict::Retry, "the sessions are closed"))?;
        let idle = {
            let mut idle = self.idle();
            // The newest first: the others may be let go by a server that closes idle sessions.
            std::iter::from_fn(|| idle.pop()).find(|session| !session.client.is_closed())
        };
        let session = match idle {
            Some(session) => session,
            None => self.connect().await?,
        };
        Ok(Lease { session, pool: self, _place: place })
    }

    /// A new session. Nothing that fails in here has settled anything.
    async fn connect(&self) -> Result<Session, LedgerError> {
        let failed = |error: tokio_postgres::Error| {
            // A server's words about a login name the role and the database, never the password.
            let why = error.as_db_error().map_or_else(|| error.to_string(), |db| db.message().to_owned());
            LedgerError::new(Verdict::Retry, format!("the ledger's database gives no session: {why}"))
        };
        let (client, connection) = self.config.connect(NoTls).await.map_err(failed)?;
        let driver = Driver(tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a session of the ledger's database ended");
            }
        }));
        client
            .batch_execute(&format!("{SESSION}; SET statement_timeout = {STATEMENT_MS_MAX}"))
            .await
            .map_err(failed)?;
        if !self.looked.load(Ordering::Acquire) {
            make_and_look(&client).await?;
            self.looked.store(true, Ordering::Release);
        }
        let (insert, by_epoch, by_run_key) =
            tokio::try_join!(client.prepare(INSERT), client.prepare(BY_EPOCH), client.prepare(BY_RUN_KEY))
                .map_err(failed)?;
        Ok(Session { client, driver, insert, by_epoch, by_run_key })
    }
}

/// Makes the table if there is none, and sees that it keeps the law.
async fn make_and_look(client: &Client) -> Result<(), LedgerError> {
    let failed = |error: tokio_postgres::Error| {
        let why = error.as_db_error().map_or_else(|| error.to_string(), |db| db.message().to_owned());
        LedgerError::new(
            Verdict::Retry,
            format!(
                "the table rewarder.settlements cannot be made or read: {why}; docs/LEDGER.md has its SQL"
            ),
        )
    };
    let there = client.query_one("SELECT to_regclass('rewarder.settlements') IS NOT NULL", &[]).await;
    if !there.map_err(failed)?.get::<_, bool>(0) {
        // One transaction. Two that create a schema at once would fail with a duplicate key in spite of IF NOT EXISTS.
        let make = format!("BEGIN; SELECT pg_advisory_xact_lock({SCHEMA_LOCK}); {SCHEMA} COMMIT");
        client.batch_execute(&make).await.map_err(failed)?;
        tracing::info!("the table rewarder.settlements was made");
    }
    let row = client
        .query_one(
            "SELECT relkind = 'r' AND relpersistence = 'p',
                (SELECT array_agg(pg_get_constraintdef(oid) ORDER BY contype) FROM pg_constraint
                    WHERE conrelid = pg_class.oid AND contype IN ('p', 'u')) = $1::text[],
                current_setting('fsync')::bool
            FROM pg_class WHERE oid = 'rewarder.settlements'::regclass",
            &[&vec!["PRIMARY KEY (tenant, epoch_id)", "UNIQUE (run_key)"]],
        )
        .await
        .map_err(failed)?;
    let (is_durable, is_constrained, syncs): (bool, Option<bool>, bool) =
        (row.get(0), row.get(1), row.get(2));
    if !is_durable || is_constrained != Some(true) {
        let what = "the table rewarder.settlements is not the one of docs/LEDGER.md: it has to be an ordinary logged table \
            with PRIMARY KEY (tenant, epoch_id) and UNIQUE (run_key), or epochs could be paid twice";
        tracing::error!(what, page = "LedgerEgressDegraded", "the ledger's database is not used");
        return Err(LedgerError::new(Verdict::Retry, what));
    }
    if !syncs {
        tracing::warn!(
            "the ledger's database runs with fsync = off: a power cut may take what it has settled"
        );
    }
    Ok(())
}

fn record(row: &Row) -> Result<Record, LedgerError> {
    let cid = |column: usize| row.try_get::<_, &str>(column).ok().and_then(|text| text.parse::<Cid>().ok());
    match (cid(0), cid(1)) {
        (Some(run_key), Some(commitment)) => Ok(Record { run_key, commitment }),
        _ => Err(LedgerError::new(
            Verdict::Retry,
            "a row of rewarder.settlements holds no run key and commitment that can be read",
        )),
    }
}

/// The insert did nothing, or there was none: nothing was settled.
fn read_failed(error: &tokio_postgres::Error) -> LedgerError {
    LedgerError::new(Verdict::Retry, format!("the ledger's database cannot be read: {}", words(error)))
}

/// The insert left.
fn after(error: &tokio_postgres::Error) -> LedgerError {
    let verdict = match error.as_db_error() {
        Some(db) if db.parsed_severity() == Some(Severity::Error) => match db.code().code().get(..2) {
            Some("22" | "23") => Verdict::Refused,
            _ => Verdict::Retry,
        },
        _ => Verdict::Unknown,
    };
    LedgerError::new(verdict, format!("the ledger's database failed: {}", words(error)))
}

/// A code, and no message: that would quote values.
fn words(error: &tokio_postgres::Error) -> String {
    match error.code() {
        Some(code) => format!("SQLSTATE {}", code.code()),
        None if error.is_closed() => "the session was lost".to_owned(),
        None => error.to_string(),
    }
}

impl Ledger for PostgresLedger {
    fn submit<'a>(&'a self, intent: &'a Intent) -> BoxFuture<'a, Result<Answer, LedgerError>> {
        Box::pin(self.submit(intent))
    }

    fn lookup<'a>(&'a self, run_key: &'a Cid) -> BoxFuture<'a, Result<Option<Record>, LedgerError>> {
        Box::pin(self.lookup(run_key))
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_docs_show_the_table() {
        let docs =
            std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/LEDGER.md")).unwrap();
        assert!(docs.contains(super::SCHEMA));
    }
}
