//! The laws of emission under faults: never twice, never lost, nothing under the latch.

use super::peer::{Fault, Peer};
use super::world::{Dice, FailingDisk, HandClock, HastyClock, PatientClock, Tokio, intent};
use crate::delivery::Surroundings;
use crate::*;
use rewarder_model::world::disk::{Disk, RealDisk};
use rewarder_model::world::{BoxFuture, Clock, Entropy};
use rewarder_model::{Cid, Intent};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

async fn deliverer(
    ledger: Arc<dyn Ledger>,
    clock: Arc<dyn Clock>,
    dir: Option<&Path>,
    entries_max: u64,
) -> Arc<Deliverer> {
    let config = QuarantineConfig { entries_max, ..QuarantineConfig::default() };
    deliverer_with(ledger, clock, dir, config, patient()).await
}

/// A breaker that these faults do not open.
fn patient() -> BreakerConfig {
    let health = HealthConfig { failures_max: u32::MAX, p99_max: Duration::MAX, ..HealthConfig::default() };
    BreakerConfig { health, ..BreakerConfig::default() }
}

fn disk(dir: &Path) -> Arc<dyn Disk> {
    Arc::new(RealDisk::new(dir).unwrap())
}

/// The thread that wrote for a spool of before may hold it for a moment that these clocks do not show.
async fn open_spool(
    dir: Option<&Path>,
    config: QuarantineConfig,
    clock: &dyn Clock,
    spawn: Arc<Tokio>,
) -> Spool {
    for _ in 0..1000 {
        match Spool::open(dir.map(disk), config, clock, spawn.clone()).await {
            Err(SpoolError::InUse) => std::thread::sleep(Duration::from_millis(5)),
            opened => return opened.unwrap(),
        }
    }
    panic!("the spool of before is still held");
}

async fn deliverer_with(
    ledger: Arc<dyn Ledger>,
    clock: Arc<dyn Clock>,
    dir: Option<&Path>,
    config: QuarantineConfig,
    breaker: BreakerConfig,
) -> Arc<Deliverer> {
    let spawn = Arc::new(Tokio);
    let spool = open_spool(dir, config, &*clock, spawn.clone()).await;
    let latch = Arc::new(Latch::open(dir.map(disk), Arc::new(Audit::open(dir.map(disk)).unwrap())).unwrap());
    let around = Surroundings { ledger, spool, latch, clock, entropy: Arc::new(Dice::new(7)), spawn };
    let config = DeliveryConfig { backoff_max: Duration::from_millis(50), ..DeliveryConfig::default() };
    Deliverer::new(around, config, ReemitConfig::default(), breaker)
}

/// A ledger with the settle-once law that fails by the dice until it is healed, and that knows who was
/// impatient.
struct Faulty {
    dice: Dice,
    state: Mutex<Book>,
}

#[derive(Default)]
struct Book {
    healed: bool,
    settled: BTreeMap<String, Record>,
    /// Submissions whose sender cannot know their fate, until it asks.
    open: BTreeSet<Cid>,
    submits: u32,
}

impl Ledger for Faulty {
    fn submit<'a>(&'a self, intent: &'a Intent) -> BoxFuture<'a, Result<Answer, LedgerError>> {
        Box::pin(async move {
            let dice = self.dice.below(8);
            let (answer, fault) = {
                let mut book = self.state.lock().unwrap();
                book.submits += 1;
                assert!(!book.open.contains(&intent.run_key), "sent again without asking");
                let fault = if book.healed { 7 } else { dice };
                if fault >= 2 {
                    let ours = Record { run_key: intent.run_key, commitment: intent.commitment };
                    let key = format!("{} {}", intent.tenant, intent.epoch_id);
                    let answer = match book.settled.get(&key) {
                        None => Answer::Accepted,
                        Some(record) if record.run_key == intent.run_key => Answer::Dup(*record),
                        Some(record) => Answer::Conflict(*record),
                    };
                    book.settled.entry(key).or_insert(ours);
                    if (2..=4).contains(&fault) {
                        book.open.insert(intent.run_key);
                    }
                    (Some(answer), fault)
                } else {
                    if fault == 1 {
                        book.open.insert(intent.run_key);
                    }
                    (None, fault)
                }
            };
            match (fault, answer) {
                (0, _) => Err(LedgerError::new(Verdict::Retry, "busy")),
                (1 | 2, _) => Err(LedgerError::new(Verdict::Unknown, "reset")),
                (3 | 4, _) | (_, None) => std::future::pending().await,
                (_, Some(answer)) => Ok(answer),
            }
        })
    }

