//! One actor's rows, found without reading the others: for explanations.
//!
//! The snapshot was verified when it was computed; this reads only the actor keys (four bytes a row) and checks what it
//! reads as decode does, but it does not hash. What it says explains a result and never makes one.

use crate::error::{Broken, DecodeError, Fault};
use crate::frame::{self, PREFIX_BYTES, Prefix};
use crate::header::{self, Opened};
use crate::source::Source;
use arrow_ipc::MessageHeader;
use rewarder_model::SnapshotHeader;
use rewarder_model::snapshot::COLUMNS;
use std::collections::BTreeMap;

/// Bytes of keys read at once: they stay in L2.
const CHUNK_BYTES: usize = 256 * 1024;

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
    let mut scan = Scan {
        source,
        actor,
        sorted,
        opened: None,
        found: None,
        categories: Vec::new(),
        units: BTreeMap::new(),
        rows: 0,
    };
    let (mut at, len) = (0u64, source.len());
    while at < len {
        let mut prefix = [0; PREFIX_BYTES];
        source.read_at(at, &mut prefix)?;
        let Prefix::Metadata(metadata_len) = frame::prefix(prefix)? else { break };
        let mut metadata = vec![0; metadata_len];
        source.read_at(at + PREFIX_BYTES as u64, &mut metadata)?;
        let body = at + (PREFIX_BYTES + metadata_len) as u64;
        let (message, body_len) = frame::message(&metadata, len.saturating_sub(body))?;
        if !scan.message(&message, body, body_len)? {
            return Ok(None);
        }
        at = body + body_len;
    }
    let Scan { found, units, rows, categories, .. } = scan;
    let name = |key: u8| categories.get(usize::from(key)).cloned().unwrap_or_default();
    Ok(found.map(|(_, rank)| ActorRows {
        rank,
        rows,
        units: units.into_iter().map(|(key, units)| (name(key), units)).collect(),
    }))
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

struct Scan<'a, S: ?Sized> {
    source: &'a S,
    actor: &'a [u8],
    sorted: bool,
    opened: Option<Opened>,
    /// Key and rank.
    found: Option<(u32, usize)>,
    categories: Vec<String>,
    units: BTreeMap<u8, u128>,
    rows: u64,
}

impl<S: Source + ?Sized> Scan<'_, S> {
    /// Reads one message; `false` once it is certain that the actor is not there.
    fn message(
        &mut self,
        message: &arrow_ipc::Message<'_>,
        body: u64,
        body_len: u64,
    ) -> Result<bool, DecodeError> {
        match (message.header_type(), &self.opened) {
            (MessageHeader::Schema, None) => {
                let schema = message.header_as_schema().ok_or(Fault::MetadataInvalid.here())?;
                self.opened = Some(header::read(schema)?);
            }
            (MessageHeader::DictionaryBatch, Some(opened)) => {
                let batch = message.header_as_dictionary_batch().ok_or(Fault::MetadataInvalid.here())?;
                let data = batch.data().ok_or(Fault::DictionaryEmptyBatch.here())?;
                let is_actor = batch.id() == opened.actor_dictionary;
                let layout = frame::dictionary_layout(data, body_len, COLUMNS[usize::from(!is_actor)])?;
                let names = Values {
                    source: self.source,
                    offsets: body + layout.data[0].offset,
                    values: body + layout.values.offset,
                    bytes: layout.values.len,
                };
                if is_actor {
                    self.found = if self.sorted {
                        names.search(self.actor, layout.rows)?
                    } else {
                        names.scan(self.actor, layout.rows)?
                    };
                    return Ok(self.found.is_some());
                }
                // Keys are bytes: names from 256 on are never used.
                self.categories = (0..layout.rows.min(256))
                    .map(|index| Ok(String::from_utf8_lossy(&names.value(index)?).into_owned()))
                    .collect::<Result<_, DecodeError>>()?;
            }
            (MessageHeader::RecordBatch, Some(_)) => {
                let layout = frame::rows_layout(frame::batch_of(message)?, body_len, [4, 1, 8], COLUMNS)?;
                self.batch(layout.rows, layout.data.map(|span| body + span.offset))?;
            }
            _ => return Err(Broken::from(Fault::MessageKind).into()),
        }
        Ok(true)
    }

    fn batch(&mut self, rows: u64, [actors, categories, units]: [u64; 3]) -> Result<(), DecodeError> {
        let Some((key, _)) = self.found else { return Ok(()) };
        let key = key.to_le_bytes();
        let mut chunk = vec![0; CHUNK_BYTES.min(4 * rows as usize)];
        let mut row = 0;
        while row < rows {
            let n = (CHUNK_BYTES as u64 / 4).min(rows - row);
            let keys = &mut chunk[..4 * n as usize];
            self.source.read_at(actors + 4 * row, keys)?;
            let keys = keys.as_chunks::<4>().0;
            // A block at a time without branches, so that the compiler makes vectors of it; nearly all hold no match.
            for (block, keys) in keys.chunks(1024).enumerate() {
                if !keys.iter().fold(false, |found, k| found | (*k == key)) {
                    continue;
                }
                for (at, _) in keys.iter().enumerate().filter(|(_, k)| **k == key) {
                    let row = row + (1024 * block + at) as u64;
                    let (mut category, mut value) = ([0; 1], [0; 8]);
                    self.source.read_at(categories + row, &mut category)?;
                    self.source.read_at(units + 8 * row, &mut value)?;
                    *self.units.entry(category[0]).or_default() += u128::from(u64::from_le_bytes(value));
                    self.rows += 1;
                }
            }
            row += n;
        }
        Ok(())
    }
}

