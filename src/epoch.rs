//! The two CPU stages of an epoch, joined: sealed bytes to scores (`decode`), scores to a checked result (`reward`).
//!
//! This is the only place where the decode floor and the kernel meet. The service, the batch command and `ronctl replay`
//! all come through here, so that they cannot differ. Both functions are plain and synchronous; they use the rayon pool
//! in which they are called.

use crate::refusal::Refusal;
use rewarder_decode::{DecodeError, Decoded, Dictionary, Progress, RowSink, Rows, Source};
pub use rewarder_model::Names;
use rewarder_model::{Bits, Cid, Policy, Reason, SnapshotHeader};
use rewarder_reward::{Breach, Derivation, Lane, Outcome, Scorer, Scores, UnknownCategory};
use std::sync::{Mutex, PoisonError};

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
    /// The names, or those of all who may be paid.
    pub actors: Dictionary,
    /// Their scores, in canonical order.
    pub scores: Scores,
    /// From what every payout follows, if it has been found already.
    pub derivation: Option<Derivation>,
    /// The policy that scored them.
    pub policy: Policy,
}

/// Scores rows as they come out of decode.
struct Scoring<'a> {
    scorer: Scorer,
    header: SnapshotHeader,
    policy: &'a Policy,
    actors: usize,
    /// The result, if it was wanted before the names: gone with the sink if that reading is given up.
    early: Mutex<Option<Early>>,
}

/// What is known before the names are, which then are in order.
struct Early {
    scores: Result<Scores, UnknownCategory>,
    derivation: Option<Derivation>,
}

