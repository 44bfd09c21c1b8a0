//! Claims, records, and what a crash left between them.

use super::world::{Dice, FailingDisk, HandClock, HastyClock, Tokio};
use crate::*;
use rewarder_model::manifest::{Inputs, KERNEL, PolicyRef, SCHEMA};
use rewarder_model::world::disk::Disk;
use rewarder_model::world::{BoxFuture, Clock};
use rewarder_model::{
    Cid, Claim, Claims, EpochId, Intent, Manifest, Reason, Runs, RunsError, Status, TenantId, Totals, run_key,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Notes what it hears and settles everything, unless it wants patience, or has settled the epoch with this run.
#[derive(Default)]
struct Noting {
    heard: Mutex<Vec<&'static str>>,
    patience: Option<Duration>,
    settled: Mutex<Option<Record>>,
}

impl Ledger for Noting {
    fn submit<'a>(&'a self, intent: &'a Intent) -> BoxFuture<'a, Result<Answer, LedgerError>> {
        self.heard.lock().unwrap().push("submit");
        let (patience, settled) = (self.patience, *self.settled.lock().unwrap());
        Box::pin(async move {
            if let Some(record) = settled {
                let ours = record.run_key == intent.run_key;
                return Ok(if ours { Answer::Dup(record) } else { Answer::Conflict(record) });
            }
            let busy = |retry_after| LedgerError { retry_after, ..LedgerError::new(Verdict::Retry, "429") };
            if patience.is_some() { Err(busy(patience)) } else { Ok(Answer::Accepted) }
        })
    }

    fn lookup<'a>(&'a self, _: &'a Cid) -> BoxFuture<'a, Result<Option<Record>, LedgerError>> {
        self.heard.lock().unwrap().push("ask");
        Box::pin(async { Ok(None) })
    }

    fn probe(&self) -> BoxFuture<'_, Result<(), LedgerError>> {
        Box::pin(async { Ok(()) })
    }
}

impl Noting {
    fn heard(&self) -> Vec<&'static str> {
        std::mem::take(&mut *self.heard.lock().unwrap())
    }
}

/// Runs in memory.
#[derive(Default)]
struct Memory {
    claims: Mutex<BTreeMap<EpochId, Cid>>,
    manifests: Mutex<BTreeMap<Cid, Vec<u8>>>,
    records: Mutex<BTreeMap<Cid, String>>,
    /// Whether records cannot be written.
    fails: AtomicBool,
    /// Epochs whose claim cannot be read.
    damaged: Mutex<BTreeSet<EpochId>>,
}

impl Memory {
    fn readable(&self, epoch: &EpochId) -> Result<(), RunsError> {
        match self.damaged.lock().unwrap().contains(epoch) {
            true => {
                Err(RunsError { reason: Reason::Internal, detail: format!("claims/acme/{epoch} is damaged") })
            }
            false => Ok(()),
        }
    }
}

impl Runs for Memory {
    fn claim(&self, _: &TenantId, epoch: &EpochId, run_key: &Cid) -> Result<Claim, RunsError> {
        self.readable(epoch)?;
        let mut claims = self.claims.lock().unwrap();
        Ok(match claims.get(epoch) {
            Some(holder) if holder == run_key => Claim::Same,
            Some(holder) => Claim::Conflict(*holder),
            None => {
                claims.insert(epoch.clone(), *run_key);
                Claim::Claimed
            }
        })
    }

    fn unclaim(&self, _: &TenantId, epoch: &EpochId, run_key: &Cid) -> Result<bool, RunsError> {
        let mut claims = self.claims.lock().unwrap();
        let ours = claims.get(epoch) == Some(run_key);
        if ours {
            claims.remove(epoch);
        }
        Ok(ours)
    }

    fn holder(&self, _: &TenantId, epoch: &EpochId) -> Result<Option<Cid>, RunsError> {
        self.readable(epoch)?;
        Ok(self.claims.lock().unwrap().get(epoch).copied())
    }

