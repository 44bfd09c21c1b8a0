//! The streaming reader: windows of leaves are read and hashed while the rows of the window before are handed on.

use crate::deferred::{Deferred, tail_at};
use crate::dictionary::{Checked, Dictionary, Kind, Reading};
use crate::error::{Broken, DecodeError, Fault, Place};
use crate::frame::{self, END_BYTES, Layout, PREFIX_BYTES, Prefix, Span};
use crate::header::{self, Opened};
use crate::source::Source;
use crate::tree::{self, LEAF_BYTES};
use arrow_ipc::MessageHeader;
use blake3::hazmat::ChainingValue;
use rayon::prelude::*;
use rewarder_model::memory::{self, Block};
use rewarder_model::snapshot::COLUMNS;
use rewarder_model::{Bits, Cid, SnapshotHeader};
use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Leaves for each thread that are read and hashed together before their rows are handed on: a megabyte, so that threads
/// which are not even find work, and the rows are still in a core's L2 when their turn comes.
const LEAVES_PER_THREAD: usize = (1 << 20) / LEAF_BYTES;
/// A smaller snapshot is read a leaf for each thread at a time: three windows are in memory at once, and contract §2 leaves little
/// beside a small one (four times its size and 16 MiB).
const SMALL_BYTES: u64 = 10 << 20;
/// So many windows are read together where all of it goes to where it stays.
const WINDOWS_DIRECT: u64 = 4;
/// A row costs less than reading and hashing its bytes, so half of the threads are enough to take rows in; the others
/// hash meanwhile. Fewer lanes are less memory to touch and less to merge.
const THREADS_PER_LANE: usize = 2;
/// Most rows of one unit of work.
const ROWS_PER_RUN: usize = 32 * 1024;
/// Bytes of a row in each column.
const WIDTHS: [u64; 3] = [4, 1, 8];

/// Some rows of the snapshot, their keys checked against the dictionaries.
#[derive(Debug, Clone, Copy)]
pub struct Rows<'a> {
    /// Number of the first of them within the stream.
    pub first_row: u64,
    actors: &'a [u8],
    categories: &'a [u8],
    units: &'a [u8],
}

impl<'a> Rows<'a> {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.categories.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.categories.is_empty()
    }

    /// The actor keys, little-endian.
    pub fn actors(&self) -> &'a [[u8; 4]] {
        self.actors.as_chunks().0
    }

    /// The category keys.
    pub fn categories(&self) -> &'a [u8] {
        self.categories
    }

    /// The units, little-endian.
    pub fn units(&self) -> &'a [[u8; 8]] {
        self.units.as_chunks().0
    }

    /// Actor key, category key, units.
    pub fn iter(&self) -> impl Iterator<Item = (u32, u8, u64)> + 'a {
        let rows = self.actors().iter().zip(self.categories).zip(self.units());
        rows.map(|((actor, category), units)| {
            (u32::from_le_bytes(*actor), *category, u64::from_le_bytes(*units))
        })
    }
}

/// Takes the rows as they come. Several lanes are filled at once, each by one thread at a time; which rows come to which
/// lane is chance, so whatever is made of a lane must not depend on it.
pub trait RowSink: Sync {
    /// One thread's share of the result.
    type Lane: Send;