impl RowSink for Scoring<'_> {
    type Lane = Lane;

    fn lane_bytes(&self) -> u64 {
        self.scorer.lane_bytes()
    }

    fn lane(&self) -> Lane {
        self.scorer.lane()
    }

    fn rows(&self, lane: &mut Lane, rows: Rows<'_>) {
        self.scorer.add(lane, rows.first_row, rows.actors(), rows.categories(), rows.units());
    }

    /// The names of those who may be paid.
    fn wanted(&self, lanes: &mut Vec<Lane>) -> Option<Bits> {
        let scores = Scores::merge(std::mem::take(lanes), self.actors);
        let derivation = scores
            .as_ref()
            .ok()
            .and_then(|scores| rewarder_reward::derive(&self.header, self.policy, scores));
        let wanted = match (&scores, &derivation) {
            (Ok(scores), Some(derivation)) => rewarder_reward::payable(derivation, scores),
            _ => Bits::default(),
        };
        *self.early.lock().unwrap_or_else(PoisonError::into_inner) = Some(Early { scores, derivation });
        Some(wanted)
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
    let sink = |header: &SnapshotHeader, actors: usize, categories: &Dictionary| {
        let policy = policy.as_ref().ok().filter(|_| admits(header).is_ok())?;
        let scorer = Scorer::new(policy, actors, categories);
        Some(Scoring { scorer, header: header.clone(), policy, actors, early: Mutex::default() })
    };
    let decoded = rewarder_decode::decode(source, expected, progress, sink).map_err(refusal)?;
    let Decoded { cid, header, actors, rows, lanes, sink, .. } = decoded;
    admits(&header)?;
    let early = sink.and_then(|sink| sink.early.into_inner().unwrap_or_else(PoisonError::into_inner));
    let Early { scores, derivation } =
        early.unwrap_or_else(|| Early { scores: Scores::merge(lanes, actors.len()), derivation: None });
    let policy = policy?;
    let scores = scores.map_err(|unknown| {
        let detail = format!(
            "row {} uses category {} of the snapshot's dictionary (counted from 0), which the policy's weights do not name",
            unknown.row, unknown.category
        );
        Refusal::new(Reason::UnknownCategory, detail)
    })?;
    let scores = scores.in_order(actors.order());
    Ok(ScoredEpoch { cid, header, rows, actors, scores, derivation, policy })
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
    let ScoredEpoch { cid, header, rows, actors, scores, derivation, policy } = epoch;
    let outcome = rewarder_reward::compute(&header, cid, rows, &policy, scores, derivation, &actors)?;
    Ok((outcome, actors))
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::types::{UInt8Type, UInt32Type};
    use arrow_array::{ArrayRef, DictionaryArray, RecordBatch, StringArray, UInt64Array};
    use arrow_ipc::writer::StreamWriter;
    use rewarder_model::snapshot::COLUMNS;
    use std::collections::HashMap;
    use std::sync::Arc;

    const ACTORS: usize = 120_000;

    /// The same work, by actors that the dictionary has in this order: small scores but for one in a thousand, many alike.
    fn snapshot(order: &[usize]) -> Vec<u8> {
        let names: Vec<String> = order.iter().map(|actor| format!("github.com/{actor:07}")).collect();
        let units = |actor: usize| if actor.is_multiple_of(1000) { 1_000_003 } else { 1 + actor as u64 % 3 };
        let units = UInt64Array::from_iter_values(order.iter().map(|actor| units(*actor)));
        let keys = arrow_array::UInt32Array::from_iter_values(0..order.len() as u32);
        let actors = DictionaryArray::<UInt32Type>::new(keys, Arc::new(StringArray::from(names)));
        let keys = arrow_array::UInt8Array::from(vec![0; order.len()]);
        let categories = DictionaryArray::<UInt8Type>::new(keys, Arc::new(StringArray::from(vec!["views"])));
        let columns: [ArrayRef; 3] = [Arc::new(actors), Arc::new(categories), Arc::new(units)];
        let batch = RecordBatch::try_from_iter(COLUMNS.into_iter().zip(columns)).unwrap();
        let metadata = [
            ("rewarder.schema", "snapshot.v1"),
            ("rewarder.tenant", "acme"),
            ("rewarder.epoch", "e1"),
            ("rewarder.asset", "roc"),
            ("rewarder.pool_minor_units", "12345677"),
        ];
        let metadata: HashMap<_, _> = metadata.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        let schema = Arc::new(batch.schema().as_ref().clone().with_metadata(metadata));
        let batch = batch.with_schema(schema.clone()).unwrap();
        let mut writer = StreamWriter::try_new(Vec::new(), &schema).unwrap();
        writer.write(&batch).unwrap();
        writer.into_inner().unwrap()
    }

    fn allocations(order: &[usize], policy: &str) -> (Vec<u8>, Dictionary) {
        let policy = Policy::parse(policy.as_bytes()).unwrap();
        let bytes = snapshot(order);
        let scored = decode(&bytes[..], Some(Cid::of(&bytes)), &|_| Ok(()), Ok(policy), &Progress::default());
        let (outcome, names) = reward(scored.unwrap()).unwrap();
        (outcome.table.pieces().collect::<Vec<_>>().concat(), names)
    }

    /// Who is paid what does not depend on the order of the dictionary: not where it is read late and few names are kept of it, not
    /// where it turns out to be in no order only then, and not where that shows at once.
    #[test]
    fn the_order_of_a_dictionary_does_not_show() {
        let sorted: Vec<usize> = (0..ACTORS).collect();
        let (mut late, mut early) = (sorted.clone(), sorted.clone());
        late.swap(60_000, 90_001);
        early.reverse();
        let policy = |min_payout: u128| {
            format!(
                r#"{{"schema":"rewarder.policy.v1","id":"p","mode":"share","weights":{{"views":"1"}},"rounding":"largest_remainder","min_payout_minor_units":"{min_payout}","caps":{{}}}}"#
            )
        };
        for (min_payout, recipients) in [(1_000, 120), (1, 24_677)] {
            let (text, names) = allocations(&sorted, &policy(min_payout));
            assert!(names.order().is_none());
            assert_eq!(text.iter().filter(|byte| **byte == b'\n').count(), recipients);
            for order in [&late, &early] {
                let (other, names) = allocations(order, &policy(min_payout));
                assert!(names.order().is_some());
                assert!(other == text, "{min_payout}");
            }
        }
    }
}
