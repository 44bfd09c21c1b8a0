//! Carries out what the machine decides: talks to the ledger, waits, keeps what is held, sets the latch,
//! counts.
//!
//! The laws: an intent is in the spool, durably, before the first byte goes out. One run is on its way once:
//! who delivers it a second time waits for the first. The emission runs beside its caller, so that a caller
//! who goes away (a client that hangs up) cannot break it off between sending and keeping. Everything that is
//! not a decision comes in from outside (`Surroundings`), the runtime too: a simulator runs this very code.

use super::machine::{Action, Delivery, Event, Outcome, step};
use super::record::Delivered;
use crate::audit::millis;
use crate::breaker::{Breaker, BreakerConfig, Change, Mode, Signal};
use crate::budget::Budget;
use crate::config::{DeliveryConfig, ReemitConfig};
use crate::error::EmitError;
use crate::health::Estimate;
use crate::latch::Latch;
use crate::ledger::{Ledger, LedgerError, Verdict};
use crate::metrics::Meters;
use crate::plant;
use crate::spool::{Entry, Hold, Spool, State};
use crate::turns::Turns;
use rewarder_model::world::{BoxFuture, Clock, Entropy, Spawn};
use rewarder_model::{Cid, Intent};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, oneshot, watch};

/// Emits intents. One for the process; everything it is made of can be another thing in a simulation.
pub struct Deliverer {
    ledger: Arc<dyn Ledger>,
    spool: Spool,
    latch: Arc<Latch>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    spawn: Arc<dyn Spawn>,
    config: DeliveryConfig,
    pub(crate) reemit: ReemitConfig,
    breaker: Mutex<Breaker>,
    budget: Mutex<Budget>,
    pub(crate) turns: Turns,
    /// The ledger wants the quarantine to wait until then.
    patience: Mutex<Duration>,
    /// Runs on their way, and what becomes of them.
    flights: Mutex<BTreeMap<Cid, watch::Receiver<Option<Delivered>>>>,
    listener: OnceLock<Listener>,
    recorder: OnceLock<Recorder>,
    meters: Meters,
    pub(crate) changed: Notify,
}

/// Longest `Retry-After` that the quarantine obeys: a ledger that means longer says so again.
const PATIENCE_MAX: Duration = Duration::from_secs(300);

type Listener = Box<dyn Fn(Notice) + Send + Sync>;
type Recorder = Box<dyn Fn(&Intent, &Delivered) -> BoxFuture<'static, ()> + Send + Sync>;

/// Something that whoever runs the service has to hear of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// Emission was latched off.
    Latched {
        /// `foreign_dup` or `invariant`.
        kind: &'static str,
    },
    /// An operator released the latch.
    Released,
    /// The breaker changed its mode.
    Brownout(Change),
}

/// What is known of an intent before it is handed to delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Before {
    /// Nothing.
    New,
    /// It may have been sent: the ledger is asked first.
    Sent,
    /// That, and somebody may have been promised its delivery: a conflict is for an operator then.
    Promised,
}

/// Who wants to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Permit {
    /// A job: only while the breaker is closed.
    Job,
    /// The quarantine: while it is half-open too.
    Quarantine,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A run on its way; dropped, it is not any more.
pub(crate) struct Flight {
    deliverer: Arc<Deliverer>,
    run_key: Cid,
    result: watch::Sender<Option<Delivered>>,
}

impl Flight {
    /// Tells whoever follows what became of it.
    pub(crate) fn land(self, delivered: &Delivered) {
        let _ = self.result.send(Some(delivered.clone()));
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        // One that has landed has left nothing being sent.
        self.deliverer.spool.orphaned(&self.run_key);
        lock(&self.deliverer.flights).remove(&self.run_key);
    }
}

/// What is around a deliverer.
pub struct Surroundings {
    /// Where intents go.
    pub ledger: Arc<dyn Ledger>,
    /// Where they are until they are settled.
    pub spool: Spool,
    /// Whether they may go.
    pub latch: Arc<Latch>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Jitter.
    pub entropy: Arc<dyn Entropy>,
    /// Tasks.
    pub spawn: Arc<dyn Spawn>,
}

