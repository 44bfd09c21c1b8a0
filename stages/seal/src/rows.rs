//! The rows between the two passes: what they say is known, but not yet which place their actor's name will
//! have.
//!
//! The law: rows come out in the order in which they went in, whether or not they went through the disk. A
//! row is 13 bytes (provisional id, category, units). Up to a bound they stay in memory; beyond it they go to
//! a nameless temporary file beside the output, which is gone when this is dropped, and also when the process
//! is killed.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, Write};
use std::path::{Path, PathBuf};

/// Bytes of a packed row.
const ROW_BYTES: usize = 13;

/// Some consecutive rows.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Segment {
    pub ids: Vec<u32>,
    pub categories: Vec<u8>,
    pub units: Vec<u64>,
}

impl Segment {
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    fn write(&self, out: &mut impl Write, scratch: &mut Vec<u8>) -> io::Result<()> {
        scratch.clear();
        scratch.extend_from_slice(&(self.len() as u64).to_le_bytes());
        scratch.extend(self.ids.iter().flat_map(|id| id.to_le_bytes()));
        scratch.extend_from_slice(&self.categories);
        scratch.extend(self.units.iter().flat_map(|units| units.to_le_bytes()));
        out.write_all(scratch)
    }

    fn read(input: &mut impl Read, scratch: &mut Vec<u8>) -> io::Result<Self> {
        let mut count = [0; 8];
        input.read_exact(&mut count)?;
        let rows = u64::from_le_bytes(count) as usize;
        scratch.resize(rows * ROW_BYTES, 0);
        input.read_exact(scratch)?;
        let (ids, rest) = scratch.split_at(rows * 4);
        let (categories, units) = rest.split_at(rows);
        Ok(Self {
            ids: ids.as_chunks().0.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect(),
            categories: categories.to_vec(),
            units: units.as_chunks().0.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect(),
        })
    }
}

/// Rows while they come in.
#[derive(Debug)]
pub(crate) struct RowStore {
    held: VecDeque<Segment>,
    held_bytes: usize,
    held_bytes_max: usize,
    spill: Option<BufWriter<File>>,
    spilled: usize,
    rows: u64,
    /// Where the temporary file goes.
    dir: PathBuf,
}

impl RowStore {
    pub fn new(dir: &Path, held_bytes_max: usize) -> Self {
        Self {
            held: VecDeque::new(),
            held_bytes: 0,
            held_bytes_max,
            spill: None,
            spilled: 0,
            rows: 0,
            dir: dir.to_owned(),
        }
    }

    /// Rows so far.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Appends rows; writes what is held to disk if that is more than the bound.
    pub fn push(&mut self, segment: Segment) -> io::Result<()> {
        self.rows += segment.len() as u64;
        self.held_bytes += segment.len() * ROW_BYTES;
        self.held.push_back(segment);
        if self.held_bytes <= self.held_bytes_max {
            return Ok(());
        }
        let spill = match &mut self.spill {
            Some(spill) => spill,
            none => none.insert(BufWriter::new(tempfile::tempfile_in(&self.dir)?)),
        };
        let mut scratch = Vec::new();
        for segment in self.held.drain(..) {
            segment.write(spill, &mut scratch)?;
            self.spilled += 1;
        }
        self.held_bytes = 0;
        Ok(())
    }

    /// The rows from the first.
    pub fn into_reader(self) -> io::Result<RowReader> {
        let spill = match self.spill {
            Some(spill) => {
                let mut file = spill.into_inner().map_err(io::IntoInnerError::into_error)?;
                file.rewind()?;
                Some(BufReader::new(file))
            }
            None => None,
        };
        Ok(RowReader { spill, spilled: self.spilled, held: self.held, scratch: Vec::new() })
    }
}

/// Rows while they go out.
#[derive(Debug)]
pub(crate) struct RowReader {
    spill: Option<BufReader<File>>,
    spilled: usize,
    held: VecDeque<Segment>,
    scratch: Vec<u8>,
}

impl RowReader {
    /// The next rows.
    pub fn next(&mut self) -> io::Result<Option<Segment>> {
        match &mut self.spill {
            Some(spill) if self.spilled > 0 => {
                self.spilled -= 1;
                Segment::read(spill, &mut self.scratch).map(Some)
            }
            _ => Ok(self.held.pop_front()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_order_through_memory_and_disk() {
        let dir = tempfile::tempdir().unwrap();
        let segments: Vec<Segment> = (0..20_u32)
            .map(|n| Segment {
                ids: (0..n).map(|i| i * 1000 + n).collect(),
                categories: (0..n).map(|i| (i + n) as u8).collect(),
                units: (0..n).map(|i| u64::MAX - u64::from(i * n)).collect(),
            })
            .collect();
        for bound in [0, 1, 300, usize::MAX] {
            let mut store = RowStore::new(dir.path(), bound);
            for segment in &segments {
                store.push(segment.clone()).unwrap();
            }
            assert_eq!(store.rows(), 190);
            assert_eq!(store.spill.is_some(), bound < usize::MAX);
            let mut reader = store.into_reader().unwrap();
            let mut back = Vec::new();
            while let Some(segment) = reader.next().unwrap() {
                back.push(segment);
            }
            assert_eq!(back, segments);
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
