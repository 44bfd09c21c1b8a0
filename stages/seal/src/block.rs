//! A block: some consecutive rows of the input, checked, their names hashed and dealt out to the shards of
//! the interner.
//!
//! The law: a block knows nothing of other blocks, so any thread may make it; lines are counted from its own
//! start and category ids are its own, in order of first appearance. What follows (in `pipeline`) puts blocks
//! together in the order of the file, which is all that determinism needs.
//!
//! Names are copied while they are warm, each to those of its shard: a shard then reads what is its own from begin to end, and
//! the text can be let go. Consecutive rows of one name, which is how much data comes, are dealt once.

use crate::config::BLOCK_ROWS;
use crate::error::{BAD_ROWS_LISTED_MAX, BadRow, shown};
use crate::intern::{SHARDS, shard_of};
use crate::units::UnitsError;
use ahash::RandomState;
use rewarder_model::Category;
use rewarder_model::name::{ACTOR_BYTES_MAX, check_actor};
use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher};

/// Categories that one snapshot can have: the dictionary's index is a byte.
pub(crate) const CATEGORIES_MAX: usize = 256;

/// Categories that a row is compared with before it is looked up.
const RECENT_CATEGORIES_MAX: usize = 4;

/// Runs and bytes of names whose memory a deal keeps for the next group, twice what it has where names are spread over all shards.
/// There are a thousand deals, and whoever chooses the names could fill one after the other with a whole block.
pub(crate) const RUNS_KEPT_MAX: usize = 2 * BLOCK_ROWS / SHARDS;
const BYTES_KEPT_MAX: usize = 32 << 10;

/// Consecutive rows of one name.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Run {
    /// The part of the name's hash that the shard needs.
    pub tag: u32,
    /// The first row.
    pub row: u32,
    pub rows: u16,
    /// Bytes of the name.
    len: u16,
}

/// What one shard gets of a block.
#[derive(Debug, Default)]
pub(crate) struct Deal {
    /// In row order.
    pub runs: Vec<Run>,
    /// Their names, one after the other.
    bytes: Vec<u8>,
}

/// Empties a vector; keeps its memory if it is for no more than so many values. As a whole or not at all: what is
/// left of a piece that was made smaller stands in the way of the next large one.
pub(crate) fn empty<T>(values: &mut Vec<T>, kept_max: usize) {
    if values.capacity() > kept_max {
        *values = Vec::new();
    }
    values.clear();
}

impl Deal {
    /// The runs and their names.
    pub fn names(&self) -> impl Iterator<Item = (&Run, &[u8])> {
        let mut rest = &self.bytes[..];
        self.runs.iter().map(move |run| {
            let name;
            (name, rest) = rest.split_at(usize::from(run.len));
            (run, name)
        })
    }

    /// One row more of the last name, if it is this one.
    #[inline]
    fn again(&mut self, name: &[u8]) -> bool {
        let Some(run) = self.runs.last_mut() else { return false };
        let again = usize::from(run.len) == name.len() && self.bytes.ends_with(name) && run.rows < u16::MAX;
        run.rows += u16::from(again);
        again
    }
}

/// A row's name, which is still to be checked.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Name<'a> {
    /// As the block's text has it.
    InText(&'a [u8]),
    /// From elsewhere, or unescaped.
    Other(&'a [u8]),
}

/// The columns' names as the data has them, for messages.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Labels<'a> {
    pub actor: &'a str,
    pub category: &'a str,
    pub units: &'a str,
}