    /// Bytes that one lane takes: together the lanes are held to the size of the snapshot, but there is always one.
    fn lane_bytes(&self) -> u64;
    /// A lane without rows.
    fn lane(&self) -> Self::Lane;
    /// Takes some rows in.
    fn rows(&self, lane: &mut Self::Lane, rows: Rows<'_>);

    /// Asked when all rows are in, where it saves something: the actors whose names are wanted, by dictionary index; of the others
    /// none will be there. `None` for all. The names stand in byte order, as far as can be told before they are read. If it turns
    /// out that they do not, everything begins again with a new sink, which is not asked. What is done with the lanes here is done
    /// before the CID is known to hold.
    fn wanted(&self, _lanes: &mut Vec<Self::Lane>) -> Option<Bits> {
        None
    }
}

/// A verified snapshot without its rows, and what the sink made of those.
#[derive(Debug)]
pub struct Decoded<S, L> {
    /// CID of the bytes.
    pub cid: Cid,
    /// The snapshot's words about itself.
    pub header: SnapshotHeader,
    /// Recipients; may hold names that no row uses.
    pub actors: Dictionary,
    /// Kinds of work; may hold names that no row uses.
    pub categories: Dictionary,
    /// Number of rows.
    pub rows: u64,
    /// What the sink made of the rows; empty when there was no sink or there were no rows.
    pub lanes: Vec<L>,
    /// The sink that took them, if there was one; not one of a reading that was given up.
    pub sink: Option<S>,
}

/// How far a decode has come, to be looked at from another thread.
#[derive(Debug, Default)]
pub struct Progress {
    /// Bytes read and hashed.
    pub bytes: AtomicU64,
    /// Rows handed on.
    pub rows: AtomicU64,
}

/// Verifies a snapshot and hands its rows to a sink, on the current rayon pool.
///
/// `sink` is asked for one when the header, the number of actors and the categories are known, before the first row; without one
/// (`None`) the rows are checked and counted only. Where the names turn out to be other than they looked, everything begins anew,
/// with a new sink. Nothing that a sink learns may leave the process before this function returns `Ok`.
///
/// # Errors
/// [`DecodeError::CidMismatch`] before anything else if `expected` is given and is not the CID of the bytes; else the
/// first rule that is broken; or the source's own error.
pub fn decode<S: RowSink>(
    source: &(impl Source + ?Sized),
    expected: Option<Cid>,
    progress: &Progress,
    mut sink: impl FnMut(&SnapshotHeader, usize, &Dictionary) -> Option<S>,
) -> Result<Decoded<S, S::Lane>, DecodeError> {
    if let Some(decoded) = attempt(source, expected, progress, &mut sink, true)? {
        return Ok(decoded);
    }
    // Not as it looked: once more, with everything in its turn. What the first reading took is too much beside that (contract §2).
    memory::give_back();
    progress.bytes.store(0, Ordering::Relaxed);
    progress.rows.store(0, Ordering::Relaxed);
    let decoded = attempt(source, expected, progress, sink, false)?;
    decoded.ok_or_else(|| io::Error::other("what is read in its turn is read to its end").into())
}

/// Decodes once. If it `may_pass` over the actors, nothing comes of what is not plain.
fn attempt<S: RowSink>(
    source: &(impl Source + ?Sized),
    expected: Option<Cid>,
    progress: &Progress,
    sink: impl FnOnce(&SnapshotHeader, usize, &Dictionary) -> Option<S>,
    may_pass: bool,
) -> Result<Option<Decoded<S, S::Lane>>, DecodeError> {
    let threads = rayon::current_num_threads();
    let leaves = if source.len() < SMALL_BYTES { 1 } else { LEAVES_PER_THREAD };
    let mut hashing = Hashing::new(source, progress, leaves * threads);
    let mut parser = Parser::new(source, may_pass);
    let mut result = stream(&mut hashing, &mut parser, sink);
    if let Some(deferred) = parser.deferred.take() {
        match &mut result {
            Ok((sink, lanes)) => {
                let wanted = sink.as_ref().and_then(|sink| sink.wanted(lanes));
                hashing.turn_back();
                parser.actors = deferred.read(&mut hashing, wanted)?;
                if parser.actors.is_none() {
                    return Ok(None);
                }
            }
            Err(Stop::Broken(_)) => return Ok(None),
            Err(Stop::Io(_)) => {}
        }
    }
    let result = match result {
        Err(Stop::Io(e)) => return Err(e.into()),
        Err(Stop::Broken(broken)) if expected.is_none() => return Err(broken.into()),
        // A fault of the format is said only of bytes that are the ones asked for.
        other => other,
    };
    hashing.rest()?;
    let cid = hashing.root();
    if expected.is_some_and(|expected| expected != cid) {
        return Err(DecodeError::CidMismatch);
    }
    match result {
        Ok((sink, lanes)) => Ok(Some(parser.finish(cid, sink, lanes)?)),
        Err(Stop::Broken(broken)) => Err(broken.into()),
        Err(Stop::Io(e)) => Err(e.into()),
    }
}

/// The CID of a source, hashed on the current rayon pool: what every decode costs at the least.
///
/// # Errors
/// The source's own.
pub fn hash(source: &(impl Source + ?Sized), progress: &Progress) -> io::Result<Cid> {
    let mut hashing = Hashing::new(source, progress, 1);
    match source.len() > LEAF_BYTES as u64 {
        true => drop(hashing.leaves(|_, _| ())?),
        false => hashing.rest()?,
    }
    Ok(hashing.root())
}

/// Why a decode ended early.
enum Stop {
    Io(io::Error),
    Broken(Broken),
}

impl From<io::Error> for Stop {
    fn from(e: io::Error) -> Self {
        Self::Io(e)
    }
}

impl From<Broken> for Stop {
    fn from(broken: Broken) -> Self {
        Self::Broken(broken)
    }
}

/// The sink, if there is one, and its lanes.
type Filled<S> = (Option<S>, Vec<<S as RowSink>::Lane>);

/// Reads all but a dictionary that is passed over.
fn stream<Src: Source + ?Sized, S: RowSink>(
    hashing: &mut Hashing<'_, Src>,
    parser: &mut Parser<'_, Src>,
    make_sink: impl FnOnce(&SnapshotHeader, usize, &Dictionary) -> Option<S>,
) -> Result<Filled<S>, Stop> {
    let (mut make_sink, mut sink, mut lanes) = (Some(make_sink), None, Vec::new());
    let mut fresh = hashing.window()?;
    loop {
        let batches = parser.take(fresh)?;
        if let Some(reading) = &mut parser.dictionary {
            // No rows come before the dictionaries, and the names are checked as they come.
            let (ready, rest) = reading.split(hashing.at);
            let (next, checked) = hashing.window_into(rest, |at, piece| ready.check_piece(at, piece))?;
            parser.note(hashing.at, checked)?;
            fresh = next;
            hashing.spare.extend(parser.release());
            continue;
        }
        if let Some(to) = parser.pass_over() {
            hashing.pass_over(to);
        }
        let mut limits = (0, 0);
        if let (Some(opened), Some(actors), Some(categories)) =
            (&parser.opened, parser.actor_count(), &parser.categories)
        {
            limits = (actors, categories.len() as u64);
            if let Some(make) = make_sink.take() {
                let actors = usize::try_from(actors).map_err(|_| Fault::DictionaryTooLong.here())?;
                sink = make(&opened.header, actors, categories);
                if let Some(sink) = &sink {
                    let most = (hashing.source.len() / sink.lane_bytes().max(1)).max(1);
                    let wanted = rayon::current_num_threads().div_ceil(THREADS_PER_LANE);
                    lanes =
                        (0..wanted.min(usize::try_from(most).unwrap_or(usize::MAX))).map(|_| None).collect();
                }
            }
        }
        let runs = parser.blocks.runs(&batches)?;
        let (next, handed) =
            rayon::join(|| hashing.window(), || hand_on(&runs, limits, sink.as_ref(), &mut lanes));
        handed?;
        fresh = next?;
        hashing.progress.rows.store(parser.rows, Ordering::Relaxed);
        drop(runs);
        hashing.spare.extend(parser.release());
        if fresh.is_none() {
            parser.end()?;
            return Ok((sink, lanes.into_iter().flatten().collect()));
        }
    }
}

/// Checks and hands on the runs, a lane for each thread that comes by.
fn hand_on<S: RowSink>(
    runs: &[Run<'_>],
    limits: (u64, u64),
    sink: Option<&S>,
    lanes: &mut [Option<S::Lane>],
) -> Result<(), Broken> {
    let next = AtomicUsize::new(0);
    let work = |mut lane: Option<&mut Option<S::Lane>>| {
        let mut first: Option<Broken> = None;
        while let Some(run) = runs.get(next.fetch_add(1, Ordering::Relaxed)) {
            match check_keys(run, limits) {
                Err(broken) if first.is_none_or(|first| broken.place.row < first.place.row) => {
                    first = Some(broken)
                }
                Err(_) => {}
                Ok(()) => {
                    if let (Some(sink), Some(lane)) = (sink, lane.as_deref_mut()) {
                        sink.rows(lane.get_or_insert_with(|| sink.lane()), run.rows);
                    }
                }
            }
        }
        first
    };
    let first = if lanes.is_empty() {
        work(None)
    } else {
        // The first in the stream, whichever lane met it.
        lanes.par_iter_mut().filter_map(|lane| work(Some(lane))).min_by_key(|broken| broken.place.row)
    };
    first.map_or(Ok(()), Err)
}

fn check_keys(run: &Run<'_>, (actors, categories): (u64, u64)) -> Result<(), Broken> {
    let rows = &run.rows;
    // Without early exit, so that the compiler makes vectors of both. No key is beyond a dictionary longer than its type.
    let beyond = |key: &[u8; 4]| u64::from(u32::from_le_bytes(*key)) >= actors;
    let actor = match u32::try_from(actors) {
        Ok(len) => rows.actors().iter().fold(false, |bad, key| bad | (u32::from_le_bytes(*key) >= len)),
        Err(_) => false,
    };
    let category = match u8::try_from(categories) {
        Ok(len) => rows.categories.iter().fold(false, |bad, key| bad | (*key >= len)),
        Err(_) => false,
    };
    if !actor && !category {
        return Ok(());
    }
    // Only now look for the row.
    let bad = rows
        .iter()
        .position(|(actor, category, _)| u64::from(actor) >= actors || u64::from(category) >= categories);
    let Some(row) = bad else { return Ok(()) };
    let column = if rows.actors().get(row).is_some_and(beyond) { COLUMNS[0] } else { COLUMNS[1] };
    let place = Place {
        message: Some(run.message),
        column: Some(column),
        row: Some(rows.first_row + row as u64),
        value: None,
    };
    Err(Fault::KeyOutOfRange.at(place))
}

/// Reads the source leaf by leaf and keeps the chaining values.
pub(crate) struct Hashing<'s, S: ?Sized> {
    source: &'s S,
    progress: &'s Progress,
    /// Bytes of a window.
    pub window: u64,
    /// Where the next window begins: a multiple of the leaf size, or the end.
    pub at: u64,
    /// Where to stop: a multiple of the leaf size, or the end of the source.
    pub end: u64,
    /// What has been passed over and is still to be read.
    passed: Option<Range<u64>>,
    /// Of each leaf of the source, once it has been read.
    leaves: Vec<ChainingValue>,
    /// The plain hash of a source that is one leaf or less.
    single: Option<blake3::Hash>,
    spare: Vec<Block<u8>>,
}

/// A window of the stream, or what of it did not go straight into a dictionary's body.
pub(crate) struct Held {
    at: u64,
    len: usize,
    /// As large as a whole window, to be used again for another.
    block: Block<u8>,
}

impl Held {
    fn end(&self) -> u64 {
        self.at + self.len as u64
    }

