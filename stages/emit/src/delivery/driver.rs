//! Carries out what the machine decides: talks to the ledger, waits, keeps what is held, sets the latch,
//! counts.
//!
//! The law: a place in the quarantine is reserved before the first byte goes out, and the emission runs on a
//! task of its own, so that a caller who goes away (a client that hangs up) cannot break it off between
//! sending and keeping.

use super::machine::{Action, Delivery, Event, Outcome, step};
use crate::audit::millis;
use crate::config::{DeliveryConfig, HealthConfig, ReemitConfig};
use crate::error::EmitError;
use crate::health::{Estimate, Health};
use crate::latch::Latch;
use crate::ledger::{Ledger, LedgerError, Record};
use crate::metrics::Meters;
use crate::quarantine::{Hold, Quarantine, QuarantineError, State};
use rewarder_model::world::{BoxFuture, Clock, Entropy};
use rewarder_model::{Cid, Intent, LedgerResult};
use serde::Serialize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// Emits intents. One for the process; everything it is made of can be another thing in a simulation.
pub struct Deliverer {
    ledger: Arc<dyn Ledger>,
    quarantine: Quarantine,
    latch: Arc<Latch>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    config: DeliveryConfig,
    pub(crate) reemit: ReemitConfig,
    health: Mutex<Health>,
    meters: Meters,
    pub(crate) changed: Notify,
}

/// What became of an emission: the delivery record is [`Delivered::to_json`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivered {
    /// How it ended.
    pub outcome: Outcome,
    /// Submissions and questions of this emission.
    pub attempts: u32,
    /// When it began.
    pub first_unix_ms: u64,
    /// When it ended.
    pub last_unix_ms: u64,
    /// Whether it is held in memory only.
    pub volatile: bool,
}

#[derive(Serialize)]
struct DeliveryRecord<'a> {
    schema: &'static str,
    run_key: &'a Cid,
    commitment: &'a Cid,
    result: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    stored: Option<Record>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'a str>,
    quarantine: bool,
    volatile: bool,
    attempts: u32,
    first_unix_ms: u64,
    last_unix_ms: u64,
}

impl Delivered {
    /// The word of the compute answer.
    pub const fn ledger_result(&self) -> LedgerResult {
        match self.outcome {
            Outcome::Accepted => LedgerResult::Accepted,
            Outcome::Dup => LedgerResult::Dup,
            _ => LedgerResult::None,
        }
    }

    /// Whether the money has moved.
    pub const fn is_settled(&self) -> bool {
        matches!(self.outcome, Outcome::Accepted | Outcome::Dup)
    }

    /// The delivery record of a run (`rewarder.delivery.v1`).
    pub fn to_json(&self, intent: &Intent) -> Vec<u8> {
        let (result, stored, detail) = match &self.outcome {
            Outcome::Accepted => ("accepted", None, None),
            Outcome::Dup => ("dup", None, None),
            Outcome::Conflict(record) => ("conflict", Some(*record), None),
            Outcome::ForeignDup(record) => ("foreign_dup", Some(*record), None),
            Outcome::Refused { detail } => ("refused", None, Some(detail.as_str())),
            Outcome::Held { detail, .. } => ("held", None, Some(detail.as_str())),
        };
        let quarantine =
            matches!(self.outcome, Outcome::Held { .. } | Outcome::Refused { .. } | Outcome::ForeignDup(_));
        let record = DeliveryRecord {
            schema: "rewarder.delivery.v1",
            run_key: &intent.run_key,
            commitment: &intent.commitment,
            result,
            stored,
            detail,
            quarantine,
            volatile: quarantine && self.volatile,
            attempts: self.attempts,
            first_unix_ms: self.first_unix_ms,
            last_unix_ms: self.last_unix_ms,
        };
        serde_json::to_vec(&record).unwrap_or_default()
    }
}

/// What is around a deliverer.
pub struct Surroundings {
    /// Where intents go.
    pub ledger: Arc<dyn Ledger>,
    /// Where they wait.
    pub quarantine: Quarantine,
    /// Whether they may go.
    pub latch: Arc<Latch>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Jitter.
    pub entropy: Arc<dyn Entropy>,
}

impl Deliverer {
    /// A deliverer in its surroundings.
    pub fn new(
        around: Surroundings,
        config: DeliveryConfig,
        reemit: ReemitConfig,
        health: HealthConfig,
    ) -> Arc<Self> {
        let Surroundings { ledger, quarantine, latch, clock, entropy } = around;
        let meters = Meters::new();
        meters.depth.set(depth(&quarantine));
        Arc::new(Self {
            ledger,
            quarantine,
            latch,
            clock,
            entropy,
            config,
            reemit,
            health: Mutex::new(Health::new(health)),
            meters,
            changed: Notify::new(),
        })
    }

