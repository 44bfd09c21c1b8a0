//! Scores: `S_a = Σ units × w(category)`, exact, however wide (contract §4).
//!
//! The accumulators are split: a 64-bit low word for every actor, and a high word that is taken only when the first
//! carry or wide product comes. In the usual case a row costs one multiplication and one addition in cache.
//!
//! An actor that has rows but no score is still an actor of the epoch: rows that score nothing mark a bit.

use rayon::prelude::*;
use rewarder_model::memory::{Block, prefetch};
use rewarder_model::{Amount, Names, Policy};
use std::ops::Range;

/// Actors handled by one task.
pub(crate) const ACTORS_PER_TASK: usize = 16 * 1024;

/// Accumulators up to this size stay in a core's own cache by themselves; asking for larger ones ahead of time pays.
const CACHED_BYTES: u64 = 1 << 20;
/// How far ahead: far enough for main memory, near enough for the first-level cache.
const ROWS_AHEAD: usize = 48;

/// Scores whose largest is kept, so that those that ask for large ones alone need not look at them.
const TOGETHER: usize = 16;
const _: () = assert!(ACTORS_PER_TASK.is_multiple_of(TOGETHER));

/// What rows are scored by: a weight for each category key.
#[derive(Debug, Clone)]
pub struct Scorer {
    weights: [u64; 256],
    /// Keys whose category the policy does not name.
    unnamed: [bool; 256],
    any_unnamed: bool,
    /// The largest weight of a key.
    heaviest: u64,
    actors: usize,
}

/// One thread's share of the scores.
#[derive(Debug)]
pub struct Lane {
    low: Block<u64>,
    rest: Rest,
    /// No low word is above this; the largest number when that is not known.
    bound: u64,
    /// The first row met whose category the policy does not name.
    unknown: Option<UnknownCategory>,
}

/// What a lane holds beside the low words.
#[derive(Debug, Default)]
struct Rest {
    /// High words, from the first time one is needed.
    high: Option<Block<u64>>,
    /// A bit for each actor that has a row without score, from the first time there is one.
    idle: Option<Block<u64>>,
    /// An accumulator went beyond 128 bits: the total is far beyond 10^38.
    overflow: bool,
}

/// A row uses a category to which the policy gives no weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct UnknownCategory {
    /// Number of the row within the stream, from 0.
    pub row: u64,
    /// The row's category key.
    pub category: u8,
}

impl Scorer {
    /// Weights for the keys of a snapshot's categories; keys from 256 on cannot be used by a row.
    pub fn new(policy: &Policy, actors: usize, categories: &(impl Names + ?Sized)) -> Self {
        let mut this =
            Self { weights: [0; 256], unnamed: [false; 256], any_unnamed: false, heaviest: 0, actors };
        for key in 0..categories.len().min(256) {
            let weight = std::str::from_utf8(categories.name(key)).ok().and_then(|name| policy.weight(name));
            this.weights[key] = weight.unwrap_or(0);
            this.unnamed[key] = weight.is_none();
            this.any_unnamed |= weight.is_none();
            this.heaviest = this.heaviest.max(this.weights[key]);
        }
        this
    }

    /// Bytes that a lane takes in the usual case.
    pub fn lane_bytes(&self) -> u64 {
        8 * self.actors as u64
    }

    /// A lane without rows.
    pub fn lane(&self) -> Lane {
        Lane { low: Block::zeroed(self.actors), rest: Rest::default(), bound: 0, unknown: None }
    }

    /// Adds rows to a lane: the columns of the same rows, actor keys and units little-endian.
    pub fn add(
        &self,
        lane: &mut Lane,
        first_row: u64,
        actors: &[[u8; 4]],
        categories: &[u8],
        units: &[[u8; 8]],
    ) {
        if self.any_unnamed
            && let Some(at) = categories.iter().position(|category| self.unnamed[usize::from(*category)])
        {
            let found = UnknownCategory { row: first_row + at as u64, category: categories[at] };
            lane.unknown = Some(lane.unknown.map_or(found, |before| before.min(found)));
        }
        let ahead = self.lane_bytes() > CACHED_BYTES;
        match (self.is_narrow(lane, units), ahead) {
            (true, true) => self.add_rows::<true, true>(lane, actors, categories, units),
            (true, false) => self.add_rows::<true, false>(lane, actors, categories, units),
            (false, true) => self.add_rows::<false, true>(lane, actors, categories, units),
            (false, false) => self.add_rows::<false, false>(lane, actors, categories, units),
        }
    }

