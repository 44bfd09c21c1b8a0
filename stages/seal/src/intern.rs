//! Interning: every distinct name once, a provisional number for each.
//!
//! The law: two rows get the same number exactly if their names are the same bytes. The numbers themselves
//! depend on the hash's random seed; nothing that is written does, since `order` renumbers them by the order
//! of the names.
//!
//! One table a shard, and a name's hash says which shard: threads take shards, so that no lock is needed and
//! no name is in two tables, as it would be with a table a thread. A shard's table is small enough for a
//! core's second-level cache while its rows of a whole group of blocks are looked up, and what it will look at
//! next is on its way to that cache meanwhile. The hash is keyed from the operating system's randomness: whoever
//! writes the file cannot know which names collide.

use crate::block::{Deal, RUNS_KEPT_MAX, empty};
use crate::error::SealError;
use rewarder_model::memory::prefetch;
use std::hint::black_box;

/// Bits of a name's hash, the topmost, that choose its shard.
const SHARD_BITS: u32 = 6;
/// Tables. With two million names, one is half a megabyte.
pub(crate) const SHARDS: usize = 1 << SHARD_BITS;
/// Names that one shard can number. An even share of the most names there can be (see [`NAME_BYTES_MAX`]) is
/// an eighth.
const SHARD_NAMES_MAX: usize = 1 << (u32::BITS - SHARD_BITS);

/// Bytes of all distinct names: a dictionary of type utf8 has 32-bit signed offsets. Names are distinct and
/// at least a byte long, so this also keeps their number below 2^32 - 1.
pub(crate) const NAME_BYTES_MAX: u64 = i32::MAX as u64;

/// Smaller tables grow to four times their size: half as often, and 42 bytes a name at the worst.
const SLOTS_QUADRUPLED_BELOW: usize = 1 << 16;

/// Names that are asked of memory together: some more than the misses that a core has under way.
pub(crate) const LOOK_AHEAD: usize = 32;

/// Runs before its turn that a run's record is asked of memory, and its slot as many before that.
const RUNS_AHEAD: usize = 12;

/// What a record begins with: the name's number in its shard (u32, little endian) and its length less one.
const HEAD_BYTES: usize = 5;

/// Which shard a hash belongs to.
#[inline]
pub(crate) fn shard_of(hash: u64) -> usize {
    (hash >> (u64::BITS - SHARD_BITS)) as usize
}

/// Splits a provisional id into its shard and its number there.
#[inline]
pub(crate) fn place_of(id: u32) -> (usize, usize) {
    ((id >> (u32::BITS - SHARD_BITS)) as usize, (id & (u32::MAX >> SHARD_BITS)) as usize)
}

/// A part of all names.
#[derive(Debug, Default)]
pub(crate) struct Shard {
    /// The shard's index, in the topmost bits.
    base: u32,
    /// Open addressing, linear probing, a power of two: the tag above, where the record begins below; 0 is free.
    slots: Vec<u64>,
    /// A byte that is none's, then one record a name: [`HEAD_BYTES`] and its bytes. So a name and its number are one miss of the
    /// cache and not two.
    records: Vec<u8>,
    count: usize,
    /// The shard has no room for another number or byte.
    full: bool,
    /// Provisional ids of the runs that each block of the group has dealt to it.
    pub ids: Vec<Vec<u32>>,
}

impl Shard {
    fn new(index: usize) -> Self {
        let base = (index as u32) << (u32::BITS - SHARD_BITS);
        Self { base, slots: vec![0; 64], records: vec![0], ..Self::default() }
    }

