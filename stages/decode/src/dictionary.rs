//! A dictionary: the names behind the keys, checked value by value, and their canonical (byte) order.

use crate::error::{Broken, Fault, Place};
use crate::frame::{self, Layout, Span};
use rayon::prelude::*;
use rewarder_model::memory::Block;
use rewarder_model::name::ACTOR_BYTES_MAX;
use rewarder_model::names::{HEAD_BYTES, head, head_of};
use rewarder_model::snapshot::COLUMNS;
use rewarder_model::{Bits, Category};
use std::ops::Range;

/// Bytes of a category's name.
const CATEGORY_BYTES_MAX: usize = 64;
/// Values checked by one task; large enough to make scheduling free.
const VALUES_PER_TASK: usize = 16 * 1024;
/// Values compared by what comes behind the beginning that all of them share: the fewer the longer that is.
const VALUES_ALIKE: usize = 64;

/// A dictionary whose values obey the contract and are distinct.
///
/// Values are kept where the stream had them, as one block of bytes, so that a name costs its bytes and four more; or only those
/// that are wanted, where a sink has said which these are.
#[derive(Debug)]
pub struct Dictionary {
    body: Body,
    offsets: Range<usize>,
    values: Range<usize>,
    len: usize,
    /// Indices in byte order of the values; none when the values stand in that order.
    order: Option<Vec<u32>>,
    /// Which values are kept, if not all of them are.
    chosen: Option<Chosen>,
}

/// Some values of a dictionary.
#[derive(Debug)]
struct Chosen {
    /// Their indices.
    which: Bits,
    /// How many of them come before each [`Bits::TOGETHER`] indices.
    before: Vec<u32>,
}

impl Chosen {
    fn new(which: Bits) -> Self {
        let before = which.counts().scan(0, |sum, count| Some(std::mem::replace(sum, *sum + count)));
        Self { before: before.collect(), which }
    }