    /// Whether no sum of the lane can leave its low word, these rows included.
    ///
    /// All products of a lane together are at most `Σ units` times the largest weight. As long as that is below 2^64, so is
    /// each product and each sum, whoever the rows are for: there is no carry to look for. It is found a run at a time, at a
    /// fraction of what looking for carries in each row costs; a lane that has once left the bound is wide for good.
    fn is_narrow(&self, lane: &mut Lane, units: &[[u8; 8]]) -> bool {
        if lane.bound == u64::MAX {
            return false;
        }
        // Halves, of which 2^32 fit in a word; the compiler makes vectors of this.
        let (mut low, mut high) = (0u64, 0u64);
        for units in units {
            let units = u64::from_le_bytes(*units);
            low = low.wrapping_add(units & 0xffff_ffff);
            high = high.wrapping_add(units >> 32);
        }
        let sum = (u128::from(high) << 32) + u128::from(low);
        let most = sum.checked_mul(self.heaviest.into()).and_then(|most| most.checked_add(lane.bound.into()));
        let bound =
            most.filter(|_| units.len() <= u32::MAX as usize).and_then(|most| u64::try_from(most).ok());
        lane.bound = bound.unwrap_or(u64::MAX);
        lane.bound != u64::MAX
    }

    fn add_rows<const NARROW: bool, const AHEAD: bool>(
        &self,
        lane: &mut Lane,
        actors: &[[u8; 4]],
        categories: &[u8],
        units: &[[u8; 8]],
    ) {
        let low = &mut lane.low[..];
        let rest = &mut lane.rest;
        let ahead = actors.get(ROWS_AHEAD..).unwrap_or_default();
        for (at, ((actor, category), units)) in actors.iter().zip(categories).zip(units).enumerate() {
            if AHEAD && let Some(ahead) = ahead.get(at) {
                prefetch(low, u32::from_le_bytes(*ahead) as usize);
            }
            let actor = u32::from_le_bytes(*actor) as usize;
            let units = u64::from_le_bytes(*units);
            let weight = self.weights[usize::from(*category)];
            let slot = &mut low[actor];
            // A row that scores nothing has to be noted only while its actor has no score.
            if NARROW {
                *slot = slot.wrapping_add(units.wrapping_mul(weight));
                if *slot == 0 {
                    rest.add(self.actors, actor, 0, false);
                }
            } else {
                let product = u128::from(units) * u128::from(weight);
                let (sum, carry) = slot.overflowing_add(product as u64);
                *slot = sum;
                if carry || sum == 0 || product >> 64 != 0 {
                    rest.add(self.actors, actor, product, carry);
                }
            }
        }
    }
}

impl Rest {
    /// What the low words cannot hold.
    #[inline(never)]
    fn add(&mut self, actors: usize, actor: usize, product: u128, carry: bool) {
        let upper = (product >> 64) as u64;
        if upper != 0 || carry {
            let high = self.high.get_or_insert_with(|| Block::zeroed(actors));
            self.overflow |= add_high(&mut high[actor], upper, carry);
        } else {
            let idle = self.idle.get_or_insert_with(|| Block::zeroed(actors.div_ceil(64)));
            idle[actor / 64] |= 1 << (actor % 64);
        }
    }
}

/// Adds to a high word; whether it went over. One that did stays at the top, so that no score comes back to zero and
/// its actor is counted; as the smaller of the sum and the top it does not depend on the order of the additions.
#[inline]
fn add_high(high: &mut u64, upper: u64, carry: bool) -> bool {
    let (sum, over) = high.overflowing_add(upper);
    let (sum, again) = sum.overflowing_add(carry.into());
    *high = if over | again { u64::MAX } else { sum };
    over | again
}