impl Deliverer {
    /// A deliverer in its surroundings.
    pub fn new(
        around: Surroundings,
        config: DeliveryConfig,
        reemit: ReemitConfig,
        breaker: BreakerConfig,
    ) -> Arc<Self> {
        let Surroundings { ledger, spool, latch, clock, entropy, spawn } = around;
        let meters = Meters::new();
        meters.depth.set(depth(&spool));
        Arc::new(Self {
            ledger,
            spool,
            latch,
            clock,
            entropy,
            spawn,
            config,
            reemit,
            breaker: Mutex::new(Breaker::new(breaker)),
            budget: Mutex::default(),
            turns: Turns::default(),
            patience: Mutex::default(),
            flights: Mutex::default(),
            listener: OnceLock::new(),
            recorder: OnceLock::new(),
            meters,
            changed: Notify::new(),
        })
    }

    /// Tells `listener` what happens from now on; the first one stays.
    pub fn listen(&self, listener: impl Fn(Notice) + Send + Sync + 'static) {
        let _ = self.listener.set(Box::new(listener));
    }

    /// Hands each emission to `recorder`, which keeps the delivery record of its run, before anybody hears of it
    /// and while no other emission of the run can begin: so that the records of a run come in the order of the
    /// deeds. The first recorder stays.
    pub fn record(
        &self,
        recorder: impl Fn(&Intent, &Delivered) -> BoxFuture<'static, ()> + Send + Sync + 'static,
    ) {
        let _ = self.recorder.set(Box::new(recorder));
    }

    pub(crate) async fn recorded(&self, intent: &Intent, delivered: &Delivered) {
        if plant::is("record_left_out") {
            return;
        }
        if let Some(recorder) = self.recorder.get() {
            recorder(intent, delivered).await;
        }
    }

    pub(super) fn tell(&self, notice: Notice) {
        if let Some(listener) = self.listener.get() {
            listener(notice);
        }
    }

    /// Emits an intent and says what became of it; an undelivered one is kept by then. The caller may go
    /// away.
    ///
    /// # Errors
    /// Where [`EmitError::is_void`], nothing was sent and nothing is kept; for others that is uncertain: submit the same
    /// job again.
    pub async fn deliver(self: &Arc<Self>, intent: Intent) -> Result<Delivered, EmitError> {
        self.start(intent, Before::New).await
    }

    /// The same for an intent that may have been sent before, also when the spool does not know it: the ledger is asked
    /// first.
    ///
    /// # Errors
    /// As [`deliver`](Self::deliver).
    pub async fn deliver_again(self: &Arc<Self>, intent: Intent) -> Result<Delivered, EmitError> {
        self.start(intent, Before::Sent).await
    }

    /// The same for one whose delivery somebody may have been promised, who hears nothing of this: if the epoch turns out
    /// to be another run's, the entry waits for an operator, as it does in re-emission.
    ///
    /// # Errors
    /// As [`deliver`](Self::deliver).
    pub async fn deliver_promised(self: &Arc<Self>, intent: Intent) -> Result<Delivered, EmitError> {
        self.start(intent, Before::Promised).await
    }

    async fn start(self: &Arc<Self>, intent: Intent, before: Before) -> Result<Delivered, EmitError> {
        let (sender, delivered) = oneshot::channel();
        let this = self.clone();
        self.spawn.spawn(Box::pin(async move {
            let _ = sender.send(this.emit(intent, before).await);
        }));
        delivered.await.unwrap_or(Err(EmitError::Broken))
    }

    /// Marks a run as on its way, or says whom to follow.
    pub(crate) fn take_off(
        self: &Arc<Self>,
        run_key: Cid,
    ) -> Result<Flight, watch::Receiver<Option<Delivered>>> {
        let mut flights = lock(&self.flights);
        if let Some(result) = flights.get(&run_key) {
            return Err(result.clone());
        }
        let (sender, result) = watch::channel(None);
        flights.insert(run_key, result);
        Ok(Flight { deliverer: self.clone(), run_key, result: sender })
    }

