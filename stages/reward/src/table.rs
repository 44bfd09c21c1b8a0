//! The canonical allocations: `actor TAB payout LF`, actors in ascending byte order, zero payouts left out (contract §5).

use crate::decimal;
use crate::derive::{Derivation, Payer};
use crate::score::Scores;
use rayon::prelude::*;
use rewarder_model::memory::Block;
use rewarder_model::{Bits, Cid, Names};
use std::ops::Range;

/// The canonical text in pieces that hold whole lines, its root, and the sums that came up while it was written.
#[derive(Debug)]
pub struct Table {
    text: Vec<Piece>,
    /// CID of the text.
    pub root: Cid,
    /// Number of lines.
    pub recipients: u64,
    /// Sum of the payouts.
    pub paid: u128,
    /// Sum of what a cap took away from shares and left unpaid.
    pub cut: u128,
    /// The largest payout.
    pub largest: u128,
    /// The ranks for which there is a line.
    paid_at: Bits,
}

/// Name, tab, payout, line feed, and room for what is written beyond an end and overwritten by what comes next.
const LINE_BYTES_MAX: usize = rewarder_model::name::ACTOR_BYTES_MAX + 41 + NAME_BYTES;
/// Bytes that are copied of a name that has no more; most names have not.
const NAME_BYTES: usize = 32;
/// Text is written into blocks of this size: in huge pages, which cost a fraction of small ones to touch first.
const BLOCK_BYTES: usize = 2 << 20;
/// The first block of each part of the work, and all blocks of fewer actors: what is not written of a small one takes no memory.
/// Where few are paid a large one would be cleared for a line or two, and contract §2 leaves little where names are short.
const SMALL_BLOCK_BYTES: usize = 256 << 10;
/// From so many actors on blocks are large.
const MANY_ACTORS: usize = 1 << 19;

/// Some whole lines.
#[derive(Debug)]
struct Piece {
    block: Block<u8>,
    len: usize,
}

impl Piece {
    fn text(&self) -> &[u8] {
        &self.block[..self.len]
    }
}

/// What one thread writes of the text: lines that follow each other, and their sums.
#[derive(Default)]
struct Written {
    full: Vec<Piece>,
    piece: Option<Piece>,
    /// Whether blocks are small.
    small: bool,
    recipients: u64,
    paid: u128,
    cut: u128,
    largest: u128,
    /// Counted from the first rank of the part.
    paid_at: Bits,
}

impl Written {
    /// Room for a line; `lines` are still to come at the most, this one included.
    #[inline]
    fn room(&mut self, lines: usize) -> &mut Piece {
        if self.piece.as_ref().is_some_and(|piece| piece.block.len() - piece.len < LINE_BYTES_MAX) {
            self.full.extend(self.piece.take());
        }
        self.piece.get_or_insert_with(|| {
            let most = if self.small || self.full.is_empty() { SMALL_BLOCK_BYTES } else { BLOCK_BYTES };
            let bytes = lines.max(1).saturating_mul(LINE_BYTES_MAX).min(most);
            Piece { block: Block::scratch(bytes), len: 0 }
        })
    }

    /// One more line; the name is `text[start..end]`.
    #[inline]
    fn line(&mut self, lines: usize, (text, start, end): (&[u8], usize, usize), payout: u128) {
        let piece = self.room(lines);
        let line = &mut piece.block[piece.len..][..LINE_BYTES_MAX];
        let mut len = end - start;
        match text[start..].first_chunk::<NAME_BYTES>() {
            Some(longer) if len <= NAME_BYTES => line[..NAME_BYTES].copy_from_slice(longer),
            _ => line[..len].copy_from_slice(&text[start..end]),
        }
        line[len] = b'\t';
        len += 1;
        match decimal::short(payout) {
            Some((digits, count)) => {
                line[len..][..digits.len()].copy_from_slice(&digits);
                len += count;
            }
            None => {
                let mut digits = itoa::Buffer::new();
                let digits = digits.format(payout).as_bytes();
                line[len..][..digits.len()].copy_from_slice(digits);
                len += digits.len();
            }
        }
        line[len] = b'\n';
        piece.len += len + 1;
    }
}

