//! A dictionary: the names behind the keys, checked value by value, and their canonical (byte) order.

use crate::error::{Broken, Fault, Place};
use crate::frame::{self, Layout, Span};
use rayon::prelude::*;
use rewarder_model::Category;
use rewarder_model::memory::Block;
use rewarder_model::name::ACTOR_BYTES_MAX;
use rewarder_model::names::head;
use rewarder_model::snapshot::COLUMNS;
use std::ops::Range;

/// Bytes of a category's name.
const CATEGORY_BYTES_MAX: usize = 64;
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
pub type Body = Block<u8>;

/// Which rules the values have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// 1..=256 bytes of UTF-8 without control characters.
    Actor,
    /// 1..=64 of printable ASCII without quotes and backslash.
    Category,
}

impl Kind {
    /// The column whose values these are.
    pub(crate) const fn column(self) -> &'static str {
        match self {
            Self::Actor => COLUMNS[0],
            Self::Category => COLUMNS[1],
        }
    }
}

impl Dictionary {
    /// A dictionary without values, for a stream without batches.
    pub fn empty() -> Self {
        Self { body: Body::zeroed(0), offsets: 0..0, values: 0..0, len: 0, order: None }
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
        let values = self.values();
        let (start, end) = values.bounds(index);
        &values.text[start..end]
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
    fn values(&self) -> Values<'_> {
        Values {
            offsets: self.body[self.offsets.clone()].as_chunks().0,
            text: &self.body[self.values.clone()],
        }
    }

