//! `largest_remainder` (Hamilton's method): the units that the quotients leave over go, one each, to the largest
//! remainders, ties to the smaller actor in byte order.
//!
//! Nobody is sorted. Remainders are counted by their leading bits, the part of the range in which the last unit falls is
//! counted again more finely, and so on: each pass is linear, there are at most twelve, and usually two, because
//! a part with few remainders is sorted outright.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// Bits resolved by one pass.
const BUCKET_BITS: u32 = 12;
/// A part of the range with at most so many remainders is sorted instead of being counted again.
const SORTED_MAX: u64 = 16 * 1024;

/// Who gets one: remainders above `remainder`, and those equal to it up to `last_rank`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cut {
    /// How many units went this way.
    #[serde(with = "crate::text")]
    pub units: u128,
    /// The smallest remainder that got one.
    #[serde(with = "crate::text")]
    pub remainder: u128,
    /// The canonical position of the last actor with just that remainder that got one.
    pub last_rank: u64,
}

impl Cut {
    /// Nobody gets any.
    pub const NONE: Self = Self { units: 0, remainder: u128::MAX, last_rank: 0 };

    /// 0 or 1.
    #[inline]
    pub const fn extra(&self, remainder: u128, rank: usize) -> u128 {
        (self.units > 0
            && (remainder > self.remainder || (remainder == self.remainder && rank as u64 <= self.last_rank)))
            as u128
    }
}

/// The remainders of a run, by canonical position.
pub trait Remainders: Sync {
    /// The positions, cut into tasks in ascending order.
    fn tasks(&self) -> impl IndexedParallelIterator<Item = Range<usize>>;
    /// Position and remainder of every actor that takes part whose remainder is at least `least`, and perhaps of others.
    fn each_from(&self, range: Range<usize>, least: u128, take: impl FnMut(usize, u128));
}

/// Counts of remainders in equal parts of a range of values.
pub struct Counts {
    low: u128,
    shift: u32,
    /// From here on all have been counted; of those below perhaps only some.
    from: u128,
    counts: Vec<u64>,
    /// Beside `counts[0]`: most remainders may be small, and counting them all in one place of memory would wait for it.
    lowest: u64,
}

impl Counts {
    /// For the values `low .. low + 2^bits`.
    pub fn new(low: u128, bits: u32) -> Self {
        let counts = vec![0; 1 << bits.min(BUCKET_BITS)];
        Self { low, shift: bits.saturating_sub(BUCKET_BITS), from: low, counts, lowest: 0 }
    }

    /// For remainders of a division by `d`, of which all from `from` on are going to be counted.
    pub fn for_divisor(d: u128, from: u128) -> Self {
        Self { from, ..Self::new(0, 128 - d.leading_zeros()) }
    }

    /// Of all remainders from `low` on that are in range.
    fn of(remainders: &impl Remainders, low: u128, bits: u32) -> Self {
        let count = |mut counts: Self, range| {
            remainders.each_from(range, low, |_, r| counts.add(r));
            counts
        };
        remainders.tasks().fold(|| Self::new(low, bits), count).reduce(|| Self::new(low, bits), Self::merge)
    }

    /// Counts a value, if it is in range.
    #[inline]
    pub fn add(&mut self, value: u128) {
        let bucket = value.wrapping_sub(self.low) >> self.shift;
        if bucket == 0 {
            self.lowest += 1;
        } else if let Some(count) =
            usize::try_from(bucket).ok().and_then(|bucket| self.counts.get_mut(bucket))
        {
            *count += 1;
        }
    }

    /// Both together.
    pub fn merge(mut self, other: Self) -> Self {
        self.counts.iter_mut().zip(&other.counts).for_each(|(to, from)| *to += from);
        self.lowest += other.lowest;
        self
    }

    /// The bucket in which the last of `units` falls that go to the largest, how many are in it, and how many of the units go there.
    /// None if it is not among those of which all have been counted.
    fn last_of(&self, units: u64) -> Option<(usize, u64, u64)> {
        let mut left = units;
        for (bucket, count) in self.counts.iter().enumerate().rev() {
            if self.beginning(bucket) < self.from {
                return None;
            }
            let here = if bucket == 0 { count + self.lowest } else { *count };
            if left <= here {
                return Some((bucket, here, left));
            }
            left -= here;
        }
        None
    }

    fn beginning(&self, bucket: usize) -> u128 {
        self.low + ((bucket as u128) << self.shift)
    }
}

