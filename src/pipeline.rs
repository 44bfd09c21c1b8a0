//! The whole topology on one screen: four stages, what flows between them, and what each may touch.
//!
//! ```text
//!          Submitted        Admitted          Scored            Sealed
//!  door ──────────► admit ──────────► decode ──────────► reward ──────────► emit ──► Done | Refusal
//!                   store             sealed bytes       kernel, check      claim, ledger,
//!                   lookups           rayon              seal; rayon        quarantine
//! ```
//!
//! A run that the store knows already skips the two stages in the middle (`Found::Stored`) but not delivery: a dry run, or
//! a crash between compute and emit, leaves a result without a settlement.

use crate::bus::{Bus, Event};
use crate::config::Stages;
use crate::epoch::{self, ScoredEpoch};
use crate::refusal::Refusal;
use crate::run::{RECORD, Record, clear_another, write_file};
use crate::table;
use crate::telemetry::INVARIANT_FAIL_TOTAL;
use crate::why::Kept;
use bytes::Bytes;
use rewarder_admit::check::Pass;
use rewarder_decode::{Dictionary, Progress, Source};
use rewarder_emit::metrics::LEDGER_INTENTS_TOTAL;
use rewarder_emit::{AttestKey, Deliverer, Handover, HandoverError, Outcome as Emitted, is_settled};
use rewarder_flow::{Door, Lane, Pipeline, Pool, Step};
use rewarder_model::world::Clock;
use rewarder_model::{
    Attestation, Cid, EpochId, Intent, LedgerResult, Manifest, Policy, PolicyId, Reason, Runs,
    SnapshotHeader, Status, TenantId, run_key,
};
use rewarder_reward::Outcome;
use rewarder_store::{Kind, MANIFEST, Object, Part, Store, StoreError};
use schemars::JsonSchema;
use serde::Serialize;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// Parts of a stored run beside its manifest.
pub mod part {
    pub use rewarder_store::{DELIVERY, MANIFEST};

    /// The attestation, JSON.
    pub const ATTESTATION: &str = "attestation.json";
    /// The canonical text.
    pub const TEXT: &str = "allocations.tsv";
    /// Allocations for people.
    pub const ARROW: &str = "allocations.arrow";
    /// The derivation and where to look for rows, JSON.
    pub const DERIVATION: &str = "derivation.json";
}

/// Every job is answered with one of these.
pub type Answer = Result<Arc<Done>, Refusal>;
/// Where jobs come in.
pub type Entry = Door<Submitted, Answer>;

/// A source that several stages may hold.
pub type SharedSource = Arc<dyn Source + Send + Sync>;

/// What a job is about.
#[derive(Clone)]
pub struct Request {
    /// For logs and events.
    pub corr_id: String,
    /// Compute, but do not emit.
    pub dry_run: bool,
    /// How far decode has come.
    pub progress: Arc<Progress>,
}

/// Where the inputs are.
pub enum Inputs {
    /// In the sealed store, under names that a tenant gave.
    Stored {
        /// On whose behalf.
        pass: Box<Pass>,
        /// Which epoch the path names.
        epoch: EpochId,
        /// Which snapshot.
        inputs_cid: Cid,
        /// Which policy, by name and by hash.
        policy_id: PolicyId,
        /// The hash.
        policy_hash: Cid,
    },
    /// Here.
    Given {
        /// The snapshot.
        snapshot: SharedSource,
        /// The policy's bytes.
        policy: Result<Vec<u8>, Refusal>,
    },
}

/// A job at the door.
pub struct Submitted {
    /// What it is about.
    pub request: Request,
    /// What to compute.
    pub inputs: Inputs,
}

/// Whether what a snapshot says of itself is what the job is about.
type Admits = Box<dyn Fn(&SnapshotHeader) -> Result<(), Refusal> + Send + Sync>;

/// A job whose inputs are open.
pub struct Admitted {
    snapshot: SharedSource,
    policy: Result<Policy, Refusal>,
    expected: Option<Cid>,
    admits: Admits,
}

/// What a stage makes, or what the store had.
pub enum Found<T> {
    /// Still to be computed.
    Fresh(T),
    /// Computed before.
    Stored(Box<Sealed>),
}

