//! A ledger with the settle-once law, of several front ends, behind a network that loses, delays, duplicates, reorders,
//! resets and partitions; or one in the same process, whose attempts die with it. It is slow, busy, refuses, looks at an
//! old state, and says now and then what is not true.

use crate::watch::{Attempt, Watch};
use crate::world::World;
use rewarder_emit::{Answer, Ledger, LedgerError, Record, Verdict};
use rewarder_model::world::BoxFuture;
use rewarder_model::{Cid, Intent};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;

/// What kind of ledger it is, and what may go wrong.
#[derive(Debug, Clone, Copy, Default)]
pub struct Nature {
    /// Its front ends; 0 is a ledger in the same process.
    pub fronts: u64,
    /// It knows run keys only, and would settle an epoch twice.
    pub weak: bool,
    /// Questions may see a state that is so old.
    pub lag: Duration,
    /// Of so many messages one meets a fault; 0 is none.
    pub faults_one_in: u64,
    /// It may answer a dup that is not ours.
    pub lies: bool,
    /// It may refuse an intent for good, and take it later.
    pub refuses: bool,
}

/// A settlement.
pub struct Settled {
    /// What the ledger has.
    pub record: Record,
    /// What was handed over.
    pub intent: Intent,
    at: Duration,
    /// Somebody else wrote it under our run key.
    pub rogue: bool,
}

/// What the ledger and its network have seen.
#[derive(Default)]
pub struct Book {
    /// By run key.
    pub settled: BTreeMap<Cid, Settled>,
    /// By tenant and epoch: which run.
    epochs: BTreeMap<(String, String), Cid>,
    /// Faults by kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// Whether the network and the ledger are well.
    pub healed: bool,
    /// By front end: nothing gets through before this time.
    dark_until: BTreeMap<u64, Duration>,
    /// Runs that it has refused for good; it may change its mind.
    refused: BTreeSet<Cid>,
    /// Epochs that a weak ledger has paid twice.
    pub doubles: BTreeSet<(String, String)>,
}

/// The ledger; it outlives the services.
#[derive(Clone)]
pub struct SimLedger {
    world: World,
    nature: Nature,
    book: Arc<Mutex<Book>>,
}

fn error(verdict: Verdict, retry_after: Option<Duration>, detail: &str) -> LedgerError {
    LedgerError { verdict, retry_after, detail: detail.into() }
}

fn key(intent: &Intent) -> (String, String) {
    (intent.tenant.to_string(), intent.epoch_id.to_string())
}

impl SimLedger {
    /// An empty one.
    pub fn new(world: World, nature: Nature) -> Self {
        Self { world, nature, book: Arc::default() }
    }

    /// What it has seen.
    pub fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The ledger as a host reaches it.
    pub fn port(&self, watch: Watch) -> Port {
        Port { ledger: self.clone(), watch }
    }

    fn fault(&self, kind: &'static str) {
        self.world.note(kind, String::new);
        *self.book().faults.entry(kind).or_default() += 1;
    }

    fn well(&self) -> bool {
        self.book().healed || self.nature.faults_one_in == 0
    }

    /// Somebody else settles the epoch under our run key with another commitment.
    pub fn usurp(&self, intent: &Intent) {
        let mut book = self.book();
        if book.epochs.contains_key(&key(intent)) || book.healed {
            return;
        }
        let record = Record { run_key: intent.run_key, commitment: Cid::of(b"foreign") };
        book.epochs.insert(key(intent), intent.run_key);
        let at = self.world.now();
        book.settled.insert(intent.run_key, Settled { record, intent: intent.clone(), at, rogue: true });
        drop(book);
        self.fault("foreign settlement");
    }

    fn settle(&self, intent: &Intent) -> Answer {
        let mut book = self.book();
        if let Some(settled) = book.settled.get(&intent.run_key) {
            return Answer::Dup(settled.record);
        }
        if let Some(other) = book.epochs.get(&key(intent)).copied() {
            let rogue = book.settled.get(&other).is_some_and(|settled| settled.rogue);
            if !self.nature.weak {
                return book
                    .settled
                    .get(&other)
                    .map_or(Answer::Accepted, |settled| Answer::Conflict(settled.record));
            }
            if !rogue {
                book.doubles.insert(key(intent));
            }
        }
        let record = Record { run_key: intent.run_key, commitment: intent.commitment };
        book.epochs.insert(key(intent), intent.run_key);
        let at = self.world.now();
        book.settled.insert(intent.run_key, Settled { record, intent: intent.clone(), at, rogue: false });
        self.world.note("settled", || intent.epoch_id.to_string());
        Answer::Accepted
    }

    fn find(&self, run_key: &Cid) -> Option<Record> {
        let lag = if !self.well() && self.world.one_in(4) { self.nature.lag } else { Duration::ZERO };
        let book = self.book();
        let settled = book.settled.get(run_key)?;
        if settled.at + lag > self.world.now() && !lag.is_zero() {
            drop(book);
            self.fault("stale answer");
            return None;
        }
        Some(settled.record)
    }

    /// Whether this message meets a fault.
    fn hit(&self, weight: u64) -> bool {
        self.nature.faults_one_in > 0 && self.world.below(16 * self.nature.faults_one_in) < weight
    }