    /// Which of those that are kept has this index among all.
    fn at(&self, index: usize) -> usize {
        assert!(self.which.contains(index), "a value that was wanted");
        self.before[index / Bits::TOGETHER] as usize + self.which.below(index)
    }
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
        Self { body: Body::zeroed(0), offsets: 0..0, values: 0..0, len: 0, order: None, chosen: None }
    }

    /// A dictionary of so many values in order, of which these are kept: the text and the lengths of them.
    pub(crate) fn of_chosen(len: usize, which: Bits, lengths: &[u16], text: &[u8]) -> Self {
        let offsets = 0..4 * (lengths.len() + 1);
        let values = offsets.end..offsets.end + text.len();
        let mut body = Body::scratch(values.end);
        let (ends, names) = body.split_at_mut(offsets.end);
        let mut end = 0u32;
        for (to, length) in ends.as_chunks_mut().0.iter_mut().zip([0].iter().chain(lengths)) {
            end += u32::from(*length);
            *to = end.to_le_bytes();
        }
        names.copy_from_slice(text);
        Self { body, offsets, values, len, order: None, chosen: Some(Chosen::new(which)) }
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
    /// When there is none, as keys are checked before they are handed on; or when the sink did not want it.
    #[inline]
    pub fn value(&self, index: usize) -> &[u8] {
        assert!(index < self.len, "a checked dictionary key");
        let (text, start, end) = self.place(index);
        &text[start..end]
    }

    /// Indices of the values in ascending byte order; `None` when index order is that order (the fast case).
    pub fn order(&self) -> Option<&[u32]> {
        self.order.as_deref()
    }

    /// The text in which a value stands, and where.
    #[inline]
    fn place(&self, index: usize) -> (&[u8], usize, usize) {
        let values = Values {
            offsets: self.body[self.offsets.clone()].as_chunks().0,
            text: &self.body[self.values.clone()],
            at: 0,
        };
        let (start, end) = values.bounds(self.chosen.as_ref().map_or(index, |chosen| chosen.at(index)));
        (values.text, start, end)
    }

    /// Sorts indices by value; equal neighbours are duplicates.
    ///
    /// Sorting by the first eight bytes as a number settles most comparisons without touching the names.
    fn sort(&self) -> Result<Vec<u32>, Broken> {
        let head = |index: usize| {
            let (text, start, end) = self.place(index);
            (head(text, start, end) >> 64) as u64
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

/// A dictionary whose body is on its way to where it will stay. Values are checked by whoever has read and hashed their bytes,
/// from his cache; what lies across the seams of two such pieces is checked afterwards.
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

/// What of a dictionary has been read, to check values by.
pub(crate) struct Ready<'a> {
    /// Where the body begins in the stream.
    at: u64,
    there: &'a [u8],
    offsets: Range<usize>,
    values: Range<usize>,
    len: usize,
    kind: Kind,
}

/// Values that lay in one piece of the body, and whether they obey the rules and ascend.
pub(crate) struct Checked {
    values: Range<usize>,
    sorted: Result<bool, Broken>,
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
        (Ready { at: self.at, there, offsets, values, len: self.len, kind: self.kind }, rest)
    }

    /// Takes note of what [`Ready::check_piece`] found in pieces that follow each other up to `read`, and checks what lies
    /// between them.
    pub fn note(&mut self, read: u64, pieces: impl IntoIterator<Item = Checked>) -> Result<(), Broken> {
        let (mut checked, mut sorted) = (self.checked, true);
        let (ready, _) = self.split(read);
        for piece in pieces {
            // Offsets that do not ascend may say anything; the check of what is left finds them out.
            if piece.values.is_empty() || piece.values.start < checked {
                continue;
            }
            sorted &= ready.check(checked..piece.values.start)?;
            sorted &= piece.sorted? && ready.values().follows(piece.values.start);
            checked = piece.values.end;
        }
        self.checked = checked;
        self.sorted &= sorted;
        Ok(())
    }

    /// Checks what is left to be checked, and sorts what is in no order.
    pub fn finish(self) -> Result<Dictionary, Broken> {
        let (mut this, sorted) = self.checked()?;
        if !sorted {
            this.order = Some(this.sort()?);
        }
        Ok(this)
    }

    /// Checks what is left to be checked; nothing if something is wrong or they are in no order.
    pub fn finish_in_order(self) -> Option<Dictionary> {
        self.checked().ok().and_then(|(this, sorted)| sorted.then_some(this))
    }

    /// The dictionary, and whether its values ascend; its order is still to be found if they do not.
    fn checked(mut self) -> Result<(Dictionary, bool), Broken> {
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
        let checked = self.checked;
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
        let sorted = ready.check(checked..ready.len)?;
        let sorted = self.sorted && sorted;
        let Self { body, offsets, values, len, .. } = self;
        Ok((Dictionary { body, offsets, values, len, order: None, chosen: None }, sorted))
    }
}

impl Ready<'_> {
    /// The values of which all is there, and the beginnings of others.
    fn values(&self) -> Values<'_> {
        // There may be no offsets, not even the first, where there are no values.
        let offsets = self.there.get(self.offsets.clone()).unwrap_or_default();
        let text = self.there.get(self.values.start..self.there.len().min(self.values.end));
        Values { offsets: offsets.as_chunks().0, text: text.unwrap_or_default(), at: 0 }
    }

    /// Checks the values that lie within a piece of the body, which begins at `at` of the stream, as far as that can be told by
    /// what was there before.
    pub fn check_piece(&self, at: u64, piece: &[u8]) -> Checked {
        let none = Checked { values: 0..0, sorted: Ok(true) };
        let piece_at = (at - self.at) as usize;
        let start = self.values.start.saturating_sub(piece_at);
        let end = self.values.end.saturating_sub(piece_at).min(piece.len());
        let Some(text) = piece.get(start..end) else { return none };
        let offsets = self.values().offsets;
        let at = piece_at + start - self.values.start;
        let first = offsets.partition_point(|offset| (u32::from_le_bytes(*offset) as usize) < at);
        let ends = offsets.partition_point(|offset| u32::from_le_bytes(*offset) as usize <= at + text.len());
        let values = first..ends.saturating_sub(1);
        if values.is_empty() {
            return none;
        }
        let here = Values { offsets, text, at };
        let sorted = tasks(&values).try_fold(true, |sorted, task| Ok(sorted & here.check(task, self.kind)?));
        Checked { values, sorted }
    }

    /// Checks some values, whose bytes are all there, and whether they and the one before them ascend.
    fn check(&self, range: Range<usize>) -> Result<bool, Broken> {
        let values = self.values();
        let tasks: Vec<Range<usize>> = tasks(&range).collect();
        let checked: Vec<Result<bool, Broken>> =
            tasks.into_par_iter().map(|range| values.check(range, self.kind)).collect();
        checked.into_iter().try_fold(true, |sorted, checked| Ok(sorted & checked?))
    }
}

