//! Caps with redistribution: who is capped in the end, in linear time whatever the scores (contract §4, share, step 1).
//!
//! The contract caps in rounds: with `n` capped of total score `P`, everyone with `(B - C n) S_a > C (S - P)` is capped,
//! all of a round at once, until none is. That set can be found without the rounds:
//!
//! * Capping somebody takes more score than money out of the pot (his share was above `C`), so the ratio `B'/S'` only
//!   grows; whoever was capped stays above the line, and the capped are always the top of the list by score.
//! * Walk the list down from the top, capping one at a time. If the walk stops at an actor (his share of what is left is
//!   at most `C`), everyone below him would stop it too: had he been capped all the same, the ratio would not have grown.
//!   So the condition holds for a prefix of the sorted list, and the first that fails ends it. This prefix and the set of
//!   the rounds are the same: each contains the other by the monotony above.
//!
//! So the walk needs the top of the list only. Usually it ends soon: the scores above half of the first round's line are few,
//! and are sorted and walked. Where that is not enough, the end of the prefix is searched for by value: scores are counted
//! and summed by their leading bits, the part in which the walk stops is counted again more finely. A ladder of scores
//! that makes the contract's rounds go on for ever costs nothing here.

use crate::score::Scores;
use crate::wide;
use rayon::prelude::*;

/// Bits resolved by one pass.
const BUCKET_BITS: u32 = 10;

/// So many scores are collected and sorted before counting begins.
const WALKED_MAX: u128 = 32 * 1024;

/// Who is capped, as a line through the scores, and what is left for the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capped {
    /// Scores above this are capped.
    pub above: u128,
    /// How many those are.
    pub count: u64,
    /// What they score together.
    pub score: u128,
}

impl Capped {
    const NOBODY: Self = Self { above: u128::MAX, count: 0, score: 0 };
}

/// Who is capped, and their scores, the largest first, if they have been looked at one by one.
pub type Found = (Capped, Option<Vec<u128>>);

/// One round of the contract's capping, for whoever asks when he was capped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Round {
    /// Scores above this were capped in this round, if no earlier one had capped them.
    #[serde(with = "crate::text")]
    pub above: u128,
    /// How many it capped.
    pub capped: u64,
    /// What their shares were worth together before the cap, rounded down; above the cap, and so more than they got.
    #[serde(with = "crate::text")]
    pub claimed: u128,
    /// What was left for the others afterwards.
    #[serde(with = "crate::text")]
    pub pot: u128,
    /// What those score together; the pot is theirs.
    #[serde(with = "crate::text")]
    pub base: u128,
}

/// Rounds that are told apart; what a hostile ladder adds beyond them is one last round.
pub const ROUNDS_MAX: usize = 64;
/// More capped actors than this are not sorted to tell their rounds: it is for explanations only.
const RETOLD_MAX: u64 = 100_000;

/// Retells the contract's rounds. Empty if too many are capped.
pub fn rounds(scores: &Scores, budget: u128, cap: u128, total: u128, (capped, top): Found) -> Vec<Round> {
    if capped.count == 0 || capped.count > RETOLD_MAX {
        return Vec::new();
    }
    let top = top.unwrap_or_else(|| at_least(scores, capped.above + 1));
    let (mut rounds, mut start) = (Vec::new(), 0);
    let (mut pot, mut base) = (budget, total);
    while start < top.len() && rounds.len() < ROUNDS_MAX {
        let above =
            wide::Divisor::new(pot).and_then(|pot| wide::mul_div(cap, base, &pot)).unwrap_or(u128::MAX);
        let last = rounds.len() + 1 == ROUNDS_MAX;
        let end = if last { top.len() } else { start + top[start..].partition_point(|score| *score > above) };
        if end == start {
            break;
        }
        let score: u128 = top[start..end].iter().sum();
        let claimed = wide::Divisor::new(base).and_then(|base| wide::mul_div(pot, score, &base)).unwrap_or(0);
        pot -= cap * (end - start) as u128;
        base -= score;
        rounds.push(Round {
            above: if last { capped.above } else { above },
            capped: (end - start) as u64,
            claimed,
            pot,
            base,
        });
        start = end;
    }
    rounds
}

#[derive(Clone, Copy, Default)]
struct Bucket {
    count: u64,
    sum: u128,
    /// The smallest score in it; meaningless while it is empty.
    smallest: u128,
    largest: u128,
}

impl Bucket {
    #[inline]
    fn add(&mut self, score: u128) {
        self.smallest = if self.count == 0 { score } else { self.smallest.min(score) };
        self.largest = self.largest.max(score);
        self.count += 1;
        self.sum += score;
    }