impl Table {
    /// A table without lines.
    pub fn empty() -> Self {
        Self {
            text: Vec::new(),
            root: Cid::of(b""),
            recipients: 0,
            paid: 0,
            cut: 0,
            largest: 0,
            paid_at: Bits::default(),
        }
    }

    /// Applies a derivation to every score, in canonical order. The root is still that of no text: see [`Table::hash`].
    pub fn write(derivation: &Derivation, scores: &Scores, names: &(impl Names + ?Sized)) -> Self {
        let payer = Payer::new(derivation);
        let order = names.order();
        let empty = || Written { small: scores.len() < MANY_ACTORS, ..Written::default() };
        // Parts in the order of the ranks, however the tasks were shared out.
        let parts: Vec<Written> = scores
            .tasks()
            .fold(empty, |mut part, range| {
                let start = range.start;
                // Tasks begin at multiples of 64. The part began at this rank.
                let first = start - part.paid_at.room();
                part.paid_at.grow(range.len());
                scores.each_from(range, payer.dust_below(), |rank, score| {
                    let steps = payer.steps(score, rank);
                    part.cut += steps.cut;
                    if steps.payout > 0 {
                        let payout = crate::plant::payout(steps.payout, rank);
                        let index = order.map_or(rank, |order| order[rank] as usize);
                        part.line(scores.len() - start, names.place(index), payout);
                        part.paid_at.insert(rank - first);
                        part.recipients += 1;
                        part.paid += steps.payout;
                        part.largest = part.largest.max(steps.payout);
                    }
                });
                part
            })
            .collect();
        let mut table = Self::empty();
        let parts = parts.into_iter().map(|part| {
            table.recipients += part.recipients;
            table.paid += part.paid;
            table.cut += part.cut;
            table.largest = table.largest.max(part.largest);
            table.text.extend(part.full.into_iter().chain(part.piece));
            part.paid_at
        });
        table.paid_at = Bits::join(parts);
        table
    }

    /// The text, in pieces of whole lines; none of them is empty.
    pub fn pieces(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.text.iter().map(Piece::text)
    }

    /// The CID of the text.
    pub fn hash(&self) -> Cid {
        let mut hasher = blake3::Hasher::new();
        self.pieces().for_each(|piece| {
            hasher.update(piece);
        });
        hasher.finalize().into()
    }

    /// The ranks, cut into ranges with a line at least and so many at the most, or 64 if that is more.
    pub fn cut(&self, lines: usize) -> Vec<Range<usize>> {
        let (mut ranges, mut start, mut count) = (Vec::new(), 0, 0);
        for (at, more) in self.paid_at.counts().enumerate() {
            let more = more as usize;
            if count + more > lines.max(64) {
                ranges.push(start..64 * at);
                (start, count) = (64 * at, 0);
            }
            count += more;
        }
        if count > 0 {
            ranges.push(start..self.paid_at.room());
        }
        ranges
    }

    /// Each rank of a range for which there is a line.
    #[inline]
    pub fn each_paid(&self, ranks: Range<usize>, take: impl FnMut(usize)) {
        self.paid_at.each(ranks, take);
    }

    /// Number of bytes of the text.
    pub fn len(&self) -> u64 {
        self.pieces().map(|piece| piece.len() as u64).sum()
    }

    /// Whether nobody is paid.
    pub fn is_empty(&self) -> bool {
        self.recipients == 0
    }
}

/// A line of canonical text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line<'a> {
    /// The recipient.
    pub name: &'a [u8],
    /// What he gets.
    pub payout: u128,
    /// Where the line begins.
    pub start: usize,
}

/// The lines of canonical text. `None` for what is no such line.
pub fn lines(text: &[u8]) -> impl Iterator<Item = Option<Line<'_>>> {
    let mut start = 0;
    let unended = (!text.is_empty() && !text.ends_with(b"\n")).then_some(text.len());
    memchr::memchr_iter(b'\n', text).chain(unended).map(move |end| {
        let line = Line::read(text, start, end).filter(|_| end < text.len());
        start = end + 1;
        line
    })
}

