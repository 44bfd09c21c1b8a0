//! The spool's file: an append-only log in segments, over the [`Disk`] port.
//!
//! ```text
//! spool/lock                        held while a process has the spool
//! spool/00000000000000000007.log    a segment: a `begin` record, then what happened
//! spool/spare.tmp                   zeros, to become the next segment
//! spool/00000000000000000006.corrupt  a segment in which the disk had changed something, kept for people
//! ```
//!
//! The laws:
//!
//! 1. **A group is durable when [`Log::commit`] returns, or void.** After a failed write the segment is cut
//!    back to what was durable before; where even that fails the caller hears `Uncertain`, and the next
//!    segment begins with the same record number, which voids whatever the disk kept of the failed group.
//! 2. **A torn tail is no damage.** What was being written when the machine died was never answered for.
//! 3. **Damage is said and costs only itself.** A record that was durable once and does not hold any more is
//!    counted; every record before and behind it is read.
//! 4. **Bounded.** When the log is much longer than what is alive, a checkpoint (a segment that holds just
//!    that, renamed into place as a whole) replaces all segments before it. So does each open.
//! 5. **Zeros are nothing.** Behind the records of a segment there are zeros that later ones are written over: a group that
//!    changes neither the file's length nor its place on the disk is durable in about half the time.
//!
//! Why not redb here: a group of intents costs one write and one fsync instead of a copy-on-write tree and
//! two, and what a crash can leave behind is simple enough to try every cut.

use super::record::{self, PAYLOAD_BYTES_MAX};
use crate::plant;
use rewarder_model::world::disk::{Disk, WriteFile, read_whole};
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The spool's directory.
pub const SPOOL_DIR: &str = "spool";
/// Version of what records say.
const VERSION: u32 = 1;
/// Longest segment that is read: a log is replaced by a checkpoint long before.
const SEGMENT_BYTES_MAX: u64 = 1 << 30;
/// Damaged segments that are kept for people.
const CORRUPT_KEPT: usize = 8;
/// A log shorter than this is not worth replacing.
const CHECKPOINT_BYTES_MIN: u64 = 4 << 20;
/// A log is replaced when it is this many times as long as what is alive: each byte is then rewritten at most
/// once for every three that are appended.
const CHECKPOINT_FACTOR: u64 = 4;

/// What opening the spool found.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Found {
    /// Segments that were read.
    pub segments: u64,
    /// Records that held.
    pub records: u64,
    /// Entries that are alive.
    pub entries: u64,
    /// Bytes of a last write that the machine's death cut off, up to the last that is not zero; nothing of it had been
    /// answered for.
    pub torn_bytes: u64,
    /// Records that were durable once and do not hold any more.
    pub corrupt_records: u64,
    /// Where they were kept for people.
    pub set_aside: Vec<String>,
}

/// Why a group was not written.
#[derive(Debug)]
pub enum CommitError {
    /// Nothing of it is or will be there.
    Void(io::Error),
    /// It may be there after a crash that comes before the next commit.
    Uncertain(io::Error),
}

/// One thing that a record says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said<'a> {
    /// The entry with this JSON is alive, in this form.
    Put(&'a [u8]),
    /// The entry with this place is not alive any more.
    Gone(u64),
}

#[derive(Serialize, Deserialize)]
struct Begin {
    version: u32,
    /// How many records follow that were durable before the segment had its name.
    checkpoint: Option<u64>,
}

/// Why the spool cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The disk failed.
    #[error("the spool {path} cannot be read: {source}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the disk said.
        source: io::Error,
    },
    /// Another program has written here.
    #[error("{path} was written by another version (form {version}): start that one, or drain it first")]
    Version {
        /// Which file.
        path: PathBuf,
        /// What it says.
        version: u32,
    },
}

/// The log, open for appending.
pub struct Log {
    disk: Arc<dyn Disk>,
    /// The segment under way; none before the first commit and after a failed one.
    file: Option<Box<dyn WriteFile>>,
    segment: u64,
    /// Bytes of the segment under way, and those of them that are known to be durable.
    len: u64,
    durable_len: u64,
    /// Bytes of all segments.
    total: u64,
    /// Number of the next record.
    next: u64,
    /// The first record that is not known to be durable.
    first: u64,
}

fn name(segment: u64) -> PathBuf {
    Path::new(SPOOL_DIR).join(format!("{segment:020}.log"))
}

fn number(name: &str) -> Option<u64> {
    name.strip_suffix(".log")?.parse().ok()
}

/// Behind the last byte that is not zero.
pub(super) fn end_of(bytes: &[u8]) -> usize {
    // Megabytes of zeros, mostly: compared a page at a time.
    let (mut rest, zeros) = (bytes, [0; 4096]);
    while let Some((before, page)) = rest.split_last_chunk()
        && *page == zeros
    {
        rest = before;
    }
    rest.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1)
}

