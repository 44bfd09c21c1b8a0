//! Writes a snapshot from rows that are already numbered: for golden vectors, generators and tests.
//!
//! The law: what is written is the fast case of contract §2, or nothing is promised and an error comes back:
//! dictionaries sorted and distinct, batches of 64 Ki rows however the rows were handed in, the end marker
//! last. That no dictionary value is unused is the caller's to see to; [`crate::seal`] does.

use crate::ipc::{self, BATCH_ROWS};
use rewarder_model::{Category, Cid, SnapshotHeader, name::check_actor};
use std::io::{self, Write};

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// The CID of the bytes.
    pub cid: Cid,
    /// How many bytes.
    pub bytes: u64,
    /// How many rows.
    pub rows: u64,
}

/// A snapshot under construction: schema and dictionaries are written, rows follow.
#[derive(Debug)]
pub struct SnapshotWriter<W: Write> {
    out: W,
    hasher: blake3::Hasher,
    bytes: u64,
    rows: u64,
    dictionaries: Vec<u8>,
    lens: (usize, usize),
    actors: Vec<u32>,
    categories: Vec<u8>,
    units: Vec<u64>,
}

impl<W: Write> SnapshotWriter<W> {
    /// Begins a snapshot. `actors` and `categories` ascend by bytes, each name once.
    ///
    /// # Errors
    /// `InvalidInput` if they do not, if a name is none by contract §1, or if there are too many; else what
    /// `out` says.
    pub fn new<A: AsRef<str>, C: AsRef<str>>(
        out: W,
        header: &SnapshotHeader,
        actors: &[A],
        categories: &[C],
    ) -> io::Result<Self> {
        let actor = |name: &str| check_actor(name.as_bytes()).map_err(|e| e.to_string());
        let category = |name: &str| name.parse::<Category>().map(drop).map_err(|e| e.to_string());
        let mut dictionaries = dictionary(ipc::ACTORS, actors, u32::MAX as usize, actor)?;
        dictionaries.extend(dictionary(ipc::CATEGORIES, categories, 256, category)?);
        let mut writer = Self {
            out,
            hasher: blake3::Hasher::new(),
            bytes: 0,
            rows: 0,
            dictionaries,
            lens: (actors.len(), categories.len()),
            actors: Vec::with_capacity(BATCH_ROWS),
            categories: Vec::with_capacity(BATCH_ROWS),
            units: Vec::with_capacity(BATCH_ROWS),
        };
        writer.put(&ipc::schema(header))?;
        Ok(writer)
    }

    /// Appends rows, actors and categories as places in the dictionaries.
    ///
    /// # Errors
    /// `InvalidInput` if the columns differ in length or a place is not in its dictionary; else what the sink
    /// says.
    pub fn rows(&mut self, actors: &[u32], categories: &[u8], units: &[u64]) -> io::Result<()> {
        if actors.len() != units.len() || categories.len() != units.len() {
            return invalid("the columns of a batch differ in length");
        }
        if actors.iter().any(|actor| *actor as usize >= self.lens.0)
            || categories.iter().any(|category| usize::from(*category) >= self.lens.1)
        {
            return invalid("a row names a value that is not in the dictionary");
        }
        let mut at = 0;
        while at < units.len() {
            let take = (BATCH_ROWS - self.units.len()).min(units.len() - at);
            self.actors.extend_from_slice(&actors[at..at + take]);
            self.categories.extend_from_slice(&categories[at..at + take]);
            self.units.extend_from_slice(&units[at..at + take]);
            at += take;
            if self.units.len() == BATCH_ROWS {
                self.flush()?;
            }
        }
        Ok(())
    }

    /// Writes what is left and the end marker.
    pub fn finish(mut self) -> io::Result<(W, Written)> {
        self.flush()?;
        self.put(&ipc::END_OF_STREAM)?;
        self.out.flush()?;
        let written = Written { cid: self.hasher.finalize().into(), bytes: self.bytes, rows: self.rows };
        Ok((self.out, written))
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.units.is_empty() {
            return Ok(());
        }
        // Only a stream with a batch has dictionaries: a value that no row uses is not in the fast case.
        let dictionaries = std::mem::take(&mut self.dictionaries);
        self.put(&dictionaries)?;
        let batch = ipc::batch(&self.actors, &self.categories, &self.units, Vec::new());
        self.put(&batch)?;
        self.rows += self.units.len() as u64;
        self.actors.clear();
        self.categories.clear();
        self.units.clear();
        Ok(())
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hasher.update(bytes);
        self.bytes += bytes.len() as u64;
        self.out.write_all(bytes)
    }
}

