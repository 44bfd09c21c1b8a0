//! The whole way on one page: pieces are read, parsed, interned, merged; names are sorted; rows are
//! renumbered, written.
//!
//! ```text
//! reading thread    pool (any thread, any order)               this thread (in the order of the file)
//! pieces ────────▶  parse each piece into a block  ─────────▶  lines, refusals, categories
//!                   intern each shard's names of all blocks
//!                   number each block's rows  ──────────────▶  row store (memory, then disk)
//!                   sort the names
//! writing thread ◀  dictionary and batches, renumbered  ◀───  row store
//! ```
//!
//! The law: what depends on order is done in the order of the file, by this thread, from what blocks say of
//! themselves; what is done by many threads depends on no order. So the bytes and the messages are the same
//! at every thread count.

use crate::block::{Block, CATEGORIES_MAX};
use crate::config::{GROUP_BLOCKS, SealOptions};
use crate::error::{BAD_ROWS_LISTED_MAX, BadRow, RefusedRows, SealError};
use crate::input::{self, Input, Opened, Parser, Piece, ReadError, TextBlock};
use crate::intern::{LOOK_AHEAD, Names};
use crate::ipc::{self, BATCH_ROWS};
use crate::lookalike::Warnings;
use crate::order::{self, Ranks, Sorted};
use crate::progress::{Phase, Progress};
use crate::rows::{RowStore, Segment};
use crate::target::{Target, directory};
use ahash::RandomState;
use rayon::prelude::*;
use rewarder_model::{Category, Cid, SnapshotHeader};
use std::collections::VecDeque;
use std::path::Path;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, channel, sync_channel};

/// Names of one piece of the dictionary: about half a megabyte of text, less than a batch.
const DICTIONARY_PIECE_NAMES: usize = 1 << 14;

/// Pieces of output that are made together, and as many may wait for the disk: some 14 MB in all.
const OUTPUT_PIECES: usize = 8;

/// What was sealed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    /// The CID of the file.
    pub cid: Cid,
    /// Rows.
    pub rows: u64,
    /// Distinct actors.
    pub actors: u64,
    /// Distinct categories.
    pub categories: u64,
    /// Bytes of the file.
    pub bytes: u64,
    /// Names that look like others.
    pub warnings: Warnings,
}

/// Makes a sealed snapshot of `input` at `out`, in the fast case of contract §2.
///
/// # Errors
/// See [`SealError`]. After an error there is no file, and one that was there before is as it was.
pub fn seal<'a>(
    input: impl Into<Input<'a>>,
    options: &SealOptions,
    out: &Path,
    progress: &'a dyn Progress,
) -> Result<Sealed, SealError> {
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(options.threads)
        .thread_name(|n| format!("seal-{n}"))
        .build()
        .map_err(|e| SealError::Options(format!("cannot start {} threads: {e}", options.threads)))?;
    // First of all: an output that cannot be written should not cost a pass over the input.
    let target = Target::new(out)?;
    progress.phase(Phase::Read);
    let opened = input::open(input.into(), options, directory(out), progress)?;
    let read = read(opened, options, directory(out), &pool, progress)?;
    progress.phase(Phase::Sort);
    let sorted = pool.install(|| order::sorted(&read.names));
    progress.phase(Phase::Write);
    write(read, sorted, options, target, out, &pool, progress)
}

/// What an input holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Examined {
    /// Rows.
    pub rows: u64,
    /// Distinct actors.
    pub actors: u64,
    /// Distinct categories.
    pub categories: u64,
}

/// Reads an input as [`seal`] does, refusing what it refuses, and writes nothing. On this thread and the current rayon pool:
/// what is small should cost no threads.
///
/// # Errors
/// See [`SealError`].
pub fn examine<'a>(
    input: impl Into<Input<'a>>,
    options: &SealOptions,
    progress: &'a dyn Progress,
) -> Result<Examined, SealError> {
    let dir = std::env::temp_dir();
    let Opened { parser, mut pieces, lines } = input::open(input.into(), options, &dir, progress)?;
    let mut gathered = Gathered::new(&parser, lines, RowStore::new(&dir, options.bounds.rows_held_bytes_max));
    let mut ended = false;
    while !ended && !gathered.stopped {
        let (mut group, mut failed) = (Vec::new(), None);
        while group.len() < GROUP_BLOCKS && !ended && failed.is_none() {
            match pieces.next(None) {
                Ok(Some(piece)) => group.push(piece),
                Ok(None) => ended = true,
                Err(e) => failed = Some(e),
            }
        }
        gathered.parse(&group);
        gathered.intern()?;
        gathered.merge(&dir)?;
        match failed {
            Some(ReadError::Seal(e)) if !gathered.stopped => return Err(e),
            Some(ReadError::RecordTooLong) if !gathered.stopped => {
                gathered.refuse_endless(options.bounds.record_bytes_max);
            }
            _ => {}
        }
    }
    let Read { names, categories, rows } = gathered.finish()?;
    Ok(Examined { rows: rows.rows(), actors: names.len() as u64, categories: categories.len() as u64 })
}