    /// Numbers the names that the blocks of a group have dealt to this shard, block by block.
    pub fn intern_all<'d>(&mut self, deals: impl ExactSizeIterator<Item = &'d Deal>) {
        let mut all = std::mem::take(&mut self.ids);
        all.resize_with(deals.len(), Vec::new);
        for (deal, ids) in deals.zip(&mut all) {
            empty(ids, RUNS_KEPT_MAX);
            let runs = &deal.runs[..];
            for run in runs.iter().take(2 * RUNS_AHEAD) {
                prefetch(&self.slots, self.slot(run.tag));
            }
            for run in runs.iter().take(RUNS_AHEAD) {
                self.prefetch_record(run.tag);
            }
            for (at, (run, name)) in deal.names().enumerate() {
                if let Some(run) = runs.get(at + 2 * RUNS_AHEAD) {
                    prefetch(&self.slots, self.slot(run.tag));
                }
                if let Some(run) = runs.get(at + RUNS_AHEAD) {
                    self.prefetch_record(run.tag);
                }
                ids.push(self.intern(run.tag, name));
            }
        }
        self.ids = all;
    }

    /// Where a tag's search begins.
    #[inline]
    fn slot(&self, tag: u32) -> usize {
        tag as usize & (self.slots.len() - 1)
    }

    /// Asks for the record that is likely to be the one.
    #[inline]
    fn prefetch_record(&self, tag: u32) {
        let at = self.slots[self.slot(tag)] as u32 as usize;
        prefetch(&self.records, at);
    }

    /// The provisional id of a name: its own, or a new one.
    #[inline]
    pub fn intern(&mut self, tag: u32, name: &[u8]) -> u32 {
        let mask = self.slots.len() - 1;
        let mut slot = self.slot(tag);
        loop {
            let found = self.slots[slot];
            if found == 0 {
                break;
            }
            if (found >> 32) as u32 == tag {
                let (number, known) = self.record(found as u32);
                if known == name {
                    return self.base | number;
                }
            }
            slot = (slot + 1) & mask;
        }
        self.insert(slot, tag, name)
    }

    fn insert(&mut self, slot: usize, tag: u32, name: &[u8]) -> u32 {
        let at = self.records.len();
        let (Ok(start), Some(length)) = (u32::try_from(at), name.len().checked_sub(1)) else {
            self.full = true;
            return self.base;
        };
        if self.count >= SHARD_NAMES_MAX {
            self.full = true;
            return self.base;
        }
        let number = self.count as u32;
        self.slots[slot] = u64::from(tag) << 32 | u64::from(start);
        self.records.extend_from_slice(&number.to_le_bytes());
        // A name is at most 256 bytes long.
        self.records.push(length as u8);
        self.records.extend_from_slice(name);
        self.count += 1;
        // Three quarters full: beyond that linear probing walks far.
        if self.count * 4 > self.slots.len() * 3 {
            self.grow();
        }
        self.base | number
    }

    #[cold]
    fn grow(&mut self) {
        let factor = if self.slots.len() < SLOTS_QUADRUPLED_BELOW { 4 } else { 2 };
        let mask = self.slots.len() * factor - 1;
        // Not `vec![0; n]`, which takes zeros of the system: a page of those that is read before it is written is
        // mapped twice, and the second time stops all processors.
        let mut slots = Vec::with_capacity(mask + 1);
        slots.resize(mask + 1, black_box(0_u64));
        for entry in self.slots.iter().filter(|entry| **entry != 0) {
            let mut slot = (entry >> 32) as usize & mask;
            while slots[slot] != 0 {
                slot = (slot + 1) & mask;
            }
            slots[slot] = *entry;
        }
        self.slots = slots;
    }

    /// Distinct names here.
    pub fn len(&self) -> usize {
        self.count
    }

    /// The number and the name of the record at a place.
    #[inline]
    fn record(&self, at: u32) -> (u32, &[u8]) {
        let Some((head, rest)) = self.records[at as usize..].split_first_chunk::<HEAD_BYTES>() else {
            return (0, b"");
        };
        let [number @ .., length] = *head;
        (u32::from_le_bytes(number), &rest[..usize::from(length) + 1])
    }

    /// All records' places and names, in the order of their numbers.
    pub fn records(&self) -> impl Iterator<Item = (u32, &[u8])> {
        let mut next = 1_usize;
        (0..self.count).map(move |_| {
            let at = next as u32;
            let name = self.record(at).1;
            next += HEAD_BYTES + name.len();
            (at, name)
        })
    }
}

/// Where a name is: its shard, its record there, its length.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Place {
    pub at: u32,
    pub shard: u16,
    pub len: u16,
}

/// All names.
#[derive(Debug)]
pub(crate) struct Names {
    pub shards: Vec<Shard>,
}

impl Names {
    pub fn new() -> Self {
        Self { shards: (0..SHARDS).map(Shard::new).collect() }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.shards.iter().map(Shard::len).sum()
    }

    /// The name at a place.
    #[inline]
    pub fn get(&self, place: Place) -> &[u8] {
        &self.shards[usize::from(place.shard)].records[place.at as usize + HEAD_BYTES..]
            [..usize::from(place.len)]
    }

    /// The number that the name at a place has in its shard.
    #[inline]
    pub fn number(&self, place: Place) -> u32 {
        self.shards[usize::from(place.shard)].record(place.at).0
    }

    /// The names at some places, at most [`LOOK_AHEAD`], each one's byte at `depth` read: the misses of the cache pass at the same
    /// time.
    #[inline]
    pub fn gather(&self, places: impl Iterator<Item = Place>, depth: usize) -> ([&[u8]; LOOK_AHEAD], usize) {
        let (mut found, mut count) = ([&[][..]; LOOK_AHEAD], 0);
        for place in places.take(LOOK_AHEAD) {
            found[count] = self.get(place);
            count += 1;
        }
        let seen =
            found[..count].iter().fold(0, |seen, name| seen ^ name.get(depth).copied().unwrap_or_default());
        black_box(seen);
        (found, count)
    }

    /// Gives back the tables, which only interning needs.
    pub fn freeze(&mut self) {
        for shard in &mut self.shards {
            shard.slots = Vec::new();
            shard.ids = Vec::new();
        }
    }

    /// Whether the names still fit the format.
    pub fn check(&self) -> Result<(), SealError> {
        let bytes = |shard: &Shard| (shard.records.len() - 1 - HEAD_BYTES * shard.count) as u64;
        let bytes: u64 = self.shards.iter().map(bytes).sum();
        if bytes > NAME_BYTES_MAX || self.shards.iter().any(|shard| shard.full) {
            return Err(SealError::TooMuch(
                "the distinct actors' names are longer than 2 GiB in all: split the epoch",
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_number_a_name_whatever_the_hash() {
        // All tags the same, and all tags different: the worst table and the best.
        for spread in [0, 1, 0x9e37_79b9_u32] {
            let mut shard = Shard::new(3);
            let name =
                |n: u32| format!("name {}{}", n % 700, "x".repeat(n as usize % 700 % 248)).into_bytes();
            let ids: Vec<u32> =
                (0..1400_u32).map(|n| shard.intern((n % 700).wrapping_mul(spread), &name(n))).collect();
            assert_eq!(shard.len(), 700);
            for (n, id) in ids.iter().enumerate() {
                assert_eq!(*id, ids[n % 700]);
                assert_eq!(place_of(*id), (3, n % 700));
            }
            for (n, (at, found)) in shard.records().enumerate() {
                assert_eq!(shard.record(at), (n as u32, found));
                assert_eq!(found, name(n as u32));
            }
            assert_eq!(shard.records().count(), 700);
        }
    }
}
