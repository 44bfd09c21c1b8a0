//! The service: what its parts share, how a compute request becomes a job, how it reloads and drains.

use crate::bus::{Bus, Event};
use crate::config::{self, ConfigArgs, ConfigError, Environment, Settings, Stages};
use crate::explained::{Explained, Readers, Runs, Settled};
use crate::health::Health;
use crate::jobs::{Job, JobState, Jobs};
use crate::late::{Late, LateKey};
use crate::opened::{self, StartError, breaker, failed, state_dir};
use crate::pipeline::{self, Answer, Done, Emission, Engine, Entry, Inputs, Opened, Request, Submitted};
use crate::recent::{Recent, RecentKey};
use crate::refusal::Refusal;
use crate::telemetry::{COMPUTE_LATENCY, RUNS_TOTAL, STORE_BYTES, STORE_BYTES_MAX};
use crate::verifier::CapVerifier;
use crate::world::{SystemClock, SystemEntropy};
use arc_swap::ArcSwap;
use metrics::{Counter, Histogram, counter, histogram};
use rewarder_admit::check::Pass;
use rewarder_admit::limiter::COST_BYTES;
use rewarder_admit::single_flight::Follow;
use rewarder_admit::{Checker, Departures, Inflight, Inside, Limiter, Limits, SingleFlight, Standing, Wish};
use rewarder_emit::metrics::LEDGER_INTENTS_TOTAL;
use rewarder_emit::{AttestKey, Delivered, Deliverer, Mode, Notice};
use rewarder_flow::{Controls, Envelope, Pipeline, Pool, PushError, Unanswered, ticket};
use rewarder_model::world::{BoxFuture, Clock, Entropy};
use rewarder_model::{
    Amount, Cid, EpochId, Intent, LedgerResult, PolicyId, Reason, Status, TenantId, run_key,
};
use rewarder_store::Store;
use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Locks, poisoned or not: what stands behind these locks is never left half changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Everything that requests share.
pub struct Service {
    settings: ArcSwap<Settings>,
    /// How the settings were found, to find them again.
    origin: (ConfigArgs, Environment),
    /// The stages' work.
    pub engine: Arc<Engine>,
    entry: Entry,
    controls: Controls,
    /// Who verifies capabilities.
    pub verifier: CapVerifier,
    /// Capability checks.
    pub checker: Checker,
    limiter: Arc<Limiter>,
    departures: Departures,
    inflight: Inflight,
    flights: SingleFlight<FlightKey, Answer>,
    recent: Mutex<Recent>,
    jobs: Mutex<Jobs>,
    late: Mutex<Late>,
    /// Readiness.
    pub health: Health,
    /// It was told to stop.
    leaving: AtomicBool,
    /// It takes no new jobs.
    draining: AtomicBool,
    latency: Histogram,
    /// Settled runs that were asked for again, which the ledger is not bothered with.
    dup: Counter,
    explained: Runs<Explained>,
    readers: Readers,
    settled: Runs<Settled>,
}

/// What twins have in common beside their question: both may hear of the same pools.
type FlightKey = (LateKey, Option<Amount>);

/// Computations under way at once. Each is a job that the stages hold, so that the queues' own bounds come first.
const FLIGHTS_MAX: usize = 1_000_000;

fn limits(settings: &Settings) -> Limits {
    // Counts are between 1 and a million.
    let rate = |count: config::Count| NonZeroU32::new(count.0 as u32).unwrap_or(NonZeroU32::MIN);
    let named = settings.tenants.iter().filter_map(|(tenant, terms)| Some((tenant.clone(), terms.rps?)));
    Limits {
        tenant_rps_max: rate(settings.tenant_rps_max),
        named: Arc::new(named.collect()),
        rps_max: rate(settings.rps_max),
    }
}

fn nonzero(count: usize) -> NonZeroUsize {
    NonZeroUsize::new(count).unwrap_or(NonZeroUsize::MIN)
}