    fn lookup<'a>(&'a self, run_key: &'a Cid) -> BoxFuture<'a, Result<Option<Record>, LedgerError>> {
        Box::pin(async move {
            let dice = self.dice.below(3);
            let found = {
                let mut book = self.state.lock().unwrap();
                if book.healed || dice == 2 {
                    book.open.remove(run_key);
                    Some(book.settled.values().find(|record| record.run_key == *run_key).copied())
                } else {
                    None
                }
            };
            match found {
                Some(found) => Ok(found),
                None if dice == 0 => std::future::pending().await,
                None => Err(LedgerError::new(Verdict::Retry, "503")),
            }
        })
    }

    fn probe(&self) -> BoxFuture<'_, Result<(), LedgerError>> {
        Box::pin(async { Ok(()) })
    }
}

/// 200 seeds: every intent that was accepted (200 or 202) is settled once the faults stop, and only once; the
/// ledger itself asserts that nobody sends while an outcome is open. A failure names its seed.
#[tokio::test]
async fn never_twice_never_lost_under_any_faults() {
    let mut held = 0;
    for seed in 0..200 {
        let ledger = Arc::new(Faulty { dice: Dice::new(seed), state: Mutex::default() });
        let d = deliverer(ledger.clone(), Arc::new(HastyClock::default()), None, 100).await;
        for n in 0..8 {
            let delivered = d.deliver(intent(n)).await.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
            let kept = d.spool().find(&intent(n).run_key).is_some();
            assert_eq!(kept, !delivered.is_settled(), "seed {seed}: {delivered:?}");
            held += u32::from(kept);
        }
        let waiting = d.spool().depth();
        ledger.state.lock().unwrap().healed = true;
        let order = Mutex::new(Vec::new());
        let settled = |intent: &Intent, delivered: &Delivered| {
            assert!(delivered.is_settled(), "seed {seed}: {delivered:?}");
            order.lock().unwrap().push(intent.payout_minor_units);
        };
        let mut schedule = Schedule::default();
        while d.spool().depth() > 0 {
            let wait = d.reemit_once(&mut schedule, &settled).await;
            d.clock().sleep(wait).await;
        }
        let order = order.into_inner().unwrap();
        assert!(order.is_sorted() && order.len() as u64 == waiting, "seed {seed}: oldest first, each once");
        let book = ledger.state.lock().unwrap();
        assert_eq!(book.settled.len(), 8, "seed {seed}");
        for n in 0..8 {
            let intent = intent(n);
            assert_eq!(
                book.settled[&format!("acme {}", intent.epoch_id)].commitment,
                intent.commitment,
                "seed {seed}"
            );
        }
    }
    assert!(held > 100, "only {held} were held: the faults are too mild to show anything");
}

fn said(status: u16, body: impl ToString) -> Fault {
    Fault::Say { settled: false, status, body: body.to_string(), retry_after: None }
}

/// Emits `intent(1)` at a peer with these faults, moving time when the peer falls silent.
async fn over_http(faults: Vec<Fault>) -> (Delivered, Arc<Deliverer>, Peer) {
    let peer = Peer::start().await;
    let silences: Vec<_> = faults.iter().map(|fault| matches!(fault, Fault::Silence { .. })).collect();
    peer.faults.lock().unwrap().extend(faults);
    let hand = HandClock::new();
    let ledger = Arc::new(HttpLedger::new(&peer.url));
    let d = deliverer(ledger, Arc::new(PatientClock(hand.clone())), None, 10).await;
    let emission = tokio::spawn({
        let d = d.clone();
        async move { d.deliver(intent(1)).await.unwrap() }
    });
    for silent in silences {
        peer.came.notified().await;
        if silent {
            hand.advance(DeliveryConfig::default().attempt);
        }
    }
    let delivered = emission.await.unwrap();
    (delivered, d, peer)
}

async fn check(faults: Vec<Fault>, expect: Outcome, settlements: u64, posts_and_gets: &str) {
    let name = format!("{faults:?}");
    let (delivered, d, peer) = over_http(faults).await;
    assert_eq!(delivered.outcome, expect, "{name}");
    assert_eq!(peer.ledger.count().unwrap(), settlements, "{name}");
    let log: String = peer.log.lock().unwrap().iter().map(|line| &line[..1]).collect();
    assert_eq!(log, posts_and_gets, "{name}");
    assert_eq!(d.spool().depth() == 0, delivered.hold_is_none(), "{name}");
    assert!(serde_json::from_slice::<serde_json::Value>(&delivered.to_json(&intent(1))).unwrap().is_object());
}