impl<'a> Line<'a> {
    /// Reads `text[start..end]`, which is without its line feed.
    #[inline]
    fn read(text: &'a [u8], start: usize, end: usize) -> Option<Self> {
        let line = &text[start..end];
        let (digits, value) = match line.last_chunk().and_then(|tail| digits_of(*tail)) {
            Some(found) => found,
            None => {
                let digits = line.iter().rev().position(|byte| *byte == b'\t')?;
                let text = std::str::from_utf8(&line[line.len() - digits..]).ok()?;
                (digits, text.parse::<rewarder_model::Amount>().ok()?.get())
            }
        };
        let tab = line.len() - digits - 1;
        (tab > 0).then(|| Self { name: &line[..tab], payout: value, start })
    }
}

/// How many digits there are after the last tab, and what they say; none if that takes a closer look.
///
/// Sixteen bytes at once: the tab is the highest zero byte of the difference to sixteen tabs (Warren, Hacker's Delight,
/// 2nd ed., §6-1), the number is added up in pairs.
#[inline]
fn digits_of(tail: [u8; 16]) -> Option<(usize, u128)> {
    const fn all(byte: u8) -> u128 {
        u128::from_le_bytes([byte; 16])
    }
    let word = u128::from_le_bytes(tail);
    let apart = word ^ all(b'\t');
    let tabs = !(((apart & all(0x7f)) + all(0x7f)) | apart | all(0x7f));
    let digits = tabs.leading_zeros() / 8;
    if digits == 0 || digits >= 16 {
        return None;
    }
    // Digits as numbers, zeros before them.
    let from = 128 - 8 * digits;
    let word = (word ^ all(b'0')) >> from << from;
    let leading = (word >> from) as u8;
    if word.wrapping_add(all(0x76)) & all(0x80) != 0 || word & all(0xf0) != 0 || (leading == 0 && digits > 1)
    {
        return None;
    }
    // The first digit is in the lowest byte.
    let eight = |word: u64| {
        let word = (word * 10 + (word >> 8)) & 0x00ff_00ff_00ff_00ff;
        let word = (word * 100 + (word >> 16)) & 0x0000_ffff_0000_ffff;
        (word * 10_000 + (word >> 32)) & 0xffff_ffff
    };
    let value = eight(word as u64) * 100_000_000 + eight((word >> 64) as u64);
    Some((digits as usize, value.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// By the letter of contract §5.
    fn plainly(line: &[u8]) -> Option<(&[u8], u128)> {
        let tab = line.iter().rposition(|byte| *byte == b'\t').filter(|tab| *tab > 0)?;
        let payout = std::str::from_utf8(&line[tab + 1..]).ok()?.parse::<rewarder_model::Amount>().ok()?;
        Some((&line[..tab], payout.get()))
    }

    #[test]
    fn lines_of_every_length_stand_one_behind_the_other() {
        let text: Vec<u8> = (0..400).map(|at| b'a' + (at % 26) as u8).collect();
        let payouts = (0..39).map(|digits| 10u128.pow(digits));
        let places: Vec<_> = (1..=rewarder_model::name::ACTOR_BYTES_MAX)
            // Somewhere in the text, and where it ends.
            .flat_map(|len| [(len, 2 * len), (text.len() - len, text.len())])
            .filter(|(_, end)| *end <= text.len())
            .zip(payouts.cycle())
            .collect();
        let (mut written, mut plain) = (Written::default(), Vec::new());
        for ((start, end), payout) in &places {
            written.line(places.len(), (&text, *start, *end), *payout);
            plain.extend_from_slice(&text[*start..*end]);
            plain.extend_from_slice(format!("\t{payout}\n").as_bytes());
        }
        let pieces: Vec<_> = written.full.iter().chain(&written.piece).map(Piece::text).collect();
        assert!(pieces.concat() == plain);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]

        #[test]
        fn a_line_says_what_its_letters_say(
            name in "[\t -~]{0,20}", tab in "\t?", payout in "(0|[1-9][0-9]{0,39}|[0-9]{0,19}|[0-9]{1,9}[ -~\t][0-9]{0,9})",
        ) {
            let line = format!("{name}{tab}{payout}");
            let text = format!("{line}\n");
            let said: Vec<_> = lines(text.as_bytes()).collect();
            prop_assert_eq!(said.len(), 1);
            prop_assert_eq!(said[0].map(|line| (line.name, line.payout)), plainly(line.as_bytes()));
            prop_assert_eq!(lines(line.as_bytes()).next().flatten(), None);
        }
    }
}