    pub fn bytes(&self) -> &[u8] {
        &self.block[..self.len]
    }
}

impl<'s, S: Source + ?Sized> Hashing<'s, S> {
    fn new(source: &'s S, progress: &'s Progress, leaves: usize) -> Self {
        Self {
            source,
            progress,
            window: (leaves * LEAF_BYTES) as u64,
            at: 0,
            end: source.len(),
            passed: None,
            leaves: Vec::new(),
            single: None,
            spare: Vec::new(),
        }
    }

    /// Goes on at `to`, a multiple of the leaf size; what is before it is left for later.
    fn pass_over(&mut self, to: u64) {
        self.passed = Some(self.at..to);
        self.at = to;
    }

    /// Turns back to what was passed over, and leaves what it has not come to for later.
    fn turn_back(&mut self) {
        if let Some(passed) = self.passed.replace(self.at..self.end) {
            (self.at, self.end) = (passed.start, passed.end);
        }
    }

    /// Goes back to where it was before, to read the same once more.
    pub fn begin_again(&mut self, at: u64) {
        self.progress.bytes.fetch_sub(self.at - at, Ordering::Relaxed);
        self.at = at;
    }

    /// Takes a window back, for another one.
    pub fn give_back(&mut self, held: Option<Held>) {
        self.spare.extend(held.map(|held| held.block));
    }