impl Delivered {
    fn hold_is_none(&self) -> bool {
        self.is_settled() || matches!(self.outcome, Outcome::Conflict(_))
    }
}

#[tokio::test]
async fn faults_over_a_real_socket() {
    use Outcome::*;
    check(vec![], Accepted, 1, "P").await;
    check(vec![Fault::Reset { settled: true }], Accepted, 1, "PG").await;
    check(vec![Fault::Reset { settled: false }], Accepted, 1, "PGP").await;
    check(vec![Fault::Silence { settled: true }], Accepted, 1, "PG").await;
    check(vec![Fault::Silence { settled: false }], Accepted, 1, "PGP").await;
    check(vec![Fault::Half], Accepted, 1, "PG").await;
    check(vec![said(503, "{}")], Accepted, 1, "PGP").await;
    check(vec![said(201, "<html>welcome</html>")], Accepted, 1, "PGP").await;
    check(vec![said(200, "{}"), said(409, "[]")], Accepted, 1, "PGPGP").await;
    check(vec![said(201, "x".repeat(100_000))], Accepted, 1, "PGP").await;
    check(vec![said(429, "")], Accepted, 1, "PP").await;
    check(vec![said(302, "")], Accepted, 1, "PGP").await;
    check(vec![said(400, "{}")], Refused { detail: "the ledger answered 400 to an intent".into() }, 0, "P")
        .await;
    let detail = "all tries at the ledger are used up: the ledger answered 500 to an intent".to_owned();
    check(vec![said(500, ""); 3], Held { unknown: false, detail }, 0, "PGPGPG").await;
    let patience = Fault::Say { settled: false, status: 503, body: String::new(), retry_after: Some(5) };
    let detail =
        "the ledger deadline leaves no time for another try: the ledger answered 503 to an intent".to_owned();
    check(vec![patience], Held { unknown: true, detail }, 0, "P").await;
}

#[tokio::test]
async fn a_conflict_is_the_jobs_own_affair() {
    let peer = Peer::start().await;
    let rival = Intent { run_key: Cid::of(b"rival"), ..intent(1) };
    peer.ledger.submit(&rival).await.unwrap();
    let d =
        deliverer(Arc::new(HttpLedger::new(&peer.url)), Arc::new(PatientClock::default()), None, 10).await;
    let stored = Record { run_key: rival.run_key, commitment: rival.commitment };
    assert_eq!(d.deliver(intent(1)).await.unwrap().outcome, Outcome::Conflict(stored));
    assert!(!d.latch().is_set() && d.spool().depth() == 0);
    assert_eq!(d.deliver(intent(2)).await.unwrap().outcome, Outcome::Accepted);
    assert_eq!(d.deliver(intent(2)).await.unwrap().outcome, Outcome::Dup);
}

#[tokio::test]
async fn a_foreign_dup_latches_until_an_operator_says_why_not() {
    let dir = tempfile::tempdir().unwrap();
    let peer = Peer::start().await;
    peer.ledger.submit(&Intent { commitment: Cid::of(b"foreign"), ..intent(1) }).await.unwrap();
    let ledger = Arc::new(HttpLedger::new(&peer.url));
    let d = deliverer(ledger.clone(), Arc::new(PatientClock::default()), Some(dir.path()), 10).await;
    assert!(matches!(d.deliver(intent(1)).await.unwrap().outcome, Outcome::ForeignDup(_)));
    assert_eq!(d.spool().list()[0].state, State::Operator);
    let posts = peer.log.lock().unwrap().len();
    assert!(matches!(d.deliver(intent(2)).await, Err(EmitError::Latched(_))));
    drop(d);
    let d = deliverer(ledger, Arc::new(PatientClock::default()), Some(dir.path()), 10).await;
    assert!(matches!(d.deliver(intent(2)).await, Err(EmitError::Latched(_))), "a restart is no release");
    d.reemit_once(&mut Schedule::default(), &|_: &Intent, _: &Delivered| panic!("emitted under the latch"))
        .await;
    assert_eq!(peer.log.lock().unwrap().len(), posts, "nothing was sent under the latch");
    assert!(d.release_latch(String::new()).await.is_err());
    assert!(d.release_latch("ledger restored from a backup, checked by hand".into()).await.unwrap());
    assert_eq!(d.deliver(intent(2)).await.unwrap().outcome, Outcome::Accepted);
    let again = d.deliver(intent(1)).await.unwrap();
    assert!(
        matches!(again.outcome, Outcome::Refused { .. }) && again.attempts == 1,
        "that one waits for a person"
    );
    assert_eq!(Audit::open(Some(disk(dir.path()))).unwrap().lines().unwrap().len(), 2);
}

