//! The order of the names: by bytes, as the dictionary of the fast case has them.
//!
//! The law: [`sorted`] has every name once, ascending. Names are distinct, so there is one such order, whatever the
//! threads. [`Ranks`] is its inverse once who writes the names has said each one's place.
//!
//! A sort that compares whole names waits for memory at each comparison, and names of one host share their
//! first bytes (`github.com/`), so that one key of eight bytes a name does not help either. Here runs are
//! sorted by their next eight bytes as a number, those with the same eight again by what follows their common
//! prefix, until nothing is left to tell apart: hardly a byte is fetched twice, and a hostile set of names costs at
//! most 256 / 8 rounds.

use crate::intern::{LOOK_AHEAD, Names, Place, SHARDS, place_of};
use rayon::prelude::*;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// Runs shorter than this are sorted by comparing the rest of the names: fewer rounds than rekeying would
/// take.
const RUN_REKEYED_MIN: usize = 24;
/// Runs shorter than this are one thread's work; handing them on would cost more than sorting them.
const RUN_SHARED_MIN: usize = 1 << 13;
/// Names of short runs that are looked at together.
const SHORT_NAMES: usize = 4 * LOOK_AHEAD;

/// A name on its way to its place.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Sorted {
    key: u64,
    /// Where it is, and how long, so that offsets can be made without touching it.
    pub place: Place,
}

/// All names in order. Sorts on the pool that this is called in.
pub(crate) fn sorted(names: &Names) -> Vec<Sorted> {
    // Made by all threads: memory that nobody has used yet costs more than what is written into it.
    let mut sorted: Vec<Sorted> =
        (0..names.len()).into_par_iter().with_min_len(RUN_SHARED_MIN).map(|_| Sorted::default()).collect();
    let mut rest = &mut sorted[..];
    let mut parts = Vec::with_capacity(SHARDS);
    for (index, shard) in names.shards.iter().enumerate() {
        let part;
        (part, rest) = rest.split_at_mut(shard.len());
        parts.push((index, shard, part));
    }
    parts.into_par_iter().with_max_len(1).for_each(|(index, shard, part)| {
        for (to, (at, name)) in part.iter_mut().zip(shard.records()) {
            let place = Place { at, shard: index as u16, len: name.len() as u16 };
            *to = Sorted { key: key(name, 0), place };
        }
    });
    sort(&mut sorted, 0, names);
    sorted
}

/// Each provisional id's place in the order.
#[derive(Debug)]
pub(crate) struct Ranks {
    ranks: Vec<AtomicU32>,
    /// Where a shard's names begin in `ranks`.
    bases: [usize; SHARDS],
}

impl Ranks {
    /// For these names, all 0.
    pub fn new(names: &Names) -> Self {
        let mut bases = [0; SHARDS];
        let mut count = 0;
        for (base, shard) in bases.iter_mut().zip(&names.shards) {
            *base = count;
            count += shard.len();
        }
        let ranks = (0..count).into_par_iter().with_min_len(RUN_SHARED_MIN).map(|_| AtomicU32::default());
        Self { ranks: ranks.collect(), bases }
    }

    /// Says which place the name with a number of a shard has.
    #[inline]
    pub fn set(&self, shard: u16, number: u32, rank: u32) {
        self.ranks[self.bases[usize::from(shard)] + number as usize].store(rank, Relaxed);
    }

    /// The place of a provisional id.
    #[inline]
    pub fn get(&self, id: u32) -> u32 {
        let (shard, number) = place_of(id);
        self.ranks[self.bases[shard] + number].load(Relaxed)
    }
}

/// Eight bytes from `depth` as a number that orders as they do. A name that ends is padded with 0, which is
/// not a byte of any name (it is a control character), so that it comes before all that go on.
#[inline]
fn key(name: &[u8], depth: usize) -> u64 {
    let rest = name.get(depth..).unwrap_or_default();
    match rest.first_chunk::<8>() {
        Some(chunk) => u64::from_be_bytes(*chunk),
        None => rest
            .iter()
            .fold(0, |key, byte| key << 8 | u64::from(*byte))
            .checked_shl(64 - 8 * rest.len() as u32)
            .unwrap_or(0),
    }
}