/// All rows, by provisional ids.
struct Read {
    names: Names,
    /// In order of first appearance, which is what the rows' bytes mean.
    categories: Vec<Category>,
    rows: RowStore,
}

fn read(
    opened: Opened<'_>,
    options: &SealOptions,
    dir: &Path,
    pool: &rayon::ThreadPool,
    progress: &dyn Progress,
) -> Result<Read, SealError> {
    let Opened { parser, mut pieces, lines } = opened;
    let (send, receive) = sync_channel::<Result<Piece, ReadError>>(GROUP_BLOCKS);
    let (give_back, done) = channel::<TextBlock>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            loop {
                let next = pieces.next(done.try_recv().ok()).transpose();
                let failed = matches!(next, Some(Err(_)));
                // The other side is gone when it has seen enough.
                if next.is_none_or(|next| send.send(next).is_err()) || failed {
                    return;
                }
            }
        });
        let store = RowStore::new(dir, options.bounds.rows_held_bytes_max);
        let mut gathered = Gathered::new(&parser, lines, store);
        loop {
            let (group, end) = group(&receive);
            pool.install(|| gathered.parse(&group));
            // What was parsed holds all that is wanted of the text, which is filled again meanwhile.
            for piece in group {
                if let Piece::Text(text) = piece {
                    let _ = give_back.send(text);
                }
            }
            pool.install(|| gathered.intern())?;
            pool.install(|| gathered.merge(dir))?;
            progress.rows(gathered.rows.rows());
            if gathered.stopped {
                break;
            }
            match end {
                None => {}
                Some(Ok(())) => break,
                Some(Err(ReadError::Seal(e))) => return Err(e),
                Some(Err(ReadError::RecordTooLong)) => {
                    gathered.refuse_endless(options.bounds.record_bytes_max);
                    break;
                }
            }
        }
        drop(receive);
        gathered.finish()
    })
}

/// The next pieces, up to a group's worth, and whether and how the input ended with them.
fn group(pieces: &Receiver<Result<Piece, ReadError>>) -> (Vec<Piece>, Option<Result<(), ReadError>>) {
    let mut group = Vec::with_capacity(GROUP_BLOCKS);
    while group.len() < GROUP_BLOCKS {
        match pieces.recv() {
            Ok(Ok(piece)) => group.push(piece),
            Ok(Err(e)) => return (group, Some(Err(e))),
            Err(_) => return (group, Some(Ok(()))),
        }
    }
    (group, None)
}

/// What has been read so far.
struct Gathered<'a> {
    parser: &'a Parser,
    hasher: RandomState,
    names: Names,
    categories: Vec<Category>,
    rows: RowStore,
    /// The blocks of a group, reused by the next.
    blocks: Vec<Block>,
    used: usize,
    /// Lines before the next block.
    lines: u64,
    bad: Vec<BadRow>,
    bad_count: u64,
    /// Nothing more will be read: there is a 257th category, or a record without end.
    stopped: bool,
}

impl<'a> Gathered<'a> {
    fn new(parser: &'a Parser, lines: u64, rows: RowStore) -> Self {
        Self {
            parser,
            hasher: RandomState::new(),
            names: Names::new(),
            categories: Vec::new(),
            rows,
            blocks: std::iter::repeat_with(Block::default).take(GROUP_BLOCKS).collect(),
            used: 0,
            lines,
            bad: Vec::new(),
            bad_count: 0,
            stopped: false,
        }
    }

    /// Parses a group.
    fn parse(&mut self, group: &[Piece]) {
        self.used = group.len();
        let (parser, hasher) = (self.parser, &self.hasher);
        let blocks = &mut self.blocks[..group.len()];
        blocks
            .par_iter_mut()
            .zip(group)
            .with_max_len(1)
            .for_each(|(block, piece)| parser.parse(piece, hasher, block));
    }