/// Some rows. Reused from group to group, so that its memory stays warm.
#[derive(Debug, Default)]
pub(crate) struct Block {
    /// By shard.
    pub deals: Vec<Deal>,
    /// The shard of the row before.
    last_deal: usize,
    /// The block's own category ids by row.
    pub categories: Vec<u8>,
    pub units: Vec<u64>,
    /// Distinct categories and the line (from 0 in this block) that first has it.
    pub category_names: Vec<(Category, u64)>,
    category_ids: HashMap<Vec<u8>, u8, RandomState>,
    /// The last few categories and their ids, that of the row before first; none that holds a comma.
    recent: Vec<(Vec<u8>, u8)>,
    /// Lines (or rows of a file without lines) that the block covers, good or bad.
    pub lines: u64,
    /// The first refused rows, described, and where all of them are, ascending.
    pub bad: Vec<BadRow>,
    pub bad_lines: Vec<u64>,
    /// The block alone has one category too many; the line. Parsing stopped there.
    pub categories_overflow: Option<u64>,
    /// Every byte of the text is printable ASCII or a line feed, so that names need not be looked at one by
    /// one.
    plain: bool,
}

/// The category cannot be taken: a message, or one too many.
enum CategoryError {
    Bad(String),
    TooMany,
}

impl Block {
    /// Forgets the rows and expects those of `text`. `no_breaks`: no line feed of it can be inside a name.
    pub fn begin(&mut self, text: &[u8], no_breaks: bool) {
        self.plain = no_breaks
            && text.iter().fold(true, |plain, b| plain & (matches!(b, b' '..=b'~') | (*b == b'\n')));
        self.deals.resize_with(SHARDS, Deal::default);
        for deal in &mut self.deals {
            empty(&mut deal.runs, RUNS_KEPT_MAX);
            empty(&mut deal.bytes, BYTES_KEPT_MAX);
        }
        self.categories.clear();
        self.units.clear();
        self.category_names.clear();
        self.category_ids.clear();
        self.recent.clear();
        self.lines = 0;
        self.bad.clear();
        self.bad_lines.clear();
        self.categories_overflow = None;
    }

    /// Refuses a row. Only the first few are described; a message costs more than a row.
    pub fn refuse(&mut self, line: u64, column: Option<&str>, why: impl FnOnce() -> String) {
        if self.bad.len() < BAD_ROWS_LISTED_MAX {
            self.bad.push(BadRow { at: line, column: column.map(str::to_owned), why: why() });
        }
        self.bad_lines.push(line);
    }

    /// Length of the category at the start of `text`, without quotes, if it is one of the last few that rows had and the field ends
    /// with it. The row whose category it is need not give it.
    #[inline]
    pub fn recent_category(&mut self, text: &[u8]) -> Option<usize> {
        let ends = |at: usize| matches!(text.get(at), None | Some(b',' | b'\n' | b'\r'));
        let place = self.recent.iter().position(|(name, _)| text.starts_with(name) && ends(name.len()))?;
        self.recent[..=place].rotate_right(1);
        Some(self.recent[0].0.len())
    }

    /// The block's id of a category.
    #[inline]
    fn category(&mut self, name: &[u8], line: u64) -> Result<u8, CategoryError> {
        match self.recent.iter().position(|(recent, _)| recent == name) {
            Some(place) => {
                self.recent[..=place].rotate_right(1);
                Ok(self.recent[0].1)
            }
            None => self.category_seldom(name, line),
        }
    }

    #[cold]
    fn category_seldom(&mut self, name: &[u8], line: u64) -> Result<u8, CategoryError> {
        let id = match self.category_ids.get(name) {
            Some(id) => *id,
            None => {
                if name.is_empty() {
                    return Err(CategoryError::Bad("is empty".to_owned()));
                }
                let checked = std::str::from_utf8(name).ok().map(str::parse::<Category>);
                let Some(Ok(category)) = checked else {
                    let rule = "a category is 1 to 64 of printable ASCII without quotes and backslash";
                    return Err(CategoryError::Bad(format!("{} is no category: {rule}", shown(name))));
                };
                let Ok(id) = u8::try_from(self.category_names.len()) else {
                    return Err(CategoryError::TooMany);
                };
                self.category_names.push((category, line));
                self.category_ids.insert(name.to_vec(), id);
                id
            }
        };
        // One with a comma is found by its quotes, not by being the same again.
        if !name.contains(&b',') {
            if self.recent.len() < RECENT_CATEGORIES_MAX {
                self.recent.push((Vec::new(), id));
            }
            self.recent.rotate_right(1);
            let (recent, its_id) = &mut self.recent[0];
            recent.clear();
            recent.extend_from_slice(name);
            *its_id = id;
        }
        Ok(id)
    }