#[tokio::test]
async fn a_full_buffer_refuses_before_anything_is_sent() {
    let ledger = Arc::new(Faulty { dice: Dice::new(0), state: Mutex::default() });
    let d = deliverer(ledger.clone(), Arc::new(HastyClock::default()), None, 1).await;
    let mut n = 0;
    while d.spool().depth() == 0 {
        d.deliver(intent(n)).await.unwrap();
        n += 1;
    }
    let submits = ledger.state.lock().unwrap().submits;
    assert!(matches!(d.deliver(intent(n)).await, Err(EmitError::SpoolFull)));
    assert_eq!(ledger.state.lock().unwrap().submits, submits);
    let again = d.deliver(intent(n - 1)).await.unwrap();
    assert!(
        again.is_settled() || matches!(again.outcome, Outcome::Held { .. }),
        "what is held already needs no other place: {again:?}"
    );
}

/// The file as `kill -9` leaves it holds every intent whose 202 was answered, in order, and all are settled
/// afterwards.
#[tokio::test]
async fn a_crash_loses_nothing_that_was_held() {
    let (dir, image) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let nobody = Arc::new(HttpLedger::new("http://127.0.0.1:1"));
    let d = deliverer(nobody, Arc::new(PatientClock::default()), Some(dir.path()), 10).await;
    for n in 0..5 {
        assert!(matches!(d.deliver(intent(n)).await.unwrap().outcome, Outcome::Held { unknown: false, .. }));
    }
    std::fs::create_dir(image.path().join("spool")).unwrap();
    for file in std::fs::read_dir(dir.path().join("spool")).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), image.path().join("spool").join(file.file_name())).unwrap();
    }
    drop(d);
    for dir in [dir.path(), image.path()] {
        let ledger = EmbeddedLedger::open(Some(dir), &HandClock::new()).await.unwrap();
        let d = deliverer(Arc::new(ledger.clone()), Arc::new(PatientClock::default()), Some(dir), 10).await;
        assert!(
            d.spool().list().iter().all(|entry| entry.unknown),
            "after a restart everything is asked about"
        );
        let order = Arc::new(Mutex::new(Vec::new()));
        let stop = {
            let d = d.clone();
            async move {
                while d.spool().depth() > 0 {
                    tokio::task::yield_now().await;
                }
            }
        };
        let heard = order.clone();
        d.reemit_until(stop, move |intent, _| heard.lock().unwrap().push(intent.clone())).await;
        assert_eq!(*order.lock().unwrap(), (0..5).map(intent).collect::<Vec<_>>());
        assert_eq!(ledger.count().unwrap(), 5);
    }
}

#[tokio::test]
async fn a_caller_who_goes_away_breaks_nothing_off() {
    let peer = Peer::start().await;
    peer.faults.lock().unwrap().push_back(Fault::Silence { settled: true });
    let hand = HandClock::new();
    let d =
        deliverer(Arc::new(HttpLedger::new(&peer.url)), Arc::new(PatientClock(hand.clone())), None, 10).await;
    let caller = tokio::spawn({
        let d = d.clone();
        async move { d.deliver(intent(1)).await }
    });
    peer.came.notified().await;
    caller.abort();
    hand.advance(Duration::from_millis(1000));
    while d.spool().depth() == 0 {
        tokio::task::yield_now().await;
    }
    let entry = d.spool().list().remove(0);
    assert!(entry.unknown && entry.state == State::Pending, "{entry:?}");
    d.reemit_once(&mut Schedule::default(), &|_: &Intent, delivered: &Delivered| {
        assert!(delivered.is_settled())
    })
    .await;
    assert_eq!((d.spool().depth(), peer.ledger.count().unwrap()), (0, 1));
}