/// The scores of an epoch, in canonical order unless they have just been merged, and what they add up to.
#[derive(Debug)]
pub struct Scores {
    low: Block<u64>,
    high: Option<Block<u64>>,
    /// The largest of each [`TOGETHER`], if all are below 2^64.
    tops: Block<u64>,
    /// Distinct actors among the rows.
    pub actors: u64,
    /// Actors with a score above zero.
    pub positive: u64,
    /// `S = Σ S_a`; none when it reaches 10^38.
    pub total: Option<Amount>,
}

impl Scores {
    /// Adds up the lanes of a snapshot of so many names. The scores stand in the order of the dictionary.
    ///
    /// # Errors
    /// The first row of the stream, if any, whose category the policy does not name.
    pub fn merge(lanes: Vec<Lane>, names: usize) -> Result<Self, UnknownCategory> {
        if let Some(unknown) = lanes.iter().filter_map(|lane| lane.unknown).min() {
            return Err(unknown);
        }
        let overflow = lanes.iter().any(|lane| lane.rest.overflow);
        let mut lanes = lanes.into_iter();
        let Some(mut all) = lanes.next() else {
            let low = Block::zeroed(names);
            let tops = Block::zeroed(names.div_ceil(TOGETHER));
            return Ok(Self { low, high: None, tops, actors: 0, positive: 0, total: Some(Amount::ZERO) });
        };
        let mut overflow = overflow;
        for lane in lanes {
            overflow |= all.merge(&lane);
        }
        let (tally, tops) = all.tally(overflow);
        let Lane { low, rest: Rest { high, .. }, .. } = all;
        Ok(Self {
            low,
            high,
            tops,
            actors: tally.actors,
            positive: tally.positive,
            total: tally.total.and_then(Amount::new),
        })
    }

    /// Puts the scores into canonical order: that of these indices, a permutation; none if that is the order in which they stand.
    #[must_use]
    pub fn in_order(mut self, order: Option<&[u32]>) -> Self {
        let Some(order) = order else { return self };
        // Beside two words a name there is no room for a second copy (contract §2: 4 x size of the snapshot).
        match &mut self.high {
            None => {
                let gathered = gather(&self.low, order);
                let tops = self.tops.par_chunks_mut(ACTORS_PER_TASK / TOGETHER);
                let scores = gathered.par_chunks(ACTORS_PER_TASK);
                scores.zip(tops).for_each(|(scores, tops)| find_tops(scores, tops));
                std::mem::replace(&mut self.low, gathered).discard();
            }
            Some(high) => permute(&mut self.low, high, order),
        }
        self
    }

    /// Whether all of them are below 2^64.
    pub(crate) fn are_short(&self) -> bool {
        self.high.is_none()
    }

    /// Number of names, with or without a score.
    #[inline]
    pub fn len(&self) -> usize {
        self.low.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.low.is_empty()
    }

    /// The score at a rank of the canonical order.
    #[inline]
    pub fn at(&self, rank: usize) -> u128 {
        self.by_rank()(rank)
    }

    /// The same, for who asks for many.
    #[inline]
    pub(crate) fn by_rank(&self) -> impl Fn(usize) -> u128 {
        let (low, high) = (&self.low[..], self.high.as_deref());
        move |rank| u128::from(high.map_or(0, |high| high[rank])) << 64 | u128::from(low[rank])
    }

    /// The ranks, cut into tasks.
    pub(crate) fn tasks(&self) -> impl IndexedParallelIterator<Item = Range<usize>> {
        let len = self.len();
        (0..len.div_ceil(ACTORS_PER_TASK)).into_par_iter().map(move |task| {
            let start = task * ACTORS_PER_TASK;
            start..(start + ACTORS_PER_TASK).min(len)
        })
    }

    /// Rank and score of each actor of a range whose score is at least `least`, and above zero. Where such actors are
    /// rare, the others cost hardly anything. The range is one of [`Self::tasks`].
    #[inline]
    pub(crate) fn each_from(&self, range: Range<usize>, least: u128, mut take: impl FnMut(usize, u128)) {
        let (None, Ok(floor)) = (&self.high, u64::try_from(least.max(1))) else {
            return self.each(range, |rank, score| {
                if score >= least {
                    take(rank, score);
                }
            });
        };
        debug_assert!(range.start.is_multiple_of(TOGETHER), "a range of the tasks");
        let tops = &self.tops[range.start / TOGETHER..range.end.div_ceil(TOGETHER)];
        for ((at, scores), top) in
            range.clone().step_by(TOGETHER).zip(self.low[range].chunks(TOGETHER)).zip(tops)
        {
            if *top >= floor {
                for (rank, low) in (at..).zip(scores) {
                    if *low >= floor {
                        take(rank, u128::from(*low));
                    }
                }
            }
        }
    }

