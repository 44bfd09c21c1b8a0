//! An actor dictionary that is passed over, and read when the rows are in: only then is it known whose names are wanted, and of
//! most epochs those of a few. Its bytes are read once all the same, but for a look at the first names, and no memory is taken for names that nobody asks for.
//!
//! The law: what comes of it is what would have come of reading it in its turn. Names are taken only while they are plain: offsets
//! in order, rules kept, ascending. At the first that is not, and wherever rows are at fault, the whole stream is decoded once more
//! with everything in its turn, and that says what is wrong or sorts what is in no order; nothing of the first reading is used.

use crate::dictionary::{Dictionary, Kind, Reading, Values, tasks};
use crate::frame::Layout;
use crate::read::{Blocks, Hashing, Held};
use crate::source::Source;
use crate::tree::LEAF_BYTES;
use rewarder_model::Bits;
use rewarder_model::memory::Block;
use rewarder_model::name::ACTOR_BYTES_MAX;
use std::io;
use std::ops::Range;

/// From so many bytes on that do not have to be looked at yet a dictionary is passed over.
pub(crate) const PASSED_BYTES_MIN: u64 = 1 << 20;
/// Values at the beginning by which it is guessed whether a dictionary is in order. One that is not is needed as a whole.
const GUESSED_BY: u64 = 256;
/// Names are sifted out if they are at most so large a part of all, by number and by bytes; of more the whole dictionary is kept.
const CHOSEN_PART_MAX: u64 = 4;

/// Where a dictionary is that has been passed over, and what of it was at hand.
pub(crate) struct Deferred {
    /// Where its body begins in the stream.
    pub body: u64,
    /// And where it ends.
    pub end: u64,
    pub layout: Layout<1>,
    /// What had been read of it.
    pub head: Blocks,
    /// The end of the body, which is read together with what follows.
    pub tail: Vec<u8>,
}

impl Deferred {
    /// Number of values.
    pub fn len(&self) -> u64 {
        self.layout.rows
    }

    /// Whether a dictionary may be passed over of which `passed` bytes would be: if it is laid out as all writers do it and looks
    /// as if it were in order. A guess: what is wrong with it is found when it is read.
    pub fn is_worth_it(source: &(impl Source + ?Sized), body: u64, layout: &Layout<1>, passed: u64) -> bool {
        let (offsets, values) = (layout.data[0], layout.values);
        let plain = layout.validity[0].len == 0 && offsets.offset + offsets.len <= values.offset;
        passed >= PASSED_BYTES_MIN
            && plain
            && u32::try_from(layout.rows).is_ok()
            // A source that fails fails again when it is read in earnest.
            && begins_in_order(source, body, layout).unwrap_or(false)
    }

    /// Where the last leaf of the body begins, which is read together with what follows.
    pub fn tail_at(&self) -> u64 {
        tail_at(self.end)
    }

    /// Reads it, with `hashing` at the bytes that were passed over: the names that are wanted, or all. `None` if they are not plain.
    pub fn read(
        self,
        hashing: &mut Hashing<'_, impl Source + ?Sized>,
        wanted: Option<Bits>,
    ) -> io::Result<Option<Dictionary>> {
        let begin = hashing.at;
        if let Some(wanted) = wanted.filter(|wanted| wanted.count() * CHOSEN_PART_MAX <= self.len()) {
            match self.sift(hashing, &wanted)? {
                Sifted::Names(Names { lengths, text }) => {
                    let len = self.layout.rows as usize;
                    return Ok(Some(Dictionary::of_chosen(len, wanted, &lengths, &text)));
                }
                Sifted::NotPlain => return Ok(None),
                Sifted::TooLong => hashing.begin_again(begin),
            }
        }
        self.whole(hashing)
    }

    /// All names.
    fn whole(&self, hashing: &mut Hashing<'_, impl Source + ?Sized>) -> io::Result<Option<Dictionary>> {
        let body = (self.end - self.body) as usize;
        let Ok(mut reading) = Reading::new(self.body, body, &self.layout, Kind::Actor) else {
            return Ok(None);
        };
        let (_, all) = reading.split(self.body);
        self.head.copy(self.body, &mut all[..(self.head.read - self.body) as usize]);
        let tail = all.len() - self.tail.len();
        all[tail..].copy_from_slice(&self.tail);
        while hashing.at < hashing.end {
            let (ready, rest) = reading.split(hashing.at);
            let here = &mut rest[..(hashing.end - hashing.at) as usize];
            let (held, checked) = hashing.window_into(here, |at, piece| ready.check_piece(at, piece))?;
            hashing.give_back(held);
            if reading.note(hashing.at, checked).is_err() {
                return Ok(None);
            }
        }
        Ok(reading.finish_in_order())
    }

