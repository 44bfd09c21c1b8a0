//! Handing a run over to delivery, and everything that follows from it: the claim before, the record after, what a crash
//! left in between, and an operator who gives a run up.
//!
//! The laws:
//!
//! 1. **Claimed first.** The epoch's claim is durable before the intent is; so no two runs of an epoch are on their way
//!    from here, whatever the ledger would say to that. What a batch job leaves in the spool has no claim, and counts as one.
//! 2. **A claim is given back when it is certain that nothing of its run is with the ledger or in quarantine**, and only
//!    then: it must not keep another run of the epoch from being paid.
//! 3. **Claimed and not recorded is delivered by the next start.** So is what was recorded as held, for later or for an
//!    operator, and is not in the spool any more: its disk has lost it, or a crash came between its end and its record.
//! 4. **A run that was claimed or recorded before may have been sent before**, also one that an operator has dropped: the
//!    ledger is asked first.
//! 5. **What an operator drops is not sent again**, whatever fails between the beginning of the drop and its end.
//! 6. **One at a time.** Handing over, bringing to an end, releasing and dropping take turns by run (`turns`).
//!
//! Why not within [`Deliverer`]: a batch job delivers without a store, and a spool that knew of runs would have two laws.

use crate::delivery::{Delivered, Deliverer, Outcome};
use crate::error::EmitError;
use crate::plant;
use crate::spool::Entry;
use rewarder_model::{Cid, Claim, Claims, EpochId, Intent, Manifest, Runs, RunsError, Status, TenantId};
use serde::Deserialize;
use std::sync::Arc;
use std::time::Duration;

/// Between two rounds of [`Handover::recover`]: a spool that is full at the start is soon less full.
const RECOVER_PAUSE_FIRST: Duration = Duration::from_secs(1);
/// At most.
const RECOVER_PAUSE_MAX: Duration = Duration::from_secs(60);

type Claimed = (TenantId, EpochId, Cid);

/// Delivery, and who keeps the runs; none for a batch job.
#[derive(Clone)]
pub struct Handover {
    deliverer: Arc<Deliverer>,
    runs: Option<Arc<dyn Runs>>,
}