/// A computed, checked, signed and stored run.
pub struct Sealed {
    manifest: Manifest,
    manifest_bytes: Vec<u8>,
    commitment: Cid,
    attestation: Option<Attestation>,
    computed: Option<(Outcome, Dictionary)>,
    /// A delivery that was recorded before.
    settled: bool,
}

/// A finished job.
#[derive(Debug)]
pub struct Done {
    /// What is committed to.
    pub manifest: Manifest,
    /// Its canonical bytes.
    pub manifest_bytes: Vec<u8>,
    /// CID of those.
    pub commitment: Cid,
    /// Signatures over it.
    pub attestation: Option<Attestation>,
    /// What the ledger said.
    pub ledger: LedgerResult,
    /// Held for re-emission.
    pub quarantine: bool,
    /// Held in memory only.
    pub volatile: bool,
    /// Where the time went.
    pub timings: Timings,
    /// The result itself, for a caller that keeps no store.
    pub computed: Option<(Outcome, Dictionary)>,
    /// The answer's bytes, made when the first caller is answered: a run that is told again is told in the same bytes.
    pub json: OnceLock<Bytes>,
}

/// Milliseconds by stage.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, JsonSchema)]
pub struct Timings {
    /// Verify, decode, score.
    pub decode: f64,
    /// Allocate, check, seal, store.
    pub reward: f64,
    /// Claim and deliver.
    pub emit: f64,
    /// All of it, waits included.
    pub total: f64,
}

fn millis(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1e3
}

/// The answer of contract §6, for HTTP and for `run --json`.
#[derive(Debug, Serialize, JsonSchema)]
pub struct AnswerBody<'a> {
    epoch_id: &'a EpochId,
    tenant: &'a TenantId,
    run_key: &'a Cid,
    commitment: &'a Cid,
    status: Status,
    totals: &'a rewarder_model::Totals,
    ledger: LedgerAnswer,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    quarantine: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    volatile: bool,
    timings_ms: Timings,
}

#[derive(Debug, Serialize, JsonSchema)]
struct LedgerAnswer {
    result: LedgerResult,
}

impl Done {
    /// What is answered.
    pub fn body(&self) -> AnswerBody<'_> {
        AnswerBody {
            epoch_id: &self.manifest.epoch_id,
            tenant: &self.manifest.tenant,
            run_key: &self.manifest.run_key,
            commitment: &self.commitment,
            status: self.manifest.status,
            totals: &self.manifest.totals,
            ledger: LedgerAnswer { result: self.ledger },
            quarantine: self.quarantine,
            volatile: self.volatile,
            timings_ms: self.timings,
        }
    }

    /// What is answered, as JSON.
    pub fn json(&self) -> Bytes {
        // Our own answers have string keys and no maps that could fail.
        self.json.get_or_init(|| serde_json::to_vec(&self.body()).unwrap_or_default().into()).clone()
    }

    /// The same run, told again.
    pub fn again(&self, ledger: LedgerResult) -> Self {
        Self {
            manifest: self.manifest.clone(),
            manifest_bytes: self.manifest_bytes.clone(),
            commitment: self.commitment,
            attestation: self.attestation.clone(),
            ledger,
            quarantine: false,
            volatile: false,
            timings: Timings::default(),
            computed: None,
            json: OnceLock::new(),
        }
    }

    /// Why it is unpayable, as the problem that a caller gets.
    pub fn unpayable(&self) -> Option<Refusal> {
        let reason = self.manifest.reason?.reason();
        let totals = &self.manifest.totals;
        let detail = match totals.demanded_minor_units {
            Some(demanded) => format!(
                "the price list demands {demanded} {asset} and the budget is {budget}; nothing is paid",
                asset = totals.asset,
                budget = totals.budget_minor_units
            ),
            None => "the total of the scores reaches 10^38 at the policy's scale; nothing is paid".to_owned(),
        };
        Some(Refusal::new(reason, detail))
    }
}

