//! What the four stages do. Each takes what the one before it made, or passes on what the store had.

use super::done::millis;
use super::{Admitted, Answer, Carried, Done, Found, Inputs, Request, Sealed, Submitted, Timings};
use crate::bus::Bus;
use crate::epoch::{self, ScoredEpoch};
use crate::out::{Out, part};
use crate::refusal::{Refusal, internal};
use crate::source::stored_source;
use crate::table;
use crate::telemetry::INVARIANT_FAIL_TOTAL;
use crate::why::Kept;
use crate::world::blocking;
use futures::future::{BoxFuture, Shared};
use rewarder_admit::check::Pass;
use rewarder_decode::{Dictionary, Source};
use rewarder_emit::metrics::LEDGER_INTENTS_TOTAL;
use rewarder_emit::{AttestKey, Deliverer, Handover, HandoverError, Outcome as Emitted, is_settled};
use rewarder_flow::{Lane, Pool};
use rewarder_model::world::Clock;
use rewarder_model::{
    Attestation, Cid, EpochId, Intent, LedgerResult, Manifest, Policy, PolicyId, Reason, Runs,
    SnapshotHeader, Status, TenantId, run_key,
};
use rewarder_reward::Outcome;
use rewarder_store::{Kind, MANIFEST, Part, Store};
use std::io::Write;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// What the stages work with.
pub struct Engine {
    /// Where CPU work runs.
    pub pool: Pool,
    /// Sealed inputs and results; none for a batch job.
    pub store: Option<Store>,
    /// Where a batch job leaves its result.
    pub out: Option<Out>,
    /// What emits runs; none when nothing can be emitted.
    pub emission: Option<Emission>,
    /// Hears of breaches.
    pub bus: Bus,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Told on whose behalf how many bytes of a snapshot are about to be decoded.
    pub moved: Moved,
}

/// What emits runs.
pub enum Emission {
    /// It is there.
    Open(Opened),
    /// It is being opened while a batch job computes; asked for when there is something to sign.
    Opening(Opening),
}

/// Delivery, and what signs commitments.
pub struct Opened {
    /// Delivery.
    pub deliverer: Arc<Deliverer>,
    /// Signs commitments.
    pub key: AttestKey,
}

/// [`Opened`], when it will be.
pub type Opening = Shared<BoxFuture<'static, Result<Arc<Opened>, Refusal>>>;

/// A tenant, and bytes.
pub type Moved = Box<dyn Fn(&TenantId, u64) + Send + Sync>;

fn parse_policy(bytes: &[u8]) -> Result<Policy, Refusal> {
    Policy::parse(bytes).map_err(|e| Refusal::new(Reason::PolicyInvalid, e.to_string()))
}

/// Bytes of a row in a snapshot: actor, category, units.
const ROW_BYTES: u64 = 4 + 1 + 8;

/// Largest part of a run that is read into memory at once, other than the tables.
const SMALL_PART_BYTES: u64 = 256 * 1024;

impl Engine {
    /// Opens a job's inputs, or the run that they gave before.
    pub(super) async fn admit(
        self: &Arc<Self>,
        submitted: Submitted,
    ) -> Result<Carried<Found<Admitted>>, Refusal> {
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
    pub(super) async fn decode(
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
    pub(super) async fn reward(
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
        let attest = |opened: &Opened| opened.key.attest(&outcome.commitment).map_err(|e| internal(&e));
        let attestation = self.opened().await?.map(attest).transpose()?;
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
            out.write(lane, &outcome, &names, policy).map_err(|e| {
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

    /// A check of our own failed: emission goes off, for everyone, until an operator has looked.
    async fn breach(&self, breach: rewarder_reward::Breach) -> Refusal {
        let kind = breach.kind();
        metrics::counter!(INVARIANT_FAIL_TOTAL, "kind" => kind).increment(1);
        tracing::error!(invariant = "fail", kind, %breach, "a result failed the check by another route");
        // Where it cannot be opened, nothing is emitted either.
        if let Ok(Some(opened)) = self.opened().await {
            opened.deliverer.latch_off(kind, format!("invariant breach: {breach}")).await;
        }
        Refusal::new(
            Reason::Invariant,
            format!(
                "the result failed a check of ours ({kind}) and was thrown away; emission is off until an operator releases it"
            ),
        )
    }

    /// Claims the epoch and delivers the intent, unless there is nothing to deliver.
    pub(super) async fn emit(
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
        } else if emits && self.emission.is_some() {
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
    /// What emits runs; none when nothing can be emitted, or as long as it is not open.
    pub fn emits(&self) -> Option<&Opened> {
        match self.emission.as_ref()? {
            Emission::Open(opened) => Some(opened),
            Emission::Opening(opening) => opening.peek()?.as_deref().ok(),
        }
    }

    /// The same, once it is open.
    async fn opened(&self) -> Result<Option<&Opened>, Refusal> {
        if let Some(Emission::Opening(opening)) = &self.emission {
            opening.clone().await?;
        }
        Ok(self.emits())
    }

    /// Where runs are handed over to delivery; none when nothing can be emitted.
    pub fn handover(&self) -> Option<Handover> {
        let runs = self.store.clone().map(|store| Arc::new(store) as Arc<dyn Runs>);
        Some(Handover::new(self.emits()?.deliverer.clone(), runs))
    }
}
