//! `PostgresLedger` against a real server. Needs PostgreSQL's programs, so that `testing/ledger/postgres` runs it:
//!
//!     testing/ledger/postgres-server install
//!     cargo test --workspace --features rewarder-emit/conformance --test postgres -- --ignored
//!
//! Each test has a server of its own behind a socket in a directory of its own.

use rewarder_emit::conformance::{self, Bed, intent, record, settle};
use rewarder_emit::{Answer, Ledger, LedgerError, LedgerUrl, PostgresLedger, Verdict};
use rewarder_model::Intent;
use rewarder_model::world::BoxFuture;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio_postgres::{Client, NoTls};

/// Looks at something that has to happen at last.
const LOOKS_MAX: usize = 2000;

struct Server(TempDir);

impl Server {
    fn start() -> Self {
        let server = Self(tempfile::Builder::new().prefix("pg").tempdir().unwrap());
        server.run("start");
        server
    }

    fn run(&self, verb: &str) -> String {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testing/ledger/postgres-server");
        // To a file and not a pipe: the server would keep it open.
        let said = self.0.path().join("said");
        let out = std::fs::File::create(&said).unwrap();
        let status = Command::new(script).arg(verb).arg(self.0.path()).stdout(out).status().unwrap();
        let said = std::fs::read_to_string(said).unwrap();
        assert!(status.success(), "postgres-server {verb}: {said}");
        said.trim().to_owned()
    }

    fn url(&self, database: &str, user: &str) -> LedgerUrl {
        format!("postgres:///{database}?host={}&user={user}", self.0.path().display()).parse().unwrap()
    }

    fn ledger(&self, database: &str, user: &str) -> PostgresLedger {
        let LedgerUrl::Postgres(url) = self.url(database, user) else { unreachable!() };
        PostgresLedger::new(url.config())
    }

    /// A session beside the ledger's.
    async fn sql(&self, database: &str) -> Client {
        let LedgerUrl::Postgres(url) = self.url(database, "postgres") else { unreachable!() };
        let (client, connection) = url.config().connect(NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    }

    /// A database that no ledger has seen.
    async fn fresh(&self, name: &str) -> Client {
        self.sql("postgres").await.batch_execute(&format!("CREATE DATABASE {name}")).await.unwrap();
        self.sql(name).await
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.run("kill");
    }
}

async fn standing(client: &Client) -> Vec<Intent> {
    let rows = client
        .query(
            "SELECT json_build_object('run_key', run_key, 'tenant', tenant, 'epoch_id', epoch_id, 'commitment', commitment,
                'allocations_root', allocations_root, 'asset', asset, 'payout_minor_units', payout_minor_units::text,
                'recipients', recipients, 'policy_hash', policy_hash, 'inputs_cid', inputs_cid)::text
            FROM rewarder.settlements ORDER BY tenant, epoch_id",
            &[],
        )
        .await
        .unwrap();
    rows.iter().map(|row| serde_json::from_str(row.get(0)).unwrap()).collect()
}

struct Postgres(Server);

impl Bed for Postgres {
    fn client(&self) -> Arc<dyn Ledger> {
        Arc::new(self.0.ledger("postgres", "postgres"))
    }

    fn settlements(&self) -> BoxFuture<'_, Vec<Intent>> {
        Box::pin(async { standing(&self.0.sql("postgres").await).await })
    }

    fn crash(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            tokio::task::block_in_place(|| {
                self.0.run("kill");
                self.0.run("start");
            });
        })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: testing/ledger/postgres"]
async fn the_conformance_suite_with_kill_9_between() {
    let mut bed = Postgres(Server::start());
    // The first session makes the table.
    bed.client().probe().await.unwrap();
    conformance::whole(&mut bed).await;
}