/// Some values, cut into tasks.
pub(crate) fn tasks(range: &Range<usize>) -> impl Iterator<Item = Range<usize>> {
    range.clone().step_by(VALUES_PER_TASK).map(|start| start..(start + VALUES_PER_TASK).min(range.end))
}

/// Values as an Arrow array of strings has them, of which a part is here: value `i` is `text[offsets[i] - at..offsets[i + 1] - at]`.
#[derive(Clone, Copy)]
pub(crate) struct Values<'a> {
    pub offsets: &'a [[u8; 4]],
    pub text: &'a [u8],
    pub at: usize,
}

impl<'a> Values<'a> {
    /// Where a value begins and ends in the text: beyond it if it is not here, or its offsets are wrong.
    #[inline]
    pub fn bounds(&self, index: usize) -> (usize, usize) {
        let at = |index: usize| (u32::from_le_bytes(self.offsets[index]) as usize).wrapping_sub(self.at);
        (at(index), at(index + 1))
    }

    /// The shortest and the longest length of the values of one task, at least one; else the first whose offsets are wrong.
    fn lengths(&self, range: Range<usize>) -> Result<(usize, usize), usize> {
        /// So many tasks of values of this length are below 2^32.
        const MODERATE: i32 = 1 << 16;
        const { assert!(VALUES_PER_TASK as u64 * (MODERATE as u64) < 1 << 32) };
        // Above i32::MAX an offset is negative to Arrow; no body that fits in memory for real gets there.
        let most = self.text.len().min((i32::MAX as usize).saturating_sub(self.at));
        let offset = |bytes: &[u8; 4]| u32::from_le_bytes(*bytes);
        let starts = self.offsets[range.clone()].iter().map(offset);
        let ends = self.offsets[range.start + 1..=range.end].iter().map(offset);
        let lengths = starts.zip(ends).map(|(start, end)| end.wrapping_sub(start).cast_signed());
        // Signed, because the compiler makes better vectors of that.
        let (shortest, longest) =
            lengths.fold((i32::MAX, 0), |(least, most), len| (least.min(len), most.max(len)));
        let (first, last) = (self.bounds(range.start).0, self.bounds(range.end - 1).1);
        // An offset far before the one before it would be 2^32 to be made up for, by more than all these lengths.
        if first <= last && last <= most && shortest >= 0 && longest <= MODERATE {
            return Ok((shortest as usize, longest as usize));
        }
        if first > most {
            return Err(range.start);
        }
        let (mut shortest, mut longest) = (usize::MAX, 0);
        for index in range {
            let (start, end) = self.bounds(index);
            if end < start || end > most {
                return Err(index);
            }
            shortest = shortest.min(end - start);
            longest = longest.max(end - start);
        }
        Ok((shortest, longest))
    }

    /// Whether some values, the shortest of which is so long, and the one before them ascend strictly.
    fn ascend(&self, range: Range<usize>, shortest: usize) -> bool {
        range.clone().step_by(VALUES_ALIKE).all(|start| {
            let range = start..(start + VALUES_ALIKE).min(range.end);
            self.follows(start) && self.ascend_alike(range, shortest)
        })
    }