    fn claimed(&self) -> Result<Claims, RunsError> {
        let mut claims = Claims::default();
        for (epoch, run_key) in &*self.claims.lock().unwrap() {
            let tenant: TenantId = "acme".parse().unwrap();
            match self.readable(epoch) {
                Ok(()) => claims.read.push((tenant, epoch.clone(), *run_key)),
                Err(error) => claims.unread.push((tenant, epoch.clone(), error)),
            }
        }
        Ok(claims)
    }

    fn manifest(&self, _: &TenantId, run_key: &Cid) -> Result<Option<Vec<u8>>, RunsError> {
        Ok(self.manifests.lock().unwrap().get(run_key).cloned())
    }

    fn delivery(&self, _: &TenantId, run_key: &Cid) -> Result<Option<Vec<u8>>, RunsError> {
        Ok(self.records.lock().unwrap().get(run_key).map(|record| record.clone().into_bytes()))
    }

    fn keep_delivery(&self, _: &TenantId, run_key: &Cid, json: &[u8]) -> Result<(), RunsError> {
        if self.fails.load(Ordering::SeqCst) {
            return Err(RunsError { reason: Reason::Internal, detail: "an I/O error".into() });
        }
        self.records.lock().unwrap().insert(*run_key, String::from_utf8(json.to_vec()).unwrap());
        Ok(())
    }
}

impl Memory {
    /// Stores run `n` of an epoch of its own.
    fn run(&self, n: u64) -> Intent {
        let (epoch_id, cid): (EpochId, _) = (format!("2026-{n}").parse().unwrap(), Cid::of(&n.to_le_bytes()));
        let manifest = Manifest {
            allocations_root: cid,
            inputs: Inputs { actors: 1, cid, rows: 1 },
            kernel: KERNEL.into(),
            policy: PolicyRef { hash: cid, id: "p1".parse().unwrap() },
            reason: None,
            run_key: run_key(&epoch_id, &cid, &cid),
            epoch_id,
            schema: SCHEMA.into(),
            status: Status::Ok,
            tenant: "acme".parse().unwrap(),
            totals: Totals {
                asset: "roc".parse().unwrap(),
                budget_minor_units: 1.into(),
                demanded_minor_units: None,
                payout_minor_units: 1.into(),
                pool_minor_units: 1.into(),
                recipients: 1,
                residual_minor_units: 0.into(),
            },
        };
        let bytes = manifest.to_canonical_bytes();
        let intent = Intent::of(&manifest, Cid::of(&bytes));
        self.manifests.lock().unwrap().insert(intent.run_key, bytes);
        intent
    }