    /// The names that are wanted.
    fn sift(&self, hashing: &mut Hashing<'_, impl Source + ?Sized>, wanted: &Bits) -> io::Result<Sifted> {
        // What comes before the text, the offsets among it. Only what the stream has filled is looked at.
        let mut front = Block::<u8>::scratch(self.layout.values.offset as usize);
        let text_at = self.body + front.len() as u64;
        let mut filled = (self.head.read.min(text_at) - self.body) as usize;
        self.head.copy(self.body, &mut front[..filled]);
        // The window in which the text begins, unless that is in the head.
        let mut held = None;
        while filled < front.len() && hashing.at < hashing.end {
            hashing.give_back(held);
            (held, _) = hashing.window_into(&mut front[filled..], |_, _| ())?;
            filled = front.len().min((hashing.at - self.body) as usize);
        }
        let mut last = &self.tail[..];
        if filled < front.len() {
            let (here, beyond) = last.split_at((front.len() - filled).min(last.len()));
            front[filled..].copy_from_slice(here);
            last = beyond;
        }
        let offsets = self.layout.data[0];
        let offsets = front[offsets.offset as usize..(offsets.offset + offsets.len) as usize].as_chunks().0;
        let Some(text) = plain_len(offsets, self.layout.values.len) else { return Ok(Sifted::NotPlain) };
        let sieve = Sieve { offsets, text, wanted };
        if sieve.wanted_bytes() as u64 * CHOSEN_PART_MAX > self.end - self.body {
            return Ok(Sifted::TooLong);
        }
        let mut seams =
            Seams { sieve: &sieve, carried: Vec::new(), at: 0, next: 0, chosen: Names::default() };
        let (mut plain, mut at) = (true, 0);
        let early = self.head.pieces(text_at..self.head.read.max(text_at));
        for piece in early.chain(held.iter().map(Held::bytes)) {
            plain = plain && seams.take(sieve.look(at, piece));
            at += piece.len();
        }
        hashing.give_back(held);
        let looked = hashing.leaves(|at, leaf| sieve.look((at - text_at) as usize, leaf))?;
        for looked in looked {
            plain = plain && seams.take(looked);
        }
        plain = plain && seams.take(sieve.look((self.end - text_at) as usize - last.len(), last));
        let Seams { next, chosen, .. } = seams;
        let all = plain && next as u64 == self.len();
        Ok(if all { Sifted::Names(chosen) } else { Sifted::NotPlain })
    }
}

/// Where the leaf begins in which a body ends.
pub(crate) fn tail_at(end: u64) -> u64 {
    end / LEAF_BYTES as u64 * LEAF_BYTES as u64
}

/// Whether the first names of a dictionary ascend.
fn begins_in_order(source: &(impl Source + ?Sized), body: u64, layout: &Layout<1>) -> io::Result<bool> {
    let count = layout.rows.min(GUESSED_BY);
    let mut bytes = vec![0; 4 * (count as usize + 1)];
    source.read_at(body + layout.data[0].offset, &mut bytes)?;
    let offsets = bytes.as_chunks().0;
    let end = offsets.last().map_or(0, |last| u64::from(u32::from_le_bytes(*last)));
    if count == 0 || end > layout.values.len.min(count * ACTOR_BYTES_MAX as u64) {
        return Ok(false);
    }
    let mut text = vec![0; end as usize];
    source.read_at(body + layout.values.offset, &mut text)?;
    let names = Values { offsets, text: &text, at: 0 };
    Ok((0..count as usize).all(|index| names.follows(index)))
}

/// What sifting comes to.
enum Sifted {
    /// The names that are wanted.
    Names(Names),
    /// Together they are long: all may as well be kept.
    TooLong,
    /// Something is wrong, or they are in no order.
    NotPlain,
}

/// Bytes of all values, if they follow each other from the first byte to within the last of `text`, each as long as a name may be.
fn plain_len(offsets: &[[u8; 4]], text: u64) -> Option<usize> {
    let offset = |bytes: &[u8; 4]| u32::from_le_bytes(*bytes);
    let (first, last) = offsets.first().zip(offsets.last())?;
    // Without early exit, so that the compiler makes vectors of it. What is at least one byte long ascends.
    let plain = offsets.iter().zip(&offsets[1..]).fold(true, |plain, (start, end)| {
        let (start, end) = (offset(start), offset(end));
        plain & (start < end) & (end.wrapping_sub(start) <= ACTOR_BYTES_MAX as u32)
    });
    (plain && offset(first) == 0 && u64::from(offset(last)) <= text).then_some(offset(last) as usize)
}

/// Finds the names that are wanted in pieces of the text, on whatever thread has a piece in its cache.
struct Sieve<'a> {
    /// One more than there are values, and plain.
    offsets: &'a [[u8; 4]],
    /// Bytes of all values.
    text: usize,
    wanted: &'a Bits,
}

/// What has been found in a piece of the text.
struct Looked {
    /// Whether its whole values obey the rules and ascend.
    plain: bool,
    /// The values that are whole in it.
    whole: Range<usize>,
    /// Its bytes up to the end of the first of these, and from the beginning of the last; all of them where none is whole.
    begin: Vec<u8>,
    end: Vec<u8>,
    /// The names that are wanted among those that are whole.
    chosen: Names,
}

/// Names one behind the other.
#[derive(Default)]
struct Names {
    lengths: Vec<u16>,
    text: Vec<u8>,
}