/// Finds the cut for `units` missing units, `counts` being those of all remainders, or of the larger ones: if these are too few, all
/// are counted. The remainders add up to `units * d` and each is below `d`, so that more than `units` of them are above zero, or
/// `units` is 0.
pub fn cut(units: u128, mut counts: Counts, remainders: &impl Remainders) -> Cut {
    if units == 0 {
        return Cut::NONE;
    }
    let mut left = u64::try_from(units).unwrap_or(u64::MAX);
    if counts.last_of(left).is_none() {
        counts = Counts::of(remainders, counts.low, counts.shift + counts.counts.len().ilog2());
    }
    loop {
        let Some((bucket, inside, here)) = counts.last_of(left) else {
            // More units than remainders: impossible, and caught by the check of the result.
            return Cut { units, remainder: 0, last_rank: u64::MAX };
        };
        left = here;
        let low = counts.beginning(bucket);
        let in_part = |value: u128| value.wrapping_sub(low) >> counts.shift == 0;
        if inside <= SORTED_MAX {
            let mut part: Vec<(u128, usize)> = remainders
                .tasks()
                .flat_map_iter(|range| {
                    let mut found = Vec::new();
                    remainders.each_from(range, low, |rank, r| {
                        if in_part(r) {
                            found.push((r, rank));
                        }
                    });
                    found
                })
                .collect();
            part.sort_unstable_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
            let (remainder, rank) = part[left as usize - 1];
            return Cut { units, remainder, last_rank: rank as u64 };
        }
        if counts.shift == 0 {
            // All of them are equal: the first `left` by position.
            return Cut { units, remainder: low, last_rank: nth_equal(left, low, remainders) };
        }
        counts = Counts::of(remainders, low, counts.shift);
    }
}

/// The position of the `n`th (from 1) remainder that is `value`.
fn nth_equal(n: u64, value: u128, remainders: &impl Remainders) -> u64 {
    let per_task: Vec<(Range<usize>, u64)> = remainders
        .tasks()
        .map(|range| {
            let mut count = 0;
            remainders.each_from(range.clone(), value, |_, r| count += u64::from(r == value));
            (range, count)
        })
        .collect();
    let mut left = n;
    for (range, count) in per_task {
        if left <= count {
            let mut found = 0;
            remainders.each_from(range, value, |rank, r| {
                if r == value && left > 0 {
                    left -= 1;
                    found = rank as u64;
                }
            });
            return found;
        }
        left -= count;
    }
    u64::MAX
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    struct List(Vec<u128>);

    impl Remainders for List {
        fn tasks(&self) -> impl IndexedParallelIterator<Item = Range<usize>> {
            let len = self.0.len();
            (0..len.div_ceil(1000))
                .into_par_iter()
                .map(move |task| task * 1000..(task * 1000 + 1000).min(len))
        }
        fn each_from(&self, range: Range<usize>, least: u128, mut take: impl FnMut(usize, u128)) {
            range.filter(|rank| self.0[*rank] >= least).for_each(|rank| take(rank, self.0[rank]));
        }
    }

    /// However few of the smaller ones have been counted at first, the same is found.
    fn check(d: u128, list: Vec<u128>, units: usize) {
        let list = List(list);
        for from in [0, d / 8, d / 2, d - d / 16, d] {
            check_from(d, &list, units, from);
        }
    }

    fn check_from(d: u128, list: &List, units: usize, from: u128) {
        let mut counts = Counts::for_divisor(d, from);
        list.0.iter().filter(|r| **r >= from).for_each(|r| counts.add(*r));
        let cut = cut(units as u128, counts, list);
        let mut sorted: Vec<usize> = (0..list.0.len()).collect();
        sorted.sort_by_key(|rank| (std::cmp::Reverse(list.0[*rank]), *rank));
        let mut expected = vec![0; list.0.len()];
        sorted[..units].iter().for_each(|rank| expected[*rank] = 1);
        let found: Vec<u128> = list.0.iter().enumerate().map(|(rank, r)| cut.extra(*r, rank)).collect();
        assert_eq!(found, expected);
    }

    /// Everybody alike, or alike but for the last bit, is what would hurt a sort or a single pass.
    #[test]
    fn crowded_remainders() {
        let n = 40_000;
        let d = (1u128 << 126) + 12345;
        for units in [0, 1, n / 2, n] {
            check(d, vec![d - 1; n], units);
            check(d, (0..n).map(|i| d - 1 - (i as u128 * 7) % 3).collect(), units);
            check(7, (0..n).map(|i| (i % 7) as u128).collect(), units);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn like_sorting(list in prop::collection::vec(any::<u128>(), 1..300), shift in 0u32..128, part in 0usize..=100) {
            let list: Vec<u128> = list.into_iter().map(|r| r >> shift).collect();
            let units = list.len() * part / 100;
            check(u128::MAX >> shift, list, units);
        }
    }
}
