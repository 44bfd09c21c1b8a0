//! A block: some consecutive rows of the input, checked, their names hashed and dealt out to the shards of
//! the interner.
//!
//! The law: a block knows nothing of other blocks, so any thread may make it; lines are counted from its own
//! start and category ids are its own, in order of first appearance. What follows (in `pipeline`) puts blocks
//! together in the order of the file, which is all that determinism needs.
//!
//! Names are not copied: an entry points into the block's text. Only a name that had to be unescaped is kept
//! beside it.

use crate::error::{BAD_ROWS_LISTED_MAX, BadRow, shown};
use crate::intern::{SHARDS, shard_of};
use crate::units::UnitsError;
use ahash::RandomState;
use rewarder_model::{Category, name::check_actor};
use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher};
use std::sync::atomic::AtomicU32;

/// Categories that one snapshot can have: the dictionary's index is a byte.
pub(crate) const CATEGORIES_MAX: usize = 256;

/// One row's name: where its bytes are, and the part of its hash that the shard needs.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Entry {
    pub tag: u32,
    pub at: u32,
    pub len: u32,
    pub row: u32,
}

#[derive(Debug, Clone, Copy)]
struct Span {
    hash: u64,
    at: u32,
    len: u32,
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
    /// Length of the text that entries point into; what they point to beyond it is in `kept`.
    text_len: usize,
    kept: Vec<u8>,
    spans: Vec<Span>,
    /// The entries by shard, those of shard `s` at `starts[s]..starts[s + 1]`, each shard's in row order.
    entries: Vec<Entry>,
    starts: Vec<u32>,
    /// Provisional ids by row. Atomics, because several shards write to one block; relaxed stores cost what
    /// plain ones do.
    pub ids: Vec<AtomicU32>,
    /// The block's own category ids by row.
    pub categories: Vec<u8>,
    pub units: Vec<u64>,
    /// Distinct categories and the line (from 0 in this block) that first has it.
    pub category_names: Vec<(Category, u64)>,
    category_ids: HashMap<Vec<u8>, u8, RandomState>,
    last_category: (Vec<u8>, u8),
    /// Its length, or 0 if only quotes could hold it.
    last_bare: usize,
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
        self.text_len = text.len();
        self.plain = no_breaks
            && text.iter().fold(true, |plain, b| plain & (matches!(b, b' '..=b'~') | (*b == b'\n')));
        self.kept.clear();
        self.spans.clear();
        self.categories.clear();
        self.units.clear();
        self.category_names.clear();
        self.category_ids.clear();
        self.last_category.0.clear();
        self.last_bare = 0;
        self.lines = 0;
        self.bad.clear();
        self.bad_lines.clear();
        self.categories_overflow = None;
    }

    /// Keeps bytes that the text does not hold as they are; answers where an entry finds them.
    pub fn keep(&mut self, bytes: &[u8]) -> usize {
        let at = self.text_len + self.kept.len();
        self.kept.extend_from_slice(bytes);
        at
    }

    /// The bytes of a name.
    #[inline]
    pub fn name<'a>(&'a self, text: &'a [u8], at: u32, len: u32) -> &'a [u8] {
        let (at, len) = (at as usize, len as usize);
        if at >= self.text_len {
            let at = at - self.text_len;
            &self.kept[at..at + len]
        } else {
            &text[at..at + len]
        }
    }

    /// Refuses a row. Only the first few are described; a message costs more than a row.
    pub fn refuse(&mut self, line: u64, column: Option<&str>, why: impl FnOnce() -> String) {
        if self.bad.len() < BAD_ROWS_LISTED_MAX {
            self.bad.push(BadRow { at: line, column: column.map(str::to_owned), why: why() });
        }
        self.bad_lines.push(line);
    }

    /// The block's id of a category.
    #[inline]
    fn category(&mut self, name: &[u8], line: u64) -> Result<u8, CategoryError> {
        if !name.is_empty() && self.last_category.0 == name {
            return Ok(self.last_category.1);
        }
        self.category_seldom(name, line)
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
        self.last_category.0.clear();
        self.last_category.0.extend_from_slice(name);
        self.last_category.1 = id;
        self.last_bare = if memchr::memchr(b',', name).is_some() { 0 } else { name.len() };
        Ok(id)
    }

    /// The category of the row before as the next row most likely has it, without quotes; empty if it holds a comma, or there is
    /// none.
    #[inline]
    pub fn last_category(&self) -> &[u8] {
        &self.last_category.0[..self.last_bare]
    }

    /// Takes a row whose cells are there, or refuses it for the first cell that is wrong. `false`: stop, the
    /// block has one category too many.
    ///
    /// `at` is where `actor` lies in the text or among what was kept. `category` may be left out if it is that of
    /// the row before.
    #[inline]
    pub fn row(
        &mut self,
        labels: &Labels<'_>,
        hasher: &RandomState,
        line: u64,
        (at, actor): (usize, &[u8]),
        category: Option<&[u8]>,
        units: Result<u64, (UnitsError, &[u8])>,
    ) -> bool {
        let plain = self.plain && at < self.text_len && (1..=256).contains(&actor.len());
        if !plain
            && !is_plain(actor)
            && let Err(problem) = check_actor(actor)
        {
            let value = if actor.is_empty() { String::new() } else { format!("{}: ", shown(actor)) };
            self.refuse(line, Some(labels.actor), || format!("{value}{problem}"));
            return true;
        }
        let category = match category.map_or(Ok(self.last_category.1), |name| self.category(name, line)) {
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
                let mut state = hasher.build_hasher();
                state.write(actor);
                // A block is at most RECORD_BYTES_MAX or BLOCK_ROWS names of 256 bytes long: far below 2^32.
                self.spans.push(Span { hash: state.finish(), at: at as u32, len: actor.len() as u32 });
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

    /// Deals the entries out to their shards: a counting sort.
    pub fn deal(&mut self) {
        self.starts.clear();
        self.starts.resize(SHARDS + 1, 0);
        for span in &self.spans {
            self.starts[shard_of(span.hash) + 1] += 1;
        }
        for shard in 0..SHARDS {
            self.starts[shard + 1] += self.starts[shard];
        }
        let mut next = self.starts.clone();
        self.entries.resize(self.spans.len(), Entry::default());
        for (row, span) in self.spans.iter().enumerate() {
            let to = &mut next[shard_of(span.hash)];
            self.entries[*to as usize] =
                Entry { tag: span.hash as u32, at: span.at, len: span.len, row: row as u32 };
            *to += 1;
        }
        self.ids.resize_with(self.spans.len(), AtomicU32::default);
    }

    /// The entries of one shard.
    pub fn dealt(&self, shard: usize) -> &[Entry] {
        &self.entries[self.starts[shard] as usize..self.starts[shard + 1] as usize]
    }
}

/// A valid name without looking for characters: printable ASCII of the right length.
fn is_plain(name: &[u8]) -> bool {
    (1..=256).contains(&name.len()) && name.iter().fold(true, |plain, b| plain & matches!(b, b' '..=b'~'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering::Relaxed;

    const LABELS: Labels<'static> = Labels { actor: "a", category: "c", units: "u" };

    #[test]
    fn deals_every_row_to_the_shard_of_its_hash() {
        let text: Vec<u8> = (0..1000).flat_map(|n| format!("{n:04}").into_bytes()).collect();
        let hasher = RandomState::new();
        let mut block = Block::default();
        block.begin(&text, true);
        for row in 0..1000 {
            assert!(block.row(
                &LABELS,
                &hasher,
                row as u64,
                (row * 4, &text[row * 4..][..4]),
                Some(b"x"),
                Ok(row as u64)
            ));
        }
        block.deal();
        let mut seen = vec![false; 1000];
        for shard in 0..SHARDS {
            for entry in block.dealt(shard) {
                let name = block.name(&text, entry.at, entry.len);
                assert_eq!(name, format!("{:04}", entry.row).as_bytes());
                seen[entry.row as usize] = true;
                block.ids[entry.row as usize].store(1, Relaxed);
            }
        }
        assert!(seen.iter().all(|s| *s));
    }

    #[test]
    fn refuses_the_first_wrong_cell() {
        let hasher = RandomState::new();
        let mut block = Block::default();
        block.begin(b"", true);
        let float = || Err((UnitsError::Float, &b"1.5"[..]));
        assert!(block.row(&LABELS, &hasher, 3, (0, b""), Some(b"it's"), float()));
        assert!(block.row(&LABELS, &hasher, 4, (0, b"x\x7f"), Some(b"ok"), float()));
        assert!(block.row(&LABELS, &hasher, 5, (0, b"x"), Some(b"it's"), float()));
        assert!(block.row(&LABELS, &hasher, 6, (0, b"x"), Some(b"ok"), float()));
        let columns: Vec<_> = block.bad.iter().map(|bad| (bad.at, bad.column.as_deref().unwrap())).collect();
        assert_eq!(columns, [(3, "a"), (4, "a"), (5, "c"), (6, "u")]);
        assert_eq!(block.bad[3].why, "`1.5` is not a plain whole number: no point, no exponent");
    }
}