/// Where a batch job leaves its result, and what it leaves there about its inputs.
pub struct Out {
    /// The directory.
    pub dir: PathBuf,
    /// The snapshot's path.
    pub inputs: PathBuf,
    /// The policy's bytes.
    pub policy: Vec<u8>,
}

/// What the stages work with.
pub struct Engine {
    /// Where CPU work runs.
    pub pool: Pool,
    /// Sealed inputs and results; none for a batch job.
    pub store: Option<Store>,
    /// Where a batch job leaves its result.
    pub out: Option<Out>,
    /// Delivery; none when nothing can be emitted.
    pub deliverer: Option<Arc<Deliverer>>,
    /// Signs commitments.
    pub key: Option<AttestKey>,
    /// Hears of breaches.
    pub bus: Bus,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Told on whose behalf how many bytes of a snapshot are about to be decoded.
    pub moved: Moved,
}

/// A tenant, and bytes.
pub type Moved = Box<dyn Fn(&TenantId, u64) + Send + Sync>;

/// What travels from stage to stage beside the stage's own data.
type Carried<T> = (Request, Timings, T);

/// Builds the pipeline.
pub fn start(engine: &Arc<Engine>, stages: &Stages) -> (Entry, Pipeline<Answer>) {
    let (bus, clock) = (engine.bus.clone(), engine.clock.clone());
    let mut pipeline = Pipeline::new(engine.clock.clone(), move |stage, message| {
        tracing::error!(stage, panic = message, "a handler panicked; its job failed");
        bus.publish(clock.unix(), Event::ServiceCrashed { service: "svc-rewarder", stage });
    });
    let [admit, decode, reward, emit] = Stages::NAMES;
    let it = engine.clone();
    let to_emit =
        pipeline.last(emit, stages.emit, move |(request, timings, sealed): Carried<Box<Sealed>>, context| {
            let it = it.clone();
            async move { Step::Done(it.emit(request, timings, *sealed, context.entered).await) }
        });
    let it = engine.clone();
    let to_reward =
        pipeline.stage(reward, stages.reward, to_emit, move |carried: Carried<Found<ScoredEpoch>>, _| {
            let it = it.clone();
            async move { step(it.reward(carried).await) }
        });
    let it = engine.clone();
    let to_decode =
        pipeline.stage(decode, stages.decode, to_reward, move |carried: Carried<Found<Admitted>>, _| {
            let it = it.clone();
            async move { step(it.decode(carried).await) }
        });
    let it = engine.clone();
    let entry = pipeline.stage(admit, stages.admit, to_decode, move |submitted: Submitted, _| {
        let it = it.clone();
        async move { step(it.admit(submitted).await) }
    });
    (entry, pipeline)
}

fn step<T>(result: Result<T, Refusal>) -> Step<T, Answer> {
    match result {
        Ok(next) => Step::Next(next),
        Err(refusal) => Step::Done(Err(refusal)),
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        let reason = error.reason();
        if reason == Reason::Internal {
            tracing::error!(%error, "the store failed");
            return Refusal::new(reason, "the store failed; the service's log says how");
        }
        Refusal::new(reason, error.to_string())
    }
}

fn internal(error: &dyn std::fmt::Display) -> Refusal {
    tracing::error!(%error, "a job failed");
    Refusal::new(Reason::Internal, "the service failed on this job; its log says how")
}

/// Runs what blocks on a thread that may block.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    tokio::task::spawn_blocking(work).await.map_err(|e| internal(&e))?
}

/// A stored object as a source for decode.
struct StoredSource(Object);

impl Source for StoredSource {
    fn len(&self) -> u64 {
        self.0.len()
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(offset, buffer)
    }
}

/// A stored snapshot, to be decoded or looked at.
pub fn stored_source(object: Object) -> SharedSource {
    Arc::new(StoredSource(object))
}

fn parse_policy(bytes: &[u8]) -> Result<Policy, Refusal> {
    Policy::parse(bytes).map_err(|e| Refusal::new(Reason::PolicyInvalid, e.to_string()))
}

/// Bytes of a row in a snapshot: actor, category, units.
const ROW_BYTES: u64 = 4 + 1 + 8;

