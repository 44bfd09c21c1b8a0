//! One actor's rows, found without decoding the others: for explanations.
//!
//! The snapshot was verified when it was computed; this reads only the actor keys (four bytes a row) and checks what it
//! reads as decode does, but it does not hash. What it says explains a result and never makes one.
//!
//! Who asks once reads all keys once ([`actor_rows`]). Who is asked again and again lets a [`Lookup`] note at which rows each key
//! stands, four bytes for each row and actor, and reads no other row from then on.

use crate::error::{Broken, DecodeError, Fault};
use crate::frame::{self, PREFIX_BYTES, Prefix};
use crate::header::{self, Opened};
use crate::source::Source;
use arrow_ipc::MessageHeader;
use rewarder_model::SnapshotHeader;
use rewarder_model::name::ACTOR_BYTES_MAX;
use rewarder_model::snapshot::COLUMNS;
use std::collections::BTreeMap;

/// Bytes of keys or names read at once: they stay in L2.
const CHUNK_BYTES: usize = 256 * 1024;
/// Names of a dictionary in any order that are read at once, each of 256 bytes at most.
const CHUNK_NAMES: u64 = (CHUNK_BYTES / ACTOR_BYTES_MAX) as u64;
/// Bytes of messages' heads that are read at once: a snapshot may have a batch for each row.
const HEADS_BYTES: usize = 4 * 1024;
/// Rows that are read at once where an actor has one among so many.
const NEAR_ROWS: u64 = 4096;
/// Most rows of an actor that count as few.
const FEW_ROWS: u64 = 4096;

/// What a snapshot says of one actor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActorRows {
    /// Position in the canonical order of all names.
    pub rank: usize,
    /// Number of rows.
    pub rows: u64,
    /// Units by category; a category without rows of this actor is not there.
    pub units: BTreeMap<String, u128>,
}

/// Looks up an actor's rows; `None` if its name is not in the dictionary. `sorted` says whether the actor dictionary is
/// in byte order, as the computation of the snapshot found out.
///
/// # Errors
/// When the bytes cannot be read or are not those that were computed.
pub fn actor_rows(
    source: &(impl Source + ?Sized),
    actor: &[u8],
    sorted: bool,
) -> Result<Option<ActorRows>, DecodeError> {
    Lookup::open(source, sorted)?.rows_of(actor)
}

/// A snapshot laid open: where its names and rows are.
#[derive(Debug)]
pub struct Lookup<S> {
    source: S,
    sorted: bool,
    actors: Values,
    categories: Vec<String>,
    batches: Vec<Batch>,
    rows: u64,
    index: Option<Index>,
}

/// Where a batch's columns are.
#[derive(Debug, Clone, Copy)]
struct Batch {
    first_row: u64,
    rows: u64,
    actors: u64,
    categories: u64,
    units: u64,
}

/// The rows of key `k` are `rows[starts[k]..starts[k + 1]]`.
#[derive(Debug)]
struct Index {
    starts: Vec<u32>,
    rows: Vec<u32>,
}

impl<S: Source> Lookup<S> {
    /// Reads the messages' heads and the categories.
    ///
    /// # Errors
    /// When the bytes cannot be read or are not those that were computed.
    pub fn open(source: S, sorted: bool) -> Result<Self, DecodeError> {
        let (mut opened, mut actors, mut categories) = (None::<Opened>, None, None);
        let (mut batches, mut rows) = (Vec::new(), 0u64);
        let (mut at, len) = (0u64, source.len());
        let mut heads = Ahead::new(&source, HEADS_BYTES);
        while at < len {
            let mut prefix = [0; PREFIX_BYTES];
            heads.read(at, &mut prefix)?;
            let Prefix::Metadata(metadata_len) = frame::prefix(prefix)? else { break };
            let mut metadata = vec![0; metadata_len];
            heads.read(at + PREFIX_BYTES as u64, &mut metadata)?;
            let body = at + (PREFIX_BYTES + metadata_len) as u64;
            let (message, body_len) = frame::message(&metadata, len.saturating_sub(body))?;
            match (message.header_type(), &opened) {
                (MessageHeader::Schema, None) => {
                    let schema = message.header_as_schema().ok_or(Fault::MetadataInvalid.here())?;
                    opened = Some(header::read(schema)?);
                }
                (MessageHeader::DictionaryBatch, Some(opened)) => {
                    let batch = message.header_as_dictionary_batch().ok_or(Fault::MetadataInvalid.here())?;
                    let data = batch.data().ok_or(Fault::DictionaryEmptyBatch.here())?;
                    let is_actor = batch.id() == opened.actor_dictionary;
                    let layout = frame::dictionary_layout(data, body_len, COLUMNS[usize::from(!is_actor)])?;
                    let values = Values {
                        len: layout.rows,
                        offsets: body + layout.data[0].offset,
                        values: body + layout.values.offset,
                        bytes: layout.values.len,
                    };
                    *(if is_actor { &mut actors } else { &mut categories }) = Some(values);
                }
                (MessageHeader::RecordBatch, Some(_)) => {
                    let layout =
                        frame::rows_layout(frame::batch_of(&message)?, body_len, [4, 1, 8], COLUMNS)?;
                    let [actors, categories, units] = layout.data.map(|span| body + span.offset);
                    batches.push(Batch { first_row: rows, rows: layout.rows, actors, categories, units });
                    rows += layout.rows;
                }
                _ => return Err(Broken::from(Fault::MessageKind).into()),
            }
            at = body + body_len;
        }
        let (actors, categories) = (actors.unwrap_or_default(), categories.unwrap_or_default());
        // Keys are bytes: names from 256 on are never used.
        let categories = (0..categories.len.min(256))
            .map(|index| Ok(String::from_utf8_lossy(&categories.value(&source, index)?).into_owned()))
            .collect::<Result<_, DecodeError>>()?;
        Ok(Self { source, sorted, actors, categories, batches, rows, index: None })
    }