/// What happens in delivery goes to the bus.
fn tell(deliverer: &Arc<Deliverer>, bus: &Bus, clock: &Arc<dyn Clock>) {
    let (bus, clock) = (bus.clone(), clock.clone());
    deliverer.listen(move |notice| {
        let event = match notice {
            Notice::Latched { kind } => Event::EmissionLatched { kind },
            Notice::Released => Event::EmissionReleased {},
            Notice::Brownout(change) if change.to == Mode::Open => {
                Event::LedgerEgressDegraded { why: change.why }
            }
            Notice::Brownout(change) => Event::LedgerEgressRecovering { mode: change.to.as_str() },
        };
        bus.publish(clock.unix(), event);
    });
}

impl Service {
    /// Opens everything and starts the stages. The pipeline comes back apart, for whoever drains it.
    ///
    /// # Errors
    /// What cannot be opened, with the setting that names it.
    pub async fn start(
        settings: Settings,
        origin: (ConfigArgs, Environment),
        brownout: bool,
    ) -> Result<(Arc<Self>, Pipeline<Answer>), StartError> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::start());
        let entropy: Arc<dyn Entropy> = Arc::new(SystemEntropy);
        let dir = state_dir(&settings);
        let deliverer = opened::deliverer(&settings, &clock, &entropy).await?;
        let key = AttestKey::open(dir, &*entropy, settings.require_pq_on)
            .map_err(|e| failed("the attestation key cannot be opened")(&e))?;
        let store = opened::store(&settings)?;
        let verifier = CapVerifier::start(&settings, &clock, &entropy)?;
        let pool = Pool::new(nonzero(settings.concurrency_compute_workers.0))
            .map_err(|e| failed("the compute pool")(&e))?;
        let bus = Bus::new();
        tell(&deliverer, &bus, &clock);
        if brownout {
            deliverer.begin_drill();
        }
        let limiter = Arc::new(Limiter::new(limits(&settings), clock.clone()));
        let charged = limiter.clone();
        let engine = Arc::new(Engine {
            pool,
            store: Some(store),
            out: None,
            emission: Some(Emission::Open(Opened { deliverer, key })),
            bus: bus.clone(),
            clock: clock.clone(),
            moved: Box::new(move |tenant, bytes| charged.charge(tenant, bytes / COST_BYTES)),
        });
        if let Some(handover) = engine.handover() {
            handover.keep_records();
        }
        let (entry, pipeline) = pipeline::start(&engine, &settings.stages);
        let service = Arc::new(Self {
            controls: pipeline.controls(),
            checker: Checker::new(verifier.asked(), clock.clone(), settings.cap_budget_ms.into()),
            verifier,
            limiter,
            departures: Departures::default(),
            inflight: Inflight::new(nonzero(settings.max_inflight.0)),
            flights: SingleFlight::new(FLIGHTS_MAX),
            recent: Mutex::default(),
            jobs: Mutex::default(),
            late: Mutex::default(),
            health: Health::new(bus),
            leaving: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            latency: histogram!(COMPUTE_LATENCY),
            dup: counter!(LEDGER_INTENTS_TOTAL, "result" => "dup"),
            explained: Runs::default(),
            readers: Readers::default(),
            settled: Runs::default(),
            settings: ArcSwap::from_pointee(settings),
            origin,
            engine,
            entry,
        });
        Ok((service, pipeline))
    }

    /// Serves operators on the control socket until it is dropped; under amnesia there is none.
    pub async fn operators(self: &Arc<Self>) {
        let settings = self.settings();
        let (Some(dir), Ok(deliverer)) = (state_dir(&settings), self.deliverer()) else { return };
        match crate::control::bind(dir) {
            Ok(listener) => {
                crate::control::serve(listener, deliverer.clone(), self.engine.store.clone()).await
            }
            Err(error) => tracing::error!(
                %error,
                "the control socket in STATE_DIR cannot be made; operators can act on the stopped service only"
            ),
        }
    }

    /// The settings in force.
    pub fn settings(&self) -> Arc<Settings> {
        self.settings.load_full()
    }

    /// Reads some of the settings in force: cheaper than to hold them, for what every request asks.
    pub fn with_settings<T>(&self, read: impl FnOnce(&Settings) -> T) -> T {
        read(&self.settings.load())
    }

    /// The clock.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.engine.clock
    }

    /// The bus.
    pub fn bus(&self) -> &Bus {
        &self.engine.bus
    }

    /// The store.
    pub fn store(&self) -> Result<&Store, Refusal> {
        self.engine.store.as_ref().ok_or_else(|| Refusal::new(Reason::Internal, "the service has no store"))
    }

    /// The ids of the keys that vouch for results.
    pub fn attest_keys(&self) -> Vec<String> {
        self.engine
            .emits()
            .into_iter()
            .flat_map(|opened| opened.key.key_ids())
            .map(|id| id.to_string())
            .collect()
    }

    /// Shows how full the store is.
    pub fn show_store(&self) {
        if let Some(store) = &self.engine.store {
            metrics::gauge!(STORE_BYTES).set(store.used_bytes() as f64);
            metrics::gauge!(STORE_BYTES_MAX).set(store.limit_bytes() as f64);
        }
    }

    /// Delivery.
    pub fn deliverer(&self) -> Result<&Arc<Deliverer>, Refusal> {
        let opened = self.engine.emits().map(|opened| &opened.deliverer);
        opened.ok_or_else(|| Refusal::new(Reason::Internal, "the service has no ledger"))
    }

    /// Runs that were explained lately.
    pub fn explained(&self) -> &Runs<Explained> {
        &self.explained
    }

    /// Who reads runs to explain them.
    pub fn readers(&self) -> &Readers {
        &self.readers
    }

    /// Epochs that are settled and were told lately.
    pub fn settled(&self) -> &Runs<Settled> {
        &self.settled
    }

    /// The stages' knobs and dials.
    pub fn controls(&self) -> &Controls {
        &self.controls
    }

    /// Whether the service was told to stop, and clients had better look for another replica.
    pub fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Relaxed)
    }

    /// Whether the service takes no new jobs any more.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Takes one request's worth from its tenant's bucket; where the tenant stands then, in any case.
    ///
    /// # Errors
    /// `tenant_rate` or `over_capacity`, with the time to wait.
    pub fn rate(&self, tenant: &TenantId, wish: Wish) -> (Standing, Result<(), Refusal>) {
        let (standing, taken) = self.limiter.take(tenant, wish);
        (standing, taken.map_err(refused))
    }

    /// Whether a tenant has paid for what it moved before, asked when the turn of a request comes that has waited.
    ///
    /// # Errors
    /// `tenant_rate`, with the time to wait.
    pub fn is_solvent(&self, tenant: &TenantId) -> Result<(), Refusal> {
        self.limiter.is_solvent(tenant).map_err(refused)
    }

    /// Charges a tenant for bytes that it has moved, beside its request.
    pub fn charge(&self, tenant: &TenantId, bytes: u64) {
        self.limiter.charge(tenant, bytes / COST_BYTES);
    }

    /// Takes a place of those who look at results.
    ///
    /// # Errors
    /// `over_capacity`.
    pub fn look(&self, tenant: &TenantId) -> Result<Inside, Refusal> {
        self.inflight.enter(tenant, Wish::Inspection).map_err(refused)
    }

    /// Takes a place among the requests under way.
    ///
    /// # Errors
    /// `over_capacity`, or `draining`.
    pub fn enter(&self, tenant: &TenantId) -> Result<Inside, Refusal> {
        if self.is_draining() {
            return Err(Refusal::new(
                Reason::Draining,
                "the service is shutting down; send it to another replica",
            ));
        }
        self.inflight.enter(tenant, Wish::Work).map_err(|full| {
            let wait = self.departures.wait(self.inflight.taken(), self.clock().monotonic());
            refused(full).retry_after(wait)
        })
    }

    /// What is known of a job that has left no run, or none yet.
    pub fn job(&self, tenant: &TenantId, epoch: &EpochId) -> Option<JobState> {
        lock(&self.jobs).state(&(tenant.clone(), epoch.clone()))
    }

    /// A run that was answered lately, as it is answered again.
    ///
    /// # Errors
    /// `caveat`: the capability is for smaller pools.
    pub fn known(&self, ask: &Ask) -> Result<Option<Arc<Done>>, Refusal> {
        let key = RecentKey {
            tenant: ask.pass.tenant().clone(),
            epoch: ask.epoch.clone(),
            inputs_cid: ask.inputs_cid,
            policy_hash: ask.policy_hash,
        };
        let Some(again) = lock(&self.recent).get(&key) else { return Ok(None) };
        let done = if ask.dry_run { &again.dry } else { &again.wet };
        if done.manifest.policy.id != ask.policy_id {
            return Ok(None);
        }
        ask.pass.pool(done.manifest.totals.pool_minor_units)?;
        if done.ledger == LedgerResult::Dup {
            self.dup.increment(1);
        }
        Ok(Some(done.clone()))
    }

    /// The answer of a job that took longer than the request that asked for it waited.
    ///
    /// # Errors
    /// `caveat`: the capability is for smaller pools.
    pub fn late(&self, key: &LateKey, pass: &Pass) -> Result<Option<Answer>, Refusal> {
        let mut late = lock(&self.late);
        if late.is_empty() {
            return Ok(None);
        }
        let answer = late.take(key, self.clock().monotonic());
        drop(late);
        if let Some(Ok(done)) = &answer {
            pass.pool(done.manifest.totals.pool_minor_units)?;
            // What was held then may have been delivered since.
            if done.quarantine && self.deliverer()?.spool().state(&key.run_key).is_none() {
                return Ok(None);
            }
        }
        Ok(answer)
    }

    /// Keeps what comes of a job whose asker was told that it runs on, for who asks the same next.
    pub fn hear_late(self: &Arc<Self>, key: LateKey, answer: impl Future<Output = Answer> + Send + 'static) {
        let it = self.clone();
        tokio::spawn(async move {
            let answer = answer.await;
            let now = it.clock().monotonic();
            lock(&it.late).keep(key, answer, now);
        });
    }

    /// Computes a run, or joins its twin that is being computed. The answer comes even if nobody waits for it.
    ///
    /// # Errors
    /// `latched`, `queue_full`, `draining` or `over_capacity`; what the job itself is refused for comes with the answer.
    pub fn compute(self: &Arc<Self>, ask: Ask, corr_id: &str, inside: Inside) -> Result<Computing, Refusal> {
        let Ask { pass, epoch, inputs_cid, policy_id, policy_hash, dry_run } = ask;
        let (tenant, corr_id) = (pass.tenant().clone(), corr_id.to_owned());
        let key = run_key(&epoch, &policy_hash, &inputs_cid);
        if !dry_run && let Some(latched) = self.deliverer()?.latch().latched() {
            let detail = format!("emission is latched off ({}); only dry runs are answered", latched.reason);
            return Err(Refusal::new(Reason::Latched, detail).retry_after(Duration::from_secs(60)));
        }
        if dry_run && self.deliverer()?.latch().is_set() && !self.settings().latched_dry_runs {
            return Err(Refusal::new(
                Reason::Latched,
                "emission is latched off, and the settings do not answer dry runs meanwhile",
            )
            .retry_after(Duration::from_secs(60)));
        }
        let question =
            LateKey { tenant: tenant.clone(), run_key: key, policy_id: policy_id.clone(), dry_run };
        let joined = self.flights.join((question, pass.pool_max())).map_err(refused)?;
        let Some(lead) = joined.lead else {
            // The twin's place is held by the twin; this request keeps its own while it waits.
            return Ok(Computing { answer: joined.answer, inside: Some(inside) });
        };
        let request = Request { corr_id: corr_id.clone(), dry_run, progress: Arc::default() };
        let inputs =
            Inputs::Stored { pass: Box::new(pass), epoch: epoch.clone(), inputs_cid, policy_id, policy_hash };
        let entered = self.clock().monotonic();
        let weight = self.settings().tenants.get(&tenant).map_or(NonZeroU32::MIN, |terms| terms.weight);
        let (ticket, answer) = ticket(tenant.as_str().into(), entered, Some(Box::new(inside)));
        let ticket = ticket.weighing(weight);
        self.entry.try_push(Envelope { ticket, payload: Submitted { request, inputs } }).map_err(
            |e| match e {
                PushError::Full(_) => Refusal::new(
                    Reason::QueueFull,
                    "as many jobs wait as WORK_QUEUE_MAX allows; nothing was started",
                )
                .retry_after(self.departures.wait(self.entry.depth(), entered)),
                PushError::Closed(_) => {
                    Refusal::new(Reason::Draining, "the service is shutting down; send it to another replica")
                }
            },
        )?;
        self.bus().publish(self.clock().unix(), Event::JobAdmitted { corr_id: corr_id.clone() });
        let job = (tenant, epoch);
        lock(&self.jobs).begin(job.clone());
        let it = self.clone();
        tokio::spawn(async move {
            let answer = answer.await.unwrap_or_else(|unanswered| Err(unanswered_refusal(&unanswered)));
            it.finish(&corr_id, job, entered, &answer);
            lead.land(answer);
        });
        Ok(Computing { answer: joined.answer, inside: None })
    }

    /// Counts, remembers and tells what became of a job.
    fn finish(&self, corr_id: &str, job: Job, entered: Duration, answer: &Answer) {
        let now = self.clock().monotonic();
        self.departures.left(now);
        let took = now.saturating_sub(entered);
        self.latency.record(took.as_secs_f64());
        let (status, reason) = match answer {
            Ok(done) if done.manifest.status == Status::Unpayable => ("unpayable", "unpayable"),
            Ok(done) if done.quarantine => ("quarantined", "quarantined"),
            Ok(_) => ("ok", "ok"),
            Err(refusal) if matches!(refusal.reason.status(), 500..) => ("failed", refusal.reason.as_str()),
            Err(refusal) => ("refused", refusal.reason.as_str()),
        };
        counter!(RUNS_TOTAL, "status" => status).increment(1);
        tracing::info!(
            corr_id,
            tenant = %job.0,
            epoch = %job.1,
            status = reason,
            took_us = took.as_micros() as u64,
            "job done"
        );
        lock(&self.jobs).end(&job, answer.as_ref().err());
        // Others are looked up: which run an epoch shows hangs on which was asked for last until one is settled.
        if let Ok(done) = answer {
            lock(&self.recent).keep(job.0, job.1, done);
        }
        self.bus()
            .publish(self.clock().unix(), Event::JobDone { corr_id: corr_id.to_owned(), status: reason });
    }

    /// Reads the settings again and applies what a running service can change; jobs under way are not touched.
    ///
    /// # Errors
    /// When the new settings cannot be used; the old ones stay in force.
    pub fn reload(&self) -> Result<(), ConfigError> {
        let (args, environment) = &self.origin;
        let before = self.settings();
        let (next, restart_needed) = before.reloaded(config::load(args, environment)?);
        next.consistent()?;
        // What may fail comes first, and is taken back if it does.
        self.resize(&next).and_then(|()| self.verifier.reload(&next)).inspect_err(|_| {
            // Both had these sizes a moment ago.
            let _ = self.resize(&before);
        })?;
        self.limiter.reload(limits(&next));
        self.inflight.resize(nonzero(next.max_inflight.0));
        self.checker.reload(next.cap_budget_ms.into());
        if let Ok(deliverer) = self.deliverer() {
            deliverer.reload(breaker(&next));
        }
        for name in &restart_needed {
            tracing::warn!(setting = name, "this setting has changed but needs a restart");
        }
        self.settings.store(Arc::new(next));
        self.bus().publish(self.clock().unix(), Event::ConfigUpdated { restart_needed });
        Ok(())
    }

    /// Gives pool and stages their sizes.
    fn resize(&self, settings: &Settings) -> Result<(), ConfigError> {
        let workers = nonzero(settings.concurrency_compute_workers.0);
        self.engine.pool.resize(workers).map_err(|e| ConfigError(e.to_string()))?;
        for (name, stage) in settings.stages.each() {
            self.controls.resize(name, stage).map_err(|e| ConfigError(e.to_string()))?;
        }
        Ok(())
    }

    /// Begins to leave: `readyz` says so at once, everything is served as before.
    pub fn leave(&self) {
        self.leaving.store(true, Ordering::Relaxed);
        self.health.hurry();
    }

    /// Stops taking jobs. The pipeline ends when what it holds is done.
    pub fn close(&self) {
        self.draining.store(true, Ordering::Relaxed);
        let deadline_ms = Duration::from(self.settings().drain_deadline_ms).as_millis() as u64;
        self.bus().publish(self.clock().unix(), Event::Shutdown { deadline_ms });
        self.entry.close();
    }

    /// Delivers what a crash left between claim and delivery.
    pub async fn recover(&self) {
        if let Some(handover) = self.engine.handover() {
            handover.recover().await;
        }
    }

    /// Sends quarantined intents again until `stop`.
    pub async fn reemit(self: &Arc<Self>, stop: BoxFuture<'static, ()>) {
        let Ok(deliverer) = self.deliverer() else { return };
        let it = self.clone();
        let settled = move |_: &Intent, delivered: &Delivered| {
            it.bus().publish(
                it.clock().unix(),
                Event::IntentReemitted { result: delivered.ledger_result().as_str() },
            );
        };
        deliverer.reemit_until(stop, settled).await;
    }

    /// The stages of the settings in force, for the start message.
    pub fn stages(&self) -> Stages {
        self.settings().stages
    }
}

