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

/// Asks the processor to fetch what holds `values[index]`, which is soon to be changed. Beyond the end nothing happens.
#[inline]
#[allow(unsafe_code)]
pub fn prefetch<T>(values: &[T], index: usize) {
    #[cfg(target_arch = "x86_64")]
    if let Some(value) = values.get(index) {
        // SAFETY: a prefetch is a hint: it reads and changes nothing that a program can see, at whatever address; and
        // SSE, which it belongs to, is part of every x86-64.
        unsafe {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(value).cast());
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (values, index);
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