struct Segment {
    number: u64,
    bytes: Vec<u8>,
    /// Where records hold.
    records: Vec<usize>,
    /// Bytes between and behind them.
    gap: u64,
}

impl Segment {
    fn read(number: u64, bytes: Vec<u8>) -> Self {
        let (mut records, mut gap, mut at) = (Vec::new(), 0, 0);
        // Behind the last write there are zeros, and no record begins with one. Records are read from all bytes: one may end
        // with zeros.
        let end = end_of(&bytes);
        while at < end {
            if let Some(record) = record::read(&bytes, at, number) {
                records.push(at);
                at = record.end;
            } else {
                let next = record::resume(&bytes[..end], at, number).unwrap_or(end);
                gap += (next - at) as u64;
                at = next;
            }
        }
        Self { number, bytes, records, gap }
    }

    fn records(&self) -> impl Iterator<Item = record::Record<'_>> {
        self.records.iter().filter_map(|at| record::read(&self.bytes, *at, self.number))
    }

    /// What it begins with, unless that does not hold.
    fn begin(&self) -> Option<(u64, Begin)> {
        let first = self.records().next()?;
        let json = first.payload.strip_prefix(b"B")?;
        Some((first.number, serde_json::from_slice(json).ok()?))
    }
}

impl Log {
    /// Reads what is there, oldest first, and hands each thing that a record says to `hear`.
    ///
    /// # Errors
    /// When the disk fails, or another version has written here.
    pub fn open(disk: Arc<dyn Disk>, mut hear: impl FnMut(Said<'_>)) -> Result<(Self, Found), ReadError> {
        let dir = Path::new(SPOOL_DIR);
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| ReadError::Io { path, source }
        };
        let mut numbers = Vec::new();
        for entry in disk.list(dir).map_err(io(dir))? {
            if entry.name.ends_with(".tmp") {
                // A checkpoint that did not come to its name.
                disk.remove(&dir.join(&entry.name)).map_err(io(dir))?;
            }
            numbers.extend(number(&entry.name));
        }
        numbers.sort_unstable();
        let mut segments = Vec::new();
        for number in numbers {
            let path = name(number);
            let bytes = read_whole(&*disk, &path, SEGMENT_BYTES_MAX).map_err(io(&path))?.unwrap_or_default();
            let segment = Segment::read(number, bytes);
            match segment.begin() {
                Some((_, Begin { version, .. })) if version != VERSION => {
                    return Err(ReadError::Version { path, version });
                }
                // Everything before a checkpoint is in it.
                Some((_, Begin { checkpoint: Some(_), .. })) => segments.clear(),
                _ => {}
            }
            segments.push(segment);
        }
        let (found, next, damaged) = replay(&segments, &mut hear);
        let mut log = Self {
            file: None,
            segment: segments.last().map_or(0, |segment| segment.number),
            len: 0,
            durable_len: 0,
            total: segments.iter().map(|segment| segment.bytes.len() as u64).sum(),
            next,
            first: next,
            disk,
        };
        let found = log.set_aside(found, &damaged);
        Ok((log, found))
    }

