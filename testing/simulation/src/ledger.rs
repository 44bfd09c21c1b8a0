//! A ledger with the settle-once law behind a network that loses, delays, duplicates, reorders and resets.

use crate::world::World;
use rewarder_emit::{Answer, Ledger, LedgerError, Record, Verdict};
use rewarder_model::world::{BoxFuture, Clock, Entropy};
use rewarder_model::{Cid, Intent};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;

/// What the ledger and its network have seen.
#[derive(Default)]
pub struct Book {
    /// By tenant and epoch: the law of the ledger.
    pub settled: BTreeMap<(String, String), (Record, Intent)>,
    /// Run keys whose sender cannot know what became of them until it asks.
    pub open: BTreeSet<Cid>,
    /// The first law that was broken.
    pub broken: Option<String>,
    /// Faults by kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// Whether the network and the ledger are well.
    pub healed: bool,
    /// Nothing gets through before this time.
    pub dark_until: Duration,
}

/// The ledger; it outlives the service.
#[derive(Clone)]
pub struct SimLedger {
    world: World,
    book: Arc<Mutex<Book>>,
}

fn error(verdict: Verdict, retry_after: Option<Duration>, detail: &str) -> LedgerError {
    LedgerError { verdict, retry_after, detail: detail.into() }
}

impl SimLedger {
    /// An empty one.
    pub fn new(world: World) -> Self {
        Self { world, book: Arc::default() }
    }

    /// What it has seen.
    pub fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fault(&self, kind: &'static str) {
        self.world.note(kind);
        *self.book().faults.entry(kind).or_default() += 1;
    }

    fn well(&self) -> bool {
        self.book().healed
    }

    fn millis(&self, below: u64) -> Duration {
        Duration::from_micros(self.world.below(below * 1000))
    }

    fn settle(&self, intent: &Intent) -> Answer {
        let mut book = self.book();
        let key = (intent.tenant.to_string(), intent.epoch_id.to_string());
        if let Some((record, _)) = book.settled.get(&key) {
            return if record.run_key == intent.run_key {
                Answer::Dup(*record)
            } else {
                Answer::Conflict(*record)
            };
        }
        let record = Record { run_key: intent.run_key, commitment: intent.commitment };
        book.settled.insert(key, (record, intent.clone()));
        Answer::Accepted
    }

    /// Carries `act` to the ledger and its answer back, each of them by the dice.
    async fn carry<T: Send + 'static>(&self, act: impl Fn() -> T + Send + 'static) -> Result<T, LedgerError> {
        if self.well() {
            self.world.sleep(self.millis(5)).await;
            return Ok(act());
        }
        if self.world.monotonic() < self.book().dark_until {
            self.fault("partition");
            return Err(error(Verdict::Retry, None, "not connected"));
        }
        match self.world.below(16) {
            0 => {
                self.fault("partition begins");
                let until = self.world.monotonic() + self.millis(1500);
                self.book().dark_until = until;
                return Err(error(Verdict::Retry, None, "connection refused"));
            }
            1 => {
                self.fault("busy");
                return Err(error(Verdict::Retry, Some(self.millis(300)), "429"));
            }
            2 => {
                self.fault("request lost");
                self.world.sleep(self.millis(600)).await;
                return Err(error(Verdict::Unknown, None, "reset"));
            }
            3 => {
                self.fault("hang");
                std::future::pending::<()>().await;
            }
            _ => {}
        }
        // On its way it belongs to the network: it arrives whatever becomes of the sender.
        let (sender, answer) = oneshot::channel();
        let (network, slow) = (self.clone(), self.world.one_in(8));
        self.world.start(
            true,
            Box::pin(async move {
                if slow {
                    network.fault("late");
                }
                network.world.sleep(network.millis(if slow { 2000 } else { 20 })).await;
                let first = act();
                let twice = network.world.one_in(8);
                let lost = network.world.below(8);
                match lost {
                    0 => network.fault("answer lost"),
                    1 => network.fault("5xx after the deed"),
                    _ => {}
                }
                let _ = sender.send(if lost < 2 { None } else { Some(first) });
                if twice {
                    network.fault("duplicate");
                    network.world.sleep(network.millis(3000)).await;
                    let _ = act();
                }
            }),
        );
        match answer.await {
            Ok(Some(answer)) => Ok(answer),
            _ => Err(error(Verdict::Unknown, None, "5xx or reset")),
        }
    }
}

impl Ledger for SimLedger {
    fn submit<'a>(&'a self, intent: &'a Intent) -> BoxFuture<'a, Result<Answer, LedgerError>> {
        Box::pin(async move {
            self.world.note(&format!("submit {}", intent.epoch_id));
            if !self.book().open.insert(intent.run_key) {
                self.book().broken.get_or_insert_with(|| {
                    format!("{} was sent again before the ledger was asked", intent.epoch_id)
                });
            }
            let (ledger, sent) = (self.clone(), intent.clone());
            let result = self.carry(move || ledger.settle(&sent)).await;
            if !matches!(&result, Err(LedgerError { verdict: Verdict::Unknown, .. })) {
                self.book().open.remove(&intent.run_key);
            }
            self.world.note(&format!("submit {} says {result:?}", intent.epoch_id));
            result
        })
    }

    fn lookup<'a>(&'a self, run_key: &'a Cid) -> BoxFuture<'a, Result<Option<Record>, LedgerError>> {
        Box::pin(async move {
            let (ledger, key) = (self.clone(), *run_key);
            let find = move || {
                let book = ledger.book();
                book.settled.values().find(|(record, _)| record.run_key == key).map(|(record, _)| *record)
            };
            let result = self.carry(find).await;
            if result.is_ok() {
                self.book().open.remove(run_key);
            }
            self.world.note(&format!("lookup says {result:?}"));
            result
        })
    }

    fn probe(&self) -> BoxFuture<'_, Result<(), LedgerError>> {
        Box::pin(self.carry(|| ()))
    }
}