    /// Notes at which rows each key stands, if that takes `bytes_max` at most.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn index(&mut self, bytes_max: u64) -> Result<(), DecodeError> {
        let needed = self.actors.len.saturating_add(self.rows).saturating_add(2).saturating_mul(4);
        if self.index.is_some() || needed > bytes_max || u32::try_from(self.rows).is_err() {
            return Ok(());
        }
        // A counting sort. Counted two places on, so that filling moves each start to where it belongs.
        let mut starts = vec![0u32; self.actors.len as usize + 2];
        let unknown = || DecodeError::from(Broken::from(Fault::KeyOutOfRange));
        self.keys(|_, keys| {
            keys.iter().try_for_each(|key| {
                let count = starts.get_mut(u32::from_le_bytes(*key) as usize + 2);
                count.map(|count| *count += 1).ok_or_else(unknown)
            })
        })?;
        let mut sum = 0;
        for start in &mut starts[1..] {
            sum += *start;
            *start = sum;
        }
        let mut rows = vec![0u32; self.rows as usize];
        self.keys(|first_row, keys| {
            keys.iter().zip(first_row as u32..).try_for_each(|(key, row)| {
                let next = starts.get_mut(u32::from_le_bytes(*key) as usize + 1).ok_or_else(unknown)?;
                *rows.get_mut(*next as usize).ok_or_else(unknown)? = row;
                *next += 1;
                Ok(())
            })
        })?;
        self.index = Some(Index { starts, rows });
        Ok(())
    }

    /// Where it reads.
    pub fn source(&self) -> &S {
        &self.source
    }

    /// Bytes that it holds in memory.
    pub fn bytes(&self) -> usize {
        let index = self.index.as_ref().map_or(0, |index| 4 * (index.starts.len() + index.rows.len()));
        index + size_of::<Batch>() * self.batches.len()
    }

    /// Whether an actor's rows are noted and few, and its name is found without reading all.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn is_quick(&self, actor: &[u8]) -> Result<bool, DecodeError> {
        let (true, Some(index)) = (self.sorted, &self.index) else { return Ok(false) };
        let Some((key, _)) = self.actors.search(&self.source, actor)? else { return Ok(true) };
        let at = |more| index.starts.get(key as usize + more).copied().unwrap_or_default();
        Ok(u64::from(at(1).saturating_sub(at(0))) <= FEW_ROWS)
    }

    /// An actor's rows; `None` if its name is not in the dictionary.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn rows_of(&self, actor: &[u8]) -> Result<Option<ActorRows>, DecodeError> {
        let found = if self.sorted {
            self.actors.search(&self.source, actor)?
        } else {
            self.actors.scan(&self.source, actor)?
        };
        let Some((key, rank)) = found else { return Ok(None) };
        let mut sums = Sums::new(&self.source);
        match &self.index {
            Some(index) => {
                let bounds = [0, 1].map(|more| index.starts.get(key as usize + more).map(|at| *at as usize));
                let [Some(start), Some(end)] = bounds else {
                    return Err(Broken::from(Fault::KeyOutOfRange).into());
                };
                for row in index.rows.get(start..end).unwrap_or_default() {
                    let at = self.batches.partition_point(|batch| batch.first_row <= u64::from(*row));
                    sums.add(&self.batches[at - 1], u64::from(*row))?;
                }
            }
            None => {
                let key = key.to_le_bytes();
                let mut batch = 0;
                self.keys(|first_row, keys| {
                    // A block at a time without branches, so that the compiler makes vectors of it; nearly all hold no match.
                    for (block, keys) in keys.chunks(1024).enumerate() {
                        if !keys.iter().fold(false, |found, k| found | (*k == key)) {
                            continue;
                        }
                        for (at, _) in keys.iter().enumerate().filter(|(_, k)| **k == key) {
                            let row = first_row + (1024 * block + at) as u64;
                            while self.batches[batch].first_row + self.batches[batch].rows <= row {
                                batch += 1;
                            }
                            sums.add(&self.batches[batch], row)?;
                        }
                    }
                    Ok(())
                })?;
            }
        }
        let name = |key: usize| self.categories.get(key).cloned().unwrap_or_default();
        let units = sums.units.iter().enumerate().filter_map(|(key, units)| Some((name(key), (*units)?)));
        Ok(Some(ActorRows { rank, rows: sums.rows, units: units.collect() }))
    }

    /// All keys, in parts: the number of the part's first row, and its keys.
    fn keys(
        &self,
        mut each: impl FnMut(u64, &[[u8; 4]]) -> Result<(), DecodeError>,
    ) -> Result<(), DecodeError> {
        let mut chunk = vec![0; CHUNK_BYTES.min(4 * usize::try_from(self.rows).unwrap_or(CHUNK_BYTES))];
        for batch in &self.batches {
            let mut row = 0;
            while row < batch.rows {
                let n = (CHUNK_BYTES as u64 / 4).min(batch.rows - row);
                let keys = &mut chunk[..4 * n as usize];
                self.source.read_at(batch.actors + 4 * row, keys)?;
                each(batch.first_row + row, keys.as_chunks::<4>().0)?;
                row += n;
            }
        }
        Ok(())
    }
}