    /// Keeps damaged segments under another name, beside the original until a checkpoint takes that away.
    fn set_aside(&mut self, mut found: Found, damaged: &[u64]) -> Found {
        let dir = Path::new(SPOOL_DIR);
        for segment in damaged {
            let to = dir.join(format!("{segment:020}.corrupt"));
            match self.disk.link(&name(*segment), &to) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    tracing::error!(%error, segment, "a damaged segment of the spool could not be set aside");
                }
                _ => found.set_aside.push(to.display().to_string()),
            }
        }
        let entries = self.disk.list(dir).unwrap_or_default();
        let mut kept: Vec<_> =
            entries.into_iter().map(|entry| entry.name).filter(|name| name.ends_with(".corrupt")).collect();
        kept.sort_unstable();
        for name in kept.iter().rev().skip(CORRUPT_KEPT) {
            let _ = self.disk.remove(&dir.join(name));
        }
        found
    }

    /// Appends a group. With `durable`, it is when this returns; without, it is with the next group that is.
    ///
    /// # Errors
    /// See [`CommitError`].
    pub fn commit(&mut self, group: &[Vec<u8>], durable: bool) -> Result<(), CommitError> {
        let fresh = self.file.is_none();
        let mut bytes = Vec::with_capacity(group.iter().map(|payload| payload.len() + 32).sum());
        let segment = self.segment + u64::from(fresh);
        let mut next = self.next;
        let mut put = |payload: &[u8]| {
            debug_assert!(payload.len() <= PAYLOAD_BYTES_MAX);
            record::put(&mut bytes, segment, next, self.first, payload);
            next += 1;
        };
        if fresh {
            put(&begin(None));
        }
        group.iter().for_each(|payload| put(payload));
        let durable = durable || fresh;
        let written = if fresh { self.begin_segment(segment, &bytes) } else { self.append(&bytes, durable) };
        match written {
            Ok(()) => {
                self.len += bytes.len() as u64;
                self.total += bytes.len() as u64;
                self.next = next;
                if durable {
                    (self.first, self.durable_len) = (next, self.len);
                }
                Ok(())
            }
            Err(error) => Err(self.give_up(segment, fresh, error)),
        }
    }

    fn append(&mut self, bytes: &[u8], durable: bool) -> io::Result<()> {
        let file = self.file.as_mut().ok_or_else(|| io::Error::other("no segment is open"))?;
        file.write_all(bytes)?;
        if durable && !plant::is("fsync_left_out") { file.sync() } else { Ok(()) }
    }

    fn begin_segment(&mut self, segment: u64, bytes: &[u8]) -> io::Result<()> {
        let mut file = self.disk.create_new(&name(segment))?;
        file.write_all(bytes)?;
        file.sync()?;
        if !plant::is("directory_sync_left_out") {
            self.disk.sync_dir(Path::new(SPOOL_DIR))?;
        }
        (self.segment, self.len, self.durable_len, self.file) = (segment, 0, 0, Some(file));
        Ok(())
    }

    /// After a failed write: takes back what the disk may have of it. A file whose fsync has failed is not
    /// written again, since the system may have forgotten which of its pages it never wrote.
    fn give_up(&mut self, segment: u64, fresh: bool, error: io::Error) -> CommitError {
        if plant::is("failed_write_stays") {
            return CommitError::Void(error);
        }
        self.file = None;
        self.next = self.first;
        let path = name(segment);
        let undone = if fresh {
            self.segment = segment;
            let removed = match self.disk.remove(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                other => other,
            };
            removed.and_then(|()| self.disk.sync_dir(Path::new(SPOOL_DIR)))
        } else {
            // Also what was appended and not yet made durable goes: it only said what is gone, and is said again by
            // whoever asks the ledger about it.
            self.disk.truncate(&path, self.durable_len)
        };
        match undone {
            Ok(()) => CommitError::Void(error),
            Err(_) => CommitError::Uncertain(error),
        }
    }

    /// Whether the log is much longer than the `live` bytes that it stands for.
    pub fn wants_checkpoint(&self, live: u64) -> bool {
        self.total > CHECKPOINT_BYTES_MIN.max(live.saturating_mul(CHECKPOINT_FACTOR))
    }

    /// Replaces everything by a segment that holds just `live`, in the file `spare` if there is one. The segments before it
    /// are void from then on; [`tidy`] takes them away.
    ///
    /// # Errors
    /// The disk's; the log goes on as it was.
    pub fn checkpoint<'a>(
        &mut self,
        live: impl ExactSizeIterator<Item = &'a [u8]>,
        spare: Option<Box<dyn WriteFile>>,
    ) -> io::Result<()> {
        let segment = self.segment + 1;
        let path = name(segment);
        let temporary = if spare.is_some() { spare_path() } else { path.with_extension("tmp") };
        let first = self.next;
        let mut next = first;
        let mut bytes = Vec::new();
        let begin = begin(Some(live.len() as u64));
        let written = (|| {
            let mut file = match spare {
                Some(file) => file,
                None => create_over(&*self.disk, &temporary)?,
            };
            let mut total = 0;
            record::put(&mut bytes, segment, next, first, &begin);
            next += 1;
            for payload in live {
                record::put(&mut bytes, segment, next, first, payload);
                next += 1;
                if bytes.len() > 256 * 1024 {
                    total += bytes.len() as u64;
                    file.write_all(&bytes)?;
                    bytes.clear();
                }
            }
            total += bytes.len() as u64;
            file.write_all(&bytes)?;
            file.sync()?;
            self.disk.rename(&temporary, &path)?;
            if !plant::is("directory_sync_left_out") {
                self.disk.sync_dir(Path::new(SPOOL_DIR))?;
            }
            Ok((file, total))
        })();
        let (file, total) = match written {
            Ok(written) => written,
            Err(error) => {
                let _ = self.disk.remove(&temporary);
                let undone = match self.disk.remove(&path) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                    other => other.and_then(|()| self.disk.sync_dir(Path::new(SPOOL_DIR))),
                };
                if undone.is_err() {
                    // The name may stand for good. What is in it is true; what follows must come behind it.
                    (self.file, self.segment, self.next, self.first) = (None, segment, next, next);
                }
                return Err(error);
            }
        };
        (self.file, self.segment, self.total) = (Some(file), segment, total);
        (self.len, self.durable_len) = (total, total);
        (self.next, self.first) = (next, next);
        Ok(())
    }

    /// The segment under way, which everything before is void to.
    pub fn segment(&self) -> u64 {
        self.segment
    }
}