/// Polls `SQL` until it is true.
async fn until(client: &Client, sql: &str) {
    for _ in 0..LOOKS_MAX {
        if client.query_one(sql, &[]).await.unwrap().get::<_, bool>(0) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("never: {sql}");
}

const WAITS: &str =
    "SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'INSERT%'";

/// A submission that waits for the table, which `sql` has locked, while `done` is done to its session.
async fn while_it_waits(
    server: &Server,
    ledger: &PostgresLedger,
    n: usize,
    done: &str,
) -> Result<Answer, LedgerError> {
    let (sql, other) = (server.sql("postgres").await, server.sql("postgres").await);
    // A session that is ready: making one would wait for the lock too, before anything of the intent has left.
    ledger.probe().await.unwrap();
    sql.batch_execute("BEGIN; LOCK TABLE rewarder.settlements IN SHARE MODE").await.unwrap();
    let (task_ledger, ours) = (ledger.clone(), intent("waits", n));
    let task = tokio::spawn(async move { task_ledger.submit(&ours).await });
    until(&other, WAITS).await;
    other
        .batch_execute(&format!("SELECT {done}(pid) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"))
        .await
        .unwrap();
    let answer = task.await.unwrap();
    sql.batch_execute("COMMIT").await.unwrap();
    answer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: testing/ledger/postgres"]
async fn what_an_error_says_may_have_happened() {
    let server = Server::start();
    let ledger = server.ledger("postgres", "postgres");
    ledger.probe().await.unwrap();
    let sql = server.sql("postgres").await;

    // Broken off by the server: the transaction is gone, and the session goes on or not.
    let cancelled = while_it_waits(&server, &ledger, 1, "pg_cancel_backend").await.unwrap_err();
    assert_eq!(cancelled.verdict, Verdict::Retry, "{cancelled}");
    assert!(cancelled.detail.contains("57014"), "{cancelled}");
    let terminated = while_it_waits(&server, &ledger, 2, "pg_terminate_backend").await.unwrap_err();
    assert_eq!(terminated.verdict, Verdict::Unknown, "{terminated}");
    assert_eq!(standing(&sql).await, []);

    // Cut off by the caller while it waits: whatever becomes of it, the epoch is settled once, and no later question hears
    // an answer that was another's.
    ledger.probe().await.unwrap();
    sql.batch_execute("BEGIN; LOCK TABLE rewarder.settlements IN SHARE MODE").await.unwrap();
    let other = server.sql("postgres").await;
    for n in 10..20 {
        let (ours, ledger) = (intent("cut", n), ledger.clone());
        let task = tokio::spawn(async move { ledger.submit(&ours).await });
        until(&other, &WAITS.replace("= 1", "> 0")).await;
        task.abort();
        let _ = task.await;
    }
    sql.batch_execute("COMMIT").await.unwrap();
    for n in 10..20 {
        let ours = intent("cut", n);
        let rival = Intent { run_key: intent("rival", n).run_key, ..ours.clone() };
        let answer = settle(&ledger, &rival).await.unwrap();
        assert!(
            matches!(answer, Answer::Accepted) || answer == Answer::Conflict(record(&ours)),
            "{answer:?}"
        );
        assert_eq!(ledger.lookup(&intent("nobody", n).run_key).await.unwrap(), None);
    }
    assert_eq!(standing(&sql).await.len(), 10);

    // A row that the database will never take is for a person.
    sql.batch_execute("ALTER TABLE rewarder.settlements ADD CHECK (recipients <> 77)").await.unwrap();
    let refused = ledger.submit(&Intent { recipients: 77, ..intent("refused", 1) }).await.unwrap_err();
    assert_eq!(refused.verdict, Verdict::Refused, "{refused}");
    assert!(refused.detail.contains("23514"), "{refused}");
    // What somebody can put right is not.
    sql.batch_execute("ALTER TABLE rewarder.settlements RENAME TO away").await.unwrap();
    assert_eq!(ledger.submit(&intent("away", 1)).await.unwrap_err().verdict, Verdict::Retry);
    sql.batch_execute("ALTER TABLE rewarder.away RENAME TO settlements").await.unwrap();
    assert_eq!(ledger.submit(&intent("away", 1)).await.unwrap(), Answer::Accepted);

    // Gone while it waits: unknown. Not there: nothing was settled.
    ledger.probe().await.unwrap();
    sql.batch_execute("BEGIN; LOCK TABLE rewarder.settlements IN SHARE MODE").await.unwrap();
    let waiting = ledger.clone();
    let task = tokio::spawn(async move { waiting.submit(&intent("gone", 1)).await });
    until(&other, WAITS).await;
    tokio::task::block_in_place(|| server.run("kill"));
    assert_eq!(task.await.unwrap().unwrap_err().verdict, Verdict::Unknown);
    let away = ledger.submit(&intent("gone", 2)).await.unwrap_err();
    assert_eq!(away.verdict, Verdict::Retry, "{away}");
    tokio::task::block_in_place(|| server.run("start"));
    assert_eq!(settle(&ledger, &intent("gone", 1)).await.unwrap(), Answer::Accepted);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: testing/ledger/postgres"]
async fn the_table_is_made_once_and_looked_at() {
    let server = Server::start();

    // Eight services start at once on a database without a table.
    let sql = server.fresh("together").await;
    let starts: Vec<_> = (0..8)
        .map(|n| {
            let ledger = server.ledger("together", "postgres");
            tokio::spawn(async move { ledger.submit(&intent("together", n)).await })
        })
        .collect();
    for start in starts {
        assert_eq!(start.await.unwrap().unwrap(), Answer::Accepted);
    }
    assert_eq!(standing(&sql).await.len(), 8);

    // Tables that would not keep the law.
    for (name, spoil) in [
        ("keyless", "DROP CONSTRAINT settlements_pkey"),
        ("runless", "DROP CONSTRAINT settlements_run_key_key"),
        ("unlogged", "SET UNLOGGED"),
        ("deferred", "DROP CONSTRAINT settlements_pkey, ADD PRIMARY KEY (tenant, epoch_id) DEFERRABLE"),
        ("swapped", "DROP CONSTRAINT settlements_pkey, ADD PRIMARY KEY (epoch_id)"),
    ] {
        let sql = server.fresh(name).await;
        server.ledger(name, "postgres").probe().await.unwrap();
        sql.batch_execute(&format!("ALTER TABLE rewarder.settlements {spoil}")).await.unwrap();
        let error = server.ledger(name, "postgres").submit(&intent("wrong", 1)).await.unwrap_err();
        assert_eq!(error.verdict, Verdict::Retry);
        assert!(error.detail.contains("epochs could be paid twice"), "{name}: {error}");
        assert_eq!(standing(&sql).await, []);
    }

    // A role that may only read and insert, has to know its password, and whose defaults are dangerous.
    let sql = server.fresh("poor").await;
    server.ledger("poor", "postgres").probe().await.unwrap();
    sql.batch_execute(
        "CREATE ROLE teller LOGIN PASSWORD 'hunter2'; GRANT USAGE ON SCHEMA rewarder TO teller;
        GRANT SELECT, INSERT ON rewarder.settlements TO teller;
        ALTER ROLE teller SET synchronous_commit = off; ALTER ROLE teller SET search_path = elsewhere;
        ALTER ROLE teller SET default_transaction_isolation = serializable;
        CREATE TABLE seen (commits text, isolation text); GRANT INSERT ON seen TO teller;
        CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            INSERT INTO public.seen VALUES (current_setting('synchronous_commit'), current_setting('transaction_isolation'));
            RETURN NULL; END $$;
        CREATE TRIGGER note AFTER INSERT ON rewarder.settlements FOR EACH ROW EXECUTE FUNCTION note()",
    )
    .await
    .unwrap();
    let teller = server.ledger("poor", "teller&password=hunter2");
    assert_eq!(teller.submit(&intent("poor", 1)).await.unwrap(), Answer::Accepted);
    assert_eq!(teller.submit(&intent("poor", 1)).await.unwrap(), Answer::Dup(record(&intent("poor", 1))));
    let seen = sql.query_one("SELECT commits, isolation FROM seen", &[]).await.unwrap();
    assert_eq!((seen.get::<_, &str>(0), seen.get::<_, &str>(1)), ("on", "read committed"));
    for wrong in ["teller", "teller&password=hunter3"] {
        let error = server.ledger("poor", wrong).probe().await.unwrap_err();
        assert_eq!(error.verdict, Verdict::Retry);
        assert!(!error.to_string().contains("hunter"), "{error}");
    }

    // Sessions are bounded, however many submit at once.
    let ledger = server.ledger("together", "postgres");
    let many: Vec<_> = (0..300)
        .map(|n| {
            let ledger = ledger.clone();
            tokio::spawn(async move { ledger.submit(&intent("many", n)).await.unwrap() })
        })
        .collect();
    for one in many {
        assert_eq!(one.await.unwrap(), Answer::Accepted);
    }
    let count = "SELECT count(*) FROM pg_stat_activity WHERE datname = 'together' AND application_name = 'svc-rewarder'";
    let sessions: i64 = sql.query_one(count, &[]).await.unwrap().get(0);
    assert!((1..=16).contains(&sessions), "{sessions} sessions");
}