    /// Reads and hashes the next window; nothing at the end.
    fn window(&mut self) -> io::Result<Option<Held>> {
        self.window_into(&mut [], |_, _| ()).map(|(held, _)| held)
    }

    /// Reads and hashes the next window. `direct` is filled first, the rest comes back; nothing at the end. What lies in `direct`
    /// is shown leaf by leaf, with where it begins in the stream, to `look` while it is in a cache.
    pub fn window_into<T: Send>(
        &mut self,
        direct: &mut [u8],
        look: impl Fn(u64, &[u8]) -> T + Sync,
    ) -> io::Result<(Option<Held>, Vec<T>)> {
        struct Leaf<'b> {
            at: u64,
            direct: &'b mut [u8],
            held: &'b mut [u8],
        }
        let len = self.source.len();
        let window = len.min(self.window);
        // What stays where it is read to needs no room in a window.
        let most =
            if direct.len() as u64 >= WINDOWS_DIRECT * window { WINDOWS_DIRECT * window } else { window };
        let (at, end) = (self.at, self.end.min(self.at + most));
        if at == end {
            return Ok((None, Vec::new()));
        }
        let mine = direct.len().min((end - at) as usize);
        let mut direct = &mut direct[..mine];
        let mut held = Held {
            at: at + direct.len() as u64,
            len: (end - at) as usize - direct.len(),
            block: self.spare.pop().unwrap_or_else(|| Block::scratch(window as usize)),
        };
        let mut rest = &mut held.block[..held.len];
        let mut leaves = Vec::with_capacity(((end - at) as usize).div_ceil(LEAF_BYTES));
        for at in (at..end).step_by(LEAF_BYTES) {
            let leaf = (end - at).min(LEAF_BYTES as u64) as usize;
            let first = direct.split_off_mut(..leaf.min(direct.len())).unwrap_or_default();
            let second = rest.split_off_mut(..leaf - first.len()).unwrap_or_default();
            leaves.push(Leaf { at, direct: first, held: second });
        }
        let (source, progress) = (self.source, self.progress);
        let single = len <= LEAF_BYTES as u64;
        let hashed = leaves.par_iter_mut().with_max_len(1).map(|leaf| -> io::Result<_> {
            source.read_at(leaf.at, leaf.direct)?;
            source.read_at(leaf.at + leaf.direct.len() as u64, leaf.held)?;
            progress.bytes.fetch_add((leaf.direct.len() + leaf.held.len()) as u64, Ordering::Relaxed);
            let hash = (!single).then(|| tree::leaf(leaf.at, [&*leaf.direct, &*leaf.held].into_iter()));
            Ok((hash, look(leaf.at, leaf.direct)))
        });
        let (hashed, looked): (Vec<_>, Vec<_>) = hashed.collect::<io::Result<Vec<_>>>()?.into_iter().unzip();
        self.keep(at, hashed.into_iter().flatten());
        self.at = end;
        if single {
            // A body cannot have been under way before the first byte: the one leaf is all here.
            self.single = Some(blake3::hash(held.bytes()));
        }
        Ok((Some(held), looked))
    }