    /// Rank and score of each actor of a range that has one.
    #[inline]
    pub(crate) fn each(&self, range: Range<usize>, mut take: impl FnMut(usize, u128)) {
        match &self.high {
            None => {
                for (rank, low) in range.clone().zip(&self.low[range]) {
                    if *low != 0 {
                        take(rank, u128::from(*low));
                    }
                }
            }
            Some(high) => {
                for ((rank, low), high) in range.clone().zip(&self.low[range.clone()]).zip(&high[range]) {
                    if low | high != 0 {
                        take(rank, u128::from(*high) << 64 | u128::from(*low));
                    }
                }
            }
        }
    }
}

/// The largest of each [`TOGETHER`] scores.
fn find_tops(scores: &[u64], tops: &mut [u64]) {
    for (top, scores) in tops.iter_mut().zip(scores.chunks(TOGETHER)) {
        *top = scores.iter().copied().fold(0, u64::max);
    }
}

fn gather(values: &[u64], order: &[u32]) -> Block<u64> {
    let mut gathered = Block::zeroed(order.len());
    gathered
        .par_iter_mut()
        .zip(order)
        .with_min_len(ACTORS_PER_TASK)
        .for_each(|(to, from)| *to = values[*from as usize]);
    gathered
}

/// The same as gathering, in place: each cycle of the permutation moves on by one.
fn permute(low: &mut [u64], high: &mut [u64], order: &[u32]) {
    let mut moved = Block::<u64>::zeroed(order.len().div_ceil(64));
    for start in 0..order.len() {
        if moved[start / 64] >> (start % 64) & 1 != 0 {
            continue;
        }
        let first = (low[start], high[start]);
        let mut to = start;
        loop {
            moved[to / 64] |= 1 << (to % 64);
            let from = order[to] as usize;
            if from == start {
                break;
            }
            (low[to], high[to]) = (low[from], high[from]);
            to = from;
        }
        (low[to], high[to]) = first;
    }
}

struct Tally {
    actors: u64,
    positive: u64,
    total: Option<u128>,
}

impl Lane {
    /// Adds another lane to this one; whether an accumulator went beyond 128 bits.
    fn merge(&mut self, other: &Self) -> bool {
        let len = self.low.len();
        if self.rest.high.is_none() {
            // A carry may come up; find out before taking memory for it.
            let carries = self.low.par_iter().zip(&other.low[..]).with_min_len(ACTORS_PER_TASK);
            if other.rest.high.is_some() || carries.any(|(a, b)| a.checked_add(*b).is_none()) {
                self.rest.high = Some(Block::zeroed(len));
            }
        }
        if let Some(other) = &other.rest.idle {
            let idle = self.rest.idle.get_or_insert_with(|| Block::zeroed(len.div_ceil(64)));
            idle.iter_mut().zip(&other[..]).for_each(|(to, from)| *to |= from);
        }
        let low = self.low.par_iter_mut().zip(&other.low[..]).with_min_len(ACTORS_PER_TASK);
        match &mut self.rest.high {
            None => {
                low.for_each(|(to, from)| *to = to.wrapping_add(*from));
                false
            }
            Some(high) => low
                .zip(&mut high[..])
                .enumerate()
                .map(|(index, ((to, from), high))| {
                    let (sum, carry) = to.overflowing_add(*from);
                    *to = sum;
                    add_high(high, other.rest.high.as_ref().map_or(0, |high| high[index]), carry)
                })
                .reduce(|| false, |a, b| a | b),
        }
    }