    /// Whether a value is greater than the one before it, if there is one and it is here. That may be another task's, and not
    /// checked yet: looked up instead of trusted.
    pub fn follows(&self, index: usize) -> bool {
        let value = |index: usize| {
            let (start, end) = self.bounds(index);
            self.text.get(start..end)
        };
        let before = index.checked_sub(1).and_then(value);
        before.is_none_or(|before| value(index).is_some_and(|value| before < value))
    }

    /// Whether a few values whose offsets hold ascend strictly.
    ///
    /// Values in order begin as the first and the last of them both do. What comes behind that settles nearly every comparison,
    /// as a number, without a branch on how long the values are.
    fn ascend_alike(&self, range: Range<usize>, shortest: usize) -> bool {
        let ((first, first_end), (last, last_end)) = (self.bounds(range.start), self.bounds(range.end - 1));
        if last + 2 * HEAD_BYTES > self.text.len() {
            // There is not as much behind it as is looked at.
            return range.skip(1).all(|index| self.follows(index));
        }
        let both = self.text[first..first_end].iter().zip(&self.text[last..last_end]);
        let common = both.take_while(|(a, b)| a == b).count().min(shortest).min(HEAD_BYTES);
        let (mut unlike, mut before) = (0, 0);
        let Some(beginning) = self.text[first..].first_chunk().map(|bytes| u128::from_be_bytes(*bytes))
        else {
            return false;
        };
        for index in range.clone() {
            let (start, end) = self.bounds(index);
            let Some(bytes) = self.text[start..].first_chunk::<{ 2 * HEAD_BYTES }>() else { return false };
            let (Some(front), Some(behind)) = (bytes.first_chunk(), bytes[common..].first_chunk()) else {
                return false;
            };
            unlike |= u128::from_be_bytes(*front) ^ beginning;
            let head = head_of(behind, end - start - common);
            // Equal heads are those of values that agree that far.
            if head <= before && index > range.start && (head < before || !self.follows(index)) {
                return false;
            }
            before = head;
        }
        // Of that many bytes.
        common == 0 || unlike >> (8 * (HEAD_BYTES - common)) == 0
    }

    /// Checks some values, at least one, and whether they, and the one before them, ascend strictly.
    pub fn check(&self, range: Range<usize>, kind: Kind) -> Result<bool, Broken> {
        let fault = |fault: Fault, index: usize| {
            Err(fault.at(Place { value: Some(index as u64), ..Place::default() }))
        };
        let text = self.text;
        let (shortest, longest) = match self.lengths(range.clone()) {
            Ok(found) => found,
            Err(index) => return fault(Fault::OffsetsInvalid, index),
        };
        let sorted = self.ascend(range.clone(), shortest);
        let block = &text[self.bounds(range.start).0..self.bounds(range.end - 1).1];
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
        self.place(index)
    }