/// A snapshot's words about itself, from its first message alone. Nothing behind it is looked at, and nothing is hashed: who
/// wants to know before an upload where it belongs.
///
/// # Errors
/// When the bytes cannot be read or do not begin with the schema message of a snapshot.
pub fn header_of(source: &(impl Source + ?Sized)) -> Result<SnapshotHeader, DecodeError> {
    let mut prefix = [0; PREFIX_BYTES];
    let len = source.len();
    if len < PREFIX_BYTES as u64 {
        return Err(Broken::from(Fault::Truncated).into());
    }
    source.read_at(0, &mut prefix)?;
    let Prefix::Metadata(metadata_len) = frame::prefix(prefix)? else {
        return Err(Broken::from(Fault::FirstNotSchema).into());
    };
    let body = (PREFIX_BYTES + metadata_len) as u64;
    if body > len {
        return Err(Broken::from(Fault::Truncated).into());
    }
    let mut metadata = vec![0; metadata_len];
    source.read_at(PREFIX_BYTES as u64, &mut metadata)?;
    let (message, _) = frame::message(&metadata, len - body)?;
    let schema = message.header_as_schema().ok_or(Broken::from(Fault::FirstNotSchema))?;
    Ok(header::read(schema)?.header)
}

impl From<Fault> for Broken {
    fn from(fault: Fault) -> Self {
        fault.here()
    }
}

/// A dictionary where it lies.
#[derive(Debug, Clone, Copy, Default)]
struct Values {
    len: u64,
    offsets: u64,
    values: u64,
    bytes: u64,
}

impl Values {
    fn value(&self, source: &(impl Source + ?Sized), index: u64) -> Result<Vec<u8>, DecodeError> {
        let mut bounds = [0; 8];
        source.read_at(self.offsets + 4 * index, &mut bounds)?;
        let [start, end] =
            [&bounds[..4], &bounds[4..]].map(|b| u64::from(u32::from_le_bytes([b[0], b[1], b[2], b[3]])));
        if end < start || end > self.bytes {
            return Err(Broken::from(Fault::OffsetsInvalid).into());
        }
        let mut value = vec![0; (end - start) as usize];
        source.read_at(self.values + start, &mut value)?;
        Ok(value)
    }