    /// What a crash leaves of it: a claim, and this record.
    fn left(&self, n: u64, record: Option<&str>) -> Intent {
        let intent = self.run(n);
        self.claims.lock().unwrap().insert(intent.epoch_id.clone(), intent.run_key);
        if let Some(word) = record {
            let json = format!(r#"{{"result":"{word}"}}"#);
            self.records.lock().unwrap().insert(intent.run_key, json);
        }
        intent
    }
}

async fn handover(ledger: Arc<Noting>, runs: Arc<Memory>, clock: Arc<dyn Clock>) -> Handover {
    handover_on(None, ledger, runs, clock).await
}

/// The same with its spool on a disk.
async fn handover_on(
    disk: Option<FailingDisk>,
    ledger: Arc<Noting>,
    runs: Arc<Memory>,
    clock: Arc<dyn Clock>,
) -> Handover {
    let spawn = Arc::new(Tokio);
    let disk = disk.map(|disk| Arc::new(disk) as Arc<dyn Disk>);
    let config = QuarantineConfig { preallocated_bytes: 0, ..QuarantineConfig::default() };
    let spool = loop {
        // Whoever wrote for a spool of before may hold it for a moment that these clocks do not show.
        match Spool::open(disk.clone(), config, &HastyClock::default(), spawn.clone()).await {
            Err(SpoolError::InUse) => std::thread::sleep(Duration::from_millis(1)),
            opened => break opened.unwrap(),
        }
    };
    let latch = Arc::new(Latch::open(None, Arc::new(Audit::open(None).unwrap())).unwrap());
    let around = Surroundings { ledger, spool, latch, clock, entropy: Arc::new(Dice::new(7)), spawn };
    let config = DeliveryConfig::default();
    let deliverer = Deliverer::new(around, config, ReemitConfig::default(), BreakerConfig::default());
    let handover = Handover::new(deliverer, Some(runs));
    handover.keep_records();
    handover
}

#[tokio::test]
async fn a_run_that_was_sent_before_is_asked_about_first() {
    let (ledger, runs) = (Arc::new(Noting::default()), Arc::new(Memory::default()));
    let it = handover(ledger.clone(), runs.clone(), Arc::new(HastyClock::default())).await;
    it.deliver(runs.run(1)).await.unwrap();
    assert_eq!(ledger.heard(), ["submit"], "a new one");
    it.deliver(runs.run(1)).await.unwrap();
    assert_eq!(ledger.heard(), ["ask", "submit"], "claimed before");
    let dropped = runs.left(2, Some("dropped"));
    runs.unclaim(&dropped.tenant, &dropped.epoch_id, &dropped.run_key).unwrap();
    it.deliver(dropped).await.unwrap();
    assert_eq!(ledger.heard(), ["ask", "submit"], "recorded before");
}

#[tokio::test]
async fn claims_that_a_crash_left_are_brought_to_their_end() {
    let (ledger, runs) = (Arc::new(Noting::default()), Arc::new(Memory::default()));
    let words = [None, Some("held"), Some("conflict"), Some("dropped"), Some("refused"), Some("accepted")];
    let left: Vec<_> = words.iter().zip(0..).map(|(word, n)| runs.left(n, *word)).collect();
    handover(ledger.clone(), runs.clone(), Arc::new(HastyClock::default())).await.recover().await;
    let thrice = ["ask", "submit", "ask", "submit", "ask", "submit"];
    assert_eq!(ledger.heard(), thrice, "never recorded, and held nowhere: for later, and for an operator");
    let claimed = runs.claimed().unwrap().read;
    let stays: Vec<_> =
        left.iter().map(|intent| claimed.iter().any(|(_, epoch, _)| *epoch == intent.epoch_id)).collect();
    assert_eq!(stays, [true, true, false, false, true, true]);
}

/// A list of claims that is a moment old must not deliver what its tenant has been told is not taken.
#[tokio::test]
async fn a_claim_that_was_given_back_is_not_delivered() {
    let (ledger, runs) = (Arc::new(Noting::default()), Arc::new(Memory::default()));
    let left = runs.left(1, None);
    let it = handover(ledger.clone(), runs.clone(), Arc::new(HastyClock::default())).await;
    runs.unclaim(&left.tenant, &left.epoch_id, &left.run_key).unwrap();
    assert!(!it.redeliver(&left.tenant, &left.epoch_id, &left.run_key).await.unwrap());
    assert_eq!(ledger.heard(), [""; 0]);
    assert_eq!(runs.holder(&left.tenant, &left.epoch_id), Ok(None));
}

#[tokio::test]
async fn what_a_crash_left_is_tried_until_it_can_be_delivered() {
    let (ledger, runs) = (Arc::new(Noting::default()), Arc::new(Memory::default()));
    let left = runs.left(1, None);
    let it = handover(ledger.clone(), runs.clone(), Arc::new(HastyClock::default())).await;
    it.deliverer().latch_off("invariant", "a test".into()).await;
    let recovering = it.clone();
    let recovery = tokio::spawn(async move { recovering.recover().await });
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
    assert!(!recovery.is_finished() && ledger.heard().is_empty());
    it.deliverer().release_latch("looked at".into()).await.unwrap();
    recovery.await.unwrap();
    assert_eq!(ledger.heard(), ["ask", "submit"]);
    assert!(runs.delivery(&left.tenant, &left.run_key).unwrap().is_some_and(|json| is_settled(&json)));
}

#[tokio::test]
async fn the_quarantine_obeys_retry_after() {
    let patience = Duration::from_secs(30);
    let ledger = Arc::new(Noting { patience: Some(patience), ..Noting::default() });
    let (runs, clock) = (Arc::new(Memory::default()), HandClock::new());
    let it = handover(ledger.clone(), runs.clone(), Arc::new(clock.clone())).await;
    let delivered = it.deliver(runs.run(1)).await.unwrap();
    assert!(matches!(delivered.outcome, Outcome::Held { .. }));
    let mut schedule = Schedule::default();
    assert_eq!(it.deliverer().reemit_once(&mut schedule, &|_, _| {}).await, patience);
    clock.advance(patience - Duration::from_millis(1));
    assert_eq!(it.deliverer().reemit_once(&mut schedule, &|_, _| {}).await, Duration::from_millis(1));
    assert_eq!(ledger.heard(), ["submit"]);
    clock.advance(Duration::from_millis(1));
    it.deliverer().reemit_once(&mut schedule, &|_, _| {}).await;
    assert_eq!(ledger.heard(), ["submit"], "and then it is sent again");
}

/// Another replica settles the epoch while a run is held here: an operator has to know, and tenants hear what is true.
#[tokio::test]
async fn a_held_run_whose_epoch_another_one_settles_keeps_neither_the_claim_nor_the_word() {
    let ledger = Arc::new(Noting { patience: Some(Duration::from_secs(30)), ..Noting::default() });
    let (runs, clock) = (Arc::new(Memory::default()), HandClock::new());
    let it = handover(ledger.clone(), runs.clone(), Arc::new(clock.clone())).await;
    let (held, other) = (runs.run(1), Intent { run_key: Cid::of(b"other"), ..runs.run(1) });
    assert!(matches!(it.deliver(held.clone()).await.unwrap().outcome, Outcome::Held { .. }));
    assert!(
        matches!(it.deliver(other.clone()).await, Err(HandoverError::Conflict(key)) if key == held.run_key)
    );
    let record = Record { run_key: other.run_key, commitment: other.commitment };
    *ledger.settled.lock().unwrap() = Some(record);
    let mut schedule = Schedule::default();
    for _ in 0..4 {
        clock.advance(Duration::from_secs(60));
        it.deliverer().reemit_once(&mut schedule, &|_, _| {}).await;
    }
    let spool = it.deliverer().spool().clone();
    let entry = spool.find(&held.run_key).unwrap();
    assert_eq!((entry.state, entry.settled_by), (State::Operator, Some(record)));
    assert!(runs.delivery(&held.tenant, &held.run_key).unwrap().is_some_and(|json| !is_settled(&json)));
    assert_eq!(runs.holder(&held.tenant, &held.epoch_id), Ok(None));
    for _ in 0..2 {
        assert_eq!(it.deliver(held.clone()).await.unwrap().outcome, Outcome::Conflict(record));
        assert_eq!(it.deliver(other.clone()).await.unwrap().outcome, Outcome::Dup);
        assert_eq!(runs.holder(&held.tenant, &held.epoch_id), Ok(Some(other.run_key)));
        let again = it.deliver(held.clone()).await;
        assert!(matches!(again, Err(HandoverError::Conflict(key)) if key == other.run_key), "{again:?}");
        runs.unclaim(&other.tenant, &other.epoch_id, &other.run_key).unwrap();
    }
    assert!(it.drop_entry(entry.seq, "it was paid elsewhere".into()).await.unwrap().is_some());
    assert_eq!(spool.find(&held.run_key), None);
}

/// A batch job keeps no runs and makes no claim; what it left held is a promise all the same.
#[tokio::test]
async fn what_the_spool_holds_of_an_epoch_stands_for_a_claim() {
    let ledger = Arc::new(Noting { patience: Some(Duration::from_secs(30)), ..Noting::default() });
    let (runs, clock) = (Arc::new(Memory::default()), HandClock::new());
    let service = handover(ledger.clone(), runs.clone(), Arc::new(clock.clone())).await;
    let batch = Handover::new(service.deliverer().clone(), None);
    let (held, other) = (runs.run(1), Intent { run_key: Cid::of(b"other"), ..runs.run(1) });
    assert!(matches!(batch.deliver(held.clone()).await.unwrap().outcome, Outcome::Held { .. }));
    for it in [&batch, &service] {
        let refused = it.deliver(other.clone()).await;
        assert!(matches!(refused, Err(HandoverError::Conflict(key)) if key == held.run_key), "{refused:?}");
        let elsewhere = Intent { tenant: "other".parse().unwrap(), ..other.clone() };
        assert_eq!(it.deliverer().spool().other_run(&elsewhere), None, "another tenant's epoch");
    }
    assert_eq!(runs.holder(&held.tenant, &held.epoch_id), Ok(None));
    assert!(matches!(batch.deliver(held).await.unwrap().outcome, Outcome::Held { .. }), "itself again");
}

/// The disk fails under the spool, and not for want of room.
#[tokio::test]
async fn a_claim_is_given_back_when_the_spool_kept_nothing_and_stays_when_it_may_have() {
    for (fails, stays) in [(&["write"][..], false), (&["sync"], false), (&["write", "truncate"], true)] {
        let (disk, ledger, runs) =
            (FailingDisk::default(), Arc::new(Noting::default()), Arc::new(Memory::default()));
        let clock = Arc::new(HastyClock::default());
        let it = handover_on(Some(disk.clone()), ledger.clone(), runs.clone(), clock.clone()).await;
        let run = runs.run(1);
        disk.fail(&fails.iter().map(|what| (*what, "spool")).collect::<Vec<_>>());
        let refused = it.deliver(run.clone()).await;
        assert!(
            matches!(&refused, Err(HandoverError::Emit(error)) if error.is_void() != stays),
            "{fails:?}: {refused:?}"
        );
        assert_eq!(runs.holder(&run.tenant, &run.epoch_id).unwrap().is_some(), stays, "{fails:?}");
        disk.fail(&[]);
        it.recover().await;
        let heard = if stays { vec!["ask", "submit"] } else { vec![] };
        assert_eq!(ledger.heard(), heard, "{fails:?}: what was refused does not come back");
        // A claim that was there before belongs to an earlier promise.
        let before = runs.left(2, None);
        disk.fail(&[("write", "spool")]);
        assert!(it.deliver(before.clone()).await.is_err());
        assert_eq!(runs.holder(&before.tenant, &before.epoch_id), Ok(Some(before.run_key)));
        disk.fail(&[]);
        assert!(it.deliver(run).await.unwrap().is_settled());
    }
}

/// The store fails in the middle of a drop. Nothing sends the run any more; the same drop once more ends it, or the next start.
#[tokio::test]
async fn a_drop_that_was_begun_is_brought_to_its_end() {
    for restart in [false, true] {
        let ledger = Arc::new(Noting { patience: Some(Duration::from_secs(30)), ..Noting::default() });
        let (disk, runs, clock) = (FailingDisk::default(), Arc::new(Memory::default()), HandClock::new());
        let open = || handover_on(Some(disk.clone()), ledger.clone(), runs.clone(), Arc::new(clock.clone()));
        let it = open().await;
        let held = runs.run(1);
        assert!(matches!(it.deliver(held.clone()).await.unwrap().outcome, Outcome::Held { .. }));
        assert_eq!(ledger.heard(), ["submit"]);
        let seq = it.deliverer().spool().find(&held.run_key).unwrap().seq;
        runs.fails.store(true, Ordering::SeqCst);
        assert!(matches!(it.drop_entry(seq, "withdrawn".into()).await, Err(HandoverError::Runs(_))));
        clock.advance(Duration::from_secs(60));
        it.deliverer().reemit_once(&mut Schedule::default(), &|_, _| {}).await;
        let again = it.deliver(held.clone()).await.unwrap().outcome;
        assert!(matches!(again, Outcome::Refused { .. }), "{again:?}");
        let released = it.deliverer().release_entry(seq, "or not".into()).await;
        assert!(matches!(released, Err(EmitError::Dropped)), "{released:?}");
        runs.fails.store(false, Ordering::SeqCst);
        let spool = if restart {
            drop(it);
            let it = open().await;
            it.recover().await;
            it.deliverer().spool().clone()
        } else {
            assert!(it.drop_entry(seq, "withdrawn".into()).await.unwrap().is_some());
            it.deliverer().spool().clone()
        };
        assert_eq!(ledger.heard(), [""; 0], "what was dropped is not sent");
        assert_eq!(spool.find(&held.run_key), None);
        assert_eq!(runs.holder(&held.tenant, &held.epoch_id), Ok(None));
        let record = runs.delivery(&held.tenant, &held.run_key).unwrap().unwrap();
        assert!(String::from_utf8(record).unwrap().contains("dropped"), "restarted: {restart}");
    }
}

/// A crash has brought a settled entry back, and an operator drops it before the ledger is asked.
#[tokio::test]
async fn a_drop_of_what_is_settled_changes_neither_record_nor_claim() {
    let (ledger, runs) = (Arc::new(Noting::default()), Arc::new(Memory::default()));
    let it = handover(ledger.clone(), runs.clone(), Arc::new(HastyClock::default())).await;
    let settled = runs.left(1, Some("accepted"));
    let entry = it.deliverer().spool().admit(&settled, State::Pending, true, "", 0).await.unwrap();
    assert!(it.drop_entry(entry.seq, "a mistake".into()).await.unwrap().is_some());
    assert!(runs.delivery(&settled.tenant, &settled.run_key).unwrap().is_some_and(|json| is_settled(&json)));
    assert_eq!(runs.holder(&settled.tenant, &settled.epoch_id), Ok(Some(settled.run_key)));
}

/// One claim that cannot be read is one epoch's affair: that stays taken, and all others are looked at.
#[tokio::test]
async fn a_damaged_claim_keeps_its_epoch_and_nobody_elses_recovery() {
    let (ledger, runs) = (Arc::new(Noting::default()), Arc::new(Memory::default()));
    let (damaged, whole) = (runs.left(1, None), runs.left(2, None));
    runs.damaged.lock().unwrap().insert(damaged.epoch_id.clone());
    let it = handover(ledger.clone(), runs.clone(), Arc::new(HastyClock::default())).await;
    let recovering = it.clone();
    let recovery = tokio::spawn(async move { recovering.recover().await });
    while runs.delivery(&whole.tenant, &whole.run_key).unwrap().is_none() {
        tokio::task::yield_now().await;
    }
    assert_eq!(ledger.heard(), ["ask", "submit"]);
    let other = Intent { run_key: Cid::of(b"other"), ..damaged.clone() };
    for run in [other, damaged.clone()] {
        assert!(matches!(it.deliver(run).await, Err(HandoverError::Runs(_))), "taken by nobody knows whom");
    }
    assert!(ledger.heard().is_empty() && !recovery.is_finished());
    runs.damaged.lock().unwrap().clear();
    recovery.await.unwrap();
    assert_eq!(ledger.heard(), ["ask", "submit"], "once it can be read it is looked at too");
    assert!(runs.delivery(&damaged.tenant, &damaged.run_key).unwrap().is_some_and(|json| is_settled(&json)));
}

/// The delivery record tells of the whole life of an intent: emissions, re-emissions, restarts.
#[tokio::test]
async fn attempts_and_the_first_time_are_the_intents_own() {
    let busy = Arc::new(Noting { patience: Some(Duration::from_secs(30)), ..Noting::default() });
    let (disk, runs, clock) = (FailingDisk::default(), Arc::new(Memory::default()), HandClock::new());
    let open = |ledger| handover_on(Some(disk.clone()), ledger, runs.clone(), Arc::new(clock.clone()));
    let run = runs.run(1);
    let told = |attempts: u64, result: &str| {
        let json = runs.delivery(&run.tenant, &run.run_key).unwrap().unwrap();
        let record: serde_json::Value = serde_json::from_slice(&json).unwrap();
        assert_eq!((&record["attempts"], &record["result"]), (&attempts.into(), &result.into()));
        record["first_unix_ms"].as_u64().unwrap()
    };
    let it = open(busy.clone()).await;
    it.deliver(run.clone()).await.unwrap();
    let first = told(1, "held");
    clock.advance(Duration::from_secs(60));
    it.deliverer().reemit_once(&mut Schedule::default(), &|_, _| {}).await;
    assert_eq!(told(2, "held"), first);
    assert_eq!(it.deliver(run.clone()).await.unwrap().attempts, 3, "a repetition is an emission too");
    drop(it);
    let it = open(Arc::new(Noting::default())).await;
    it.deliverer().reemit_once(&mut Schedule::default(), &|_, _| {}).await;
    assert_eq!(told(4, "accepted"), first, "the question after the restart does not count");
}