    /// Reads and hashes what is left up to where to stop, leaf by leaf: each is shown, with where it begins in the stream, to `look`
    /// while it is in a cache, and no more of them is in memory than there are threads. What came of them, in order.
    pub fn leaves<T: Send>(&mut self, look: impl Fn(u64, &[u8]) -> T + Sync) -> io::Result<Vec<T>> {
        let (at, end) = (self.at, self.end);
        let (source, progress) = (self.source, self.progress);
        let next = AtomicU64::new(at);
        let work = |block: &mut Block<u8>| -> io::Result<Vec<_>> {
            let mut done = Vec::new();
            loop {
                let at = next.fetch_add(LEAF_BYTES as u64, Ordering::Relaxed);
                if at >= end {
                    return Ok(done);
                }
                let leaf = &mut block[..(end - at).min(LEAF_BYTES as u64) as usize];
                source.read_at(at, leaf)?;
                progress.bytes.fetch_add(leaf.len() as u64, Ordering::Relaxed);
                done.push((at, tree::leaf(at, std::iter::once(&*leaf)), look(at, leaf)));
            }
        };
        // Windows that are at hand, or a leaf each.
        let threads = rayon::current_num_threads();
        let spare = self.spare.split_off(self.spare.len().saturating_sub(threads));
        let mut blocks: Vec<_> = spare.into_iter().map(Some).collect();
        blocks.resize_with(threads, || None);
        let work = |block: &mut Option<Block<u8>>| match block {
            Some(block) => work(block),
            None => work(&mut Block::scratch(LEAF_BYTES)),
        };
        let done = blocks.par_iter_mut().with_max_len(1).map(work).collect::<io::Result<Vec<_>>>()?;
        self.spare.extend(blocks.into_iter().flatten());
        let mut done: Vec<_> = done.into_iter().flatten().collect();
        done.sort_unstable_by_key(|(at, ..)| *at);
        self.keep(at, done.iter().map(|(_, hash, _)| *hash));
        self.at = end;
        Ok(done.into_iter().map(|(_, _, looked)| looked).collect())
    }

    /// Keeps the chaining values of leaves that follow each other from `at` on.
    fn keep(&mut self, at: u64, hashes: impl Iterator<Item = ChainingValue>) {
        let first = (at / LEAF_BYTES as u64) as usize;
        // What has been passed over gets its values later.
        self.leaves.resize(self.leaves.len().max(first), ChainingValue::default());
        for (leaf, hash) in (first..).zip(hashes) {
            match self.leaves.get_mut(leaf) {
                Some(value) => *value = hash,
                None => self.leaves.push(hash),
            }
        }
    }

    /// Reads and hashes what is left.
    fn rest(&mut self) -> io::Result<()> {
        loop {
            while let Some(held) = self.window()? {
                self.give_back(Some(held));
            }
            let Some(passed) = self.passed.take() else { return Ok(()) };
            (self.at, self.end) = (passed.start, passed.end);
        }
    }

    fn root(&self) -> Cid {
        let len = self.source.len();
        match self.single {
            Some(hash) => hash.into(),
            None if len == 0 => Cid::of(b""),
            None => tree::root(&self.leaves, len).into(),
        }
    }
}

/// Walks the messages of the bytes that have been read.
struct Parser<'s, S: ?Sized> {
    source: &'s S,
    /// Whether the actors may be passed over.
    may_pass: bool,
    blocks: Blocks,
    /// Where the next message begins.
    next: u64,
    message: u64,
    opened: Option<Opened>,
    actors: Option<Dictionary>,
    categories: Option<Dictionary>,
    dictionary: Option<Reading>,
    /// The actors, if they are passed over.
    deferred: Option<Deferred>,
    /// A batch whose body is still being read.
    batch: Option<Batch>,
    rows: u64,
    ended: bool,
}