    /// Key and rank of a name.
    fn search(
        &self,
        source: &(impl Source + ?Sized),
        name: &[u8],
    ) -> Result<Option<(u32, usize)>, DecodeError> {
        let (mut low, mut high) = (0, self.len);
        while low < high {
            let middle = low.midpoint(high);
            match self.value(source, middle)?.as_slice().cmp(name) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => return Ok(Some((middle as u32, middle as usize))),
            }
        }
        Ok(None)
    }

    /// For a dictionary in any order: the rank is the number of smaller names.
    fn scan(
        &self,
        source: &(impl Source + ?Sized),
        name: &[u8],
    ) -> Result<Option<(u32, usize)>, DecodeError> {
        let broken = || DecodeError::from(Broken::from(Fault::OffsetsInvalid));
        let (mut key, mut rank) = (None, 0);
        let (mut offsets, mut values) = (Vec::new(), Vec::new());
        for first in (0..self.len).step_by(CHUNK_NAMES as usize) {
            let count = CHUNK_NAMES.min(self.len - first);
            offsets.resize(4 * (count as usize + 1), 0);
            source.read_at(self.offsets + 4 * first, &mut offsets)?;
            let offsets = offsets.as_chunks::<4>().0.iter().map(|at| u64::from(u32::from_le_bytes(*at)));
            let (start, end) =
                (offsets.clone().next().unwrap_or(0), offsets.clone().next_back().unwrap_or(0));
            let len = end.checked_sub(start).filter(|len| end <= self.bytes && *len <= CHUNK_BYTES as u64);
            values.resize(len.ok_or_else(broken)? as usize, 0);
            source.read_at(self.values + start, &mut values)?;
            let bounds = offsets.clone().zip(offsets.skip(1));
            for (index, (from, to)) in (first..).zip(bounds) {
                let value = from.checked_sub(start).zip(to.checked_sub(start));
                let value = value.and_then(|(from, to)| values.get(from as usize..to as usize));
                match value.ok_or_else(broken)?.cmp(name) {
                    std::cmp::Ordering::Less => rank += 1,
                    std::cmp::Ordering::Equal => key = Some(index as u32),
                    std::cmp::Ordering::Greater => {}
                }
            }
        }
        Ok(key.map(|key| (key, rank)))
    }
}

/// Reads a little more than it is asked for, since what is asked for next mostly lies behind it.
struct Ahead<'a, S: ?Sized> {
    source: &'a S,
    len: usize,
    start: u64,
    bytes: Vec<u8>,
}

impl<'a, S: Source + ?Sized> Ahead<'a, S> {
    fn new(source: &'a S, len: usize) -> Self {
        Self { source, len, start: 0, bytes: Vec::new() }
    }

    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), DecodeError> {
        let has = |start: u64, bytes: &[u8]| {
            let from = usize::try_from(offset.checked_sub(start)?).ok()?;
            let all = from..from.checked_add(buffer.len())?;
            (all.end <= bytes.len()).then_some(all)
        };
        if let Some(all) = has(self.start, &self.bytes) {
            buffer.copy_from_slice(&self.bytes[all]);
            return Ok(());
        }
        if buffer.len() > self.len {
            return Ok(self.source.read_at(offset, buffer)?);
        }
        let there = self.source.len().saturating_sub(offset);
        self.bytes.resize(there.min(self.len as u64) as usize, 0);
        self.start = offset;
        self.source.read_at(offset, &mut self.bytes)?;
        let all = has(self.start, &self.bytes).ok_or(Broken::from(Fault::Truncated))?;
        buffer.copy_from_slice(&self.bytes[all]);
        Ok(())
    }
}

/// What an actor's rows come to. They are added in their order; those that lie near each other are read together.
struct Sums<'a, S: ?Sized> {
    source: &'a S,
    units: [Option<u128>; 256],
    rows: u64,
    /// The last row.
    last: u64,
    /// The first row that has been read, and the columns from there on.
    first: u64,
    categories: Vec<u8>,
    values: Vec<u8>,
}

impl<'a, S: Source + ?Sized> Sums<'a, S> {
    fn new(source: &'a S) -> Self {
        let (categories, values) = (Vec::new(), Vec::new());
        Self { source, units: [None; 256], rows: 0, last: 0, first: 0, categories, values }
    }

    fn add(&mut self, batch: &Batch, row: u64) -> Result<(), DecodeError> {
        let read = self.first..self.first + self.categories.len() as u64;
        if !read.contains(&row) {
            let is_near = self.rows > 0 && row - self.last < NEAR_ROWS;
            let in_batch = row - batch.first_row;
            let count = if is_near { NEAR_ROWS.min(batch.rows - in_batch) } else { 1 };
            self.categories.resize(count as usize, 0);
            self.values.resize(8 * count as usize, 0);
            self.source.read_at(batch.categories + in_batch, &mut self.categories)?;
            self.source.read_at(batch.units + 8 * in_batch, &mut self.values)?;
            self.first = row;
        }
        let at = (row - self.first) as usize;
        let units = u64::from_le_bytes(self.values.as_chunks::<8>().0[at]);
        *self.units[usize::from(self.categories[at])].get_or_insert(0) += u128::from(units);
        self.rows += 1;
        self.last = row;
        Ok(())
    }
}
