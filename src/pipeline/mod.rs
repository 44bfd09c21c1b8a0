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

mod done;
mod engine;

pub use done::{AnswerBody, Done, Timings};
pub use engine::{Emission, Engine, Moved, Opened, Opening};

use crate::bus::Event;
use crate::config::Stages;
use crate::epoch::ScoredEpoch;
use crate::refusal::Refusal;
use crate::source::SharedSource;
use rewarder_admit::check::Pass;
use rewarder_decode::{Dictionary, Progress};
use rewarder_flow::{Door, Pipeline, Step};
use rewarder_model::{Attestation, Cid, EpochId, Manifest, Policy, PolicyId, SnapshotHeader};
use rewarder_reward::Outcome;
use std::sync::Arc;

/// Every job is answered with one of these.
pub type Answer = Result<Arc<Done>, Refusal>;
/// Where jobs come in.
pub type Entry = Door<Submitted, Answer>;

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