/// Largest part of a run that is read into memory at once, other than the tables.
const SMALL_PART_BYTES: u64 = 256 * 1024;

impl Engine {
    /// Opens a job's inputs, or the run that they gave before.
    async fn admit(self: &Arc<Self>, submitted: Submitted) -> Result<Carried<Found<Admitted>>, Refusal> {
        let Submitted { request, inputs } = submitted;
        let found = match inputs {
            Inputs::Given { snapshot, policy } => Found::Fresh(Admitted {
                snapshot,
                policy: policy.and_then(|policy| parse_policy(&policy)),
                expected: None,
                admits: Box::new(|_| Ok(())),
            }),
            Inputs::Stored { pass, epoch, inputs_cid, policy_id, policy_hash } => {
                let it = self.clone();
                blocking(move || it.look_up(*pass, epoch, inputs_cid, policy_id, policy_hash)).await?
            }
        };
        Ok((request, Timings::default(), found))
    }

    fn look_up(
        &self,
        pass: Pass,
        epoch: EpochId,
        inputs_cid: Cid,
        policy_id: PolicyId,
        policy_hash: Cid,
    ) -> Result<Found<Admitted>, Refusal> {
        let Some(store) = &self.store else {
            return Err(internal(&"this pipeline has no store"));
        };
        let tenant = pass.tenant().clone();
        let Some(snapshot) = store.object(&tenant, Kind::Snapshot, &inputs_cid)? else {
            let detail = format!(
                "no snapshot {inputs_cid} was stored by this tenant; PUT /rewarder/snapshots/{inputs_cid} first"
            );
            return Err(Refusal::new(Reason::InputsNotFound, detail));
        };
        let Some(policy) = store.object(&tenant, Kind::Policy, &policy_hash)? else {
            let detail = format!(
                "no policy {policy_hash} was stored by this tenant; PUT /rewarder/policies/{policy_hash} first"
            );
            return Err(Refusal::new(Reason::PolicyNotFound, detail));
        };
        let bytes = policy.read_all(policy.len()).map_err(|e| internal(&e))?;
        if Cid::of(&bytes) != policy_hash {
            store.quarantine_corrupt(&policy_hash)?;
            return Err(Refusal::new(
                Reason::PolicyNotFound,
                "the stored policy was damaged and set aside; upload it again",
            ));
        }
        let policy = parse_policy(&bytes).and_then(|policy| {
            if *policy.id() == policy_id {
                Ok(policy)
            } else {
                Err(Refusal::new(
                    Reason::PolicyInvalid,
                    "the id inside the policy is not the policy_id of the request",
                ))
            }
        });
        let run_key = run_key(&epoch, &policy_hash, &inputs_cid);
        if policy.is_ok()
            && let Some(sealed) = self.stored_run(store, &tenant, &run_key)?
        {
            pass.pool(sealed.manifest.totals.pool_minor_units).map_err(Refusal::from)?;
            store.asked_again(&tenant, &epoch, &run_key)?;
            return Ok(Found::Stored(Box::new(sealed)));
        }
        (self.moved)(&tenant, snapshot.len());
        let admits = Box::new(move |header: &SnapshotHeader| {
            if header.tenant != *pass.tenant() {
                return Err(Refusal::new(
                    Reason::Tenant,
                    "rewarder.tenant in the snapshot is another tenant than the capability's",
                ));
            }
            if header.epoch != epoch {
                return Err(Refusal::new(
                    Reason::EpochMismatch,
                    "rewarder.epoch in the snapshot is not the epoch of the path",
                ));
            }
            pass.pool(header.pool).map_err(Refusal::from)
        });
        Ok(Found::Fresh(Admitted {
            snapshot: stored_source(snapshot),
            policy,
            expected: Some(inputs_cid),
            admits,
        }))
    }