fn refused(refused: rewarder_admit::Refused) -> Refusal {
    let detail = match refused.reason {
        Reason::TenantRate => "this tenant sends more requests than TENANT_RPS_MAX allows",
        _ => "as many requests are under way as the service takes",
    };
    Refusal::new(refused.reason, detail).retry_after(refused.retry_after)
}

fn unanswered_refusal(unanswered: &Unanswered) -> Refusal {
    match unanswered {
        Unanswered::Lost => {
            Refusal::new(Reason::Draining, "the job was cut off by a shutdown; submit it again")
        }
        Unanswered::Panicked { .. } => {
            Refusal::new(Reason::Internal, "the service failed on this job; its log says how")
        }
    }
}

/// A compute request that has passed the door.
pub struct Ask {
    /// The capability.
    pub pass: Pass,
    /// The path's epoch.
    pub epoch: EpochId,
    /// Which snapshot.
    pub inputs_cid: Cid,
    /// Which policy, by name.
    pub policy_id: PolicyId,
    /// And by hash.
    pub policy_hash: Cid,
    /// Compute only.
    pub dry_run: bool,
}

/// A computation that runs.
pub struct Computing {
    answer: Follow<Answer>,
    /// This request's own place, if the job does not hold it.
    inside: Option<Inside>,
}

impl Computing {
    /// Whether the job began with this question; others joined it.
    pub fn leads(&self) -> bool {
        self.inside.is_none()
    }

    /// Waits for the answer, as long as the job takes.
    pub async fn answer(self) -> Answer {
        self.answer.answer().await.unwrap_or_else(|_| {
            Err(Refusal::new(Reason::QueueFull, "the job was not taken in; submit it again")
                .retry_after(Duration::from_secs(1)))
        })
    }
}