    /// Interns the names of a group that was parsed, unless a row has been refused, from when on only refusals matter.
    fn intern(&mut self) -> Result<(), SealError> {
        let blocks = &self.blocks[..self.used];
        let refused = |block: &Block| !block.bad_lines.is_empty() || block.categories_overflow.is_some();
        if self.bad_count > 0 || blocks.iter().any(refused) {
            return Ok(());
        }
        let shards = self.names.shards.par_iter_mut().with_max_len(1).enumerate();
        shards.for_each(|(index, shard)| shard.intern_all(blocks.iter().map(|block| &block.deals[index])));
        self.names.check()
    }

    /// Adds the blocks to what was gathered, in the order of the file.
    fn merge(&mut self, dir: &Path) -> Result<(), SealError> {
        let mut renumbered = Vec::with_capacity(self.used);
        for index in 0..self.used {
            let block = &self.blocks[index];
            let mut stop_at = block.categories_overflow;
            let mut ids = [0_u8; CATEGORIES_MAX];
            for (own, (category, line)) in block.category_names.iter().enumerate() {
                let place = self.categories.iter().position(|known| known == category);
                let id = place.unwrap_or(self.categories.len());
                let Ok(id) = u8::try_from(id) else {
                    stop_at = Some(*line);
                    break;
                };
                if place.is_none() {
                    self.categories.push(category.clone());
                }
                ids[own] = id;
            }
            // Lines of a block are counted from 0, those of a file from 1.
            let base = self.lines + 1;
            let before = |bad: &&BadRow| stop_at.is_none_or(|stop| bad.at < stop);
            let room = BAD_ROWS_LISTED_MAX - self.bad.len();
            let listed: Vec<BadRow> = block
                .bad
                .iter()
                .filter(before)
                .take(room)
                .map(|bad| BadRow { at: base + bad.at, ..bad.clone() })
                .collect();
            self.bad.extend(listed);
            self.lines += block.lines;
            if let Some(line) = stop_at {
                self.bad_count += block.bad_lines.partition_point(|bad| *bad < line) as u64;
                let label = self.parser.labels().category.to_owned();
                let why = format!("more than {CATEGORIES_MAX} categories: this row has one more");
                self.stop(BadRow { at: base + line, column: Some(label), why });
                return Ok(());
            }
            self.bad_count += block.bad_lines.len() as u64;
            renumbered.push(ids);
        }
        if self.bad_count > 0 {
            return Ok(());
        }
        let shards = &self.names.shards;
        let segments: Vec<Segment> = self.blocks[..self.used]
            .par_iter()
            .zip(&renumbered)
            .with_max_len(1)
            .enumerate()
            .map(|(index, (block, category_ids))| {
                let mut ids = vec![0; block.units.len()];
                for (deal, shard) in block.deals.iter().zip(shards) {
                    for (run, id) in deal.runs.iter().zip(&shard.ids[index]) {
                        ids[run.row as usize..][..usize::from(run.rows)].fill(*id);
                    }
                }
                let categories = block.categories.iter().map(|own| category_ids[usize::from(*own)]).collect();
                Segment { ids, categories, units: block.units.clone() }
            })
            .collect();
        for segment in segments {
            self.rows.push(segment).map_err(SealError::io("write a temporary file in", dir))?;
        }
        Ok(())
    }

    fn refuse_endless(&mut self, bytes_max: usize) {
        let why = format!("the record is longer than {bytes_max} bytes; is a quote never closed?");
        self.stop(BadRow { at: self.lines + 1, column: None, why });
    }

    fn stop(&mut self, row: BadRow) {
        if self.bad.len() < BAD_ROWS_LISTED_MAX {
            self.bad.push(row);
        }
        self.bad_count += 1;
        self.stopped = true;
    }

    fn finish(mut self) -> Result<Read, SealError> {
        if self.bad_count > 0 {
            return Err(SealError::Rows(RefusedRows {
                place: self.parser.place(),
                rows: self.bad,
                count: self.bad_count,
                and_more: self.stopped,
            }));
        }
        self.names.freeze();
        Ok(Read { names: self.names, categories: self.categories, rows: self.rows })
    }
}