    /// Emits an intent and says what became of it; an undelivered one is kept by then. The caller may go
    /// away.
    ///
    /// # Errors
    /// [`EmitError::Latched`] and [`EmitError::SpoolFull`], when nothing was sent; others when something was,
    /// and what became of it could not be kept: submit the same job again.
    pub async fn deliver(self: &Arc<Self>, intent: Intent) -> Result<Delivered, EmitError> {
        let this = self.clone();
        tokio::spawn(async move { this.emit(intent).await }).await.unwrap_or(Err(EmitError::Broken))
    }

    async fn emit(&self, intent: Intent) -> Result<Delivered, EmitError> {
        if self.latch.is_set() {
            return Err(EmitError::Latched(
                self.latch.latched().map_or_else(String::new, |latched| latched.reason),
            ));
        }
        let before = self.quarantine.find(&intent.run_key);
        let held = |outcome, attempts, first, last| Delivered {
            outcome,
            attempts,
            first_unix_ms: first,
            last_unix_ms: last,
            volatile: self.quarantine.is_volatile(),
        };
        if let Some(entry) = before.as_ref().filter(|entry| entry.state == State::Operator) {
            // It waits for a person; a tenant's repetition is not one.
            let outcome = Outcome::Refused { detail: format!("held for an operator: {}", entry.cause) };
            return Ok(held(outcome, 0, entry.first_unix_ms, entry.last_unix_ms));
        }
        let place = match (self.quarantine.reserve(&intent), &before) {
            (Err(QuarantineError::Full), Some(entry)) => {
                let outcome = Outcome::Held { unknown: entry.unknown, detail: entry.cause.clone() };
                return Ok(held(outcome, 0, entry.first_unix_ms, entry.last_unix_ms));
            }
            (place, _) => place?,
        };
        let delivered = self.run(&intent, before.as_ref().is_some_and(|entry| entry.unknown)).await?;
        match self.hold(&delivered) {
            Some(hold) => {
                let kept = crate::blocking(move || place.keep(intent, &hold)).await?;
                let entry = kept.inspect_err(
                    |error| tracing::error!(%error, "an undelivered intent could not be kept"),
                )?;
                tracing::warn!(run_key = %entry.intent.run_key, cause = entry.cause, "an intent was quarantined");
                self.changed.notify_one();
            }
            None => {
                drop(place);
                if let Some(entry) = before {
                    let quarantine = self.quarantine.clone();
                    crate::blocking(move || quarantine.remove(entry.seq)).await??;
                }
            }
        }
        self.meters.depth.set(depth(&self.quarantine));
        Ok(delivered)
    }

    /// What the quarantine keeps of an emission; `None` if there is nothing left to do.
    pub(crate) fn hold(&self, delivered: &Delivered) -> Option<Hold> {
        let (state, unknown, cause) = match &delivered.outcome {
            Outcome::Accepted | Outcome::Dup | Outcome::Conflict(_) => return None,
            Outcome::Held { unknown, detail } => (State::Pending, *unknown, detail.clone()),
            Outcome::Refused { detail } => (State::Operator, false, detail.clone()),
            Outcome::ForeignDup(_) => {
                (State::Operator, false, "the ledger holds this run key with another commitment".to_owned())
            }
        };
        Some(Hold {
            state,
            unknown,
            cause,
            attempts: delivered.attempts,
            first_unix_ms: delivered.first_unix_ms,
            last_unix_ms: delivered.last_unix_ms,
        })
    }

    /// Drives the machine to its end.
    pub(crate) async fn run(&self, intent: &Intent, unknown: bool) -> Result<Delivered, EmitError> {
        let first_unix_ms = millis(self.clock.unix());
        let mut attempts = 0;
        let mut state = Delivery::new(intent, self.config, unknown);
        let mut event = Event::Begin;
        loop {
            let (next, actions) = step(state, event, self.clock.monotonic());
            state = next;
            // A machine that asks for nothing waits for an event that nobody will bring; it never does.
            event = Event::EmissionOff;
            for action in actions {
                event = match action {
                    Action::Submit(_) if self.latch.is_set() => Event::EmissionOff,
                    Action::Submit(timeout) => {
                        attempts += 1;
                        let answer = self.attempt(self.ledger.submit(intent), timeout, true).await;
                        answer.map_or(Event::TimedOut, |answer| {
                            answer.map_or_else(Event::Failed, Event::Answered)
                        })
                    }
                    Action::Lookup(timeout) => {
                        attempts += 1;
                        let found = self.attempt(self.ledger.lookup(&intent.run_key), timeout, false).await;
                        found.map_or(Event::TimedOut, |found| found.map_or_else(Event::Failed, Event::Found))
                    }
                    Action::Wait { floor, jitter } => {
                        self.clock.sleep(floor + self.jitter(jitter)).await;
                        Event::Woke
                    }
                    Action::Latch(_) => {
                        self.latch_off(format!(
                            "the ledger holds run {} with another commitment",
                            intent.run_key
                        ))
                        .await;
                        continue;
                    }
                    Action::Finish(outcome) => {
                        self.count(&outcome);
                        return Ok(Delivered {
                            outcome,
                            attempts,
                            first_unix_ms,
                            last_unix_ms: millis(self.clock.unix()),
                            volatile: self.quarantine.is_volatile(),
                        });
                    }
                };
            }
        }
    }