/// How many bytes two names begin with alike.
#[inline]
fn common_prefix(a: &[u8], b: &[u8]) -> usize {
    let ((a_words, _), (b_words, _)) = (a.as_chunks::<8>(), b.as_chunks::<8>());
    let words = a_words.iter().zip(b_words).take_while(|(a, b)| a == b).count();
    let (a, b) = (&a[words * 8..], &b[words * 8..]);
    words * 8 + a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// Sorts a run whose names have their first `depth` bytes in common and their key from there.
fn sort(run: &mut [Sorted], depth: usize, names: &Names) {
    let sort_ties = |run: &mut [Sorted]| {
        run.chunk_by_mut(|a, b| a.key == b.key)
            .fold(Short::default(), |short, tied| short.add(tied, depth + 8, names))
            .sort(depth + 8, names);
    };
    if run.len() >= RUN_SHARED_MIN {
        run.par_sort_unstable_by_key(|name| name.key);
        // Pieces of our own: left to itself, rayon makes some of them so large that the others wait for one.
        pieces(run).into_par_iter().with_max_len(1).for_each(sort_ties);
    } else {
        run.sort_unstable_by_key(|name| name.key);
        sort_ties(run);
    }
}

/// Cuts a sorted run where its key changes, into pieces that are worth a thread's while.
fn pieces(mut rest: &mut [Sorted]) -> Vec<&mut [Sorted]> {
    let mut pieces = Vec::new();
    while rest.len() > RUN_SHARED_MIN {
        let last = rest[RUN_SHARED_MIN - 1].key;
        let end = RUN_SHARED_MIN + rest[RUN_SHARED_MIN..].partition_point(|name| name.key == last);
        let (piece, after) = rest.split_at_mut(end);
        pieces.push(piece);
        rest = after;
    }
    pieces.push(rest);
    pieces
}

/// Short runs of the same key that wait for each other, so that their names are asked of memory together.
#[derive(Default)]
struct Short<'a> {
    runs: Vec<&'a mut [Sorted]>,
    names: usize,
}

impl<'a> Short<'a> {
    /// Takes a run whose names have their first `depth` bytes in common, or sorts it at once if it is long.
    fn add(mut self, run: &'a mut [Sorted], depth: usize, names: &Names) -> Self {
        if run.len() >= RUN_REKEYED_MIN {
            sort_tied(run, depth, names);
        } else if run.len() > 1 {
            self.names += run.len();
            self.runs.push(run);
            if self.names >= SHORT_NAMES {
                self.sort_all(depth, names);
            }
        }
        self
    }

    fn sort(mut self, depth: usize, names: &Names) {
        self.sort_all(depth, names);
    }

    /// By the next eight bytes, and what has those in common too by comparing the rest.
    fn sort_all(&mut self, depth: usize, names: &Names) {
        let mut all = self.runs.iter_mut().flat_map(|run| run.iter_mut());
        rekey(&mut all, depth, b"", names);
        let rest = |name: &Sorted| names.get(name.place).get(depth + 8..).unwrap_or_default();
        for run in self.runs.drain(..) {
            run.sort_unstable_by_key(|name| name.key);
            for tied in run.chunk_by_mut(|a, b| a.key == b.key).filter(|tied| tied.len() > 1) {
                tied.sort_unstable_by(|a, b| rest(a).cmp(rest(b)));
            }
        }
        self.names = 0;
    }
}

