//! The pure kernel: from scores to a sealed table (contract §4 and §5).
//!
//! The laws:
//!
//! 1. Integers only, exact at every width; no clock, no randomness, no I/O, no float.
//! 2. The result depends on the rows as a multiset and on the policy; not on row order, batch layout, thread count or
//!    machine. Everything that is merged across threads is a sum, a maximum or a list in task order.
//! 3. No input is worse than linear-logarithmic: caps and remainders are found by counting, not by rounds or by
//!    sorting everybody.
//! 4. Nothing leaves that has not been read back by another route ([`check`]).
//!
//! ```text
//!   rows -> Scorer -> Lane ... Lane -> Scores -> Derivation -> Table -> check -> Outcome { manifest, commitment }
//! ```
//!
//! Work is parallel on the rayon pool in which it is called.

mod cap;
pub mod check;
mod decimal;
mod derive;
mod plant;
pub mod rounding;
mod score;
mod table;
mod text;
mod wide;

pub use cap::Round;
pub use check::Breach;
pub use derive::{Derivation, Payer, Steps};
pub use score::{Lane, Scorer, Scores, UnknownCategory};
pub use table::{Line, Table, lines};

use rayon::prelude::*;
use rewarder_model::manifest::{self, Inputs, PolicyRef};
use rewarder_model::{
    Amount, Bits, Cid, Manifest, Names, Policy, SnapshotHeader, Status, Totals, Unpayable, run_key,
};
use std::ops::Range;

/// A finished computation: everything that the sealed inputs determine.
#[derive(Debug)]
pub struct Outcome {
    /// What is committed to.
    pub manifest: Manifest,
    /// Its canonical bytes.
    pub manifest_bytes: Vec<u8>,
    /// CID of those bytes.
    pub commitment: Cid,
    /// The canonical allocations.
    pub table: Table,
    /// From what every payout follows; none when the run is unpayable.
    pub derivation: Option<Derivation>,
    /// The scores in canonical order.
    pub scores: Scores,
}

/// The derivation of an epoch; none if its scores come to more than can be paid by.
pub fn derive(header: &SnapshotHeader, policy: &Policy, scores: &Scores) -> Option<Derivation> {
    let total = scores.total?;
    Some(Derivation::of(scores, policy, budget(header, policy).get(), total.get()))
}

/// What may be paid: the pool, or the policy's cap of an epoch if that is less.
fn budget(header: &SnapshotHeader, policy: &Policy) -> Amount {
    policy.budget_cap().map_or(header.pool, |cap| cap.min(header.pool))
}

/// Who may be paid: those with a score that is not too small for it. Some of them may still get nothing.
pub fn payable(derivation: &Derivation, scores: &Scores) -> Bits {
    let least = Payer::new(derivation).dust_below();
    let parts = scores.tasks().map(|range| {
        let (mut part, start) = (Bits::none(range.len()), range.start);
        scores.each_from(range, least, |rank, _| part.insert(rank - start));
        part
    });
    Bits::join(parts.collect::<Vec<_>>())
}

/// Turns the scores of an epoch into a checked result; its derivation ([`derive`]) is found unless it is known.
///
/// # Errors
/// A [`Breach`] when the result fails the check by another route: a fault of ours, never of the input.
pub fn compute(
    header: &SnapshotHeader,
    inputs_cid: Cid,
    rows: u64,
    policy: &Policy,
    scores: Scores,
    known: Option<Derivation>,
    names: &(impl Names + ?Sized),
) -> Result<Outcome, Breach> {
    let budget = budget(header, policy);
    let mut unpayable = None;
    let mut demanded = None;
    let (mut derivation, mut table) = (None, Table::empty());
    match known.or_else(|| derive(header, policy, &scores)) {
        None => unpayable = Some(Unpayable::Overflow),
        Some(found) => {
            let mut written = Table::write(&found, &scores, names);
            if written.paid > budget.get() && found.tariff {
                unpayable = Some(Unpayable::OverBudget);
                demanded = Some(Amount::new(written.paid).ok_or(Breach::Conservation)?);
            } else {
                let (root, checked) =
                    rayon::join(|| written.hash(), || check::check(&written, &found, scores.positive));
                checked?;
                written.root = root;
                (derivation, table) = (Some(found), written);
            }
        }
    }
    let paid = Amount::new(table.paid).ok_or(Breach::Conservation)?;
    let manifest = Manifest {
        allocations_root: table.root,
        epoch_id: header.epoch.clone(),
        inputs: Inputs { actors: scores.actors, cid: inputs_cid, rows },
        kernel: manifest::KERNEL.to_owned(),
        policy: PolicyRef { hash: policy.hash(), id: policy.id().clone() },
        reason: unpayable,
        run_key: run_key(&header.epoch, &policy.hash(), &inputs_cid),
        schema: manifest::SCHEMA.to_owned(),
        status: if unpayable.is_some() { Status::Unpayable } else { Status::Ok },
        tenant: header.tenant.clone(),
        totals: Totals {
            asset: header.asset.clone(),
            budget_minor_units: budget,
            demanded_minor_units: demanded,
            payout_minor_units: paid,
            pool_minor_units: header.pool,
            recipients: table.recipients,
            residual_minor_units: budget.checked_sub(paid).ok_or(Breach::Budget)?,
        },
    };
    let manifest_bytes = manifest.to_canonical_bytes();
    Ok(Outcome { commitment: Cid::of(&manifest_bytes), manifest_bytes, manifest, table, derivation, scores })
}

impl Outcome {
    /// Recipients of at least so much, of those whose names stand at these places of the canonical order: name, score, payout.
    /// The lines of the table again, with what led to them.
    pub fn recipients(
        &self,
        ranks: Range<usize>,
        least: u128,
        names: &(impl Names + ?Sized),
        mut take: impl FnMut(&[u8], u128, u128),
    ) {
        let Some(derivation) = &self.derivation else { return };
        if least > self.table.largest {
            return;
        }
        let payer = Payer::new(derivation);
        let least_score = payer.reach(least);
        let (order, score_at) = (names.order(), self.scores.by_rank());
        self.table.each_paid(ranks, |rank| {
            let score = score_at(rank);
            if score < least_score {
                return;
            }
            let payout = payer.steps(score, rank).payout;
            if payout >= least {
                take(names.name(order.map_or(rank, |order| order[rank] as usize)), score, payout);
            }
        });
    }
}