    fn stored_run(&self, store: &Store, tenant: &TenantId, run_key: &Cid) -> Result<Option<Sealed>, Refusal> {
        let Some(run) = store.run(tenant, run_key)? else { return Ok(None) };
        let read = |name: &str| -> Result<Option<Vec<u8>>, Refusal> {
            let Some(part) = run.part(name)? else { return Ok(None) };
            part.read_all(SMALL_PART_BYTES).map(Some).map_err(|e| internal(&e))
        };
        let Some(manifest_bytes) = read(MANIFEST)? else { return Ok(None) };
        let manifest: Manifest = serde_json::from_slice(&manifest_bytes).map_err(|e| internal(&e))?;
        let attestation = match read(part::ATTESTATION)? {
            Some(bytes) => Some(serde_json::from_slice(&bytes).map_err(|e| internal(&e))?),
            None => None,
        };
        let settled = run.delivery()?.is_some_and(|json| is_settled(&json));
        let commitment = Cid::of(&manifest_bytes);
        Ok(Some(Sealed { manifest, manifest_bytes, commitment, attestation, computed: None, settled }))
    }

    /// Verifies, decodes and scores.
    async fn decode(
        self: &Arc<Self>,
        carried: Carried<Found<Admitted>>,
    ) -> Result<Carried<Found<ScoredEpoch>>, Refusal> {
        let (request, mut timings, found) = carried;
        let admitted = match found {
            Found::Stored(sealed) => return Ok((request, timings, Found::Stored(sealed))),
            Found::Fresh(admitted) => admitted,
        };
        let begun = self.clock.monotonic();
        let progress = request.progress.clone();
        let expected = admitted.expected;
        let scored = self
            .pool
            .lane(admitted.snapshot.len())
            .run(move || {
                let Admitted { snapshot, policy, expected, admits } = admitted;
                epoch::decode(&*snapshot, expected, &*admits, policy, &progress)
            })
            .await
            .map_err(|e| internal(&e))?;
        if let (Err(Refusal { reason: Reason::CidMismatch, .. }), Some(cid), true) =
            (&scored, expected, self.store.is_some())
        {
            return Err(self.damaged(cid).await);
        }
        let scored = scored?;
        timings.decode = millis(self.clock.monotonic().saturating_sub(begun));
        tracing::debug!(corr_id = request.corr_id, rows = scored.rows, took_ms = timings.decode, "decoded");
        Ok((request, timings, Found::Fresh(scored)))
    }

    /// Sets a stored snapshot aside that was verified when it came and is not what it was: the disk has changed it. The next upload
    /// heals it.
    async fn damaged(self: &Arc<Self>, cid: Cid) -> Refusal {
        tracing::error!(%cid, "a stored snapshot does not have its CID any more");
        let it = self.clone();
        let aside = blocking(move || {
            let store = it.store.as_ref().ok_or_else(|| internal(&"this pipeline has no store"))?;
            Ok(store.quarantine_corrupt(&cid)?)
        });
        // What it is refused for is told either way; why the disk would not do it stands in the log.
        let _ = aside.await;
        Refusal::new(Reason::CidMismatch, "the stored snapshot was damaged and set aside; upload it again")
    }

    /// Allocates, checks, seals, signs and stores.
    async fn reward(
        self: &Arc<Self>,
        carried: Carried<Found<ScoredEpoch>>,
    ) -> Result<Carried<Box<Sealed>>, Refusal> {
        let (request, mut timings, found) = carried;
        let scored = match found {
            Found::Stored(sealed) => return Ok((request, timings, sealed)),
            Found::Fresh(scored) => scored,
        };
        let begun = self.clock.monotonic();
        let policy = scored.policy.clone();
        let lane = self.pool.lane(scored.rows.saturating_mul(ROW_BYTES));
        let computed = lane.run(move || epoch::reward(scored)).await.map_err(|e| internal(&e))?;
        let (outcome, names) = match computed {
            Ok(computed) => computed,
            Err(breach) => return Err(self.breach(breach).await),
        };
        let attestation = match &self.key {
            Some(key) => Some(key.attest(&outcome.commitment).map_err(|e| internal(&e))?),
            None => None,
        };
        let it = self.clone();
        let sealed = blocking(move || it.seal(&lane, outcome, names, attestation, &policy)).await?;
        timings.reward = millis(self.clock.monotonic().saturating_sub(begun));
        tracing::debug!(
            corr_id = request.corr_id,
            commitment = %sealed.commitment,
            recipients = sealed.manifest.totals.recipients,
            took_ms = timings.reward,
            "computed, sealed and stored"
        );
        Ok((request, timings, Box::new(sealed)))
    }