/// Makes the output's pieces in order; threads of their own hash and write them.
fn write(
    read: Read,
    sorted: Vec<Sorted>,
    options: &SealOptions,
    mut target: Target<'_>,
    out: &Path,
    pool: &rayon::ThreadPool,
    progress: &dyn Progress,
) -> Result<Sealed, SealError> {
    let Read { names, categories, rows } = read;
    let (count, actors) = (rows.rows(), sorted.len() as u64);
    let categories_count = categories.len() as u64;
    let (send, receive) = sync_channel::<Vec<u8>>(OUTPUT_PIECES);
    // Memory that has been written goes round, so that a snapshot of any size is written out of
    // the same few pieces.
    let (give_back, used) = channel::<Vec<u8>>();
    let used = Mutex::new(used);
    let (written, warnings) = std::thread::scope(|scope| {
        let writer = scope.spawn(|| target.fill(receive, &give_back));
        let made = pool.install(|| {
            // A send fails when writing has failed, and the writer says why.
            let put = |piece| drop(send.send(piece));
            let room = || used.lock().ok().and_then(|used| used.try_recv().ok()).unwrap_or_default();
            make(&options.header, &names, &sorted, &categories, rows, &Output { put, room }, progress)
        });
        drop(send);
        let written = writer.join().map_err(|_| SealError::TooMuch("the writing thread failed"))?;
        // What the disk said comes first: the maker only notices that nobody takes its pieces.
        let written = written.map_err(SealError::io("write", out))?;
        let warnings = made.map_err(SealError::io("read a temporary file beside", out))?;
        Ok::<_, SealError>((written, warnings))
    })?;
    progress.phase(Phase::Sync);
    // The file's name and the memory's end wait for the system, each for another part of it.
    pool.join(|| target.keep(), || drop((names, sorted))).0?;
    let (cid, bytes) = written;
    Ok(Sealed { cid, rows: count, actors, categories: categories_count, bytes, warnings })
}

/// Where pieces go, and where the memory for more comes from.
struct Output<P, R> {
    put: P,
    room: R,
}

/// The snapshot, piece by piece.
fn make(
    header: &SnapshotHeader,
    names: &Names,
    sorted: &[Sorted],
    categories: &[Category],
    rows: RowStore,
    output: &Output<impl Fn(Vec<u8>), impl Fn() -> Vec<u8> + Sync>,
    progress: &dyn Progress,
) -> std::io::Result<Warnings> {
    let put = &output.put;
    put(ipc::schema(header));
    let mut warnings = Warnings::default();
    if rows.rows() > 0 {
        let ranks = Ranks::new(names);
        warnings = make_actors(names, sorted, &ranks, output);
        let mut places: Vec<usize> = (0..categories.len()).collect();
        places.sort_unstable_by(|a, b| categories[*a].as_str().cmp(categories[*b].as_str()));
        let in_order: Vec<&str> = places.iter().map(|place| categories[*place].as_str()).collect();
        put(ipc::dictionary(ipc::CATEGORIES, &in_order));
        let mut category_ranks = [0_u8; CATEGORIES_MAX];
        for (rank, place) in places.into_iter().enumerate() {
            category_ranks[place] = rank as u8;
        }
        make_batches(&ranks, &category_ranks, rows, output, progress)?;
    }
    put(ipc::END_OF_STREAM.to_vec());
    Ok(warnings)
}

/// The actors' dictionary; says each name's place to `ranks` on the way.
fn make_actors(
    names: &Names,
    sorted: &[Sorted],
    ranks: &Ranks,
    output: &Output<impl Fn(Vec<u8>), impl Fn() -> Vec<u8> + Sync>,
) -> Warnings {
    let Output { put, room } = output;
    let pieces: Vec<&[Sorted]> = sorted.chunks(DICTIONARY_PIECE_NAMES).collect();
    // Where each piece's bytes begin. `Names::check` keeps the sum below 2^31.
    let mut starts = vec![0_u32];
    for piece in &pieces {
        let length: u32 = piece.iter().map(|name| u32::from(name.place.len)).sum();
        starts.push(starts[starts.len() - 1] + length);
    }
    let length = starts[starts.len() - 1] as usize;
    let mut head = ipc::dictionary_head(ipc::ACTORS, sorted.len(), length);
    head.extend_from_slice(&0_u32.to_le_bytes());
    put(head);
    for (pieces, starts) in pieces.chunks(OUTPUT_PIECES).zip(starts.chunks(OUTPUT_PIECES)) {
        let made: Vec<Vec<u8>> = pieces
            .par_iter()
            .zip(starts)
            .map(|(piece, start)| {
                let mut end = *start;
                let mut offsets = room();
                offsets.reserve(piece.len() * 4);
                for name in *piece {
                    end += u32::from(name.place.len);
                    offsets.extend_from_slice(&end.to_le_bytes());
                }
                offsets
            })
            .collect();
        made.into_iter().for_each(put);
    }
    put(ipc::padding(ipc::offsets_len(sorted.len())).to_vec());
    let mut warnings = Warnings::default();
    for (group, pieces) in pieces.chunks(OUTPUT_PIECES).enumerate() {
        let made: Vec<(Vec<u8>, Warnings)> = pieces
            .par_iter()
            .enumerate()
            .map(|(index, piece)| {
                let mut rank = ((group * OUTPUT_PIECES + index) * DICTIONARY_PIECE_NAMES) as u32;
                let mut bytes = room();
                bytes.reserve(piece.iter().map(|name| usize::from(name.place.len)).sum());
                for some in piece.chunks(LOOK_AHEAD) {
                    let (found, count) = names.gather(some.iter().map(|name| name.place), 0);
                    for (name, bytes_of_name) in some.iter().zip(&found[..count]) {
                        ranks.set(name.place.shard, names.number(name.place), rank);
                        rank += 1;
                        bytes.extend_from_slice(bytes_of_name);
                    }
                }
                let lengths = piece.iter().map(|name| usize::from(name.place.len));
                let warnings = Warnings::of(&bytes, lengths);
                (bytes, warnings)
            })
            .collect();
        for (bytes, seen) in made {
            warnings.add(seen);
            put(bytes);
        }
    }
    put(ipc::padding(length).to_vec());
    warnings
}