impl Names {
    fn add(&mut self, more: Self) {
        self.lengths.extend(more.lengths);
        self.text.extend(more.text);
    }
}

/// Whether some values obey the rules and ascend.
fn are_in_order(values: &Values<'_>, range: &Range<usize>) -> bool {
    tasks(range).all(|task| matches!(values.check(task, Kind::Actor), Ok(true)))
}

impl Sieve<'_> {
    /// Bytes of the names that are wanted.
    fn wanted_bytes(&self) -> usize {
        let mut bytes = 0;
        self.wanted
            .each(0..self.offsets.len() - 1, |index| bytes += self.offset(index + 1) - self.offset(index));
        bytes
    }

    /// How many values end at this place of the text or before.
    fn ended(&self, at: usize) -> usize {
        self.offsets.partition_point(|end| u32::from_le_bytes(*end) as usize <= at).saturating_sub(1)
    }

    fn offset(&self, index: usize) -> usize {
        self.offsets.get(index).map_or(usize::MAX, |offset| u32::from_le_bytes(*offset) as usize)
    }

    /// Looks at a piece that begins at `at` of the text; what is behind the values belongs to none.
    fn look(&self, at: usize, piece: &[u8]) -> Looked {
        let piece = &piece[..piece.len().min(self.text.saturating_sub(at))];
        let first = self.offsets.partition_point(|start| (u32::from_le_bytes(*start) as usize) < at);
        let whole = first..self.ended(at + piece.len()).max(first);
        let (begin, end) = match whole.is_empty() {
            true => (piece, piece),
            false => (&piece[..self.offset(first + 1) - at], &piece[self.offset(whole.end - 1) - at..]),
        };
        let values = Values { offsets: self.offsets, text: piece, at };
        let plain = are_in_order(&values, &whole);
        let chosen = if plain { self.names(&values, whole.clone()) } else { Names::default() };
        Looked { plain, whole, begin: begin.to_vec(), end: end.to_vec(), chosen }
    }

    fn names(&self, values: &Values<'_>, range: Range<usize>) -> Names {
        let mut names = Names::default();
        self.wanted.each(range, |index| {
            let (start, end) = values.bounds(index);
            names.lengths.push((end - start) as u16);
            names.text.extend_from_slice(&values.text[start..end]);
        });
        names
    }
}

/// Puts pieces together, and looks at what lies across two of them.
struct Seams<'a> {
    sieve: &'a Sieve<'a>,
    /// What has been carried over: the last value that was whole, and the beginning of one that was not.
    carried: Vec<u8>,
    /// Where that begins in the text.
    at: usize,
    /// The first value that has not been looked at.
    next: usize,
    /// The names that are wanted.
    chosen: Names,
}

impl Seams<'_> {
    /// Takes the next piece; whether all is plain so far.
    fn take(&mut self, piece: Looked) -> bool {
        let Looked { plain, whole, begin, end, chosen } = piece;
        self.carried.extend_from_slice(&begin);
        let sieve = self.sieve;
        let values = Values { offsets: sieve.offsets, text: &self.carried, at: self.at };
        // Those that lie across, and to compare them with it the first that is whole.
        let seam = self.next..sieve.ended(self.at + self.carried.len()).max(self.next);
        if !plain || !are_in_order(&values, &seam) {
            return false;
        }
        let across = match whole.is_empty() {
            true => seam.clone(),
            false => seam.start..whole.start,
        };
        self.chosen.add(sieve.names(&values, across));
        self.chosen.add(chosen);
        if whole.is_empty() {
            self.next = seam.end;
            let at = self.next.checked_sub(1).map_or(0, |last| sieve.offset(last));
            self.carried.drain(..at - self.at);
            self.at = at;
        } else {
            (self.next, self.carried, self.at) = (whole.end, end, sieve.offset(whole.end - 1));
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_that_are_plain() {
        let len = |offsets: &[u32], text: u64| {
            let offsets: Vec<[u8; 4]> = offsets.iter().map(|offset| offset.to_le_bytes()).collect();
            plain_len(&offsets, text)
        };
        assert_eq!(len(&[0, 1, 257, 300], 300), Some(300));
        assert_eq!(len(&[0, 1, 257, 300], 1 << 40), Some(300));
        assert_eq!(len(&[0, 1, 257, 300], 299), None, "beyond the text");
        assert_eq!(len(&[1, 2, 3], 3), None, "not from the first byte on");
        assert_eq!(len(&[0, 5, 5, 6], 6), None, "an empty one");
        assert_eq!(len(&[0, 258, 300], 300), None, "a long one");
        assert_eq!(len(&[0, 200, 100, 300], 300), None, "a negative one");
        assert_eq!(len(&[], 0), None);
        // Steps of 256 through the end of the numbers, of which each but one is as long as a name may be.
        let around: Vec<u32> = (0..=1 << 24).map(|n: u32| n.wrapping_mul(256)).chain([1]).collect();
        assert_eq!(len(&around, 1 << 40), None, "around");
    }
}