    /// Counts and adds up; and the largest of each [`TOGETHER`] scores, if all are below 2^64.
    fn tally(&self, overflow: bool) -> (Tally, Block<u64>) {
        let len = self.low.len();
        let none = || Tally { actors: 0, positive: 0, total: Some(0) };
        let both = |a: Tally, b: Tally| Tally {
            actors: a.actors + b.actors,
            positive: a.positive + b.positive,
            total: a.total.zip(b.total).and_then(|(a, b)| a.checked_add(b)),
        };
        let (sum, tops) = match &self.rest.high {
            None => {
                let mut tops = Block::scratch(len.div_ceil(TOGETHER));
                let tasks = self.low.par_chunks(ACTORS_PER_TASK).enumerate();
                let parts = tasks.zip(tops.par_chunks_mut(ACTORS_PER_TASK / TOGETHER)).map(
                    |((task, scores), tops)| {
                        find_tops(scores, tops);
                        let at = task * ACTORS_PER_TASK;
                        self.tally_narrow(scores, at..at + scores.len())
                    },
                );
                (parts.reduce(none, both), tops)
            }
            Some(high) => {
                let parts = (0..len.div_ceil(ACTORS_PER_TASK)).into_par_iter().map(|task| {
                    self.tally_wide(task * ACTORS_PER_TASK..((task + 1) * ACTORS_PER_TASK).min(len), high)
                });
                (parts.reduce(none, both), Block::zeroed(0))
            }
        };
        (Tally { total: sum.total.filter(|_| !overflow), ..sum }, tops)
    }

    fn tally_narrow(&self, scores: &[u64], range: Range<usize>) -> Tally {
        // The top bit of x | -x says that x is not 0; the compiler makes vectors of this.
        let positive = scores.iter().map(|score| (score | score.wrapping_neg()) >> 63).sum();
        // Halves, of which so many fit in a word.
        let (mut low, mut high) = (0u64, 0u64);
        for score in scores {
            low += score & 0xffff_ffff;
            high += score >> 32;
        }
        let total = Some((u128::from(high) << 32) + u128::from(low));
        Tally { actors: positive + self.idle_only(range), positive, total }
    }

    fn tally_wide(&self, range: Range<usize>, high: &[u64]) -> Tally {
        let mut tally = Tally { actors: self.idle_only(range.clone()), positive: 0, total: Some(0) };
        for (low, high) in self.low[range.clone()].iter().zip(&high[range]) {
            let score = u128::from(*high) << 64 | u128::from(*low);
            tally.positive += u64::from(score != 0);
            tally.total = tally.total.and_then(|total| total.checked_add(score));
        }
        tally.actors += tally.positive;
        tally
    }