    /// Carries `act` to the ledger and its answer back, each of them by the dice.
    async fn carry<T: Send + 'static>(&self, act: impl Fn() -> T + Send + 'static) -> Result<T, LedgerError> {
        let world = &self.world;
        if self.well() {
            world.sleep(world.millis(5)).await;
            return Ok(act());
        }
        if self.nature.fronts == 0 {
            world.sleep(world.millis(20)).await;
            if self.hit(8) {
                self.fault("ledger's disk fails");
                let done = world.one_in(2).then(&act);
                let verdict =
                    if done.is_none() && world.one_in(2) { Verdict::Retry } else { Verdict::Unknown };
                return Err(error(verdict, None, "the disk failed"));
            }
            if self.hit(4) {
                self.fault("slow");
                world.sleep(world.millis(2000)).await;
            }
            return Ok(act());
        }
        let front = world.below(self.nature.fronts);
        let dark = self.book().dark_until.get(&front).copied().unwrap_or_default();
        if world.now() < dark {
            self.fault("partition");
            return Err(error(Verdict::Retry, None, "not connected"));
        }
        if self.hit(16) {
            match world.below(4) {
                0 => {
                    self.fault("partition begins");
                    let until = world.now() + world.millis(1500);
                    self.book().dark_until.insert(front, until);
                    return Err(error(Verdict::Retry, None, "connection refused"));
                }
                1 => {
                    self.fault("busy");
                    return Err(error(Verdict::Retry, Some(world.millis(1200)), "429"));
                }
                2 => {
                    self.fault("request lost");
                    world.sleep(world.millis(600)).await;
                    return Err(error(Verdict::Unknown, None, "reset"));
                }
                _ => {
                    self.fault("hang");
                    std::future::pending::<()>().await;
                }
            }
        }
        // On its way it belongs to the network: it arrives whatever becomes of the sender.
        let (sender, answer) = oneshot::channel();
        let network = self.clone();
        let slow = self.hit(10);
        world.start(None, async move {
            let world = &network.world;
            if slow {
                network.fault("late");
            }
            world.sleep(world.millis(if slow { 2000 } else { 20 })).await;
            let first = act();
            let (twice, lost) = (network.hit(8), network.hit(16));
            let answer = if lost {
                network.fault(if world.one_in(2) { "answer lost" } else { "5xx after the deed" });
                None
            } else {
                Some(first)
            };
            let _ = sender.send(answer);
            if twice {
                network.fault("duplicate");
                world.sleep(world.millis(3000)).await;
                let _ = act();
            }
        });
        match answer.await {
            Ok(Some(answer)) => Ok(answer),
            _ => Err(error(Verdict::Unknown, None, "5xx or reset")),
        }
    }
}

/// A ledger as one host reaches it, watched.
pub struct Port {
    ledger: SimLedger,
    watch: Watch,
}

fn ends<T>(attempt: &mut Attempt, result: &Result<T, LedgerError>) {
    match result {
        Err(LedgerError { verdict: Verdict::Unknown, .. }) | Ok(_) => {}
        Err(LedgerError { verdict, retry_after, .. }) => {
            attempt.nothing(*verdict == Verdict::Refused, *retry_after);
        }
    }
}

impl Ledger for Port {
    fn submit<'a>(&'a self, intent: &'a Intent) -> BoxFuture<'a, Result<Answer, LedgerError>> {
        Box::pin(async move {
            let ledger = &self.ledger;
            ledger.world.note("submit", || intent.epoch_id.to_string());
            let mut attempt = self.watch.submits(intent);
            let result = 'answer: {
                if ledger.nature.refuses && !ledger.well() {
                    let known = ledger.book().refused.contains(&intent.run_key);
                    if (known && !ledger.world.one_in(4)) || ledger.hit(6) {
                        ledger.book().refused.insert(intent.run_key);
                        ledger.fault("refused for good");
                        ledger.world.sleep(ledger.world.millis(20)).await;
                        break 'answer Err(error(Verdict::Refused, None, "422"));
                    }
                }
                if ledger.nature.lies && !ledger.well() && ledger.hit(2) {
                    ledger.fault("wrong dup");
                    ledger.world.sleep(ledger.world.millis(20)).await;
                    break 'answer Ok(Answer::Dup(Record {
                        run_key: intent.run_key,
                        commitment: Cid::of(b"lie"),
                    }));
                }
                let (it, sent) = (ledger.clone(), intent.clone());
                ledger.carry(move || it.settle(&sent)).await
            };
            let ours = Record { run_key: intent.run_key, commitment: intent.commitment };
            match &result {
                Ok(Answer::Conflict(record)) if *record == ours => {}
                Ok(answer) => attempt.answered(match answer {
                    Answer::Accepted => false,
                    Answer::Dup(record) => *record != ours,
                    Answer::Conflict(record) => record.run_key == ours.run_key,
                }),
                Err(_) => ends(&mut attempt, &result),
            }
            ledger.world.note("submitted", || format!("{} says {result:?}", intent.epoch_id));
            result
        })
    }

    fn lookup<'a>(&'a self, run_key: &'a Cid) -> BoxFuture<'a, Result<Option<Record>, LedgerError>> {
        Box::pin(async move {
            let ledger = &self.ledger;
            let mut attempt = self.watch.asks(run_key);
            let (it, key) = (ledger.clone(), *run_key);
            let result = ledger.carry(move || it.find(&key)).await;
            match &result {
                Ok(found) => attempt.answered(found.is_some_and(|record| self.watch.foreign(&record))),
                Err(_) => ends(&mut attempt, &result),
            }
            ledger.world.note("looked up", || format!("{run_key} says {result:?}"));
            result
        })
    }

    fn probe(&self) -> BoxFuture<'_, Result<(), LedgerError>> {
        Box::pin(async move {
            let mut attempt = self.watch.probes();
            let result = self.ledger.carry(|| ()).await;
            if result.is_ok() {
                attempt.answered(false);
            }
            result
        })
    }
}
