//! Large blocks of memory. First touch of fresh memory costs as much as hashing it does: the system clears each page. So
//! blocks of megabytes are asked for in huge pages, which spares the faults, and what is mapped is kept when it is dropped, within a
//! bound, for the next one who needs as much: then nothing has to be cleared that will be written anyway.

use memmap2::{Advice, MmapMut};
use std::collections::VecDeque;
use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, PoisonError};

/// From this size on a block is mapped for itself, and so begins at a page. What an allocator maps for a piece begins a few bytes
/// behind one, and AMD's Zen 3 takes two to three times as long to copy to such a place, as a read from a file does: it says that
/// `rep movsb` is fast, so that the system uses it, and it is not where the destination is not aligned.
const MAPPED_BYTES_MIN: usize = 64 << 10;
/// A page of x86-64 and of most others.
const PAGE_BYTES: usize = 4 << 10;
/// A huge page of x86-64 and of most others. Large mappings are so many of them: the system puts one of another size anywhere, and its
/// beginning and end into small pages, which cost five hundred faults each.
const HUGE_PAGE_BYTES: usize = 2 << 20;
/// Bytes of dropped blocks that are kept: what an epoch of a million actors takes, and no more, whatever the largest job was.
const KEPT_BYTES_MAX: usize = 64 << 20;

/// Mappings that were dropped, the oldest first. Shared by all threads; taken and given back a few times a job.
static KEPT: Mutex<VecDeque<MmapMut>> = Mutex::new(VecDeque::new());

/// A block of `T`, kept for reuse or given back to the system when it is dropped.
#[derive(Debug)]
pub struct Block<T> {
    memory: Memory<T>,
    /// Number of `T`: a mapping may be longer.
    len: usize,
}

#[derive(Debug)]
enum Memory<T> {
    Heap(Vec<T>),
    /// None only while it is being dropped.
    Mapped(Option<MmapMut>),
}

impl<T: bytemuck::Pod> Block<T> {
    /// `len` zeros.
    pub fn zeroed(len: usize) -> Self {
        let (mut block, used) = Self::new(len);
        if used {
            block.fill(T::zeroed());
        }
        block
    }

    /// `len` values that may be anything: for who writes before reading.
    pub fn scratch(len: usize) -> Self {
        Self::new(len).0
    }

    /// Gives the memory back to the system: for who knows that it will not be wanted again soon, or has no room to keep it.
    pub fn discard(mut self) {
        if let Memory::Mapped(map) = &mut self.memory {
            drop(map.take());
        }
    }

    /// A block, and whether it has been used before; one that has not is zeroed.
    fn new(len: usize) -> (Self, bool) {
        let bytes = len.saturating_mul(size_of::<T>());
        if bytes >= MAPPED_BYTES_MIN {
            if let Some(map) = kept(bytes) {
                return (Self { memory: Memory::Mapped(Some(map)), len }, true);
            }
            let huge = bytes > HUGE_PAGE_BYTES - PAGE_BYTES;
            let page = if huge { HUGE_PAGE_BYTES } else { PAGE_BYTES };
            if let Ok(map) = MmapMut::map_anon(bytes.checked_next_multiple_of(page).unwrap_or(bytes)) {
                if huge {
                    // Advice only: without huge pages it is slower, not wrong.
                    let _ = map.advise(Advice::HugePage);
                }
                return (Self { memory: Memory::Mapped(Some(map)), len }, false);
            }
        }
        (Self { memory: Memory::Heap(vec![T::zeroed(); len]), len }, false)
    }
}

/// A kept mapping of at least so many bytes, the smallest there is; none of more than twice as many, so that memory is not
/// held for a fraction of it.
fn kept(bytes: usize) -> Option<MmapMut> {
    let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    let fits = kept.iter().enumerate().filter(|(_, map)| (bytes..=2 * bytes).contains(&map.len()));
    let (at, _) = fits.min_by_key(|(_, map)| map.len())?;
    kept.remove(at)
}

/// Gives all that is kept back to the system: for who begins something else that will need as much, in other pieces.
pub fn give_back() {
    let gone = std::mem::take(&mut *KEPT.lock().unwrap_or_else(PoisonError::into_inner));
    // Unmapped without the lock.
    drop(gone);
}

/// Keeps a mapping; lets go of the oldest ones beyond [`KEPT_BYTES_MAX`].
fn keep(map: MmapMut) {
    if map.len() > KEPT_BYTES_MAX {
        return;
    }
    let mut gone = Vec::new();
    let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    kept.push_back(map);
    let mut bytes: usize = kept.iter().map(|map| map.len()).sum();
    while bytes > KEPT_BYTES_MAX
        && let Some(oldest) = kept.pop_front()
    {
        bytes -= oldest.len();
        gone.push(oldest);
    }
    // Unmapped without the lock.
    drop(kept);
    drop(gone);
}