/// A record batch whose layout holds.
#[derive(Clone, Copy)]
struct Batch {
    message: u64,
    body: u64,
    end: u64,
    first_row: u64,
    layout: Layout<3>,
}

/// A part of a batch whose columns lie in one piece each.
struct Run<'a> {
    message: u64,
    rows: Rows<'a>,
}

impl<'s, S: Source + ?Sized> Parser<'s, S> {
    fn new(source: &'s S, may_pass: bool) -> Self {
        Self {
            source,
            may_pass,
            blocks: Blocks::default(),
            next: 0,
            message: 0,
            opened: None,
            actors: None,
            categories: None,
            dictionary: None,
            deferred: None,
            batch: None,
            rows: 0,
            ended: false,
        }
    }

    /// Takes a window in and reads messages as far as they are there; gives the batches that are complete.
    fn take(&mut self, fresh: Option<Held>) -> Result<Vec<Batch>, Broken> {
        if let Some(fresh) = fresh {
            self.blocks.push(fresh);
        }
        let mut complete = Vec::new();
        while !self.ended {
            if self.dictionary.as_ref().is_some_and(|reading| reading.end() > self.blocks.read) {
                break;
            }
            self.finish_dictionary()?;
            if !self.has_passed() {
                break;
            }
            if let Some(batch) = self.batch.take_if(|batch| batch.end <= self.blocks.read) {
                complete.push(batch);
            }
            if self.batch.is_some() || !self.message().map_err(|broken| broken.message(self.message))? {
                break;
            }
        }
        Ok(complete)
    }

    /// Number of actors, once that is known.
    fn actor_count(&self) -> Option<u64> {
        let deferred = self.deferred.as_ref().map(Deferred::len);
        deferred.or(self.actors.as_ref().map(|actors| actors.len() as u64))
    }

    /// Where to go on if a dictionary is to be passed over and has not been yet. What comes next is taken to be read from there.
    fn pass_over(&mut self) -> Option<u64> {
        let to = self.deferred.as_ref()?.tail_at();
        (self.blocks.read < to).then(|| {
            self.blocks.read = to;
            to
        })
    }

    /// Whether nothing is missing of what follows a dictionary that is passed over. The last leaf of such a one is read with it.
    fn has_passed(&mut self) -> bool {
        let Some(deferred) = &mut self.deferred else { return true };
        let passed = self.blocks.read >= deferred.end;
        if passed && deferred.tail.is_empty() {
            deferred.tail = vec![0; (deferred.end - deferred.tail_at()) as usize];
            self.blocks.copy(deferred.tail_at(), &mut deferred.tail);
        }
        passed
    }

