//! A dictionary: the names behind the keys, checked value by value, and their canonical (byte) order.

use crate::error::{Broken, Fault, Place};
use crate::frame::Span;
use rayon::prelude::*;
use rewarder_model::name::ACTOR_BYTES_MAX;
use rewarder_model::names::head;
use std::ops::Range;

/// Values checked by one task; large enough to make scheduling free, small enough that their bytes stay in L2.
const VALUES_PER_TASK: usize = 16 * 1024;

/// A dictionary whose values obey the contract and are distinct.
///
/// Values are kept where the stream had them, as one block of bytes, so that a name costs its bytes and four more.
#[derive(Debug)]
pub struct Dictionary {
    body: Body,
    offsets: Range<usize>,
    values: Range<usize>,
    len: usize,
    /// Indices in byte order of the values; none when the values stand in that order.
    order: Option<Vec<u32>>,
}

/// The memory behind a dictionary: a message's body.
pub type Body = rewarder_model::memory::Block<u8>;

/// Which rules the values have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// 1..=256 bytes of UTF-8 without control characters.
    Actor,
    /// 1..=64 of printable ASCII without quotes and backslash.
    Category,
}

impl Dictionary {
    /// A dictionary without values, for a stream without batches.
    pub fn empty() -> Self {
        Self { body: Body::zeroed(0), offsets: 0..0, values: 0..0, len: 0, order: None }
    }

    /// Checks the values of a dictionary batch whose layout holds.
    pub(crate) fn read(
        body: Body,
        len: u64,
        offsets: Span,
        values: Span,
        kind: Kind,
    ) -> Result<Self, Broken> {
        // Layout has bounded both spans by the body, which is in memory: these casts cannot cut.
        let range = |span: Span| span.offset as usize..(span.offset + span.len) as usize;
        let len = u32::try_from(len).map_err(|_| Fault::DictionaryTooLong.here())? as usize;
        let mut this = Self { offsets: range(offsets), values: range(values), len, order: None, body };
        if len == 0 {
            // The one offset bounds no value of ours, but other readers slice by it.
            let first =
                this.body[this.offsets.clone()].first_chunk().map_or(0, |first| u32::from_le_bytes(*first));
            let fits = first as usize <= this.values.len();
            return if fits { Ok(this) } else { Err(Fault::OffsetsInvalid.here()) };
        }
        let tasks: Vec<Range<usize>> = (0..len)
            .step_by(VALUES_PER_TASK)
            .map(|start| start..(start + VALUES_PER_TASK).min(len))
            .collect();
        let checked: Vec<Result<bool, Broken>> =
            tasks.into_par_iter().map(|values| this.check(values, kind)).collect();
        let mut sorted = true;
        for result in checked {
            sorted &= result?;
        }
        if !sorted {
            this.order = Some(this.sort()?);
        }
        Ok(this)
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The value with this index.
    ///
    /// # Panics
    /// When there is none: keys are checked before they are handed on.
    #[inline]
    pub fn value(&self, index: usize) -> &[u8] {
        assert!(index < self.len, "a checked dictionary key");
        let (start, end) = self.bounds(index);
        &self.body[self.values.clone()][start..end]
    }

    /// Indices of the values in ascending byte order; `None` when index order is that order (the fast case).
    pub fn order(&self) -> Option<&[u32]> {
        self.order.as_deref()
    }

    /// The index of `name`, by binary search.
    pub fn find(&self, name: &[u8]) -> Option<usize> {
        let at = |rank: usize| self.order.as_ref().map_or(rank, |order| order[rank] as usize);
        let (mut low, mut high) = (0, self.len);
        while low < high {
            let middle = low.midpoint(high);
            match self.value(at(middle)).cmp(name) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => return Some(at(middle)),
            }
        }
        None
    }

    #[inline]
    fn bounds(&self, index: usize) -> (usize, usize) {
        let offsets = &self.body[self.offsets.clone()][4 * index..4 * index + 8];
        let at = |i: usize| {
            u32::from_le_bytes([offsets[i], offsets[i + 1], offsets[i + 2], offsets[i + 3]]) as usize
        };
        (at(0), at(4))
    }