/// Why a run was not handed over.
#[derive(Debug, thiserror::Error)]
pub enum HandoverError {
    /// The epoch is this other run's.
    #[error("the epoch has run {0} already")]
    Conflict(Cid),
    /// Whoever keeps the runs failed.
    #[error(transparent)]
    Runs(#[from] RunsError),
    /// A run's manifest cannot be understood.
    #[error("the stored manifest of run {0} cannot be read")]
    Manifest(Cid),
    /// Emission.
    #[error(transparent)]
    Emit(#[from] EmitError),
}

impl Handover {
    /// Hands over to `deliverer` what `runs` keeps.
    pub fn new(deliverer: Arc<Deliverer>, runs: Option<Arc<dyn Runs>>) -> Self {
        Self { deliverer, runs }
    }

    /// Delivery.
    pub fn deliverer(&self) -> &Arc<Deliverer> {
        &self.deliverer
    }

    /// Asks whoever keeps the runs, where blocking is allowed.
    async fn ask<T: Send + 'static>(
        &self,
        runs: &Arc<dyn Runs>,
        work: impl FnOnce(&dyn Runs) -> Result<T, RunsError> + Send + 'static,
    ) -> Result<T, HandoverError> {
        let runs = runs.clone();
        Ok(self.deliverer.blocking(move || work(&*runs)).await??)
    }

    /// From now on each emission leaves its delivery record with its run.
    pub fn keep_records(&self) {
        let Some(runs) = self.runs.clone() else { return };
        // The deliverer would hold itself through this.
        let deliverer = Arc::downgrade(&self.deliverer);
        self.deliverer.record(move |intent, delivered| {
            let (runs, deliverer) = (runs.clone(), deliverer.clone());
            let (of, json) = (intent.clone(), delivered.to_json(intent));
            // Also one that was promised: the epoch is another run's, and that one may be asked for here.
            let over = matches!(delivered.outcome, Outcome::Conflict(_)) && !plant::is("conflict_keeps_the_claim");
            Box::pin(async move {
                let Some(deliverer) = deliverer.upgrade() else { return };
                let keep = move || {
                    runs.keep_delivery(&of.tenant, &of.run_key, &json)?;
                    if over {
                        runs.unclaim(&of.tenant, &of.epoch_id, &of.run_key)?;
                    }
                    Ok::<_, RunsError>(())
                };
                let kept = deliverer.blocking(keep).await;
                if let Err(error) = kept.map_err(HandoverError::from).and_then(|kept| kept.map_err(HandoverError::from)) {
                    tracing::error!(%error, "a delivery record could not be written; the ledger has the truth");
                }
            })
        });
    }

    /// Claims the epoch and delivers the intent. The caller may go away once the intent is with delivery.
    ///
    /// # Errors
    /// See [`HandoverError`]; an [`Outcome::Conflict`] is none, though the claim is given back for it.
    pub async fn deliver(&self, intent: Intent) -> Result<Delivered, HandoverError> {
        let _turn = match &self.runs {
            Some(_) => Some(self.deliverer.turns.take(&intent.run_key).await),
            None => None,
        };
        self.hand(intent, false).await
    }

    /// Whoever calls this has the run's turn.
    async fn hand(&self, intent: Intent, promised: bool) -> Result<Delivered, HandoverError> {
        if let Some(other) = self.deliverer.spool().other_run(&intent) {
            return Err(HandoverError::Conflict(other));
        }
        let Some(runs) = &self.runs else { return Ok(self.deliverer.deliver(intent).await?) };
        let of = intent.clone();
        let (claim, before) = self
            .ask(runs, move |runs| {
                let claim = if plant::is("claim_left_out") {
                    Claim::Claimed
                } else {
                    runs.claim(&of.tenant, &of.epoch_id, &of.run_key)?
                };
                Ok((claim, claim == Claim::Same || runs.delivery(&of.tenant, &of.run_key)?.is_some()))
            })
            .await?;
        if let Claim::Conflict(other) = claim {
            return Err(HandoverError::Conflict(other));
        }
        let delivered = if promised {
            self.deliverer.deliver_promised(intent.clone()).await
        } else if before && !plant::is("repetition_forgets_to_ask") {
            self.deliverer.deliver_again(intent.clone()).await
        } else {
            self.deliverer.deliver(intent.clone()).await
        };
        let nothing_sent = match &delivered {
            Ok(delivered) => {
                matches!(delivered.outcome, Outcome::Conflict(_)) && !plant::is("conflict_keeps_the_claim")
            }
            // A claim that stood before may belong to an intent in quarantine and stays.
            Err(error) if error.is_void() => {
                claim == Claim::Claimed || plant::is("claim_given_back_too_early")
            }
            // The spool may know it after a crash.
            Err(_) => false,
        };
        if nothing_sent {
            self.ask(runs, move |runs| runs.unclaim(&intent.tenant, &intent.epoch_id, &intent.run_key))
                .await?;
        }
        Ok(delivered?)
    }

    /// Brings what a crash has left of a claim to an end: delivers a run whose delivery was promised and is not under way
    /// (never recorded, or recorded as held or refused while the spool does not know it), and gives the claim of one back that is
    /// over without a settlement. True if the run was delivered.
    ///
    /// # Errors
    /// As for any delivery.
    pub async fn redeliver(
        &self,
        tenant: &TenantId,
        epoch: &EpochId,
        run_key: &Cid,
    ) -> Result<bool, HandoverError> {
        let Some(runs) = &self.runs else { return Ok(false) };
        let _turn = self.deliverer.turns.take(run_key).await;
        let kept = self.deliverer.spool().state(run_key).is_some();
        let (tenant, epoch, run_key) = (tenant.clone(), epoch.clone(), *run_key);
        let open = self
            .ask(runs, move |runs| {
                // Given back since the claims were read: whoever handed the run over has heard that it is not taken.
                if runs.holder(&tenant, &epoch)? != Some(run_key) {
                    return Ok(None);
                }
                let record = runs.delivery(&tenant, &run_key)?.as_deref().and_then(result);
                let open = match record.as_deref() {
                    None => true,
                    // What waited for an operator is over when the spool has let go of it: a crash came before the record.
                    Some("held" | "refused" | "foreign_dup") => !kept,
                    // A conflict may stand in the spool for an operator to read; the claim is of no use to it.
                    Some(over @ ("conflict" | "dropped"))
                        if (over == "conflict" || !kept) && !plant::is("drop_keeps_the_claim") =>
                    {
                        runs.unclaim(&tenant, &epoch, &run_key)?;
                        false
                    }
                    Some(_) => false,
                };
                let manifest = if open { runs.manifest(&tenant, &run_key)? } else { None };
                Ok(manifest.map(|bytes| (bytes, kept || record.is_some())))
            })
            .await?;
        let Some((bytes, promised)) = open else { return Ok(false) };
        let manifest: Manifest =
            serde_json::from_slice(&bytes).map_err(|_| HandoverError::Manifest(run_key))?;
        if manifest.status != Status::Ok {
            return Ok(false);
        }
        self.hand(Intent::of(&manifest, Cid::of(&bytes)), promised).await.map(|_| true)
    }

    /// Brings every drop and every claim that a crash has left to its end. The run key is the same, so that a ledger that
    /// has it already says so. What cannot be delivered yet (no room in the spool, the latch, a disk that fails), or not be
    /// read, is tried again until it can.
    pub async fn recover(&self) {
        let Some(runs) = &self.runs else { return };
        if plant::is("redelivery_left_out") {
            return;
        }
        let mut pause = RECOVER_PAUSE_FIRST;
        let mut left = None;
        loop {
            let dropped = self.end_drops().await;
            let claims = match left.take() {
                Some(claims) => Ok(self.read_again(runs, claims).await),
                None => self.ask(runs, |runs| runs.claimed()).await.inspect(tell_unread),
            };
            match claims {
                Ok(Claims { read, unread }) => {
                    let again = self.recover_once(read).await;
                    let over = dropped && again.is_empty() && unread.is_empty();
                    if over || plant::is("recovery_gives_up") {
                        return;
                    }
                    left = Some(Claims { read: again, unread });
                }
                Err(error) => {
                    tracing::error!(%error, "the claims cannot be read; what a crash left undelivered waits");
                }
            }
            self.deliverer.clock().sleep(pause).await;
            pause = (pause * 2).min(RECOVER_PAUSE_MAX);
        }
    }

    /// Reads the claims once more that could not be read: somebody may have mended the disk.
    async fn read_again(&self, runs: &Arc<dyn Runs>, claims: Claims) -> Claims {
        let Claims { mut read, unread } = claims;
        let mut still = Vec::new();
        for (tenant, epoch, error) in unread {
            let of = (tenant.clone(), epoch.clone());
            match self.ask(runs, move |runs| runs.holder(&of.0, &of.1)).await {
                Ok(Some(run_key)) => read.push((tenant, epoch, run_key)),
                Ok(None) => {}
                Err(_) => still.push((tenant, epoch, error)),
            }
        }
        Claims { read, unread: still }
    }

    /// One round; what has to be tried again.
    async fn recover_once(&self, claims: Vec<Claimed>) -> Vec<Claimed> {
        let mut again = Vec::new();
        for (tenant, epoch, run_key) in claims {
            match self.redeliver(&tenant, &epoch, &run_key).await {
                Ok(false) => {}
                Ok(true) => tracing::info!(%run_key, "a run that a crash had left undelivered was delivered"),
                Err(error) => {
                    tracing::warn!(%run_key, %epoch, %error, "a run that a crash had left undelivered was not delivered");
                    // The epoch is another run's, or nobody can read what was promised: trying again changes nothing.
                    if !matches!(error, HandoverError::Conflict(_) | HandoverError::Manifest(_)) {
                        again.push((tenant, epoch, run_key));
                    }
                }
            }
        }
        again
    }

    /// An operator gives an entry of the quarantine up: it is not sent again, its run says so, and the epoch is free; the
    /// ledger's own law stands behind that. `None` if there is no such entry.
    ///
    /// In this order, so that a drop that was begun is not taken back by what comes between: the audit log and the spool
    /// know first that it is given up, then its record, then its claim; the entry goes last.
    ///
    /// # Errors
    /// As [`Deliverer::release_entry`], the disk's, and of whoever keeps the runs. The same drop once more, or the next start,
    /// does what is left.
    pub async fn drop_entry(&self, seq: u64, reason: String) -> Result<Option<Entry>, HandoverError> {
        let Some((entry, _flight, _turn)) = self.deliverer.alone(seq).await? else { return Ok(None) };
        self.deliverer.give_up(&entry, reason).await?;
        self.end_drop(&entry).await?;
        Ok(Some(entry))
    }

    /// What is left to do of an entry that was given up.
    async fn end_drop(&self, entry: &Entry) -> Result<(), HandoverError> {
        if plant::is("drop_begins_at_its_end") {
            self.deliverer.forget(entry.seq).await?;
        }
        if let Some(runs) = &self.runs {
            let (intent, record) = (entry.intent.clone(), Delivered::dropped(entry));
            self.ask(runs, move |runs| {
                // Settled, and a crash has brought the entry back: nothing is given up by forgetting it.
                if runs.delivery(&intent.tenant, &intent.run_key)?.is_some_and(|json| is_settled(&json)) {
                    return Ok(false);
                }
                // A run that the store has lost has no record either.
                if runs.manifest(&intent.tenant, &intent.run_key)?.is_some() {
                    runs.keep_delivery(&intent.tenant, &intent.run_key, &record)?;
                }
                if plant::is("drop_keeps_the_claim") {
                    return Ok(false);
                }
                runs.unclaim(&intent.tenant, &intent.epoch_id, &intent.run_key)
            })
            .await?;
        }
        Ok(self.deliverer.forget(entry.seq).await?)
    }

    /// Brings every drop to its end that was begun; false if one could not be.
    async fn end_drops(&self) -> bool {
        let mut ended = true;
        for entry in self.deliverer.spool().list().into_iter().filter(|entry| entry.dropped) {
            let end = match self.deliverer.alone(entry.seq).await {
                Ok(Some((entry, _flight, _turn))) => self.end_drop(&entry).await,
                Ok(None) => Ok(()),
                Err(error) => Err(error.into()),
            };
            if let Err(error) = end {
                tracing::warn!(run_key = %entry.intent.run_key, %error, "a drop that was begun could not be brought to its end");
                ended = false;
            }
        }
        ended
    }
}

/// Says once which claims cannot be read.
fn tell_unread(claims: &Claims) {
    for (.., error) in &claims.unread {
        tracing::error!(%error, "a claim cannot be read; its epoch is paid to no other run");
    }
    if !claims.unread.is_empty() {
        tracing::error!(
            claims = claims.unread.len(),
            page = "ClaimsDamaged",
            "what a crash may have left of these epochs waits until their claims can be read; all others are looked at"
        );
    }
}

/// The word of a delivery record.
fn result(json: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Record {
        result: String,
    }
    serde_json::from_slice::<Record>(json).ok().map(|record| record.result)
}

/// Whether a delivery record says that the money has moved.
pub fn is_settled(json: &[u8]) -> bool {
    result(json).is_some_and(|result| matches!(result.as_str(), "accepted" | "dup"))
}