/// Writes a whole snapshot: [`SnapshotWriter`] from begin to end. Each of `batches` is (actors, categories,
/// units).
pub fn write_snapshot<'a, W: Write>(
    out: W,
    header: &SnapshotHeader,
    actors: &[impl AsRef<str>],
    categories: &[impl AsRef<str>],
    batches: impl IntoIterator<Item = (&'a [u32], &'a [u8], &'a [u64])>,
) -> io::Result<(W, Written)> {
    let mut writer = SnapshotWriter::new(out, header, actors, categories)?;
    for (actors, categories, units) in batches {
        writer.rows(actors, categories, units)?;
    }
    writer.finish()
}

/// A dictionary message, checked.
fn dictionary(
    id: i64,
    values: &[impl AsRef<str>],
    values_max: usize,
    check: impl Fn(&str) -> Result<(), String>,
) -> io::Result<Vec<u8>> {
    if values.len() > values_max {
        return invalid("a dictionary has more values than its index can tell apart");
    }
    if !values.is_sorted_by(|a, b| a.as_ref().as_bytes() < b.as_ref().as_bytes()) {
        return invalid("a dictionary is not in ascending byte order, each value once");
    }
    let length: usize = values.iter().map(|value| value.as_ref().len()).sum();
    if i32::try_from(length).is_err() {
        return invalid("a dictionary's values are longer than 2 GiB in all");
    }
    for value in values {
        check(value.as_ref()).map_err(|problem| io::Error::new(io::ErrorKind::InvalidInput, problem))?;
    }
    Ok(ipc::dictionary(id, values))
}

fn invalid<T>(problem: &str) -> io::Result<T> {
    Err(io::Error::new(io::ErrorKind::InvalidInput, problem))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> SnapshotHeader {
        SnapshotHeader {
            tenant: "acme".parse().unwrap(),
            epoch: "e1".parse().unwrap(),
            asset: "roc".parse().unwrap(),
            pool: 1000.into(),
        }
    }

    #[test]
    fn batches_do_not_depend_on_how_rows_are_handed_in() {
        let rows = BATCH_ROWS + 5;
        let actors: Vec<u32> = (0..rows as u32).map(|n| n % 3).collect();
        let (categories, units) = (vec![0_u8; rows], vec![7_u64; rows]);
        let write = |chunk: usize| {
            let batches = actors.chunks(chunk).zip(categories.chunks(chunk)).zip(units.chunks(chunk));
            write_snapshot(
                Vec::new(),
                &header(),
                &["a", "b", "é"],
                &["x"],
                batches.map(|((a, c), u)| (a, c, u)),
            )
            .unwrap()
        };
        let (bytes, written) = write(rows);
        assert_eq!((written.rows, written.bytes), (rows as u64, bytes.len() as u64));
        assert_eq!(written.cid, Cid::of(&bytes));
        assert!(bytes.ends_with(&ipc::END_OF_STREAM));
        for chunk in [1000, 65_536, 70_000] {
            assert!(write(chunk).0 == bytes, "{chunk}");
        }
    }

    #[test]
    fn refuses_what_is_not_the_fast_case() {
        let new = |actors: &[&str], categories: &[&str]| {
            SnapshotWriter::new(Vec::new(), &header(), actors, categories).map(drop)
        };
        assert!(new(&["a", "b"], &["x"]).is_ok());
        for (actors, categories) in [
            (&["b", "a"][..], &["x"][..]),
            (&["a", "a"], &["x"]),
            (&["a\n"], &["x"]),
            (&["a"], &["it's"]),
            (&[""], &["x"]),
        ] {
            assert!(new(actors, categories).is_err(), "{actors:?} {categories:?}");
        }
        let mut writer = SnapshotWriter::new(Vec::new(), &header(), &["a"], &["x"]).unwrap();
        assert!(writer.rows(&[1], &[0], &[1]).is_err());
        assert!(writer.rows(&[0], &[1], &[1]).is_err());
        assert!(writer.rows(&[0, 0], &[0], &[1]).is_err());
    }
}