    /// Sorts indices by value; equal neighbours are duplicates.
    ///
    /// Sorting by the first eight bytes as a number settles most comparisons without touching the names.
    fn sort(&self) -> Result<Vec<u32>, Broken> {
        let head = |index: usize| {
            let values = self.values();
            let (start, end) = values.bounds(index);
            (head(values.text, start, end) >> 64) as u64
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

/// A dictionary whose body is on its way to where it will stay. Values are checked as their bytes come, while they are
/// still in a cache and while the next ones are being hashed.
pub(crate) struct Reading {
    /// Where the body begins in the stream.
    pub at: u64,
    pub kind: Kind,
    body: Body,
    validity: Range<usize>,
    offsets: Range<usize>,
    values: Range<usize>,
    len: usize,
    /// So many values have been checked.
    checked: usize,
    /// Whether they ascend.
    sorted: bool,
}

/// What of a dictionary has been read, to be checked.
pub(crate) struct Ready<'a> {
    there: &'a [u8],
    offsets: Range<usize>,
    values: Range<usize>,
    len: usize,
    checked: usize,
    kind: Kind,
}

/// How far the values have been checked, and whether the ones that were new ascend.
pub(crate) struct Checked {
    upto: usize,
    sorted: bool,
}

impl Reading {
    /// For a dictionary batch whose layout holds and whose body, of `body_len` bytes, begins at `at`.
    pub fn new(at: u64, body_len: usize, layout: &Layout<1>, kind: Kind) -> Result<Self, Broken> {
        // Layout has bounded the spans by the body, for which memory is being taken: these casts cannot cut.
        let range = |span: Span| span.offset as usize..(span.offset + span.len) as usize;
        Ok(Self {
            at,
            kind,
            // Only what the stream has filled is looked at.
            body: Block::scratch(body_len),
            validity: range(layout.validity[0]),
            offsets: range(layout.data[0]),
            values: range(layout.values),
            len: u32::try_from(layout.rows).map_err(|_| Fault::DictionaryTooLong.here())? as usize,
            checked: 0,
            sorted: true,
        })
    }

    /// Where the body ends in the stream.
    pub fn end(&self) -> u64 {
        self.at + self.body.len() as u64
    }

    /// What the stream had up to `read`, and the part of the body that is still to be filled.
    pub fn split(&mut self, read: u64) -> (Ready<'_>, &mut [u8]) {
        let there = (read.saturating_sub(self.at) as usize).min(self.body.len());
        let (there, rest) = self.body.split_at_mut(there);
        let (offsets, values) = (self.offsets.clone(), self.values.clone());
        (Ready { there, offsets, values, len: self.len, checked: self.checked, kind: self.kind }, rest)
    }

    /// Takes note of what [`Ready::check`] found.
    pub fn note(&mut self, checked: Checked) {
        self.checked = checked.upto;
        self.sorted &= checked.sorted;
    }

    /// Checks what is left to be checked.
    pub fn finish(mut self) -> Result<Dictionary, Broken> {
        let rows = self.len as u64;
        if !self.validity.is_empty() {
            let bits = &self.body[self.validity.clone()];
            if (bits.len() as u64) < rows.div_ceil(8) {
                return Err(Fault::ValidityTooShort.here());
            }
            if !frame::all_valid(bits, rows) {
                return Err(Fault::ValidityZero.here());
            }
        }
        let (ready, _) = self.split(self.end());
        if ready.len == 0 {
            // The one offset bounds no value of ours, but other readers slice by it.
            let first = ready.there[ready.offsets.clone()]
                .first_chunk()
                .map_or(0, |first| u32::from_le_bytes(*first));
            if first as usize > ready.values.len() {
                return Err(Fault::OffsetsInvalid.here());
            }
        }
        let checked = ready.check()?;
        self.note(checked);
        let Self { body, offsets, values, len, sorted, .. } = self;
        let mut this = Dictionary { body, offsets, values, len, order: None };
        if !sorted {
            this.order = Some(this.sort()?);
        }
        Ok(this)
    }
}

impl Ready<'_> {
    /// Checks the values whose bytes are all there.
    pub fn check(&self) -> Result<Checked, Broken> {
        let none = Checked { upto: self.checked, sorted: true };
        // Without values there may be no offsets either, not even the first.
        if self.len == 0 {
            return Ok(none);
        }
        let Some(offsets) = self.there.get(self.offsets.clone()) else { return Ok(none) };
        let text_end = self.there.len().min(self.values.end);
        let Some(text) = self.there.get(self.values.start..text_end) else { return Ok(none) };
        let values = Values { offsets: offsets.as_chunks().0, text };
        let within = |offset: &[u8; 4]| u32::from_le_bytes(*offset) as usize <= text.len();
        let upto = match text_end == self.values.end {
            true => self.len,
            // Offsets that do not ascend put this anywhere; the check of the values before it finds them out.
            false => self.checked + values.offsets[self.checked + 1..].partition_point(within),
        };
        let tasks: Vec<Range<usize>> = (self.checked..upto)
            .step_by(VALUES_PER_TASK)
            .map(|start| start..(start + VALUES_PER_TASK).min(upto))
            .collect();
        let checked: Vec<Result<bool, Broken>> =
            tasks.into_par_iter().map(|range| values.check(range, self.kind)).collect();
        let mut sorted = true;
        for result in checked {
            sorted &= result?;
        }
        Ok(Checked { upto, sorted })
    }
}

/// Values as an Arrow array of strings has them: value `i` is `text[offsets[i]..offsets[i + 1]]`.
#[derive(Clone, Copy)]
struct Values<'a> {
    offsets: &'a [[u8; 4]],
    text: &'a [u8],
}

impl<'a> Values<'a> {
    #[inline]
    fn bounds(&self, index: usize) -> (usize, usize) {
        let at = |index: usize| u32::from_le_bytes(self.offsets[index]) as usize;
        (at(index), at(index + 1))
    }