/// Gives each name, all of which have their first `depth` bytes in common, the key of the eight bytes behind `next`, if that is
/// what follows. Answers how much of `next` follows in all of them.
fn rekey<'a>(run: impl Iterator<Item = &'a mut Sorted>, depth: usize, next: &[u8], names: &Names) -> usize {
    let mut alike = next.len();
    let mut run = run.peekable();
    while run.peek().is_some() {
        let mut some: [Option<&mut Sorted>; LOOK_AHEAD] = [const { None }; LOOK_AHEAD];
        for (slot, name) in some.iter_mut().zip(&mut run) {
            *slot = Some(name);
        }
        let (found, _) = names.gather(some.iter().flatten().map(|name| name.place), depth);
        for (name, bytes) in some.iter_mut().flatten().zip(found) {
            let rest = bytes.get(depth..).unwrap_or_default();
            if !rest.starts_with(next) {
                alike = alike.min(common_prefix(next, rest));
            }
            name.key = key(rest, next.len());
        }
    }
    alike
}

/// Sorts a long run whose names have their first `depth` bytes in common.
fn sort_tied(run: &mut [Sorted], depth: usize, names: &Names) {
    let first = names.get(run[0].place).get(depth..).unwrap_or_default();
    // What some from all over the run have in common is most likely what all have, and saves a look at each. If it is not, then
    // the second time around it is.
    let spread = run.iter().step_by(run.len().div_ceil(LOOK_AHEAD)).map(|name| name.place);
    let (some, count) = names.gather(spread, depth);
    let prefixes =
        some[..count].iter().map(|name| common_prefix(first, name.get(depth..).unwrap_or_default()));
    let mut prefix = prefixes.min().unwrap_or(0);
    loop {
        let next = &first[..prefix];
        let alike = if run.len() >= RUN_SHARED_MIN {
            let parts = run.par_chunks_mut(RUN_SHARED_MIN / 8);
            parts.map(|part| rekey(part.iter_mut(), depth, next, names)).min().unwrap_or(prefix)
        } else {
            rekey(run.iter_mut(), depth, next, names)
        };
        if alike == prefix {
            break;
        }
        prefix = alike;
    }
    sort(run, depth + prefix, names);
}

#[cfg(test)]
mod tests {
    use super::*;
    use ahash::RandomState;
    use proptest::prelude::*;
    use std::hash::{BuildHasher, Hasher};

    fn intern(all: &[String]) -> Names {
        let hasher = RandomState::new();
        let mut names = Names::new();
        for name in all {
            let mut state = hasher.build_hasher();
            state.write(name.as_bytes());
            let hash = state.finish();
            names.shards[crate::intern::shard_of(hash)].intern(hash as u32, name.as_bytes());
        }
        names
    }

    fn check(all: &[String]) {
        let names = intern(all);
        let sorted = sorted(&names);
        let mut expected: Vec<&[u8]> = all.iter().map(String::as_bytes).collect();
        expected.sort_unstable();
        expected.dedup();
        let found: Vec<&[u8]> = sorted.iter().map(|name| names.get(name.place)).collect();
        assert_eq!(found, expected);
        for (rank, name) in sorted.iter().enumerate() {
            assert_eq!(usize::from(name.place.len), expected[rank].len());
        }
    }

    #[test]
    fn long_common_prefixes_and_ends_on_a_key() {
        check(&[]);
        check(&["a".into()]);
        let mut all: Vec<String> = (1..=256).map(|n| "x".repeat(n)).collect();
        all.extend((0..40_000).map(|n| format!("github.com/{:x}", n * 7)));
        all.extend((0..300).map(|n| format!("{}{n}", "long common prefix of more than two keys ".repeat(3))));
        all.extend(["é", "ü", "\u{10ffff}", "~", " "].map(String::from));
        check(&all);
    }

    #[test]
    fn what_a_few_have_in_common_need_not_be_what_all_have() {
        // One of many is another, wherever it is, in runs of one thread and of all.
        for (count, odd) in
            [(100, "host.com/same/short"), (20_000, "host.com/s"), (20_000, "host.com/sama/0")]
        {
            let mut all: Vec<String> = (0..count).map(|n| format!("host.com/same/prefix/{n:07}")).collect();
            all.push(odd.to_owned());
            check(&all);
        }
    }

    proptest! {
        #[test]
        fn as_a_plain_sort(all in proptest::collection::vec("[ab]{1,20}|[a-c\u{e9}\u{2028}]{1,9}", 0..400)) {
            check(&all);
        }
    }
}