/// What a brownout is: payouts are taken in and nothing is sent; probes bring it half open, the quarantine
/// drains in order, and it closes by itself.
#[tokio::test]
async fn a_brownout_holds_everything_and_recovers_by_itself() {
    let ledger = Arc::new(Faulty { dice: Dice::new(0), state: Mutex::default() });
    let hand = HastyClock::default();
    let breaker = BreakerConfig { exit_after: Duration::from_secs(20), ..BreakerConfig::default() };
    let config = QuarantineConfig { entries_max: 10, ..QuarantineConfig::default() };
    let d = deliverer_with(ledger.clone(), Arc::new(hand.clone()), None, config, breaker).await;
    let heard = Arc::new(Mutex::new(Vec::new()));
    let log = heard.clone();
    d.listen(move |notice| {
        if let Notice::Brownout(change) = notice {
            log.lock().unwrap().push(change.to);
        }
    });
    assert!(d.drill(true, " ".into()).await.is_err(), "a drill needs a reason");
    d.drill(true, "the quarterly drill".into()).await.unwrap();
    for n in 0..9 {
        let delivered = d.deliver(intent(n)).await.unwrap();
        assert!(matches!(delivered.outcome, Outcome::Held { unknown: false, .. }), "{delivered:?}");
    }
    let settled = |_: &Intent, delivered: &Delivered| assert!(delivered.is_settled());
    let mut schedule = Schedule::default();
    for _ in 0..10 {
        d.probe().await.unwrap();
        d.reemit_once(&mut schedule, &settled).await;
    }
    assert_eq!(
        (d.spool().depth(), ledger.state.lock().unwrap().submits),
        (9, 0),
        "nothing is sent in a drill"
    );
    ledger.state.lock().unwrap().healed = true;
    d.drill(false, "it went well".into()).await.unwrap();
    for _ in 0..3 {
        d.probe().await.unwrap();
    }
    assert_eq!(d.breaker().mode(), Mode::HalfOpen);
    assert!(matches!(d.deliver(intent(9)).await.unwrap().outcome, Outcome::Held { .. }), "behind the others");
    let begun = hand.monotonic();
    while d.spool().depth() > 0 {
        let wait = d.reemit_once(&mut schedule, &settled).await;
        d.clock().sleep(wait).await;
        d.look(true);
    }
    assert!(hand.monotonic() - begun > Duration::from_millis(1900), "the ramp begins at one a second");
    assert_eq!(d.breaker().mode(), Mode::HalfOpen, "too early");
    d.clock().sleep(Duration::from_secs(20)).await;
    d.look(false);
    assert_eq!(d.breaker().mode(), Mode::HalfOpen, "the work queue is not low");
    d.look(true);
    assert_eq!(*heard.lock().unwrap(), [Mode::Open, Mode::HalfOpen, Mode::Closed]);
    assert_eq!(d.deliver(intent(10)).await.unwrap().outcome, Outcome::Accepted);
    let acts: Vec<_> = d.latch().audit().lines().unwrap().into_iter().map(|line| line.act).collect();
    assert_eq!(acts, ["brownout_start", "brownout_stop"]);
}

#[tokio::test]
async fn failures_in_a_row_begin_a_brownout_and_attempts_under_way_end() {
    let nobody = Arc::new(HttpLedger::new("http://127.0.0.1:1"));
    let config = QuarantineConfig::default();
    let d = deliverer_with(nobody, Arc::new(PatientClock::default()), None, config, BreakerConfig::default())
        .await;
    let mut attempts = 0;
    for n in 0..10 {
        attempts += d.deliver(intent(n)).await.unwrap().attempts;
    }
    assert_eq!(
        (attempts, d.breaker().mode()),
        (10, Mode::Open),
        "the tenth failure in a row, and then nothing"
    );
    assert_eq!(d.spool().depth(), 10);
}

/// A ledger that is down gets first attempts and the budget once, not a multiple of the traffic.
#[tokio::test]
async fn retries_stop_when_the_budget_is_spent() {
    let nobody = Arc::new(HttpLedger::new("http://127.0.0.1:1"));
    let d = deliverer(nobody, Arc::new(PatientClock::default()), None, 1000).await;
    let mut attempts = 0;
    for n in 0..200 {
        attempts += d.deliver(intent(n)).await.unwrap().attempts;
    }
    assert_eq!(attempts, 200 + 128);
}