impl From<Fault> for Broken {
    fn from(fault: Fault) -> Self {
        fault.here()
    }
}

/// A dictionary where it lies.
struct Values<'a, S: ?Sized> {
    source: &'a S,
    offsets: u64,
    values: u64,
    bytes: u64,
}

impl<S: Source + ?Sized> Values<'_, S> {
    fn value(&self, index: u64) -> Result<Vec<u8>, DecodeError> {
        let mut bounds = [0; 8];
        self.source.read_at(self.offsets + 4 * index, &mut bounds)?;
        let [start, end] =
            [&bounds[..4], &bounds[4..]].map(|b| u64::from(u32::from_le_bytes([b[0], b[1], b[2], b[3]])));
        if end < start || end > self.bytes {
            return Err(Broken::from(Fault::OffsetsInvalid).into());
        }
        let mut value = vec![0; (end - start) as usize];
        self.source.read_at(self.values + start, &mut value)?;
        Ok(value)
    }

    fn search(&self, name: &[u8], len: u64) -> Result<Option<(u32, usize)>, DecodeError> {
        let (mut low, mut high) = (0, len);
        while low < high {
            let middle = low.midpoint(high);
            match self.value(middle)?.as_slice().cmp(name) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => return Ok(Some((middle as u32, middle as usize))),
            }
        }
        Ok(None)
    }

    /// For a dictionary in any order: the rank is the number of smaller names.
    fn scan(&self, name: &[u8], len: u64) -> Result<Option<(u32, usize)>, DecodeError> {
        let mut offsets = vec![0; 4 * (len as usize + 1)];
        self.source.read_at(self.offsets, if len == 0 { &mut [] } else { &mut offsets })?;
        let mut values = vec![0; self.bytes as usize];
        self.source.read_at(self.values, &mut values)?;
        let offset = |index: usize| {
            u32::from_le_bytes([
                offsets[4 * index],
                offsets[4 * index + 1],
                offsets[4 * index + 2],
                offsets[4 * index + 3],
            ])
        };
        let (mut key, mut rank) = (None, 0);
        for index in 0..len as usize {
            let value = values
                .get(offset(index) as usize..offset(index + 1) as usize)
                .ok_or(Broken::from(Fault::OffsetsInvalid))?;
            match value.cmp(name) {
                std::cmp::Ordering::Less => rank += 1,
                std::cmp::Ordering::Equal => key = Some(index as u32),
                std::cmp::Ordering::Greater => {}
            }
        }
        Ok(key.map(|key| (key, rank)))
    }
}