fn make_batches(
    ranks: &Ranks,
    category_ranks: &[u8; CATEGORIES_MAX],
    rows: RowStore,
    output: &Output<impl Fn(Vec<u8>), impl Fn() -> Vec<u8> + Sync>,
    progress: &dyn Progress,
) -> std::io::Result<()> {
    let Output { put, room } = output;
    let mut reader = rows.into_reader()?;
    let mut held: VecDeque<Segment> = VecDeque::new();
    // Rows of the first segment that earlier batches took; rows that are held and not taken.
    let (mut taken, mut ready, mut written) = (0, 0, 0_u64);
    let mut at_end = false;
    while !at_end || ready > 0 {
        while !at_end && ready < OUTPUT_PIECES * BATCH_ROWS {
            match reader.next()? {
                Some(segment) => {
                    ready += segment.len();
                    held.push_back(segment);
                }
                None => at_end = true,
            }
        }
        // Each batch's rows as ranges of segments.
        let mut batches: Vec<Vec<(usize, usize, usize)>> = Vec::new();
        let mut segment = 0;
        while batches.len() < OUTPUT_PIECES && (ready >= BATCH_ROWS || at_end && ready > 0) {
            let mut ranges = Vec::new();
            let mut wanted = BATCH_ROWS.min(ready);
            ready -= wanted;
            written += wanted as u64;
            while wanted > 0 {
                let end = held[segment].len().min(taken + wanted);
                ranges.push((segment, taken, end));
                wanted -= end - taken;
                taken = end;
                if taken == held[segment].len() {
                    segment += 1;
                    taken = 0;
                }
            }
            batches.push(ranges);
        }
        let made: Vec<Vec<u8>> = batches
            .into_par_iter()
            .map(|ranges| batch(ranks, category_ranks, &held, &ranges, room()))
            .collect();
        held.drain(..segment);
        made.into_iter().for_each(put);
        progress.rows(written);
    }
    Ok(())
}

fn batch(
    ranks: &Ranks,
    category_ranks: &[u8; CATEGORIES_MAX],
    held: &VecDeque<Segment>,
    ranges: &[(usize, usize, usize)],
    room: Vec<u8>,
) -> Vec<u8> {
    let rows = ranges.iter().map(|(_, start, end)| end - start).sum();
    let mut batch = ipc::Batch::new(rows, room);
    let (mut actors, mut categories, mut units) = batch.columns();
    for (segment, start, end) in ranges {
        let (segment, rows) = (&held[*segment], end - start);
        let (some_actors, some_categories, some_units);
        (some_actors, actors) = actors.split_at_mut(rows);
        (some_categories, categories) = categories.split_at_mut(rows);
        (some_units, units) = units.split_at_mut(rows);
        for (to, id) in some_actors.iter_mut().zip(&segment.ids[*start..*end]) {
            *to = ranks.get(*id).to_le_bytes();
        }
        for (to, own) in some_categories.iter_mut().zip(&segment.categories[*start..*end]) {
            *to = category_ranks[usize::from(*own)];
        }
        for (to, own) in some_units.iter_mut().zip(&segment.units[*start..*end]) {
            *to = own.to_le_bytes();
        }
    }
    batch.message
}