/// Takes away the segments before this one. What stays is taken away by the next call.
pub fn tidy(disk: &dyn Disk, segment: u64) {
    for entry in disk.list(Path::new(SPOOL_DIR)).unwrap_or_default() {
        if number(&entry.name).is_some_and(|number| number < segment) {
            let _ = disk.remove(&Path::new(SPOOL_DIR).join(&entry.name));
        }
    }
}

/// A file for the next checkpoint, with `len` zeros that its records and the groups behind them are written over.
///
/// # Errors
/// The disk's.
pub fn spare(disk: &dyn Disk, len: u64) -> io::Result<Box<dyn WriteFile>> {
    let path = spare_path();
    let made = create_over(disk, &path).and_then(|mut file| {
        file.preallocate(len)?;
        file.sync()?;
        Ok(file)
    });
    if made.is_err() {
        // On a full disk the room is for what is to be kept.
        let _ = disk.remove(&path);
    }
    made
}

fn spare_path() -> PathBuf {
    Path::new(SPOOL_DIR).join("spare.tmp")
}

/// A new file in the place of whatever is there.
fn create_over(disk: &dyn Disk, path: &Path) -> io::Result<Box<dyn WriteFile>> {
    match disk.remove(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    disk.create_new(path)
}

fn begin(checkpoint: Option<u64>) -> Vec<u8> {
    let mut payload = b"B".to_vec();
    payload.extend(serde_json::to_vec(&Begin { version: VERSION, checkpoint }).unwrap_or_default());
    payload
}

/// Payload of an entry that is alive.
pub fn put(json: &[u8]) -> Vec<u8> {
    [b"P", json].concat()
}

/// Payload of an entry that is not alive any more.
pub fn gone(seq: u64) -> Vec<u8> {
    [&b"G"[..], &seq.to_le_bytes()].concat()
}

/// Tells what the records of these segments say; returns what was found, the number of the next record, and
/// the segments in which records are missing that were durable once.
fn replay(segments: &[Segment], hear: &mut impl FnMut(Said<'_>)) -> (Found, u64, Vec<u64>) {
    let mut found = Found { segments: segments.len() as u64, ..Found::default() };
    // Where each segment begins: what an earlier one says from there on is void.
    let begins: Vec<Option<u64>> =
        segments.iter().map(|segment| segment.records().next().map(|record| record.first)).collect();
    let void_from = |at: usize| begins[at + 1..].iter().flatten().copied().min().unwrap_or(u64::MAX);
    let last_group = segments
        .iter()
        .enumerate()
        .flat_map(|(at, segment)| {
            let void = void_from(at);
            segment.records().filter(move |record| record.number < void)
        })
        .map(|record| record.first)
        .max()
        .unwrap_or(0);
    let mut durable_before = last_group;
    if let Some((number, Begin { checkpoint: Some(count), .. })) = segments.first().and_then(Segment::begin) {
        durable_before = durable_before.max(number + 1 + count);
    }
    let mut next = None;
    let mut damaged = Vec::new();
    let mut torn = 0;
    for (at, segment) in segments.iter().enumerate() {
        let void = void_from(at);
        let mut missing = 0;
        if let Some(first) = segment.records().next()
            && first.payload.first() != Some(&b'B')
            && first.first < last_group.min(void)
            && next.is_none_or(|next| next >= first.number)
        {
            // How it began was durable once; nothing else says that it is missing.
            missing += 1;
        }
        for record in segment.records().filter(|record| record.number < void) {
            let expected = next.unwrap_or(record.first);
            missing += record.number.min(durable_before).saturating_sub(expected);
            next = Some(record.number + 1);
            found.records += 1;
            match record.payload.split_first() {
                Some((b'P', json)) => hear(Said::Put(json)),
                Some((b'G', seq)) => {
                    if let Ok(seq) = <[u8; 8]>::try_from(seq) {
                        hear(Said::Gone(u64::from_le_bytes(seq)));
                    }
                }
                _ => {}
            }
        }
        // What is missing at the end of a segment is known from where the next one begins.
        let end = if void == u64::MAX { durable_before } else { void };
        if let Some(expected) = next {
            let lost = end.saturating_sub(expected);
            missing += lost;
            next = Some(expected.max(expected + lost));
        }
        if missing > 0 {
            damaged.push(segment.number);
            found.corrupt_records += missing;
        } else {
            torn += segment.gap;
        }
    }
    found.torn_bytes = torn;
    (found, next.unwrap_or(1).max(durable_before), damaged)
}
