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
const ROWS_AHEAD: usize = 64;

/// What rows are scored by: a weight for each category key.
#[derive(Debug, Clone)]
pub struct Scorer {
    weights: [u64; 256],
    /// Keys whose category the policy does not name.
    unnamed: [bool; 256],
    any_unnamed: bool,
    actors: usize,
}

/// One thread's share of the scores.
#[derive(Debug)]
pub struct Lane {
    low: Block<u64>,
    rest: Rest,
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
        let mut this = Self { weights: [0; 256], unnamed: [false; 256], any_unnamed: false, actors };
        for key in 0..categories.len().min(256) {
            let weight = std::str::from_utf8(categories.name(key)).ok().and_then(|name| policy.weight(name));
            this.weights[key] = weight.unwrap_or(0);
            this.unnamed[key] = weight.is_none();
            this.any_unnamed |= weight.is_none();
        }
        this
    }

    /// Bytes that a lane takes in the usual case.
    pub fn lane_bytes(&self) -> u64 {
        8 * self.actors as u64
    }

    /// A lane without rows.
    pub fn lane(&self) -> Lane {
        Lane { low: Block::zeroed(self.actors), rest: Rest::default(), unknown: None }
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
        if self.lane_bytes() > CACHED_BYTES {
            self.add_rows::<true>(lane, actors, categories, units);
        } else {
            self.add_rows::<false>(lane, actors, categories, units);
        }
    }

    fn add_rows<const PREFETCH: bool>(
        &self,
        lane: &mut Lane,
        actors: &[[u8; 4]],
        categories: &[u8],
        units: &[[u8; 8]],
    ) {
        let low = &mut lane.low[..];
        let rest = &mut lane.rest;
        for (at, ((actor, category), units)) in actors.iter().zip(categories).zip(units).enumerate() {
            if PREFETCH && let Some(ahead) = actors.get(at + ROWS_AHEAD) {
                prefetch(low, u32::from_le_bytes(*ahead) as usize);
            }
            let actor = u32::from_le_bytes(*actor) as usize;
            let product =
                u128::from(u64::from_le_bytes(*units)) * u128::from(self.weights[usize::from(*category)]);
            let slot = &mut low[actor];
            let (sum, carry) = slot.overflowing_add(product as u64);
            *slot = sum;
            if carry || product == 0 || product >> 64 != 0 {
                rest.add(self.actors, actor, product, carry);
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

/// The scores of an epoch in canonical order, and what they add up to.
#[derive(Debug)]
pub struct Scores {
    low: Block<u64>,
    high: Option<Block<u64>>,
    /// Distinct actors among the rows.
    pub actors: u64,
    /// Actors with a score above zero.
    pub positive: u64,
    /// `S = Σ S_a`; none when it reaches 10^38.
    pub total: Option<Amount>,
}

impl Scores {
    /// Adds up the lanes.
    ///
    /// # Errors
    /// The first row of the stream, if any, whose category the policy does not name.
    pub fn merge(lanes: Vec<Lane>, names: &(impl Names + ?Sized)) -> Result<Self, UnknownCategory> {
        if let Some(unknown) = lanes.iter().filter_map(|lane| lane.unknown).min() {
            return Err(unknown);
        }
        let overflow = lanes.iter().any(|lane| lane.rest.overflow);
        let mut lanes = lanes.into_iter();
        let Some(mut all) = lanes.next() else {
            let low = Block::zeroed(names.len());
            return Ok(Self { low, high: None, actors: 0, positive: 0, total: Some(Amount::ZERO) });
        };
        let mut overflow = overflow;
        for lane in lanes {
            overflow |= all.merge(&lane);
        }
        let tally = all.tally(overflow);
        let Lane { mut low, rest: Rest { mut high, .. }, .. } = all;
        if let Some(order) = names.order() {
            // Beside two words a name there is no room for a second copy (contract §2: 4 x size of the snapshot).
            match &mut high {
                None => low = gather(&low, order),
                Some(high) => permute(&mut low, high, order),
            }
        }
        Ok(Self {
            low,
            high,
            actors: tally.actors,
            positive: tally.positive,
            total: tally.total.and_then(Amount::new),
        })
    }

    /// Whether all of them are below 2^64.
    pub(crate) fn are_short(&self) -> bool {
        self.high.is_none()
    }

    /// Number of names, with or without a score.
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
        let high = self.high.as_ref().map_or(0, |high| high[rank]);
        u128::from(high) << 64 | u128::from(self.low[rank])
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
    /// rare, the others cost hardly anything.
    #[inline]
    pub(crate) fn each_from(&self, range: Range<usize>, least: u128, mut take: impl FnMut(usize, u128)) {
        /// Scores looked at together.
        const CHUNK: usize = 32;
        let (None, Ok(floor)) = (&self.high, u64::try_from(least.max(1))) else {
            return self.each(range, |rank, score| {
                if score >= least {
                    take(rank, score);
                }
            });
        };
        for (at, chunk) in range.clone().step_by(CHUNK).zip(self.low[range].chunks(CHUNK)) {
            if chunk.iter().fold(false, |any, low| any | (*low >= floor)) {
                for (rank, low) in (at..).zip(chunk) {
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

    fn tally(&self, overflow: bool) -> Tally {
        let len = self.low.len();
        let parts = (0..len.div_ceil(ACTORS_PER_TASK)).into_par_iter().map(|task| {
            let range = task * ACTORS_PER_TASK..((task + 1) * ACTORS_PER_TASK).min(len);
            match &self.rest.high {
                None => {
                    let scores = &self.low[range.clone()];
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
                Some(high) => self.tally_wide(range, high),
            }
        });
        let start = || Tally { actors: 0, positive: 0, total: Some(0) };
        let sum = parts.reduce(start, |a, b| Tally {
            actors: a.actors + b.actors,
            positive: a.positive + b.positive,
            total: a.total.zip(b.total).and_then(|(a, b)| a.checked_add(b)),
        });
        Tally { total: sum.total.filter(|_| !overflow), ..sum }
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
