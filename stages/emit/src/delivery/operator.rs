//! What operators do to delivery, and an invariant breach in their place: latch, drills, entries of the quarantine.
//!
//! The laws: an act is in the audit log before it takes effect; whoever acts on an entry is alone with it.

use super::driver::{Deliverer, Flight, Notice};
use crate::audit::millis;
use crate::breaker::Signal;
use crate::error::EmitError;
use crate::latch::LatchError;
use crate::plant;
use crate::spool::{Entry, Hold, State};
use crate::turns::Turn;
use std::sync::Arc;

impl Deliverer {
    /// Turns emission off; an invariant breach comes here too. In memory at once, then on disk.
    pub async fn latch_off(&self, kind: &'static str, reason: String) {
        tracing::error!(kind, reason, page = "EmissionLatched", "emission is latched off");
        // Before the disk is waited for.
        self.latch().set_in_memory(&reason, self.clock().unix());
        self.tell(Notice::Latched { kind });
        let (latch, unix) = (self.latch().clone(), self.clock().unix());
        match self.blocking(move || latch.set(&reason, unix)).await {
            Ok(Ok(())) => {}
            Ok(Err(error @ LatchError::Audit(_))) => {
                tracing::error!(%error, "the latch holds, also over a restart; the audit log does not tell of it");
            }
            Ok(Err(error)) => {
                tracing::error!(%error, "the latch holds in memory; a restart may forget it");
            }
            Err(error) => {
                tracing::error!(%error, "the latch holds in memory; whether the disk has it is not known");
            }
        }
    }

    /// Turns emission on again, with the operator's reason. False if it was on.
    ///
    /// # Errors
    /// Without a reason, or when it cannot be written down; emission stays off then.
    pub async fn release_latch(&self, reason: String) -> Result<bool, EmitError> {
        let (latch, unix) = (self.latch().clone(), self.clock().unix());
        let released = self.blocking(move || latch.release(&reason, unix)).await??;
        if released {
            tracing::warn!("an operator released the emission latch");
            self.tell(Notice::Released);
        }
        self.changed.notify_one();
        Ok(released)
    }

    /// Writes an operator's act to the audit log, before it takes effect.
    ///
    /// # Errors
    /// Without a reason, or the disk's; the act must not take effect then.
    pub async fn audited(&self, act: &'static str, subject: String, reason: String) -> Result<(), EmitError> {
        if reason.trim().is_empty() && !plant::is("acts_need_no_reason") {
            return Err(EmitError::NoReason);
        }
        let (latch, unix) = (self.latch().clone(), self.clock().unix());
        self.blocking(move || latch.audit().append(act, &subject, &reason, unix))
            .await?
            .map_err(EmitError::Audit)
    }

    /// An operator begins or ends a drill of a brownout.
    ///
    /// # Errors
    /// As [`audited`](Self::audited).
    pub async fn drill(&self, begin: bool, reason: String) -> Result<(), EmitError> {
        let act = if begin { "brownout_start" } else { "brownout_stop" };
        self.audited(act, "emission".into(), reason).await?;
        self.signal(if begin { Signal::DrillBegins } else { Signal::DrillEnds });
        Ok(())
    }

    /// The entry at a place, for an operator who acts on it: nobody else does while what comes with it is held. `None` if
    /// there is none.
    ///
    /// # Errors
    /// [`EmitError::OnItsWay`].
    pub(crate) async fn alone(
        self: &Arc<Self>,
        seq: u64,
    ) -> Result<Option<(Entry, Flight, Turn)>, EmitError> {
        let Some(entry) = self.spool().show(seq) else { return Ok(None) };
        let turn = self.turns.take(&entry.intent.run_key).await;
        let flight = self.take_off(entry.intent.run_key).map_err(|_| EmitError::OnItsWay)?;
        // Only now it stays as it is.
        Ok(self.spool().show(seq).map(|entry| (entry, flight, turn)))
    }

    /// An operator hands an entry that waits for a person back to be sent again: the ledger is asked first.
    /// `None` if there is no such entry.
    ///
    /// # Errors
    /// As [`audited`](Self::audited), and when the entry does not wait for a person or is on its way right now.
    pub async fn release_entry(
        self: &Arc<Self>,
        seq: u64,
        reason: String,
    ) -> Result<Option<Entry>, EmitError> {
        let Some((entry, flight, _turn)) = self.alone(seq).await? else { return Ok(None) };
        if entry.dropped {
            return Err(EmitError::Dropped);
        }
        if entry.state != State::Operator {
            return Err(EmitError::NotWaiting);
        }
        self.audited("release", entry.intent.run_key.to_string(), reason).await?;
        let hold = Hold {
            state: State::Pending,
            unknown: !plant::is("release_forgets_to_ask"),
            cause: "released by an operator".into(),
            attempts: entry.attempts,
            last_unix_ms: millis(self.clock().unix()),
            settled_by: None,
        };
        let entry = self.spool().update(seq, &hold).await;
        drop(flight);
        self.changed.notify_one();
        Ok(entry)
    }

    /// An operator gives an entry up, and whoever calls this is [`alone`](Self::alone) with it: from then on it is not sent.
    ///
    /// # Errors
    /// As [`audited`](Self::audited), and the disk's; the entry stays as it was then.
    pub(crate) async fn give_up(&self, entry: &Entry, reason: String) -> Result<(), EmitError> {
        if !plant::is("drop_forgets_the_audit") {
            self.audited("drop", entry.intent.run_key.to_string(), reason).await?;
        }
        Ok(self.spool().give_up(entry.seq).await?)
    }

    /// Takes out what was given up.
    ///
    /// # Errors
    /// The disk's; the entry stays.
    pub(crate) async fn forget(&self, seq: u64) -> Result<(), EmitError> {
        self.spool().remove(seq).await?;
        self.show_depth();
        Ok(())
    }
}
