//! Interning: every distinct name once, a provisional number for each.
//!
//! The law: two rows get the same number exactly if their names are the same bytes. The numbers themselves
//! depend on the hash's random seed; nothing that is written does, since `order` renumbers them by the order
//! of the names.
//!
//! One table a shard, and a name's hash says which shard: threads take shards, so that no lock is needed and
//! no name is in two tables, as it would be with a table a thread. A shard's table is small enough for a
//! core's second-level cache while its rows of a whole group of blocks are looked up. The hash is keyed from
//! the operating system's randomness: whoever writes the file cannot know which names collide.

use crate::error::SealError;
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
    /// Open addressing, linear probing, a power of two: the tag above, the number in this shard plus one
    /// below; 0 is free.
    slots: Vec<u64>,
    bytes: Vec<u8>,
    /// Where name `n` ends; it begins where the one before ends.
    ends: Vec<u32>,
    /// The shard has no room for another number or byte.
    full: bool,
}

impl Shard {
    fn new(index: usize) -> Self {
        Self { base: (index as u32) << (u32::BITS - SHARD_BITS), slots: vec![0; 64], ..Self::default() }
    }

    /// The number of a name: its own, or a new one.
    #[inline]
    pub fn intern(&mut self, tag: u32, name: &[u8]) -> u32 {
        let mask = self.slots.len() - 1;
        let mut slot = tag as usize & mask;
        loop {
            let found = self.slots[slot];
            if found == 0 {
                break;
            }
            if (found >> 32) as u32 == tag {
                let local = found as u32 - 1;
                if self.get(local as usize) == name {
                    return self.base | local;
                }
            }
            slot = (slot + 1) & mask;
        }
        self.insert(slot, tag, name)
    }

    fn insert(&mut self, slot: usize, tag: u32, name: &[u8]) -> u32 {
        let local = self.ends.len();
        let end = self.bytes.len() + name.len();
        if local >= SHARD_NAMES_MAX || end as u64 > NAME_BYTES_MAX {
            self.full = true;
            return self.base;
        }
        self.slots[slot] = u64::from(tag) << 32 | (local as u64 + 1);
        self.bytes.extend_from_slice(name);
        self.ends.push(end as u32);
        // Three quarters full: beyond that linear probing walks far.
        if self.ends.len() * 4 > self.slots.len() * 3 {
            self.grow();
        }
        self.base | local as u32
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

    /// Reads what [`Self::intern`] will look at for these tags and names, so that their misses of the cache
    /// pass at the same time and not one after the other.
    #[inline]
    pub fn look_ahead<'n>(&self, wanted: impl Iterator<Item = (u32, &'n [u8])>) {
        let mask = self.slots.len() - 1;
        let (mut known, mut count, mut seen) = ([0_usize; LOOK_AHEAD], 0, 0_u8);
        for (tag, name) in wanted.take(LOOK_AHEAD) {
            let slot = self.slots[tag as usize & mask];
            // Without a branch; a slot of another name costs a read that nobody needed.
            known[count] = (slot as u32).saturating_sub(1) as usize;
            count += 1;
            seen ^= name.first().copied().unwrap_or_default();
        }
        if !self.ends.is_empty() {
            for local in &mut known[..count] {
                *local = self.start(*local);
            }
            for start in &known[..count] {
                seen ^= self.bytes.get(*start).copied().unwrap_or_default();
            }
        }
        black_box(seen);
    }

    /// Distinct names here.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// The name with a number of this shard.
    #[inline]
    pub fn get(&self, local: usize) -> &[u8] {
        &self.bytes[self.start(local)..self.ends[local] as usize]
    }

    #[inline]
    fn start(&self, local: usize) -> usize {
        if local == 0 { 0 } else { self.ends[local - 1] as usize }
    }
}

/// All names, by provisional id.
#[derive(Debug)]
pub(crate) struct Names {
    pub shards: Vec<Shard>,
}

impl Names {
    pub fn new() -> Self {
        Self { shards: (0..SHARDS).map(Shard::new).collect() }
    }

    /// The name with a provisional id.
    #[inline]
    pub fn get(&self, id: u32) -> &[u8] {
        let (shard, local) = place_of(id);
        self.shards[shard].get(local)
    }

    /// Names by provisional id, as many as there are ids and at most [`LOOK_AHEAD`], each one's byte at
    /// `depth` read: the misses of the cache pass at the same time.
    #[inline]
    pub fn gather(&self, ids: impl Iterator<Item = u32>, depth: usize) -> ([&[u8]; LOOK_AHEAD], usize) {
        let (mut found, mut count) = ([&[][..]; LOOK_AHEAD], 0);
        for id in ids.take(LOOK_AHEAD) {
            found[count] = self.get(id);
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
        }
    }

    /// Whether the names still fit the format.
    pub fn check(&self) -> Result<(), SealError> {
        let bytes: u64 = self.shards.iter().map(|shard| shard.bytes.len() as u64).sum();
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
            let name = |n: u32| format!("name {}", n % 700).into_bytes();
            let ids: Vec<u32> =
                (0..1400_u32).map(|n| shard.intern((n % 700).wrapping_mul(spread), &name(n))).collect();
            assert_eq!(shard.len(), 700);
            for (n, id) in ids.iter().enumerate() {
                assert_eq!(*id, ids[n % 700]);
                assert_eq!(place_of(*id), (3, n % 700));
                assert_eq!(shard.get(n % 700), name(n as u32));
            }
        }
    }
}