    /// Takes a row whose cells are there, or refuses it for the first cell that is wrong. `false`: stop, the
    /// block has one category too many.
    ///
    /// `category` may be left out if [`Self::recent_category`] has just found it.
    #[inline]
    pub fn row(
        &mut self,
        labels: &Labels<'_>,
        hasher: &RandomState,
        line: u64,
        name: Name<'_>,
        category: Option<&[u8]>,
        units: Result<u64, (UnitsError, &[u8])>,
    ) -> bool {
        let (actor, plain) = match name {
            Name::InText(actor) => (actor, self.plain && (1..=ACTOR_BYTES_MAX).contains(&actor.len())),
            Name::Other(actor) => (actor, false),
        };
        if !plain
            && !is_plain(actor)
            && let Err(problem) = check_actor(actor)
        {
            let value = if actor.is_empty() { String::new() } else { format!("{}: ", shown(actor)) };
            self.refuse(line, Some(labels.actor), || format!("{value}{problem}"));
            return true;
        }
        let category = match category {
            Some(name) => self.category(name, line),
            None => Ok(self.recent.first().map_or(0, |(_, id)| *id)),
        };
        let category = match category {
            Ok(id) => id,
            Err(CategoryError::Bad(why)) => {
                self.refuse(line, Some(labels.category), || why);
                return true;
            }
            Err(CategoryError::TooMany) => {
                self.categories_overflow = Some(line);
                return false;
            }
        };
        match units {
            Ok(units) => {
                if !self.deals[self.last_deal].again(actor) {
                    let hash = hash_of(hasher, actor);
                    self.last_deal = shard_of(hash);
                    let deal = &mut self.deals[self.last_deal];
                    // A block is at most RECORD_BYTES_MAX or BLOCK_ROWS long: its rows are far below 2^32.
                    let row = self.units.len() as u32;
                    deal.runs.push(Run { tag: hash as u32, row, rows: 1, len: actor.len() as u16 });
                    deal.bytes.extend_from_slice(actor);
                }
                self.categories.push(category);
                self.units.push(units);
            }
            Err((error, value)) => {
                self.refuse(line, Some(labels.units), || match error {
                    UnitsError::Empty => error.why().to_owned(),
                    _ => format!("{} {}", shown(value), error.why()),
                });
            }
        }
        true
    }
}

/// The hash that says where a name belongs.
#[inline]
pub(crate) fn hash_of(hasher: &RandomState, name: &[u8]) -> u64 {
    let mut state = hasher.build_hasher();
    // Bytes alone: a slice's own hash has its length too.
    state.write(name);
    state.finish()
}