#[tokio::test]
async fn who_delivers_a_run_twice_waits_for_the_first() {
    let peer = Peer::start().await;
    peer.faults.lock().unwrap().push_back(Fault::Silence { settled: true });
    let hand = HandClock::new();
    let d =
        deliverer(Arc::new(HttpLedger::new(&peer.url)), Arc::new(PatientClock(hand.clone())), None, 10).await;
    let both = [d.clone(), d.clone()]
        .map(|d| tokio::spawn(async move { d.deliver(intent(1)).await.unwrap().outcome }));
    peer.came.notified().await;
    hand.advance(DeliveryConfig::default().attempt);
    let mut outcomes = Vec::new();
    for one in both {
        outcomes.push(one.await.unwrap());
    }
    assert!(outcomes.contains(&Outcome::Accepted) && outcomes.contains(&Outcome::Dup), "{outcomes:?}");
    assert_eq!(peer.log.lock().unwrap().iter().map(|line| &line[..1]).collect::<String>(), "PG");
}

#[tokio::test]
async fn operators_release_and_drop_with_a_reason() {
    let dir = tempfile::tempdir().unwrap();
    let peer = Peer::start().await;
    peer.faults.lock().unwrap().extend(vec![said(400, "{}"); 2]);
    let ledger = Arc::new(HttpLedger::new(&peer.url));
    let d = deliverer(ledger, Arc::new(PatientClock::default()), Some(dir.path()), 10).await;
    for n in 1..3 {
        assert!(matches!(d.deliver(intent(n)).await.unwrap().outcome, Outcome::Refused { .. }));
    }
    let seqs: Vec<_> = d.spool().list().iter().map(|entry| entry.seq).collect();
    assert!(d.release_entry(seqs[0], String::new()).await.is_err());
    let batch = Handover::new(d.clone(), None);
    assert!(batch.drop_entry(seqs[1], "  ".into()).await.is_err());
    assert_eq!(d.release_entry(99, "typo".into()).await.unwrap(), None);
    let released = d.release_entry(seqs[0], "the ledger's schema was mended".into()).await.unwrap().unwrap();
    assert!(released.state == State::Pending && released.unknown);
    let again = d.release_entry(seqs[0], "and once more".into()).await;
    assert!(matches!(again, Err(EmitError::NotWaiting)), "it is sent again by itself");
    let dropped = batch.drop_entry(seqs[1], "the tenant withdrew it".into()).await.unwrap().unwrap();
    assert_eq!(dropped.intent, intent(2));
    let settled = |intent_: &Intent, delivered: &Delivered| {
        assert!(delivered.is_settled() && *intent_ == intent(1));
    };
    d.reemit_once(&mut Schedule::default(), &settled).await;
    assert_eq!((d.spool().depth(), peer.ledger.count().unwrap()), (0, 1));
    let acts: Vec<_> = d.latch().audit().lines().unwrap();
    assert_eq!(acts.iter().map(|line| line.act.as_str()).collect::<Vec<_>>(), ["release", "drop"]);
    assert_eq!(acts[1].subject, intent(2).run_key.to_string());
}

/// The latch falls while an emission is under way: it may still ask, and it must not send again.
#[tokio::test]
async fn a_latch_that_falls_between_attempts_stops_the_next_one() {
    let peer = Peer::start().await;
    peer.faults.lock().unwrap().push_back(Fault::Silence { settled: false });
    let hand = HandClock::new();
    let d =
        deliverer(Arc::new(HttpLedger::new(&peer.url)), Arc::new(PatientClock(hand.clone())), None, 10).await;
    let emitter = d.clone();
    let emission = tokio::spawn(async move { emitter.deliver(intent(1)).await.unwrap() });
    peer.came.notified().await;
    d.latch_off("invariant", "a planted breach".into()).await;
    hand.advance(DeliveryConfig::default().attempt);
    let outcome = emission.await.unwrap().outcome;
    assert!(matches!(outcome, Outcome::Held { unknown: false, .. }), "{outcome:?}");
    assert_eq!(peer.log.lock().unwrap().iter().map(|line| &line[..1]).collect::<String>(), "PG");
    assert!(d.release_latch("the breach was planted".into()).await.unwrap());
    let settled = |_: &Intent, delivered: &Delivered| assert!(delivered.is_settled());
    d.reemit_once(&mut Schedule::default(), &settled).await;
    assert_eq!((d.spool().depth(), peer.ledger.count().unwrap()), (0, 1));
}