    /// Reads one message; `false` when more bytes are needed for that.
    fn message(&mut self) -> Result<bool, Broken> {
        let (at, read, len) = (self.next, self.blocks.read, self.source.len());
        let there = |end: u64| if end > len { Err(Fault::Truncated.here()) } else { Ok(end <= read) };
        if at == len {
            return Err(Fault::NoEndOfStream.here());
        }
        if !there(at + PREFIX_BYTES as u64)? {
            return Ok(false);
        }
        let mut bytes = [0; PREFIX_BYTES];
        self.blocks.copy(at, &mut bytes);
        let metadata_len = match frame::prefix(bytes)? {
            Prefix::Metadata(len) => len,
            Prefix::End if at + END_BYTES as u64 != len => return Err(Fault::TrailingBytes.here()),
            Prefix::End if self.opened.is_none() => return Err(Fault::FirstNotSchema.here()),
            Prefix::End => {
                self.ended = true;
                self.next = len;
                return Ok(false);
            }
        };
        let body = at + (PREFIX_BYTES + metadata_len) as u64;
        if !there(body)? {
            return Ok(false);
        }
        let mut metadata = vec![0; metadata_len];
        self.blocks.copy(at + PREFIX_BYTES as u64, &mut metadata);
        let (message, body_len) = frame::message(&metadata, len - body)?;
        let end = body + body_len;
        match (message.header_type(), &self.opened) {
            (MessageHeader::Schema, None) => {
                let schema = message.header_as_schema().ok_or(Fault::MetadataInvalid.here())?;
                if body_len != 0 {
                    return Err(Fault::SchemaWithBody.here());
                }
                self.opened = Some(header::read(schema)?);
            }
            (_, None) => return Err(Fault::FirstNotSchema.here()),
            (MessageHeader::DictionaryBatch, Some(opened)) => {
                let batch = message.header_as_dictionary_batch().ok_or(Fault::MetadataInvalid.here())?;
                let (name, kind, known) = match batch.id() {
                    id if id == opened.actor_dictionary => {
                        (COLUMNS[0], Kind::Actor, self.actor_count().is_some())
                    }
                    id if id == opened.category_dictionary => {
                        (COLUMNS[1], Kind::Category, self.categories.is_some())
                    }
                    _ => return Err(Fault::DictionaryUnknown.here()),
                };
                if batch.isDelta() {
                    return Err(Fault::DictionaryDelta.here().column(name));
                }
                if known {
                    return Err(Fault::DictionaryTwice.here().column(name));
                }
                let data = batch.data().ok_or(Fault::DictionaryEmptyBatch.here().column(name))?;
                let layout = frame::dictionary_layout(data, body_len, name)?;
                let beyond = tail_at(end).saturating_sub(read);
                let may_pass = self.may_pass && kind == Kind::Actor;
                if may_pass && Deferred::is_worth_it(self.source, body, &layout, beyond) {
                    // Nothing of it is wanted for anything else.
                    let head =
                        Blocks { held: std::mem::take(&mut self.blocks.held), read, spare: Vec::new() };
                    self.deferred = Some(Deferred { body, end, layout, head, tail: Vec::new() });
                    self.next = end;
                    self.message += 1;
                    return Ok(true);
                }
                // The body is within the stream's length, which a caller has bounded: memory for it may be taken.
                let body_len = usize::try_from(body_len).map_err(|_| Fault::BodyBeyondEnd.here())?;
                let mut reading = Reading::new(body, body_len, &layout, kind)?;
                let (_, all) = reading.split(body);
                let held = (end.min(read) - body) as usize;
                self.blocks.copy(body, &mut all[..held]);
                self.dictionary = Some(reading);
                // The rest of the body is read to where it stays; no block is needed for it.
                self.blocks.keep_from(end.min(read));
            }
            (MessageHeader::RecordBatch, Some(_)) => {
                let batch = frame::batch_of(&message)?;
                if self.actor_count().is_none() || self.categories.is_none() {
                    return Err(Fault::DictionaryMissing.here());
                }
                let layout = frame::rows_layout(batch, body_len, WIDTHS, COLUMNS)?;
                let first_row = self.rows;
                // Each row has bytes in the stream, whose length is a number of 64 bits.
                self.rows = first_row.saturating_add(layout.rows);
                self.batch = Some(Batch { message: self.message, body, end, first_row, layout });
            }
            (MessageHeader::Schema, Some(_)) => return Err(Fault::SchemaTwice.here()),
            _ => return Err(Fault::MessageKind.here()),
        }
        self.next = end;
        self.message += 1;
        Ok(true)
    }

    /// Takes note of what has been found of the values of the dictionary under way, up to `read`.
    fn note(&mut self, read: u64, checked: Vec<Checked>) -> Result<(), Broken> {
        let Some(reading) = &mut self.dictionary else { return Ok(()) };
        let name = reading.kind.column();
        // The message counter already stands at the one after it.
        reading.note(read, checked).map_err(|broken| broken.column(name).message(self.message - 1))
    }

    fn finish_dictionary(&mut self) -> Result<(), Broken> {
        let Some(reading) = self.dictionary.take() else { return Ok(()) };
        let kind = reading.kind;
        let finished =
            reading.finish().map_err(|broken| broken.column(kind.column()).message(self.message - 1))?;
        match kind {
            Kind::Actor => self.actors = Some(finished),
            Kind::Category => self.categories = Some(finished),
        }
        Ok(())
    }

    /// Lets go of what no later message and no batch under way needs; gives the memory back for reuse.
    fn release(&mut self) -> Vec<Block<u8>> {
        let from = self.batch.as_ref().map_or(self.next, |batch| batch.body);
        self.blocks.keep_from(from.min(self.blocks.read));
        std::mem::take(&mut self.blocks.spare)
    }

    /// Whether the stream came to its end as it should.
    fn end(&self) -> Result<(), Broken> {
        if self.ended {
            return Ok(());
        }
        let fault = if self.source.len() == 0 { Fault::NoEndOfStream } else { Fault::Truncated };
        Err(fault.here().message(self.message))
    }

    fn finish<K, L>(self, cid: Cid, sink: Option<K>, lanes: Vec<L>) -> Result<Decoded<K, L>, Broken> {
        let opened = self.opened.ok_or(Fault::FirstNotSchema.here())?;
        Ok(Decoded {
            cid,
            header: opened.header,
            actors: self.actors.unwrap_or_else(Dictionary::empty),
            categories: self.categories.unwrap_or_else(Dictionary::empty),
            rows: self.rows,
            lanes,
            sink,
        })
    }
}