    /// Checks some values and whether they, and the one before them, ascend strictly.
    fn check(&self, range: Range<usize>, kind: Kind) -> Result<bool, Broken> {
        let fault = |fault: Fault, index: usize| {
            Err(fault.at(Place { value: Some(index as u64), ..Place::default() }))
        };
        let text = self.text;
        let first = self.bounds(range.start).0;
        if first > text.len() {
            return fault(Fault::OffsetsInvalid, range.start);
        }
        // The value before may be another task's, and not checked yet: clamped instead of trusted.
        let before = range.start.checked_sub(1).map(|index| self.bounds(index));
        let mut last = before.and_then(|(start, end)| text.get(start..end));
        let mut last_head = last.map_or(0, |last| head(last, 0, last.len()));
        let (mut start, mut shortest, mut longest, mut sorted) = (first, usize::MAX, 0, true);
        for (index, offset) in range.clone().zip(&self.offsets[range.start + 1..]) {
            let end = u32::from_le_bytes(*offset) as usize;
            // Above i32::MAX an offset is negative to Arrow; no body that fits in memory for real gets there.
            if end < start || end > text.len() || end > i32::MAX as usize {
                return fault(Fault::OffsetsInvalid, index);
            }
            shortest = shortest.min(end - start);
            longest = longest.max(end - start);
            if sorted {
                let value = &text[start..end];
                let head = head(text, start, end);
                // Heads settle nearly every comparison; equal ones are those of values that agree that far.
                sorted = head > last_head
                    || (head == last_head && last.is_some_and(|last| last < value))
                    || last.is_none();
                (last, last_head) = (Some(value), head);
            }
            start = end;
        }
        let block = &text[first..start];
        let longest_allowed = if kind == Kind::Actor { ACTOR_BYTES_MAX } else { CATEGORY_BYTES_MAX };
        let fits = kind == Kind::Actor && shortest > 0 && longest <= longest_allowed;
        // The block as a whole is judged quickly; only a block that may be at fault is judged value by value.
        let whole = || range.clone().all(|index| is_char_boundary(text, self.bounds(index).0));
        if !(fits && (is_plain(block) || (is_clean(block) && whole()))) {
            for index in range {
                let (start, end) = self.bounds(index);
                if let Some(found) = value_fault(&text[start..end], kind) {
                    return fault(found, index);
                }
            }
        }
        Ok(sorted)
    }
}

/// Whether all of it is printable ASCII. Without early exit, so that the compiler makes vectors of it.
fn is_plain(text: &[u8]) -> bool {
    !text.iter().fold(false, |found, byte| found | (byte.wrapping_sub(b' ') > b'~' - b' '))
}

/// Whether all of it is UTF-8 without control characters, which are below U+0020 or from U+007F to U+009F.
fn is_clean(text: &[u8]) -> bool {
    let low = text.iter().fold(false, |found, byte| found | (*byte < 0x20) | (*byte == 0x7f));
    !low && std::str::from_utf8(text).is_ok()
        // U+0080..=U+009F is 0xC2 followed by 0x80..=0x9F.
        && !text.windows(2).any(|pair| pair[0] == 0xc2 && pair[1] < 0xa0)
}

fn is_char_boundary(text: &[u8], at: usize) -> bool {
    text.get(at).is_none_or(|byte| byte & 0xc0 != 0x80)
}

fn value_fault(value: &[u8], kind: Kind) -> Option<Fault> {
    let text = std::str::from_utf8(value);
    match (kind, text) {
        (Kind::Category, Ok(text)) => text.parse::<Category>().is_err().then_some(Fault::CategoryInvalid),
        (Kind::Category, Err(_)) => Some(Fault::CategoryInvalid),
        (Kind::Actor, _) if value.is_empty() => Some(Fault::ActorEmpty),
        (Kind::Actor, _) if value.len() > ACTOR_BYTES_MAX => Some(Fault::ActorTooLong),
        (Kind::Actor, Err(_)) => Some(Fault::NotUtf8),
        (Kind::Actor, Ok(text)) => text.chars().any(char::is_control).then_some(Fault::ActorControl),
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

    #[inline]
    fn place(&self, index: usize) -> (&[u8], usize, usize) {
        let values = self.values();
        let (start, end) = values.bounds(index);
        (values.text, start, end)
    }

    fn order(&self) -> Option<&[u32]> {
        self.order()
    }
}