/// Notes the messages of errors.
#[derive(Default, Clone)]
struct Errors(Arc<Mutex<Vec<String>>>);

impl tracing::field::Visit for Errors {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        if field.name() == "message" {
            self.0.lock().unwrap().push(format!("{value:?}"));
        }
    }
}

impl tracing::Subscriber for Errors {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() == tracing::Level::ERROR
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        event.record(&mut self.clone());
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

/// What is said of a latch that the disk did not take as a whole is so.
#[tokio::test]
async fn a_latch_says_whether_it_outlives_a_restart() {
    for (fails, survives, message) in [
        ("audit.jsonl", true, "the latch holds, also over a restart; the audit log does not tell of it"),
        ("latch.json.tmp", false, "the latch holds in memory; a restart may forget it"),
    ] {
        let disk = FailingDisk::default();
        let open = || {
            let disk: Arc<dyn Disk> = Arc::new(disk.clone());
            let audit = Audit::open(Some(disk.clone())).unwrap();
            Arc::new(Latch::open(Some(disk), Arc::new(audit)).unwrap())
        };
        let (clock, spawn) = (Arc::new(HandClock::new()), Arc::new(Tokio));
        let spool = open_spool(None, QuarantineConfig::default(), &*clock, spawn.clone()).await;
        let ledger = Arc::new(HttpLedger::new("http://127.0.0.1:1"));
        let around =
            Surroundings { ledger, spool, latch: open(), clock, entropy: Arc::new(Dice::new(7)), spawn };
        let d = Deliverer::new(around, DeliveryConfig::default(), ReemitConfig::default(), patient());
        let errors = Errors::default();
        let heard = tracing::subscriber::set_default(errors.clone());
        disk.fail(&[("write", fails)]);
        d.latch_off("invariant", "a test".into()).await;
        drop(heard);
        assert_eq!(errors.0.lock().unwrap().last().unwrap(), message);
        assert!(d.latch().is_set());
        assert_eq!(open().is_set(), survives, "{fails}");
    }
}

/// A disk that takes its time: an operator's release that comes while another one drops the entry finds nothing to release,
/// now and after a restart.
#[tokio::test]
async fn a_release_beside_a_drop_does_not_bring_the_entry_back() {
    let disk = FailingDisk::default();
    let open = || async {
        let clock = Arc::new(HandClock::new());
        let (spawn, port): (_, Arc<dyn Disk>) = (Arc::new(Tokio), Arc::new(disk.clone()));
        let config = QuarantineConfig { preallocated_bytes: 0, ..QuarantineConfig::default() };
        let spool = loop {
            match Spool::open(Some(port.clone()), config, &HastyClock::default(), spawn.clone()).await {
                Err(SpoolError::InUse) => tokio::task::yield_now().await,
                opened => break opened.unwrap(),
            }
        };
        let latch = Latch::open(None, Arc::new(Audit::open(None).unwrap())).unwrap();
        let ledger = Arc::new(HttpLedger::new("http://127.0.0.1:1"));
        let entropy = Arc::new(Dice::new(7));
        let around = Surroundings { ledger, spool, latch: Arc::new(latch), clock, entropy, spawn };
        Deliverer::new(around, DeliveryConfig::default(), ReemitConfig::default(), patient())
    };
    let d = open().await;
    let entry = d.spool().admit(&intent(1), State::Operator, false, "refused", 0).await.unwrap();
    let batch = Handover::new(d.clone(), None);
    let came = disk.came.load(Ordering::SeqCst);
    disk.shut.store(true, Ordering::SeqCst);
    let dropping = tokio::spawn(async move { batch.drop_entry(entry.seq, "withdrawn".into()).await });
    while disk.came.load(Ordering::SeqCst) == came {
        tokio::task::yield_now().await;
    }
    let it = d.clone();
    let releasing = tokio::spawn(async move { it.release_entry(entry.seq, "mended".into()).await });
    // Time enough for the release to come behind the drop in the spool's queue, if it could.
    for _ in 0..50 {
        tokio::task::yield_now().await;
        std::thread::sleep(Duration::from_millis(1));
    }
    disk.shut.store(false, Ordering::SeqCst);
    assert!(dropping.await.unwrap().unwrap().is_some());
    assert_eq!(releasing.await.unwrap().unwrap(), None);
    assert_eq!(d.spool().find(&intent(1).run_key), None);
    drop(d);
    assert_eq!(open().await.spool().find(&intent(1).run_key), None);
}