/// Whether a validity buffer, if there is one, holds ones only for `rows` rows.
fn check_validity<'a>(span: Span, rows: u64, pieces: impl Iterator<Item = &'a [u8]>) -> Result<(), Broken> {
    if span.len == 0 {
        return Ok(());
    }
    if span.len < rows.div_ceil(8) {
        return Err(Fault::ValidityTooShort.here());
    }
    let mut left = rows;
    for piece in pieces {
        let bits = left.min(piece.len() as u64 * 8);
        if !frame::all_valid(piece, bits) {
            return Err(Fault::ValidityZero.here());
        }
        left -= bits;
    }
    Ok(())
}

/// The part of the stream that is in memory: pieces that follow each other without a gap, except where a dictionary's
/// body went elsewhere. Pieces begin at multiples of 8 bytes, as buffers do, so that no value lies across two of them.
#[derive(Default)]
pub(crate) struct Blocks {
    held: VecDeque<Held>,
    /// Up to here the stream has been read.
    pub read: u64,
    spare: Vec<Block<u8>>,
}

impl Blocks {
    fn push(&mut self, fresh: Held) {
        self.read = fresh.end();
        if fresh.len == 0 { self.spare.push(fresh.block) } else { self.held.push_back(fresh) }
    }

    fn keep_from(&mut self, from: u64) {
        while self.held.front().is_some_and(|held| held.end() <= from) {
            self.spare.extend(self.held.pop_front().map(|held| held.block));
        }
    }

    /// The pieces that make up a range of the stream, all of which has been read and is held.
    pub fn pieces(&self, range: Range<u64>) -> impl Iterator<Item = &[u8]> {
        let first = self.held.partition_point(|block| block.end() <= range.start);
        self.held.range(first..).take_while(move |block| block.at < range.end).map(move |block| {
            let start = range.start.max(block.at) - block.at;
            let end = range.end.min(block.end()) - block.at;
            &block.bytes()[start as usize..end as usize]
        })
    }

    pub fn copy(&self, at: u64, to: &mut [u8]) {
        let mut filled = 0;
        for piece in self.pieces(at..at + to.len() as u64) {
            to[filled..filled + piece.len()].copy_from_slice(piece);
            filled += piece.len();
        }
        debug_assert_eq!(filled, to.len(), "only bytes that are held are asked for");
    }

    /// Cuts batches into runs.
    fn runs(&self, batches: &[Batch]) -> Result<Vec<Run<'_>>, Broken> {
        let mut runs = Vec::new();
        for batch in batches {
            let range = |span: Span| batch.body + span.offset..batch.body + span.offset + span.len;
            for (span, name) in batch.layout.validity.iter().zip(COLUMNS) {
                check_validity(*span, batch.layout.rows, self.pieces(range(*span)))
                    .map_err(|broken| broken.column(name).message(batch.message))?;
            }
            let [actors, categories, units] =
                batch.layout.data.map(|span| Column { pieces: self.pieces(range(span)), left: &[] });
            let (mut actors, mut categories, mut units) = (actors, categories, units);
            let mut row = 0;
            while row < batch.layout.rows {
                let most = ((batch.layout.rows - row) as usize).min(ROWS_PER_RUN);
                let n = most.min(actors.rows(4)).min(categories.rows(1)).min(units.rows(8));
                debug_assert!(n > 0, "a complete batch has bytes for each of its rows");
                if n == 0 {
                    return Err(Fault::BufferTooShort.here().message(batch.message));
                }
                let rows = Rows {
                    first_row: batch.first_row + row,
                    actors: actors.take(4 * n),
                    categories: categories.take(n),
                    units: units.take(8 * n),
                };
                runs.push(Run { message: batch.message, rows });
                row += n as u64;
            }
        }
        Ok(runs)
    }
}

/// What is left of one column of a batch.
struct Column<'a, I> {
    pieces: I,
    left: &'a [u8],
}

impl<'a, I: Iterator<Item = &'a [u8]>> Column<'a, I> {
    /// Rows of `width` bytes in the piece at hand.
    fn rows(&mut self, width: usize) -> usize {
        while self.left.is_empty() {
            match self.pieces.next() {
                Some(piece) => self.left = piece,
                None => return 0,
            }
        }
        self.left.len() / width
    }

    fn take(&mut self, bytes: usize) -> &'a [u8] {
        let (taken, left) = self.left.split_at(bytes);
        self.left = left;
        taken
    }
}