    /// Actors of a range, which begins at a multiple of 64, that have rows but no score.
    fn idle_only(&self, range: Range<usize>) -> u64 {
        let Some(idle) = &self.rest.idle else { return 0 };
        let mut count = 0;
        for (word, mut bits) in idle[range.start / 64..range.end.div_ceil(64)].iter().copied().enumerate() {
            while bits != 0 {
                let index = range.start + 64 * word + bits.trailing_zeros() as usize;
                let high = self.rest.high.as_ref().map_or(0, |high| high[index]);
                count += u64::from(self.low[index] | high == 0);
                bits &= bits - 1;
            }
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ACTORS: usize = 2 * TOGETHER + 5;

    /// A scorer with weights as they come, without a policy.
    fn scorer(weights: [u64; 3]) -> Scorer {
        let mut all = [0; 256];
        all[..3].copy_from_slice(&weights);
        let heaviest = weights.into_iter().max().unwrap_or(0);
        Scorer { weights: all, unnamed: [false; 256], any_unnamed: false, heaviest, actors: ACTORS }
    }

    type Row = (u32, u8, u64);

    fn add(scorer: &Scorer, lane: &mut Lane, rows: &[Row]) {
        let actors: Vec<_> = rows.iter().map(|row| row.0.to_le_bytes()).collect();
        let categories: Vec<_> = rows.iter().map(|row| row.1).collect();
        let units: Vec<_> = rows.iter().map(|row| row.2.to_le_bytes()).collect();
        scorer.add(lane, 0, &actors, &categories, &units);
    }

    fn scores(lane: Lane) -> Scores {
        Scores::merge(vec![lane], ACTORS).unwrap()
    }

    /// The bound is reached, then passed by one: up to there a lane is narrow, from there on it is wide and still exact.
    #[test]
    fn a_lane_is_narrow_as_long_as_nothing_can_carry() {
        let scorer = scorer([1, 3, 0]);
        let mut lane = scorer.lane();
        add(&scorer, &mut lane, &[(0, 0, u64::MAX / 3 - 1)]);
        assert_eq!(lane.bound, u64::MAX - 3);
        add(&scorer, &mut lane, &[(0, 1, 1), (1, 0, 0)]);
        assert_eq!(lane.bound, u64::MAX, "the largest number stands for no bound");
        add(&scorer, &mut lane, &[(0, 1, u64::MAX), (0, 1, u64::MAX)]);
        let scores = scores(lane);
        assert_eq!(scores.at(0), u128::from(u64::MAX / 3 - 1) + 3 + 6 * u128::from(u64::MAX));
        assert_eq!((scores.actors, scores.positive), (2, 1));
    }

    /// Those of at least some score, above zero: around each score that there is.
    fn each_from_finds_those_alone(scores: &Scores) -> Result<(), TestCaseError> {
        let ranked: Vec<(usize, u128)> = (0..ACTORS).map(|rank| (rank, scores.at(rank))).collect();
        for (_, score) in &ranked {
            for least in [score.saturating_sub(1), *score, score.saturating_add(1)] {
                let mut found = Vec::new();
                scores.each_from(0..ACTORS, least, |rank, score| found.push((rank, score)));
                let expected: Vec<_> =
                    ranked.iter().copied().filter(|(_, score)| *score >= least.max(1)).collect();
                prop_assert_eq!(found, expected);
            }
        }
        Ok(())
    }

    proptest! {
        // As many as the environment says under valgrind.
        #![proptest_config(ProptestConfig::with_cases(ProptestConfig::default().cases.min(2_000)))]

        /// Narrow, wide, and one after the other: the same scores, actors and total.
        #[test]
        fn both_paths_agree(
            runs in prop::collection::vec(
                prop::collection::vec((0..ACTORS as u32, 0u8..3, any::<u64>(), 0u32..64), 0..200), 1..4),
            weights in (0u64..9, 0u64..3, 0u64..1 << 48).prop_map(|(a, b, c)| [a, b, c]), shift in 0u32..64, ahead in any::<bool>(),
        ) {
            let scorer = scorer(weights.map(|weight| weight >> (shift / 2)));
            let (mut lane, mut wide) = (scorer.lane(), scorer.lane());
            let mut exact = [(false, 0u128); ACTORS];
            for run in runs {
                let rows: Vec<Row> = run.into_iter().map(|(a, c, u, s)| (a, c, u >> s >> (shift / 2))).collect();
                for (actor, category, units) in &rows {
                    let (seen, score) = &mut exact[*actor as usize];
                    *seen = true;
                    *score += u128::from(*units) * u128::from(scorer.weights[usize::from(*category)]);
                }
                add(&scorer, &mut lane, &rows);
                wide.bound = u64::MAX;
                if ahead {
                    let actors: Vec<_> = rows.iter().map(|row| row.0.to_le_bytes()).collect();
                    let categories: Vec<_> = rows.iter().map(|row| row.1).collect();
                    let units: Vec<_> = rows.iter().map(|row| row.2.to_le_bytes()).collect();
                    scorer.add_rows::<false, true>(&mut wide, &actors, &categories, &units);
                } else {
                    add(&scorer, &mut wide, &rows);
                }
            }
            let (narrow, wide) = (scores(lane), scores(wide));
            let total: u128 = exact.iter().map(|(_, score)| score).sum();
            for scores in [&narrow, &wide] {
                for (actor, (_, score)) in exact.iter().enumerate() {
                    prop_assert_eq!(scores.at(actor), *score);
                }
                prop_assert_eq!(scores.actors, exact.iter().filter(|(seen, _)| *seen).count() as u64);
                prop_assert_eq!(scores.positive, exact.iter().filter(|(_, score)| *score > 0).count() as u64);
                prop_assert_eq!(scores.total, Amount::new(total));
            }
            let backwards: Vec<u32> = (0..ACTORS as u32).rev().collect();
            for scores in [narrow, wide] {
                each_from_finds_those_alone(&scores)?;
                each_from_finds_those_alone(&scores.in_order(Some(&backwards)))?;
            }
        }
    }
}