    fn merge(&mut self, other: &Self) {
        if other.count > 0 {
            self.smallest = if self.count == 0 { other.smallest } else { self.smallest.min(other.smallest) };
            self.largest = self.largest.max(other.largest);
            self.count += other.count;
            self.sum += other.sum;
        }
    }
}

/// Scores from `least` on, the largest first.
fn at_least(scores: &Scores, least: u128) -> Vec<u128> {
    let mut top: Vec<u128> = scores
        .tasks()
        .flat_map_iter(|range| {
            let mut found = Vec::new();
            scores.each_from(range, least, |_, score| found.push(score));
            found
        })
        .collect();
    top.sort_unstable_by(|a, b| b.cmp(a));
    top
}

/// Budget, cap and total of a run.
#[derive(Clone, Copy)]
struct Terms {
    budget: u128,
    cap: u128,
    total: u128,
}

impl Terms {
    /// Whether an actor with this score is capped, if those above him are.
    fn holds(&self, count_above: u64, score_above: u128, score: u128) -> bool {
        let handed_out = u128::from(count_above).checked_mul(self.cap);
        let Some(pot) = handed_out.and_then(|paid| self.budget.checked_sub(paid)) else { return false };
        wide::mul(pot, score) > wide::mul(self.cap, self.total - score_above)
    }
}

/// Finds the set for budget `budget`, cap `cap` and total `total`, which is below 10^38.
pub fn find(scores: &Scores, budget: u128, cap: u128, total: u128) -> Found {
    // Nobody's share is above the whole budget.
    if cap >= budget {
        return (Capped::NOBODY, None);
    }
    let terms = Terms { budget, cap, total };
    by_walking(scores, &terms).unwrap_or_else(|| (by_counting(scores, &terms), None))
}

/// Walks down the scores above half of the first round's line, if they are few and the walk ends among them.
fn by_walking(scores: &Scores, terms: &Terms) -> Option<Found> {
    let line = wide::mul_div(terms.cap, terms.total, &wide::Divisor::new(terms.budget)?)?;
    let least = line / 2 + 1;
    // Scores of at least `least` are at most so many, by what they add up to.
    if terms.total / least > WALKED_MAX {
        return None;
    }
    let mut capped = Capped::NOBODY;
    let mut top = at_least(scores, least);
    for score in &top {
        if !terms.holds(capped.count, capped.score, *score) {
            top.truncate(capped.count as usize);
            return Some((capped, Some(top)));
        }
        capped = Capped { above: score - 1, count: capped.count + 1, score: capped.score + score };
    }
    // Whoever comes next has less than `least`.
    (!terms.holds(capped.count, capped.score, least - 1)).then_some((capped, Some(top)))
}

fn by_counting(scores: &Scores, terms: &Terms) -> Capped {
    let mut capped = Capped::NOBODY;
    let (mut low, mut bits) = (0u128, 128 - terms.total.leading_zeros());
    loop {
        let shift = bits.saturating_sub(BUCKET_BITS);
        let len = 1usize << bits.min(BUCKET_BITS);
        let empty = || vec![Bucket::default(); len];
        let buckets = scores
            .tasks()
            .fold(empty, |mut buckets, range| {
                scores.each(range, |_, score| {
                    let bucket = score.wrapping_sub(low) >> shift;
                    if let Some(bucket) =
                        usize::try_from(bucket).ok().and_then(|bucket| buckets.get_mut(bucket))
                    {
                        bucket.add(score);
                    }
                });
                buckets
            })
            .reduce(empty, |mut all, part| {
                all.iter_mut().zip(&part).for_each(|(to, from)| to.merge(from));
                all
            });
        // Down from the top: whole groups are capped as long as their last one is.
        let mut stop = None;
        for (index, bucket) in buckets.iter().enumerate().rev().filter(|(_, bucket)| bucket.count > 0) {
            let last = bucket.smallest;
            // Equal scores are capped together or not at all, so any of them stands for the last.
            if !terms.holds(capped.count + bucket.count - 1, capped.score + (bucket.sum - last), last) {
                stop = Some((index, bucket));
                break;
            }
            capped = Capped {
                above: last - 1,
                count: capped.count + bucket.count,
                score: capped.score + bucket.sum,
            };
        }
        match stop {
            // Unless its first is below the line already, the line is inside this group.
            Some((index, bucket)) if shift > 0 && terms.holds(capped.count, capped.score, bucket.largest) => {
                low += (index as u128) << shift;
                bits = shift;
            }
            _ => return capped,
        }
    }
}