    async fn emit(self: &Arc<Self>, intent: Intent, known: Before) -> Result<Delivered, EmitError> {
        let flight = loop {
            if self.latch.is_set() {
                return Err(self.latched());
            }
            match self.take_off(intent.run_key) {
                Ok(flight) => break flight,
                Err(mut other) => {
                    let known = other.wait_for(Option::is_some).await.ok().and_then(|known| known.clone());
                    if let Some(delivered) = known {
                        let outcome = match delivered.outcome {
                            // It was somebody else's emission that settled it.
                            Outcome::Accepted => Outcome::Dup,
                            other => other,
                        };
                        return Ok(Delivered { outcome, ..delivered });
                    }
                }
            }
        };
        let delivered = self.emit_alone(intent, known).await?;
        flight.land(&delivered);
        Ok(delivered)
    }

    fn latched(&self) -> EmitError {
        EmitError::Latched(self.latch.latched().map_or_else(String::new, |latched| latched.reason))
    }

    async fn emit_alone(&self, intent: Intent, known: Before) -> Result<Delivered, EmitError> {
        let before = self.spool.find(&intent.run_key);
        let held = |outcome, entry: &Entry| Delivered {
            outcome,
            attempts: entry.attempts,
            first_unix_ms: entry.first_unix_ms,
            last_unix_ms: entry.last_unix_ms,
            volatile: self.spool.is_volatile(),
        };
        if let Some(entry) = before.as_ref().filter(|entry| entry.state == State::Operator) {
            if let Some(record) = entry.settled_by {
                return Ok(held(Outcome::Conflict(record), entry));
            }
            // It waits for a person; a tenant's repetition is not one.
            let detail = format!("held for an operator: {}", entry.cause);
            return Ok(held(Outcome::Refused { detail }, entry));
        }
        let brownout = {
            let breaker = lock(&self.breaker);
            let taken = breaker.mode() == Mode::HalfOpen && plant::is("half_open_takes_jobs");
            (breaker.mode() != Mode::Closed && !taken)
                .then(|| format!("the ledger is browned out ({})", breaker.why()))
        };
        let entry = match before {
            Some(entry) => entry,
            None => {
                let state = if brownout.is_some() { State::Pending } else { State::Sending };
                let now = millis(self.clock.unix());
                let unknown = known != Before::New;
                self.spool
                    .admit(&intent, state, unknown, brownout.as_deref().unwrap_or_default(), now)
                    .await?
            }
        };
        if entry.intent != intent {
            // One run key, two results: whichever was sent, money is at stake.
            self.latch_off(
                "invariant",
                format!("run {} was computed twice with different results", intent.run_key),
            )
            .await;
            return Err(self.latched());
        }
        if let Some(detail) = brownout {
            // 202 at once: it goes out with the others, in order.
            self.show_depth();
            let delivered = held(Outcome::Held { unknown: entry.unknown, detail }, &entry);
            self.recorded(&intent, &delivered).await;
            self.changed.notify_one();
            return Ok(delivered);
        }
        let delivered = self.run(&entry, Permit::Job).await;
        let hold = match known {
            Before::Promised => self.hold_promised(&delivered),
            _ => self.hold(&delivered),
        };
        if hold.is_some() && plant::is("what_is_held_is_forgotten") {
            self.spool.settle(entry.seq);
        }
        if let Some(hold) = &hold {
            self.spool.update(entry.seq, hold).await;
            tracing::warn!(
                run_key = %intent.run_key,
                tenant = %intent.tenant,
                epoch = %intent.epoch_id,
                cause = hold.cause,
                "an intent was quarantined"
            );
            self.changed.notify_one();
        }
        self.recorded(&intent, &delivered).await;
        if hold.is_none() {
            // Only now: what a crash takes before is asked about again, and recorded.
            self.spool.settle(entry.seq);
        }
        self.show_depth();
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
            last_unix_ms: delivered.last_unix_ms,
            settled_by: None,
        })
    }

    /// The same when delivery was promised and there will be none for a conflict: a person has to know.
    pub(crate) fn hold_promised(&self, delivered: &Delivered) -> Option<Hold> {
        match &delivered.outcome {
            Outcome::Conflict(record) if !plant::is("conflict_of_a_promise_untold") => {
                let detail = format!("the epoch is settled with run {}", record.run_key);
                let hold =
                    self.hold(&Delivered { outcome: Outcome::Refused { detail }, ..delivered.clone() });
                hold.map(|hold| Hold { settled_by: Some(*record), ..hold })
            }
            _ => self.hold(delivered),
        }
    }

    /// Whether this may go to the ledger now.
    fn permitted(&self, permit: Permit) -> bool {
        match lock(&self.breaker).mode() {
            Mode::Closed => true,
            Mode::HalfOpen => permit == Permit::Quarantine || plant::is("half_open_takes_jobs"),
            Mode::Open => permit == Permit::Quarantine && plant::is("brownout_ignored_by_reemission"),
        }
    }

    /// Drives the machine to its end.
    pub(crate) async fn run(&self, entry: &Entry, permit: Permit) -> Delivered {
        let intent = &entry.intent;
        let ignored = plant::is("latch_ignored_by_attempts_under_way")
            || (permit == Permit::Quarantine && plant::is("latch_ignored_by_reemission"));
        let mut attempts = entry.attempts;
        let mut state = Delivery::new(intent, self.config, entry.unknown);
        let mut event = Event::Begin;
        loop {
            let (next, actions) = step(state, event, self.clock.monotonic());
            state = next;
            // A machine that asks for nothing waits for an event that nobody will bring; it never does.
            event = Event::EmissionOff;
            for action in actions {
                event = match action {
                    Action::Submit(_) if self.latch.is_set() && !ignored => Event::EmissionOff,
                    Action::Submit(_) | Action::Lookup(_) if !self.permitted(permit) => Event::Brownout,
                    Action::Submit(timeout) => {
                        attempts += 1;
                        let planted = plant::is("key_from_another_field")
                            .then(|| Intent { run_key: intent.inputs_cid, ..intent.clone() });
                        let intent = planted.as_ref().unwrap_or(intent);
                        let answer = self.attempt(self.ledger.submit(intent), timeout, true).await;
                        answer.map_or(Event::TimedOut, |answer| {
                            answer.map_or_else(Event::Failed, Event::Answered)
                        })
                    }
                    Action::Lookup(timeout) => {
                        let key = if plant::is("question_under_another_key") {
                            &intent.commitment
                        } else {
                            &intent.run_key
                        };
                        let found = self.attempt(self.ledger.lookup(key), timeout, false).await;
                        found.map_or(Event::TimedOut, |found| found.map_or_else(Event::Failed, Event::Found))
                    }
                    Action::Wait { .. } if !lock(&self.budget).spend() => Event::NoBudget,
                    Action::Wait { floor, jitter } => {
                        self.clock.sleep(floor + self.jitter(jitter)).await;
                        Event::Woke
                    }
                    Action::Latch(_) => {
                        let reason =
                            format!("the ledger holds run {} with another commitment", intent.run_key);
                        self.latch_off("foreign_dup", reason).await;
                        continue;
                    }
                    Action::Finish(outcome) => {
                        self.count(&outcome);
                        return Delivered {
                            outcome,
                            attempts,
                            first_unix_ms: entry.first_unix_ms,
                            last_unix_ms: millis(self.clock.unix()),
                            volatile: self.spool.is_volatile(),
                        };
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
        let (result, latency) = self.timed(call, timeout).await;
        let ok = answered(&result);
        if let Some(Err(LedgerError { retry_after: Some(after), .. })) = &result {
            let until = self.clock.monotonic() + (*after).min(PATIENCE_MAX);
            let mut patience = lock(&self.patience);
            *patience = until.max(*patience);
        }
        if ok {
            lock(&self.budget).earn();
        }
        if submission {
            self.meters.latency.record(latency);
        }
        self.signal(Signal::Attempt { latency, ok });
        result
    }

    async fn timed<T>(
        &self,
        call: BoxFuture<'_, Result<T, LedgerError>>,
        timeout: Duration,
    ) -> (Option<Result<T, LedgerError>>, Duration) {
        let began = self.clock.monotonic();
        let timeout = if plant::is("attempts_never_time_out") { timeout * 8 } else { timeout };
        let result = tokio::select! {
            biased;
            result = call => Some(result),
            () = self.clock.sleep(timeout) => None,
        };
        if !answered(&result) {
            self.meters.egress_errors.increment(1);
        }
        (result, self.clock.monotonic().saturating_sub(began))
    }

    /// Tells the breaker.
    pub(super) fn signal(&self, signal: Signal) {
        let now = self.clock.monotonic();
        let Some(change) = lock(&self.breaker).step(signal, now) else { return };
        if change.to == Mode::Open {
            tracing::error!(
                from = change.from.as_str(),
                why = change.why,
                page = "LedgerEgressDegraded",
                "brownout: payouts are computed and go to the quarantine, nothing is emitted"
            );
        } else {
            tracing::warn!(
                from = change.from.as_str(),
                to = change.to.as_str(),
                why = change.why,
                "brownout"
            );
        }
        self.meters.show(change.to);
        self.tell(Notice::Brownout(change));
        self.changed.notify_one();
    }

    /// Asks whether the ledger is there; counts toward its health.
    ///
    /// # Errors
    /// What the ledger, or its silence, says.
    pub async fn probe(&self) -> Result<(), LedgerError> {
        let (result, latency) = self.timed(self.ledger.probe(), self.config.probe()).await;
        self.signal(Signal::Probe { latency, ok: answered(&result) });
        if plant::is("probe_counts_as_settled") && answered(&result) {
            self.spool.pending().first().and_then(|seq| self.spool.settle(*seq));
        }
        result.unwrap_or_else(|| Err(LedgerError::new(Verdict::Retry, "the ledger did not answer in time")))
    }

    /// Lets the breaker look at the time and at how much waits.
    pub fn look(&self, queue_low: bool) {
        // Soft limits are four fifths (runbook §10).
        let backlog_low = queue_low && self.spool.depth() * 5 <= self.spool.entries_max() * 4;
        self.signal(Signal::Look { backlog_low });
    }

    /// Begins a drill without an operator: `--brownout-allow`.
    pub fn begin_drill(&self) {
        self.signal(Signal::DrillBegins);
    }

    /// Other limits of the breaker, from now on.
    pub fn reload(&self, breaker: BreakerConfig) {
        lock(&self.breaker).reload(breaker);
    }

    /// The breaker as it stands.
    pub fn breaker(&self) -> Breaker {
        lock(&self.breaker).clone()
    }

    /// How the ledger is doing.
    pub fn health(&self) -> Estimate {
        lock(&self.breaker).estimate(self.clock.monotonic())
    }

    /// Whether payouts go to the quarantine only (`readyz`: `ledger_degraded`).
    pub fn degraded(&self) -> bool {
        lock(&self.breaker).mode() != Mode::Closed
    }

    /// Least time between two that are sent again; `None` while nothing is.
    pub(crate) fn gap(&self) -> Option<Duration> {
        lock(&self.breaker).gap(&self.reemit)
    }

    /// How long the ledger still wants to be left alone by the quarantine.
    pub(crate) fn patience(&self) -> Duration {
        lock(&self.patience).saturating_sub(self.clock.monotonic())
    }

    /// The latch.
    pub fn latch(&self) -> &Arc<Latch> {
        &self.latch
    }

    /// The spool.
    pub fn spool(&self) -> &Spool {
        &self.spool
    }

    pub(crate) fn clock(&self) -> &dyn Clock {
        &*self.clock
    }

    pub(crate) fn show_depth(&self) {
        self.meters.depth.set(depth(&self.spool));
    }

    /// Runs what blocks (an fsync) where that is allowed.
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, EmitError> {
        let (sender, result) = oneshot::channel();
        let work = Box::new(move || {
            let _ = sender.send(work());
        });
        self.spawn.blocking(work).await;
        result.await.map_err(|_| EmitError::Broken)
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

/// Whether the ledger said something: a ledger that refuses an intent is not ill.
fn answered<T>(result: &Option<Result<T, LedgerError>>) -> bool {
    match result {
        Some(Ok(_)) => true,
        Some(Err(error)) => error.verdict == Verdict::Refused,
        None => false,
    }
}

/// A gauge takes what turns into its own number without loss: the spool holds far below 2^32 entries.
fn depth(spool: &Spool) -> u32 {
    u32::try_from(spool.depth()).unwrap_or(u32::MAX)
}
