//! The two CPU stages of an epoch, joined: sealed bytes to scores (`decode`), scores to a checked result (`reward`).
//!
//! This is the only place where the decode floor and the kernel meet. The service, the batch command and `ronctl replay`
//! all come through here, so that they cannot differ. Both functions are plain and synchronous; they use the rayon pool
//! in which they are called.

use crate::refusal::Refusal;
use rewarder_decode::{DecodeError, Decoded, Dictionary, Progress, RowSink, Rows, Source};
pub use rewarder_model::Names;
use rewarder_model::{Cid, Policy, Reason, SnapshotHeader};
use rewarder_reward::{Breach, Lane, Outcome, Scorer, Scores};

/// Whether a snapshot may be computed at all, judged by its header before any arithmetic: tenant, epoch, and whatever else
/// the request or its capability demands.
pub type Admits<'a> = &'a (dyn Fn(&SnapshotHeader) -> Result<(), Refusal> + Sync);

/// A verified snapshot whose rows have become scores.
#[derive(Debug)]
pub struct ScoredEpoch {
    /// CID of the snapshot.
    pub cid: Cid,
    /// Its words about itself.
    pub header: SnapshotHeader,
    /// Number of rows.
    pub rows: u64,
    /// The recipients' names.
    pub actors: Dictionary,
    /// Their scores, in canonical order.
    pub scores: Scores,
    /// The policy that scored them.
    pub policy: Policy,
}

/// Scores rows as they come out of decode.
struct Scoring(Scorer);

impl RowSink for Scoring {
    type Lane = Lane;

    fn lane_bytes(&self) -> u64 {
        self.0.lane_bytes()
    }

    fn lane(&self) -> Lane {
        self.0.lane()
    }

    fn rows(&self, lane: &mut Lane, rows: Rows<'_>) {
        self.0.add(lane, rows.first_row, rows.actors(), rows.categories(), rows.units());
    }
}

/// Verifies, decodes and scores a snapshot.
///
/// # Errors
/// The first refusal that applies, in the order of contract §6: `cid_mismatch`, `snapshot_invalid`, what `admits` says,
/// `policy_invalid`, `unknown_category`. What `admits` says is found before any arithmetic, but said only once the
/// bytes have proved to be the ones that were asked for.
pub fn decode(
    source: &(impl Source + ?Sized),
    expected: Option<Cid>,
    admits: Admits<'_>,
    policy: Result<Policy, Refusal>,
    progress: &Progress,
) -> Result<ScoredEpoch, Refusal> {
    let sink = |header: &SnapshotHeader, actors: &Dictionary, categories: &Dictionary| {
        let policy = policy.as_ref().ok().filter(|_| admits(header).is_ok())?;
        Some(Scoring(Scorer::new(policy, actors.len(), categories)))
    };
    let decoded = rewarder_decode::decode(source, expected, progress, sink).map_err(refusal)?;
    let Decoded { cid, header, actors, rows, lanes, .. } = decoded;
    admits(&header)?;
    let policy = policy?;
    let scores = Scores::merge(lanes, &actors).map_err(|unknown| {
        let detail = format!(
            "row {} uses category {} of the snapshot's dictionary (counted from 0), which the policy's weights do not name",
            unknown.row, unknown.category
        );
        Refusal::new(Reason::UnknownCategory, detail)
    })?;
    Ok(ScoredEpoch { cid, header, rows, actors, scores, policy })
}

fn refusal(error: DecodeError) -> Refusal {
    match error {
        DecodeError::CidMismatch => Refusal::new(Reason::CidMismatch, error.to_string()),
        DecodeError::Invalid { .. } => Refusal::new(Reason::SnapshotInvalid, error.to_string()),
        DecodeError::Io(_) => Refusal::new(Reason::Internal, error.to_string()),
    }
}

/// Runs the kernel on a scored epoch. The names come back, for whoever prints the result.
///
/// # Errors
/// A [`Breach`]: a check of our own failed.
pub fn reward(epoch: ScoredEpoch) -> Result<(Outcome, Dictionary), Breach> {
    let ScoredEpoch { cid, header, rows, actors, scores, policy } = epoch;
    let outcome = rewarder_reward::compute(&header, cid, rows, &policy, scores, &actors)?;
    Ok((outcome, actors))
}