    fn seal(
        &self,
        lane: &Lane,
        outcome: Outcome,
        names: Dictionary,
        attestation: Option<Attestation>,
        policy: &Policy,
    ) -> Result<Sealed, Refusal> {
        if let Some(store) = &self.store {
            let manifest = &outcome.manifest;
            let attested = serde_json::to_vec(&attestation).map_err(|e| internal(&e))?;
            let derivation = serde_json::to_vec(&Kept::of(&outcome, &names)).map_err(|e| internal(&e))?;
            let mut text = |to: &mut (dyn Write + Send)| {
                outcome.table.pieces().try_for_each(|piece| to.write_all(piece))
            };
            let mut arrow =
                |to: &mut (dyn Write + Send)| table::write_arrow(lane, &outcome, &names, policy.scale(), to);
            store.put_run(
                &manifest.tenant,
                &manifest.epoch_id,
                &manifest.run_key,
                &mut [
                    (MANIFEST, Part::Bytes(&outcome.manifest_bytes)),
                    (part::ATTESTATION, Part::Bytes(&attested)),
                    (part::DERIVATION, Part::Bytes(&derivation)),
                    (part::TEXT, Part::Write(&mut text)),
                    (part::ARROW, Part::Write(&mut arrow)),
                ],
            )?;
        }
        if let Some(out) = &self.out {
            self.leave(lane, out, &outcome, &names, policy).map_err(|e| {
                Refusal::new(Reason::Internal, format!("{} cannot be written: {e}", out.dir.display()))
            })?;
        }
        Ok(Sealed {
            manifest: outcome.manifest.clone(),
            manifest_bytes: outcome.manifest_bytes.clone(),
            commitment: outcome.commitment,
            attestation,
            computed: self.store.is_none().then_some((outcome, names)),
            settled: false,
        })
    }

    /// Writes a batch job's files.
    fn leave(
        &self,
        lane: &Lane,
        out: &Out,
        outcome: &Outcome,
        names: &Dictionary,
        policy: &Policy,
    ) -> io::Result<()> {
        std::fs::create_dir_all(&out.dir)?;
        let inputs = std::fs::canonicalize(&out.inputs)?;
        let record = Record {
            inputs_bytes: std::fs::metadata(&inputs)?.len(),
            inputs,
            policy: String::from_utf8_lossy(&out.policy).into_owned(),
            kept: Some(Kept::of(outcome, names)),
        };
        for name in clear_another(&out.dir, &outcome.manifest_bytes)? {
            tracing::warn!(file = name, "belonged to another run and is removed");
        }
        // Beside each other: the text is as it will be, the other has to be made.
        std::thread::scope(|scope| {
            let text = scope.spawn(|| {
                write_file(&out.dir, part::TEXT, |to| {
                    outcome.table.pieces().try_for_each(|piece| to.write_all(piece))
                })
            });
            write_file(&out.dir, part::ARROW, |to| {
                table::write_arrow(lane, outcome, names, policy.scale(), to)
            })?;
            text.join().unwrap_or_else(|_| Err(io::Error::other("the text could not be written")))
        })?;
        write_file(&out.dir, RECORD, |to| Ok(serde_json::to_writer(to, &record)?))?;
        // Last: where a manifest stands, the rest stands too.
        write_file(&out.dir, MANIFEST, |to| to.write_all(&outcome.manifest_bytes))
    }

    /// A check of our own failed: emission goes off, for everyone, until an operator has looked.
    async fn breach(&self, breach: rewarder_reward::Breach) -> Refusal {
        let kind = breach.kind();
        metrics::counter!(INVARIANT_FAIL_TOTAL, "kind" => kind).increment(1);
        tracing::error!(invariant = "fail", kind, %breach, "a result failed the check by another route");
        if let Some(deliverer) = &self.deliverer {
            deliverer.latch_off(kind, format!("invariant breach: {breach}")).await;
        }
        Refusal::new(
            Reason::Invariant,
            format!(
                "the result failed a check of ours ({kind}) and was thrown away; emission is off until an operator releases it"
            ),
        )
    }