    /// Checks some values and whether they, and the one before them, ascend strictly.
    fn check(&self, range: Range<usize>, kind: Kind) -> Result<bool, Broken> {
        let values = &self.body[self.values.clone()];
        let fault = |fault: Fault, index: usize| {
            Err(fault.at(Place { value: Some(index as u64), ..Place::default() }))
        };
        let first = self.bounds(range.start).0;
        if first > values.len() {
            return fault(Fault::OffsetsInvalid, range.start);
        }
        let mut last = if range.start == 0 { None } else { Some(self.unchecked_before(range.start, values)) };
        let mut last_head = last.map_or(0, |last| head(last, 0, last.len()));
        let (mut start, mut shortest, mut longest, mut sorted) = (first, usize::MAX, 0, true);
        let offsets =
            self.body[self.offsets.clone()][4 * range.start + 4..4 * range.end + 4].as_chunks::<4>().0;
        for (index, offset) in range.clone().zip(offsets) {
            let end = u32::from_le_bytes(*offset) as usize;
            // Above i32::MAX an offset is negative to Arrow; no body that fits in memory for real gets there.
            if end < start || end > values.len() || end > i32::MAX as usize {
                return fault(Fault::OffsetsInvalid, index);
            }
            shortest = shortest.min(end - start);
            longest = longest.max(end - start);
            if sorted {
                let value = &values[start..end];
                let head = head(values, start, end);
                // Heads settle nearly every comparison; equal ones are those of values that agree that far.
                sorted = head > last_head
                    || (head == last_head && last.is_some_and(|last| last < value))
                    || last.is_none();
                (last, last_head) = (Some(value), head);
            }
            start = end;
        }
        let text = &values[first..start];
        let longest_allowed = if kind == Kind::Actor { ACTOR_BYTES_MAX } else { 64 };
        // The block as a whole is judged quickly; only a block that fails is searched for the value that is at fault.
        let clean = shortest > 0 && longest <= longest_allowed && is_clean(text, kind);
        let whole =
            || text.is_ascii() || range.clone().all(|index| is_char_boundary(values, self.bounds(index).0));
        if !(clean && whole()) {
            for index in range.clone() {
                if let Some(found) = value_fault(self.value(index), kind) {
                    return fault(found, index);
                }
            }
        }
        Ok(sorted)
    }

    /// The value before a task's range, which another task may not have checked yet: clamped instead of trusted.
    fn unchecked_before<'a>(&self, index: usize, values: &'a [u8]) -> &'a [u8] {
        let (start, end) = self.bounds(index - 1);
        values.get(start..end).unwrap_or_default()
    }

    /// Sorts indices by value; equal neighbours are duplicates.
    ///
    /// Sorting by the first eight bytes as a number settles most comparisons without touching the names.
    fn sort(&self) -> Result<Vec<u32>, Broken> {
        let head = |index: usize| {
            let (start, end) = self.bounds(index);
            (head(&self.body[self.values.clone()], start, end) >> 64) as u64
        };
        let mut keys: Vec<(u64, u32)> =
            (0..self.len).into_par_iter().map(|index| (head(index), index as u32)).collect();
        keys.par_sort_unstable_by(|a, b| {
            a.0.cmp(&b.0).then_with(|| self.value(a.1 as usize).cmp(self.value(b.1 as usize)))
        });
        let twin = keys.par_windows(2).filter(|pair| {
            pair[0].0 == pair[1].0 && self.value(pair[0].1 as usize) == self.value(pair[1].1 as usize)
        });
        if let Some(index) = twin.map(|pair| pair[0].1.max(pair[1].1)).min() {
            return Err(Fault::ValueTwice.at(Place { value: Some(index.into()), ..Place::default() }));
        }
        Ok(keys.into_iter().map(|(_, index)| index).collect())
    }
}

fn is_char_boundary(text: &[u8], at: usize) -> bool {
    text.get(at).is_none_or(|byte| byte & 0xc0 != 0x80)
}

fn is_clean(text: &[u8], kind: Kind) -> bool {
    match kind {
        Kind::Category => text.iter().all(|c| matches!(c, b' '..=b'~') && !matches!(c, b'\'' | b'"' | b'\\')),
        Kind::Actor => {
            // Without early exit, so that the compiler makes vectors of it.
            let control = text.iter().fold(false, |found, c| found | (*c < 0x20) | (*c == 0x7f));
            // U+0080..=U+009F is 0xC2 followed by 0x80..=0x9F.
            let second_controls = || text.windows(2).any(|w| w[0] == 0xc2 && w[1] < 0xa0);
            !control && (text.is_ascii() || (std::str::from_utf8(text).is_ok() && !second_controls()))
        }
    }
}

fn value_fault(value: &[u8], kind: Kind) -> Option<Fault> {
    match kind {
        Kind::Category => ((1..=64).contains(&value.len()) && is_clean(value, kind))
            .then_some(())
            .map_or(Some(Fault::CategoryInvalid), |()| None),
        Kind::Actor if value.is_empty() => Some(Fault::ActorEmpty),
        Kind::Actor if value.len() > ACTOR_BYTES_MAX => Some(Fault::ActorTooLong),
        Kind::Actor if std::str::from_utf8(value).is_err() => Some(Fault::NotUtf8),
        Kind::Actor => (!is_clean(value, kind)).then_some(Fault::ActorControl),
    }
}

impl rewarder_model::Names for Dictionary {
    fn len(&self) -> usize {
        self.len
    }

    #[inline]
    fn name(&self, index: usize) -> &[u8] {
        self.value(index)
    }

    fn order(&self) -> Option<&[u32]> {
        self.order()
    }
}