/// A valid name without looking for characters: printable ASCII of the right length.
fn is_plain(name: &[u8]) -> bool {
    (1..=ACTOR_BYTES_MAX).contains(&name.len())
        && name.iter().fold(true, |plain, b| plain & matches!(b, b' '..=b'~'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LABELS: Labels<'static> = Labels { actor: "a", category: "c", units: "u" };

    #[test]
    fn deals_every_row_to_the_shard_of_its_name() {
        // Runs of one to four rows.
        let name = |row: usize| format!("{:04}", row * row / 1000).into_bytes();
        let hasher = RandomState::new();
        let mut block = Block::default();
        for _ in 0..2 {
            block.begin(b"", true);
            for row in 0..1000 {
                let units = Ok(row as u64);
                assert!(block.row(&LABELS, &hasher, 0, Name::InText(&name(row)), Some(b"x"), units));
            }
            let mut seen = vec![false; 1000];
            for (shard, deal) in block.deals.iter().enumerate() {
                for (run, bytes) in deal.names() {
                    assert_eq!(shard_of(hash_of(&hasher, bytes)), shard);
                    let first = run.row as usize;
                    for (row, seen) in (first..).zip(&mut seen[first..][..usize::from(run.rows)]) {
                        assert_eq!(bytes, name(row));
                        assert!(!std::mem::replace(seen, true));
                    }
                }
            }
            assert!(seen.iter().all(|s| *s));
            let runs: usize = block.deals.iter().map(|deal| deal.runs.len()).sum();
            assert_eq!(runs, (0..1000).filter(|row| *row == 0 || name(*row) != name(row - 1)).count());
        }
    }

    #[test]
    fn a_run_ends_where_its_length_does() {
        let hasher = RandomState::new();
        let mut block = Block::default();
        block.begin(b"", true);
        let rows = usize::from(u16::MAX) + 3;
        for _ in 0..rows {
            assert!(block.row(&LABELS, &hasher, 0, Name::InText(b"x"), Some(b"c"), Ok(1)));
        }
        let runs: Vec<&Run> = block.deals.iter().flat_map(|deal| &deal.runs).collect();
        assert_eq!((runs[0].rows, runs[1].rows, runs[1].row), (u16::MAX, 3, u32::from(u16::MAX)));
    }

    #[test]
    fn what_one_shard_has_had_is_given_back() {
        let hasher = RandomState::new();
        let mut block = Block::default();
        for group in 0..4 {
            block.begin(b"", true);
            for row in 0..BLOCK_ROWS {
                let name = format!("{group}{}{}", row % 2, "x".repeat(100));
                assert!(block.row(&LABELS, &hasher, 0, Name::InText(name.as_bytes()), Some(b"c"), Ok(1)));
            }
        }
        block.begin(b"", true);
        for deal in &block.deals {
            assert!(deal.runs.capacity() <= RUNS_KEPT_MAX && deal.bytes.capacity() <= BYTES_KEPT_MAX);
        }
    }

    #[test]
    fn a_category_without_quotes_is_a_whole_field() {
        let hasher = RandomState::new();
        let mut block = Block::default();
        block.begin(b"", true);
        for category in [&b"view"[..], b"view,er", b"viewer", b"b", b"c", b"d", b"e"] {
            assert!(block.row(&LABELS, &hasher, 0, Name::InText(b"x"), Some(category), Ok(1)));
        }
        // The last few are known, whatever was last, and only as whole fields.
        for (text, found) in
            [(&b"e,1"[..], Some(1)), (b"c\n", Some(1)), (b"d", Some(1)), (b"b\r\n", Some(1)), (b"c1,", None)]
        {
            assert_eq!(block.recent_category(text), found, "{text:?}");
        }
        block.begin(b"", true);
        for category in [&b"view,er"[..], b"view"] {
            assert!(block.row(&LABELS, &hasher, 0, Name::InText(b"x"), Some(category), Ok(1)));
        }
        // A name with a comma is two fields if it has no quotes.
        assert_eq!(block.recent_category(b"view,er,1"), Some(4));
        assert!(block.row(&LABELS, &hasher, 0, Name::InText(b"x"), None, Ok(1)));
        assert_eq!(block.categories, [0, 1, 1]);
    }

    #[test]
    fn refuses_the_first_wrong_cell() {
        let hasher = RandomState::new();
        let mut block = Block::default();
        block.begin(b"", true);
        let float = || Err((UnitsError::Float, &b"1.5"[..]));
        let mut row = |line, name, category: &[u8]| {
            assert!(block.row(&LABELS, &hasher, line, name, Some(category), float()));
        };
        row(3, Name::InText(b""), b"it's");
        row(4, Name::Other(b"x\x7f"), b"ok");
        row(5, Name::InText(b"x"), b"it's");
        row(6, Name::InText(b"x"), b"ok");
        let columns: Vec<_> = block.bad.iter().map(|bad| (bad.at, bad.column.as_deref().unwrap())).collect();
        assert_eq!(columns, [(3, "a"), (4, "a"), (5, "c"), (6, "u")]);
        assert_eq!(block.bad[3].why, "`1.5` is not a plain whole number: no point, no exponent");
    }
}