impl<T> Drop for Block<T> {
    fn drop(&mut self) {
        if let Memory::Mapped(map) = &mut self.memory {
            map.take().into_iter().for_each(keep);
        }
    }
}

impl<T: bytemuck::Pod> Deref for Block<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        match &self.memory {
            Memory::Heap(values) => values,
            // A mapping begins at a page, so that it is aligned for every `T` here.
            Memory::Mapped(map) => {
                map.as_deref().map_or(&[], |map| bytemuck::cast_slice(&map[..self.len * size_of::<T>()]))
            }
        }
    }
}

impl<T: bytemuck::Pod> DerefMut for Block<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        match &mut self.memory {
            Memory::Heap(values) => values,
            Memory::Mapped(map) => map
                .as_deref_mut()
                .map_or(&mut [], |map| bytemuck::cast_slice_mut(&mut map[..self.len * size_of::<T>()])),
        }
    }
}

/// Asks the processor to fetch what holds `values[index]`, which is soon to be changed. Beyond the end nothing is asked that
/// matters.
#[inline]
#[allow(unsafe_code)]
pub fn prefetch<T>(values: &[T], index: usize) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch is a hint: it reads and changes nothing that a program can see, at whatever address, mapped or not
    // (Intel SDM vol. 2, PREFETCHh; AMD APM vol. 3), so no bounds have to hold and none are checked; and SSE, which it
    // belongs to, is part of every x86-64. The address is computed without `unsafe`.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(values.as_ptr().wrapping_add(index).cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (values, index);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_are_zeroed_and_writable() {
        // Twice: the second time around the mapped ones have been used.
        for len in [0, 7, MAPPED_BYTES_MIN / 8, MAPPED_BYTES_MIN, HUGE_PAGE_BYTES].repeat(2) {
            let mut block = Block::<u64>::zeroed(len);
            assert_eq!(block.len(), len);
            assert!(block.iter().all(|word| *word == 0));
            block.fill(u64::MAX);
            if let Some(last) = block.last_mut() {
                *last = 7;
            }
            assert!(len == 0 || block[len - 1] == 7);
        }
    }

    #[test]
    fn what_is_large_begins_at_a_page_and_keeps_its_length() {
        fn check<T: bytemuck::Pod>(len: usize) {
            let mut block = Block::<T>::zeroed(len);
            assert_eq!(block.as_ptr().align_offset(PAGE_BYTES), 0, "{len}");
            assert_eq!((block.len(), block[..].len()), (len, len));
            block.fill(bytemuck::Zeroable::zeroed());
            // Moved, it stays where it is.
            let moved = Some(block);
            assert_eq!(moved.as_ref().map_or(1, |block| block.as_ptr().align_offset(PAGE_BYTES)), 0);
        }
        for bytes in [MAPPED_BYTES_MIN, MAPPED_BYTES_MIN + 8, HUGE_PAGE_BYTES - 8, HUGE_PAGE_BYTES] {
            check::<u8>(bytes);
            check::<u8>(bytes + 1);
            check::<u64>(bytes / 8);
        }
    }

    #[test]
    fn a_prefetch_changes_nothing_wherever_it_points() {
        let values: Vec<u64> = (0..100).collect();
        for index in [0, 99, 100, 1 << 20, 1 << 40, usize::MAX] {
            prefetch(&values, index);
            prefetch::<u64>(&[], index);
        }
        assert!(values.iter().copied().eq(0..100));
    }

    #[test]
    fn what_is_kept_is_bounded_and_fits() {
        let kept = || KEPT.lock().unwrap().iter().map(|map| map.len()).sum::<usize>();
        let held: Vec<_> = (0..40).map(|n| Block::<u8>::scratch(HUGE_PAGE_BYTES + 1 + n)).collect();
        drop(held);
        assert!(kept() <= KEPT_BYTES_MAX, "{}", kept());
        // A block from what was kept has its own length, not the mapping's.
        let block = Block::<u16>::scratch(HUGE_PAGE_BYTES);
        assert_eq!((block.len(), block[..].len()), (HUGE_PAGE_BYTES, HUGE_PAGE_BYTES));
        drop(block);
        // One that is never kept takes nothing away from what is.
        drop(Block::<u8>::scratch(KEPT_BYTES_MAX + 1));
        assert!((KEPT_BYTES_MAX / 2..=KEPT_BYTES_MAX).contains(&kept()), "{}", kept());
    }
}