    fn order(&self) -> Option<&[u32]> {
        self.order()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// By the letter: the order of the values, none if they ascend; or that something is wrong with them.
    fn plainly(offsets: &[u32], text: &[u8]) -> Result<Option<Vec<u32>>, ()> {
        let value = |pair: &[u32]| text.get(pair[0] as usize..pair[1] as usize).ok_or(());
        let values = offsets.windows(2).map(value).collect::<Result<Vec<_>, ()>>()?;
        if values.iter().any(|value| value_fault(value, Kind::Actor).is_some()) {
            return Err(());
        }
        let mut order: Vec<u32> = (0..values.len() as u32).collect();
        order.sort_by_key(|index| values[*index as usize]);
        let distinct = order.windows(2).all(|pair| values[pair[0] as usize] != values[pair[1] as usize]);
        distinct.then(|| (!order.is_sorted()).then_some(order)).ok_or(())
    }

    /// What a dictionary comes to whose bytes come in pieces that end at `cuts`, some of them noted together.
    fn in_pieces(offsets: &[u32], text: &[u8], cuts: &[(usize, bool)]) -> Result<Option<Vec<u32>>, ()> {
        const AT: u64 = 1000;
        let mut body: Vec<u8> = offsets.iter().flat_map(|offset| offset.to_le_bytes()).collect();
        let span = |offset: usize, len: usize| Span { offset: offset as u64, len: len as u64 };
        let layout = Layout {
            rows: offsets.len() as u64 - 1,
            validity: [span(0, 0)],
            data: [span(0, body.len())],
            values: span(body.len(), text.len()),
        };
        body.extend_from_slice(text);
        let mut reading = Reading::new(AT, body.len(), &layout, Kind::Actor).unwrap();
        let (mut read, mut noted, mut pieces) = (0, 0, Vec::new());
        let mut ends: Vec<_> = cuts.iter().map(|(end, note)| (*end % (body.len() + 1), *note)).collect();
        ends.push((body.len(), true));
        ends.sort_unstable();
        for (end, note) in ends {
            // Pieces that are noted together know what was there before the first of them.
            let (ready, rest) = reading.split(AT + noted as u64);
            let piece = &body[read..end];
            rest[read - noted..end - noted].copy_from_slice(piece);
            pieces.push(ready.check_piece(AT + read as u64, piece));
            read = end;
            if note {
                reading.note(AT + read as u64, std::mem::take(&mut pieces)).map_err(|_| ())?;
                noted = read;
            }
        }
        reading.finish().map(|finished| finished.order).map_err(|_| ())
    }

    fn names() -> impl Strategy<Value = Vec<String>> {
        // A beginning that many share, of every length about that of a head, and few letters behind it.
        let name = ("[ab]{0,2}", 0usize..20, "[abc\u{e9}]{0,3}", 0usize..20, "[ab\u{1f600}]{1,2}")
            .prop_map(|(a, x, b, y, c)| [a, "x".repeat(x / 4 * 4), b, "y".repeat(y / 4 * 4), c].concat());
        prop::collection::vec(name, 1..200)
    }

    /// Offsets and text of some values.
    fn laid_out(names: &[String]) -> (Vec<u32>, String) {
        let ends = names.iter().scan(0, |end, name| {
            *end += name.len() as u32;
            Some(*end)
        });
        ([0].into_iter().chain(ends).collect(), names.concat())
    }

    #[test]
    fn one_that_begins_otherwise_is_not_in_order_whatever_comes_behind() {
        let mut names: Vec<String> = (0..VALUES_ALIKE).map(|n| format!("xx{n:02}")).collect();
        names.extend((0..9).map(|n| format!("z{n}, much longer than what is looked at")));
        let (offsets, text) = laid_out(&names);
        assert_eq!(in_pieces(&offsets, text.as_bytes(), &[]), Ok(None));
        names[30] = "yy30".into();
        let (offsets, text) = laid_out(&names);
        let order = in_pieces(&offsets, text.as_bytes(), &[]);
        assert_eq!(order, plainly(&offsets, text.as_bytes()));
        assert!(matches!(order, Ok(Some(_))));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn pieces_do_not_show(
            mut names in names(), sort in 0u8..4, swap in any::<prop::sample::Index>(),
            wrong in prop::option::weighted(0.2, (any::<prop::sample::Index>(), -3i64..1000)),
            cuts in prop::collection::vec((any::<usize>(), any::<bool>()), 0..12),
        ) {
            if sort > 0 {
                names.sort_unstable();
                names.dedup();
            }
            if sort == 1 {
                // In order but for two neighbours.
                let at = swap.index(names.len());
                let next = (at + 1) % names.len();
                names.swap(at, next);
            }
            let (mut offsets, text) = laid_out(&names);
            if let Some((at, offset)) = wrong {
                let at = at.index(offsets.len());
                // Below zero is far beyond the end.
                offsets[at] = offset as u32;
            }
            let plain = plainly(&offsets, text.as_bytes());
            prop_assert_eq!(in_pieces(&offsets, text.as_bytes(), &cuts), plain.clone());
            prop_assert_eq!(in_pieces(&offsets, text.as_bytes(), &[]), plain);
        }
    }
}
