//! A set of small numbers, a bit for each.

use std::ops::Range;

/// Indices of which each is in the set or not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bits(Vec<u64>);

impl Bits {
    /// Indices that are counted together.
    pub const TOGETHER: usize = u64::BITS as usize;

    /// A set of none, with room for the indices below `len`.
    pub fn none(len: usize) -> Self {
        Self(vec![0; len.div_ceil(Self::TOGETHER)])
    }

    /// Puts the sets of consecutive ranges of indices, each but the last a multiple of 64 long, into one.
    pub fn join(parts: impl IntoIterator<Item = Self>) -> Self {
        Self(parts.into_iter().flat_map(|part| part.0).collect())
    }

    /// Makes room for so many more indices behind those for which there is room, rounded up to 64.
    pub fn grow(&mut self, more: usize) {
        self.0.resize(self.0.len() + more.div_ceil(Self::TOGETHER), 0);
    }

    /// Indices for which there is room.
    pub fn room(&self) -> usize {
        Self::TOGETHER * self.0.len()
    }

    /// Puts an index into the set.
    ///
    /// # Panics
    /// When there is no room for it.
    #[inline]
    pub fn insert(&mut self, index: usize) {
        self.0[index / Self::TOGETHER] |= 1 << (index % Self::TOGETHER);
    }

    /// Whether an index is in the set.
    #[inline]
    pub fn contains(&self, index: usize) -> bool {
        self.0.get(index / Self::TOGETHER).is_some_and(|word| word >> (index % Self::TOGETHER) & 1 != 0)
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.counts().map(u64::from).sum()
    }

    /// How many there are of each 64.
    pub fn counts(&self) -> impl Iterator<Item = u32> {
        self.0.iter().map(|word| word.count_ones())
    }

    /// How many of those that share their 64 with an index are below it.
    #[inline]
    pub fn below(&self, index: usize) -> usize {
        let word = self.0.get(index / Self::TOGETHER).copied().unwrap_or(0);
        (word & ((1 << (index % Self::TOGETHER)) - 1)).count_ones() as usize
    }

    /// Each index of a range that is in the set, in order.
    #[inline]
    pub fn each(&self, range: Range<usize>, mut take: impl FnMut(usize)) {
        let words = range.start / Self::TOGETHER..range.end.div_ceil(Self::TOGETHER).min(self.0.len());
        for (at, word) in words.clone().zip(self.0.get(words).unwrap_or_default()) {
            let mut bits = *word;
            while bits != 0 {
                let index = Self::TOGETHER * at + bits.trailing_zeros() as usize;
                if range.contains(&index) {
                    take(index);
                }
                bits &= bits - 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_in_is_there_and_nothing_else() {
        let indices = [0, 1, 63, 64, 130, 191, 192, 199];
        let mut bits = Bits::none(200);
        indices.iter().for_each(|index| bits.insert(*index));
        assert_eq!(bits.count(), indices.len() as u64);
        assert!((0..300).all(|index| bits.contains(index) == indices.contains(&index)));
        for (start, end) in (0..=210).flat_map(|start| (start..=300).map(move |end| (start, end))) {
            let mut seen = Vec::new();
            bits.each(start..end, |index| seen.push(index));
            assert!(seen.iter().eq(indices.iter().filter(|index| (start..end).contains(index))));
        }
        for index in 0..300 {
            let first = index / Bits::TOGETHER * Bits::TOGETHER;
            assert_eq!(bits.below(index), indices.iter().filter(|i| (first..index).contains(*i)).count());
        }
    }

    #[test]
    fn parts_are_put_one_behind_the_other() {
        let (mut one, mut two) = (Bits::default(), Bits::default());
        one.grow(100);
        assert_eq!(one.room(), 128);
        one.insert(7);
        two.grow(1);
        two.insert(0);
        let mut seen = Vec::new();
        Bits::join([one, two]).each(0..usize::MAX, |index| seen.push(index));
        assert_eq!(seen, [7, 128]);
    }
}