    /// One attempt within its time; `None` if that passed.
    async fn attempt<T>(
        &self,
        call: BoxFuture<'_, Result<T, LedgerError>>,
        timeout: Duration,
        submission: bool,
    ) -> Option<Result<T, LedgerError>> {
        let began = self.clock.monotonic();
        let result = tokio::select! {
            biased;
            result = call => Some(result),
            () = self.clock.sleep(timeout) => None,
        };
        let now = self.clock.monotonic();
        let latency = now.saturating_sub(began);
        let ok = matches!(result, Some(Ok(_)));
        self.health.lock().unwrap_or_else(PoisonError::into_inner).record(now, latency, ok);
        if submission {
            self.meters.latency.record(latency);
        }
        if !ok {
            self.meters.egress_errors.increment(1);
        }
        result
    }

    /// Turns emission off; an invariant breach comes here too. In memory at once, then on disk.
    pub async fn latch_off(&self, reason: String) {
        tracing::error!(reason, "emission is latched off");
        let (latch, unix) = (self.latch.clone(), self.clock.unix());
        match crate::blocking(move || latch.set(&reason, unix)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "the latch holds in memory only"),
            Err(error) => tracing::error!(%error, "the latch holds in memory only"),
        }
    }

    /// Turns emission on again, with the operator's reason. False if it was on.
    ///
    /// # Errors
    /// Without a reason, or when it cannot be written down; emission stays off then.
    pub async fn release_latch(&self, reason: String) -> Result<bool, EmitError> {
        let (latch, unix) = (self.latch.clone(), self.clock.unix());
        let released = crate::blocking(move || latch.release(&reason, unix)).await??;
        self.changed.notify_one();
        Ok(released)
    }

    /// Asks whether the ledger is there; counts toward its health.
    ///
    /// # Errors
    /// What the ledger, or its silence, says.
    pub async fn probe(&self) -> Result<(), LedgerError> {
        let silent = || LedgerError::new(crate::ledger::Verdict::Retry, "the ledger did not answer in time");
        self.attempt(self.ledger.probe(), self.config.attempt, false).await.unwrap_or_else(|| Err(silent()))
    }

    /// How the ledger is doing.
    pub fn health(&self) -> Estimate {
        self.health.lock().unwrap_or_else(PoisonError::into_inner).estimate(self.clock.monotonic())
    }

    /// Whether the ledger is beyond a threshold (`readyz`: `ledger_degraded`).
    pub fn degraded(&self) -> bool {
        self.health().degraded
    }

    /// The latch.
    pub fn latch(&self) -> &Arc<Latch> {
        &self.latch
    }

    /// The quarantine buffer.
    pub fn quarantine(&self) -> &Quarantine {
        &self.quarantine
    }

    pub(crate) fn clock(&self) -> &dyn Clock {
        &*self.clock
    }

    pub(crate) fn show_depth(&self) {
        self.meters.depth.set(depth(&self.quarantine));
    }

    /// A random time below `ceiling`, in whole microseconds.
    pub(crate) fn jitter(&self, ceiling: Duration) -> Duration {
        Duration::from_micros(self.entropy.below(u64::try_from(ceiling.as_micros()).unwrap_or(u64::MAX)))
    }

    fn count(&self, outcome: &Outcome) {
        let counter = match outcome {
            Outcome::Accepted => &self.meters.accepted,
            Outcome::Dup => &self.meters.dup,
            Outcome::Conflict(_) => &self.meters.conflict,
            Outcome::Refused { .. } => &self.meters.refused,
            Outcome::ForeignDup(_) | Outcome::Held { .. } => &self.meters.error,
        };
        counter.increment(1);
    }
}

/// A gauge takes what turns into its own number without loss: the buffer holds far below 2^32 entries.
fn depth(quarantine: &Quarantine) -> u32 {
    u32::try_from(quarantine.depth()).unwrap_or(u32::MAX)
}
