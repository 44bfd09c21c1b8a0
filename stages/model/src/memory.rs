//! Large blocks of memory. First touch of fresh memory costs as much as hashing it does, four kilobytes at a time; asked
//! for in huge pages it costs a fraction.

use memmap2::{Advice, MmapMut};
use std::ops::{Deref, DerefMut};

/// From this size on a block is mapped for itself, in huge pages where the system has them.
const MAPPED_BYTES_MIN: usize = 4 << 20;

/// A zeroed block of `T`, given back to the system when it is dropped.
#[derive(Debug)]
pub struct Block<T>(Memory<T>);

#[derive(Debug)]
enum Memory<T> {
    Heap(Vec<T>),
    Mapped(MmapMut),
}

impl<T: bytemuck::Pod> Block<T> {
    /// `len` zeros.
    pub fn zeroed(len: usize) -> Self {
        let bytes = len.saturating_mul(size_of::<T>());
        if bytes >= MAPPED_BYTES_MIN
            && let Ok(map) = MmapMut::map_anon(bytes)
        {
            // Advice only: without huge pages it is slower, not wrong.
            let _ = map.advise(Advice::HugePage);
            return Self(Memory::Mapped(map));
        }
        Self(Memory::Heap(vec![T::zeroed(); len]))
    }
}

impl<T: bytemuck::Pod> Deref for Block<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        match &self.0 {
            Memory::Heap(values) => values,
            // A mapping begins at a page, so that it is aligned for every `T` here.
            Memory::Mapped(map) => bytemuck::cast_slice(map),
        }
    }
}

impl<T: bytemuck::Pod> DerefMut for Block<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        match &mut self.0 {
            Memory::Heap(values) => values,
            Memory::Mapped(map) => bytemuck::cast_slice_mut(map),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_are_zeroed_and_writable() {
        for len in [0, 7, MAPPED_BYTES_MIN / 8, MAPPED_BYTES_MIN] {
            let mut block = Block::<u64>::zeroed(len);
            assert_eq!(block.len(), len);
            assert!(block.iter().all(|word| *word == 0));
            if let Some(last) = block.last_mut() {
                *last = 7;
            }
            assert_eq!(block.iter().sum::<u64>(), if len == 0 { 0 } else { 7 });
        }
    }
}