    /// Claims the epoch and delivers the intent, unless there is nothing to deliver.
    async fn emit(
        self: &Arc<Self>,
        request: Request,
        mut timings: Timings,
        sealed: Sealed,
        entered: Duration,
    ) -> Answer {
        let begun = self.clock.monotonic();
        let Sealed { manifest, manifest_bytes, commitment, attestation, computed, settled } = sealed;
        let (mut ledger, mut quarantine, mut volatile) = (LedgerResult::None, false, false);
        let emits = !request.dry_run && manifest.status == Status::Ok;
        if emits && settled {
            metrics::counter!(LEDGER_INTENTS_TOTAL, "result" => "dup").increment(1);
            ledger = LedgerResult::Dup;
        } else if emits && self.deliverer.is_some() {
            let delivered = self.deliver(&manifest, commitment).await?;
            ledger = delivered.ledger_result();
            quarantine = matches!(delivered.outcome, Emitted::Held { .. });
            volatile = quarantine && delivered.volatile;
        }
        let now = self.clock.monotonic();
        timings.emit = millis(now.saturating_sub(begun));
        timings.total = millis(now.saturating_sub(entered));
        Ok(Arc::new(Done {
            manifest,
            manifest_bytes,
            commitment,
            attestation,
            ledger,
            quarantine,
            volatile,
            timings,
            computed,
            json: OnceLock::new(),
        }))
    }

    async fn deliver(
        &self,
        manifest: &Manifest,
        commitment: Cid,
    ) -> Result<rewarder_emit::Delivered, Refusal> {
        let Some(handover) = self.handover() else { return Err(internal(&"this pipeline has no ledger")) };
        let intent = Intent::of(manifest, commitment);
        let epoch = intent.epoch_id.clone();
        let conflict = |other: &Cid| {
            let detail =
                format!("epoch {epoch} of this tenant already has run {other}; an epoch is paid once");
            Refusal::new(Reason::EpochConflict, detail)
        };
        let delivered = handover.deliver(intent).await.map_err(|e| match e {
            HandoverError::Conflict(other) => conflict(&other),
            other => Refusal::from(other),
        })?;
        match &delivered.outcome {
            Emitted::Accepted | Emitted::Dup | Emitted::Held { .. } => Ok(delivered),
            Emitted::Conflict(record) => Err(conflict(&record.run_key)),
            Emitted::Refused { detail } => Err(Refusal::new(
                Reason::LedgerRefused,
                format!("the ledger refused the intent, which is held for an operator: {detail}"),
            )),
            Emitted::ForeignDup(_) => Err(Refusal::new(
                Reason::LedgerRefused,
                "the ledger holds this run key with another commitment; emission is off until an operator releases it",
            )),
        }
    }
}

impl Engine {
    /// Where runs are handed over to delivery; none when nothing can be emitted.
    pub fn handover(&self) -> Option<Handover> {
        let runs = self.store.clone().map(|store| Arc::new(store) as Arc<dyn Runs>);
        Some(Handover::new(self.deliverer.clone()?, runs))
    }
}

impl From<HandoverError> for Refusal {
    fn from(error: HandoverError) -> Self {
        match error {
            HandoverError::Conflict(other) => {
                Refusal::new(Reason::EpochConflict, format!("this epoch already has run {other}"))
            }
            HandoverError::Emit(e) if e.reason() != Reason::Internal => {
                Refusal::new(e.reason(), e.to_string()).retry_after(Duration::from_secs(30))
            }
            HandoverError::Runs(e) if e.reason != Reason::Internal => Refusal::new(e.reason, e.detail),
            HandoverError::Runs(e) => {
                tracing::error!(error = %e, "the store failed");
                Refusal::new(Reason::Internal, "the store failed; the service's log says how")
            }
            other => internal(&other),
        }
    }
}

impl From<rewarder_admit::Denied> for Refusal {
    fn from(denied: rewarder_admit::Denied) -> Self {
        Refusal::new(denied.reason, denied.detail)
    }
}
