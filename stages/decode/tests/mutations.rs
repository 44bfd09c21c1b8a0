//! Valid snapshots, mutated knowingly, and what decode makes of them.
//!
//! Streams of several shapes come from arrow-ipc's own writer. A mutation takes one apart ([`forge`]), changes fields,
//! bodies and framing (one to three times, by [`EDITS`]), puts it together, and now and then spoils bytes as well
//! ([`SPOILS`]). Of each, this holds:
//!
//! 1. decode does not panic, and what it says does not depend on whether a CID is expected, or how many
//!    names are wanted; with a wrong CID it says `CidMismatch` and nothing else.
//! 2. Memory stays within contract §2: 4 x size + 16 MiB, by a counting allocator and, since large blocks are mapped
//!    without it, by the process's peak of resident memory too.
//! 3. What decode takes, arrow-ipc's reader takes as well, and finds the same header and the same rows.
//! 4. One actor's rows, looked up on their own ([`actor_rows`]), are the same; in what is refused, that does not panic.
//!
//! And of all together: every [`Fault`] is reached, but for those that [`UNREACHABLE`] proves not to be.
//!
//! `MUTATIONS` and `MUTATION_SEED` set how many and which; `MUTATION_ONLY=index` replays one of them.

// The counting allocator has to implement an unsafe trait; all it does beside counting is to pass calls on.
#![allow(unsafe_code)]

mod forge;

use arrow_array::builder::StringBuilder;
use arrow_array::cast::AsArray;
use arrow_array::types::{UInt8Type, UInt32Type, UInt64Type};
use arrow_array::{ArrayRef, DictionaryArray, RecordBatch, UInt8Array, UInt32Array, UInt64Array};
use arrow_ipc::reader::StreamReader;
use arrow_ipc::writer::StreamWriter;
use forge::{Batch, Dice, Encoding, Header, Kind, METADATA, Message, Stream};
use rewarder_decode::{
    DecodeError, Decoded, Dictionary, Fault, Lookup, Progress, RowSink, Rows, actor_rows, decode,
};
use rewarder_model::{Bits, Cid, SnapshotHeader};
use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::{BTreeMap, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Mutations of an ordinary test run; the campaign has its own number.
const MUTATIONS: u64 = 50_000;
/// The seed of an ordinary test run.
const SEED: u64 = 2026;

/// Faults that no stream can bring about, and why. They could be removed from decode.
const UNREACHABLE: [(Fault, &str); 1] = [(
    Fault::DictionaryTooLong,
    "2^32 values need 2^32 + 1 offsets of 4 bytes within the body (BufferTooShort), so only a stream of more than \
         16 GiB gets there; and of so many values some are empty or alike, since offsets end at 2^31 - 1",
)];

// ------------------------------------------------------------------------------------------------ memory

/// Counts what is allocated.
struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

fn grown(bytes: usize) {
    let live = LIVE.fetch_add(bytes, Ordering::Relaxed) + bytes;
    PEAK.fetch_max(live, Ordering::Relaxed);
}

// SAFETY: every call is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        grown(layout.size());
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        grown(layout.size());
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Both blocks may be there for a while.
        grown(size);
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        unsafe { System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A line of `/proc/self/status`, in bytes.
fn status(name: &str) -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim_start_matches(':').trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}

/// Most memory, allocated and resident, that `work` takes beyond what there was.
fn memory<T>(work: impl FnOnce() -> T) -> (T, usize, usize) {
    // What is kept would hide what is taken.
    rewarder_model::memory::give_back();
    // 5 resets the peak of resident memory (proc_pid_clear_refs(5)).
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let resident = status("VmRSS");
    let live = LIVE.load(Ordering::Relaxed);
    PEAK.store(live, Ordering::Relaxed);
    let result = work();
    let peak = PEAK.load(Ordering::Relaxed);
    (result, peak.saturating_sub(live), status("VmHWM").saturating_sub(resident))
}

// ------------------------------------------------------------------------------------------------ readings

/// Adds up units by actor, as the kernel does: a word for each actor and nothing for a row.
struct Sums {
    actors: usize,
    /// Whether the name of one actor in a hundred is wanted, and not all.
    choosy: bool,
}

impl RowSink for Sums {
    type Lane = Vec<u64>;

    fn lane_bytes(&self) -> u64 {
        8 * self.actors as u64
    }

    fn lane(&self) -> Vec<u64> {
        vec![0; self.actors]
    }

    fn rows(&self, lane: &mut Vec<u64>, rows: Rows<'_>) {
        for (actor, _, units) in rows.iter() {
            lane[actor as usize] = lane[actor as usize].wrapping_add(units);
        }
    }

    fn wanted(&self, _: &mut Vec<Vec<u64>>) -> Option<Bits> {
        let mut wanted = Bits::none(self.actors);
        (0..self.actors).step_by(100).for_each(|actor| wanted.insert(actor));
        self.choosy.then_some(wanted)
    }
}

fn choosy(_: &SnapshotHeader, actors: usize, _: &Dictionary) -> Option<Sums> {
    Some(Sums { actors, choosy: true })
}

fn sums(_: &SnapshotHeader, actors: usize, _: &Dictionary) -> Option<Sums> {
    Some(Sums { actors, choosy: false })
}

/// Keeps every row with its number.
struct Keep;

impl RowSink for Keep {
    type Lane = Vec<(u64, (u32, u8, u64))>;

    fn lane_bytes(&self) -> u64 {
        1
    }

    fn lane(&self) -> Self::Lane {
        Vec::new()
    }

    fn rows(&self, lane: &mut Self::Lane, rows: Rows<'_>) {
        assert_eq!(rows.len(), rows.iter().count());
        lane.extend((rows.first_row..).zip(rows.iter()));
    }
}

/// Header and rows of a snapshot, by either reading.
#[derive(Debug, PartialEq)]
struct Reading {
    metadata: BTreeMap<String, String>,
    rows: Vec<(String, String, u64)>,
}

fn ours(bytes: &[u8]) -> Reading {
    let progress = Progress::default();
    let Decoded { cid, header, actors, categories, rows, lanes, .. } =
        decode(bytes, Some(Cid::of(bytes)), &progress, |_, _, _| Some(Keep)).expect("it was taken just now");
    assert_eq!(cid, Cid::of(bytes));
    assert_eq!(progress.bytes.load(Ordering::Relaxed), bytes.len() as u64);
    let mut kept: Vec<_> = lanes.into_iter().flatten().collect();
    kept.sort_by_key(|(number, _)| *number);
    assert!(kept.iter().map(|(number, _)| *number).eq(0..rows), "each row once");
    let name = |names: &Dictionary, key: usize| String::from_utf8(names.value(key).to_vec()).unwrap();
    let values =
        [header.tenant.as_str(), header.epoch.as_str(), header.asset.as_str(), &header.pool.to_string()]
            .map(String::from);
    let values = std::iter::once("snapshot.v1".to_owned()).chain(values);
    Reading {
        metadata: METADATA.iter().map(|(key, _)| (*key).to_owned()).zip(values).collect(),
        rows: (kept.into_iter())
            .map(|(_, (actor, category, units))| {
                (name(&actors, actor as usize), name(&categories, category.into()), units)
            })
            .collect(),
    }
}

/// The same by arrow-ipc's reader, which shares its flatbuffer tables with decode and nothing else.
fn theirs(bytes: &[u8]) -> Result<Reading, String> {
    let reader = StreamReader::try_new(bytes, None).map_err(|e| e.to_string())?;
    let metadata = (reader.schema().metadata().iter())
        .filter(|(key, _)| key.starts_with("rewarder."))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    let mut rows = Vec::new();
    for batch in reader {
        let batch = batch.map_err(|e| e.to_string())?;
        let actors = batch.column(0).as_dictionary::<UInt32Type>();
        let categories = batch.column(1).as_dictionary::<UInt8Type>();
        let units = batch.column(2).as_primitive::<UInt64Type>();
        for row in 0..batch.num_rows() {
            let actor = actors.values().as_string::<i32>().value(actors.keys().value(row) as usize);
            let category =
                categories.values().as_string::<i32>().value(categories.keys().value(row) as usize);
            rows.push((actor.to_owned(), category.to_owned(), units.value(row)));
        }
    }
    Ok(Reading { metadata, rows })
}

/// The same stream with offsets and keys exactly as long as their rows need: arrow-ipc's reader asserts that their length
/// is a multiple of their width, which the format does not ask for and decode neither.
fn trimmed(bytes: &[u8]) -> Vec<u8> {
    let mut stream = Stream::parse(bytes);
    let mut odd = false;
    for batch in stream.messages.iter_mut().filter_map(Message::batch_mut) {
        let rows = batch.length;
        let buffers = batch.buffers.as_mut().unwrap();
        let widths: &[(usize, i64, i64)] =
            if buffers.len() == 3 { &[(1, 4, rows + 1)] } else { &[(1, 4, rows), (5, 8, rows)] };
        for (index, width, values) in widths {
            odd |= buffers[*index].1 % width != 0;
            buffers[*index].1 = buffers[*index].1.min(width * values);
        }
    }
    assert!(odd, "that is not why it panicked");
    stream.encode()
}

// ------------------------------------------------------------------------------------------------ shapes

/// What a valid stream looks like.
struct Shape {
    actors: usize,
    /// Bytes of a name, about.
    name: usize,
    rows: usize,
    batches: usize,
    sorted: bool,
    nullable: bool,
    /// Bytes beyond ASCII in names.
    foreign: bool,
}

/// A stream of this shape by arrow-ipc's writer.
fn written(shape: &Shape, dice: &mut Dice) -> Stream {
    let mut names: Vec<String> = (0..shape.actors)
        .map(|n| {
            let fill = if shape.foreign { "é…ü€" } else { "abcdefgh" };
            let mut name: String = fill.chars().cycle().take(dice.below(shape.name)).collect();
            name.push_str(&format!("{n:05}"));
            name
        })
        .collect();
    if shape.sorted {
        names.sort();
    }
    let mut values = StringBuilder::new();
    names.iter().for_each(|name| values.append_value(name));
    let keys: Vec<u32> = (0..shape.rows).map(|_| dice.below(shape.actors) as u32).collect();
    let actors = DictionaryArray::new(UInt32Array::new(keys.into(), None), Arc::new(values.finish()));
    let mut values = StringBuilder::new();
    ["clips", "subs", "views"].iter().for_each(|name| values.append_value(name));
    let keys: Vec<u8> = (0..shape.rows).map(|_| dice.below(3) as u8).collect();
    let categories = DictionaryArray::new(UInt8Array::new(keys.into(), None), Arc::new(values.finish()));
    let units: Vec<u64> = (0..shape.rows).map(|_| dice.next() >> dice.below(64)).collect();
    let units = UInt64Array::new(units.into(), None);
    let columns: [(&str, ArrayRef); 3] =
        [("actor", Arc::new(actors)), ("category", Arc::new(categories)), ("units", Arc::new(units))];
    let batch = RecordBatch::try_from_iter_with_nullable(
        columns.map(|(name, column)| (name, column, shape.nullable)),
    )
    .unwrap();
    let metadata = METADATA.iter().chain(&[("made by", "mutations.rs")]);
    let metadata: HashMap<String, String> = metadata.map(|(k, v)| ((*k).into(), (*v).into())).collect();
    let schema = Arc::new(batch.schema().as_ref().clone().with_metadata(metadata));
    let batch = batch.with_schema(schema.clone()).unwrap();
    let mut writer = StreamWriter::try_new(Vec::new(), &schema).unwrap();
    for part in 0..shape.batches {
        let (from, to) = (shape.rows * part / shape.batches, shape.rows * (part + 1) / shape.batches);
        writer.write(&batch.slice(from, to - from)).unwrap();
    }
    Stream::parse(&writer.into_inner().unwrap())
}

/// The streams that are mutated, with how often each comes up.
fn shapes(dice: &mut Dice) -> Vec<(usize, Stream)> {
    let tiny =
        Shape { actors: 3, name: 4, rows: 5, batches: 1, sorted: true, nullable: false, foreign: false };
    // The writer leaves validity buffers empty where nothing is null; others fill them with ones.
    let with_validity = |mut stream: Stream| {
        for message in &mut stream.messages {
            let (columns, rows) = match message.batch() {
                Some(batch) => (batch.nodes.as_ref().unwrap().len(), batch.length as usize),
                None => continue,
            };
            let buffers = message.batch().unwrap().buffers.as_ref().unwrap().len();
            let ones = vec![0xff; rows.div_ceil(8)];
            let bytes: Vec<Vec<u8>> = (0..buffers)
                .map(|at| {
                    if at % (buffers / columns) == 0 {
                        ones.clone()
                    } else {
                        buffer(message, at).unwrap().to_vec()
                    }
                })
                .collect();
            let (batch, body) =
                Batch::of(rows, columns, &bytes.iter().map(Vec::as_slice).collect::<Vec<_>>());
            *message.batch_mut().unwrap() = batch;
            message.body = body;
        }
        stream
    };
    let category_first = |mut stream: Stream| {
        stream.messages.swap(1, 2);
        stream
    };
    let several = Shape { actors: 40, rows: 100, batches: 3, sorted: false, ..tiny };
    let valid = Shape { actors: 9, rows: 77, batches: 2, nullable: true, ..tiny };
    let foreign = Shape { actors: 12, name: 90, rows: 30, batches: 2, foreign: true, ..tiny };
    // Longer than a leaf (256 KiB), and than a window (4 MiB), of the tree that decode reads by.
    let leaves = Shape { actors: 20_000, name: 20, rows: 30_000, batches: 2, sorted: false, ..tiny };
    let windows = Shape { actors: 150_000, name: 40, rows: 20_000, batches: 1, ..tiny };
    vec![
        (300, written(&tiny, dice)),
        (300, written(&several, dice)),
        (300, with_validity(written(&valid, dice))),
        (300, category_first(written(&several, dice))),
        (300, written(&foreign, dice)),
        (60, written(&Shape { batches: 0, ..tiny }, dice)),
        (60, written(&Shape { rows: 0, ..tiny }, dice)),
        (60, written(&Shape { actors: 300, rows: 1000, batches: 40, ..several }, dice)),
        (4, written(&leaves, dice)),
        (1, written(&windows, dice)),
    ]
}

// ------------------------------------------------------------------------------------------------ edits

type Edit = fn(&mut Stream, &mut Dice);

/// A number that is wrong in one of the ways in which numbers are wrong.
fn odd(right: i64, dice: &mut Dice) -> i64 {
    const FAR: [i64; 13] =
        [0, 1, -1, -8, 8, 1 << 31, 1 << 32, (1 << 32) + 8, 1 << 40, 1 << 61, 1 << 62, i64::MAX, i64::MIN];
    const NEAR: [i64; 8] = [1, -1, 7, -7, 8, -8, 64, -64];
    match dice.below(4) {
        0 => *dice.pick(&FAR),
        1 => dice.next() as i64 >> dice.below(64),
        2 => right.wrapping_mul(2),
        _ => right.wrapping_add(*dice.pick(&NEAR)),
    }
}

fn any<'s>(stream: &'s mut Stream, dice: &mut Dice, which: fn(&Message) -> bool) -> Option<&'s mut Message> {
    let count = stream.messages.iter().filter(|message| which(message)).count();
    let chosen = dice.below(count);
    stream.messages.iter_mut().filter(|message| which(message)).nth(chosen)
}

fn message<'s>(stream: &'s mut Stream, dice: &mut Dice) -> Option<&'s mut Message> {
    any(stream, dice, |_| true)
}

fn is_rows(message: &Message) -> bool {
    matches!(message.header, Header::Rows(_))
}

fn is_dictionary(message: &Message) -> bool {
    matches!(message.header, Header::Dictionary { .. })
}

fn batch<'s>(stream: &'s mut Stream, dice: &mut Dice) -> Option<&'s mut Batch> {
    any(stream, dice, |message| message.batch().is_some())?.batch_mut()
}

/// Changes one of the pairs of a batch's nodes or buffers.
fn pair(pairs: Option<&mut Vec<(i64, i64)>>, dice: &mut Dice, change: fn(&mut (i64, i64), &mut Dice)) {
    if let Some(pairs) = pairs
        && !pairs.is_empty()
    {
        let at = dice.below(pairs.len());
        change(&mut pairs[at], dice);
    }
}

fn schema(stream: &mut Stream) -> Option<&mut forge::Schema> {
    stream.messages.iter_mut().find_map(|message| match &mut message.header {
        Header::Schema(schema) => Some(schema),
        _ => None,
    })
}

fn field<'s>(stream: &'s mut Stream, dice: &mut Dice) -> Option<&'s mut forge::Field> {
    let fields = schema(stream)?.fields.as_mut()?;
    let at = dice.below(fields.len());
    fields.get_mut(at)
}

/// The bytes of one buffer, where they are within the body.
fn buffer(message: &mut Message, index: usize) -> Option<&mut [u8]> {
    let (offset, len) = *message.batch()?.buffers.as_ref()?.get(index)?;
    let (offset, len) = (usize::try_from(offset).ok()?, usize::try_from(len).ok()?);
    message.body.get_mut(offset..offset.checked_add(len)?)
}

fn names(message: &mut Message) -> Option<Vec<Vec<u8>>> {
    let offsets: Vec<usize> = buffer(message, 1)?
        .as_chunks::<4>()
        .0
        .iter()
        .map(|offset| u32::from_le_bytes(*offset) as usize)
        .collect();
    let text = buffer(message, 2)?;
    offsets.windows(2).map(|ends| text.get(ends[0]..ends[1]).map(<[u8]>::to_vec)).collect()
}

/// A name that no dictionary may hold, or hardly may.
fn evil(dice: &mut Dice) -> Vec<u8> {
    const EVIL: [&[u8]; 18] = [
        b"",
        b"a\nb",
        b"a\tb",
        b"\0",
        b"\x7f",
        b"\xc2\x85",
        b"x\xc2\x9f",
        b"\xc2\xa0",
        b"\xff",
        b"\xc3",
        b"\xe2\x80",
        b"\xed\xa0\x80",
        b"it's",
        b"\"",
        b"\\",
        b"a b",
        b"\xc3\xa9",
        b"~",
    ];
    match dice.below(3) {
        0 => vec![b'x'; *dice.pick(&[63, 64, 65, 255, 256, 257, 300, 5000])],
        _ => dice.pick(&EVIL).to_vec(),
    }
}

/// Every field and every part of a stream that a mutation may change, by name.
const EDITS: &[(&str, Edit)] = &[
    // Framing.
    ("marker", |s, d| {
        let Some(m) = message(s, d) else { return };
        m.marker = *d.pick(&[[0; 4], [0xff, 0xff, 0xff, 0xfe], *b"ARRO", [0x80, 0, 0, 0]]);
    }),
    ("metadata length", |s, d| {
        let Some(m) = message(s, d) else { return };
        let mut head = Vec::new();
        m.encode_head(&mut head);
        m.declared_metadata = Some(match d.below(3) {
            0 => *d.pick(&[0, -1, 4, 8, 65_536, 65_544, 1 << 20, i32::MAX, i32::MIN]),
            _ => odd(head.len() as i64 - 8, d) as i32,
        });
    }),
    ("metadata padding", |s, d| {
        let padding = *d.pick(&[8, 64, 1000, 64_000, 70_000]);
        if let Some(m) = message(s, d) {
            m.metadata_padding = padding;
        }
    }),
    ("version", |s, d| {
        let Some(m) = message(s, d) else { return };
        m.version = *d.pick(&[0, 1, 2, 3, 5, -1, i16::MAX]);
    }),
    ("body length", |s, d| {
        let Some(m) = message(s, d) else { return };
        m.declared_body = Some(odd(m.body.len() as i64, d));
    }),
    ("body length multiple", |s, d| {
        let Some(m) = message(s, d) else { return };
        m.declared_body = Some(odd(m.body.len() as i64 / 8, d).wrapping_mul(8));
    }),
    ("body cut", |s, d| {
        let Some(m) = message(s, d) else { return };
        let cut = d.below(m.body.len() + 1) & !7;
        m.body.truncate(cut);
    }),
    ("body grown", |s, d| {
        let Some(m) = message(s, d) else { return };
        let len = m.body.len() + *d.pick(&[8, 16, 64, 4]);
        m.body.resize(len, d.next() as u8);
    }),
    ("message twice", |s, d| {
        if !s.messages.is_empty() {
            let m = d.pick(&s.messages).clone();
            s.messages.insert(d.below(s.messages.len() + 1), m);
        }
    }),
    ("message removed", |s, d| {
        if !s.messages.is_empty() {
            s.messages.remove(d.below(s.messages.len()));
        }
    }),
    ("messages swapped", |s, d| {
        let n = s.messages.len();
        if n > 0 {
            s.messages.swap(d.below(n), d.below(n));
        }
    }),
    ("messages reversed", |s, _| s.messages.reverse()),
    ("no messages", |s, _| s.messages.clear()),
    ("tail", |s, d| match d.below(6) {
        0 => s.tail.clear(),
        1 => s.tail.extend_from_slice(&forge::END),
        2 => s.tail.truncate(d.below(8)),
        3 => s.tail.extend_from_slice(b"ARROW1"),
        4 => s.tail = vec![0; 8],
        _ => s.tail.resize(8 + d.below(20), 0),
    }),
    // Headers.
    ("header kind", |s, d| {
        let Some(m) = message(s, d) else { return };
        let kind = *d.pick(&[0u8, 1, 2, 3, 4, 5, 6, 200]);
        // A union may only be verified as what it says, so kinds with a table of their own mostly end as bad metadata.
        m.header = m.batch().cloned().map_or(Header::None, |batch| Header::Other(kind, batch));
    }),
    ("header none", |s, d| {
        if let Some(m) = message(s, d) {
            m.header = Header::None;
        }
    }),
    ("dictionary id", |s, d| {
        if let Some(Message { header: Header::Dictionary { id, .. }, .. }) = any(s, d, is_dictionary) {
            *id = odd(*id, d);
        }
    }),
    ("dictionary delta", |s, d| {
        if let Some(Message { header: Header::Dictionary { is_delta, .. }, .. }) = any(s, d, is_dictionary) {
            *is_delta = true;
        }
    }),
    ("dictionary without data", |s, d| {
        if let Some(Message { header: Header::Dictionary { batch, .. }, .. }) = any(s, d, is_dictionary) {
            *batch = None;
        }
    }),
    // Batches.
    ("batch length", |s, d| {
        if let Some(b) = batch(s, d) {
            b.length = odd(b.length, d);
        }
    }),
    ("rows everywhere", |s, d| {
        // Consistently wrong: length and nodes agree, the buffers do not.
        if let Some(b) = batch(s, d) {
            let rows = odd(b.length, d);
            b.length = rows;
            b.nodes.iter_mut().flatten().for_each(|node| node.0 = rows);
        }
    }),
    ("fewer rows", |s, d| {
        if let Some(b) = batch(s, d) {
            let rows = d.below(usize::try_from(b.length).unwrap_or(0) + 1) as i64;
            b.length = rows;
            b.nodes.iter_mut().flatten().for_each(|node| node.0 = rows);
        }
    }),
    ("node length", |s, d| {
        let b = batch(s, d);
        pair(b.and_then(|b| b.nodes.as_mut()), d, |node, d| node.0 = odd(node.0, d));
    }),
    ("null count", |s, d| {
        let b = batch(s, d);
        pair(b.and_then(|b| b.nodes.as_mut()), d, |node, d| node.1 = odd(0, d));
    }),
    ("node count", |s, d| {
        let Some(b) = batch(s, d) else { return };
        match (d.below(3), &mut b.nodes) {
            (0, nodes) => *nodes = None,
            (1, Some(nodes)) => _ = nodes.pop(),
            (_, Some(nodes)) => nodes.push((b.length, 0)),
            _ => {}
        }
    }),
    ("buffer count", |s, d| {
        let Some(b) = batch(s, d) else { return };
        match (d.below(3), &mut b.buffers) {
            (0, buffers) => *buffers = None,
            (1, Some(buffers)) => _ = buffers.pop(),
            (_, Some(buffers)) => buffers.insert(d.below(buffers.len() + 1), (0, 0)),
            _ => {}
        }
    }),
    ("buffer offset", |s, d| {
        let b = batch(s, d);
        pair(b.and_then(|b| b.buffers.as_mut()), d, |buffer, d| buffer.0 = odd(buffer.0, d));
    }),
    ("buffer length", |s, d| {
        let b = batch(s, d);
        pair(b.and_then(|b| b.buffers.as_mut()), d, |buffer, d| buffer.1 = odd(buffer.1, d));
    }),
    ("buffer shorter", |s, d| {
        let b = batch(s, d);
        pair(b.and_then(|b| b.buffers.as_mut()), d, |buffer, d| {
            buffer.1 = d.below(buffer.1.max(0) as usize) as i64
        });
    }),
    ("buffer empty elsewhere", |s, d| {
        let b = batch(s, d);
        pair(b.and_then(|b| b.buffers.as_mut()), d, |buffer, d| *buffer = (odd(buffer.0, d), 0));
    }),
    ("buffer in another's place", |s, d| {
        if let Some(buffers) = batch(s, d).and_then(|b| b.buffers.as_mut())
            && !buffers.is_empty()
        {
            let (from, to) = (d.below(buffers.len()), d.below(buffers.len()));
            buffers[to].0 = buffers[from].0;
        }
    }),
    ("buffers swapped", |s, d| {
        if let Some(buffers) = batch(s, d).and_then(|b| b.buffers.as_mut())
            && !buffers.is_empty()
        {
            let n = buffers.len();
            buffers.swap(d.below(n), d.below(n));
        }
    }),
    ("buffers moved on", |s, d| {
        // Everything eight bytes on, body included: still valid, and no longer at the usual places.
        let Some(m) = any(s, d, |m| m.batch().is_some()) else { return };
        m.body.splice(0..0, [0xaa; 8]);
        let buffers = m.batch_mut().and_then(|b| b.buffers.as_mut());
        buffers.into_iter().flatten().for_each(|buffer| buffer.0 = buffer.0.wrapping_add(8));
    }),
    ("compression", |s, d| {
        if let Some(b) = batch(s, d) {
            b.compression = Some(*d.pick(&[(0, 0), (1, 0), (7, 7)]));
        }
    }),
    ("variadic", |s, d| {
        if let Some(b) = batch(s, d) {
            b.variadic = Some(d.pick(&[&[][..], &[0], &[1, 2]]).to_vec());
        }
    }),
    // Schema.
    ("big endian", |s, _| {
        if let Some(schema) = schema(s) {
            schema.big_endian = true;
        }
    }),
    ("columns", |s, d| {
        let Some(schema) = schema(s) else { return };
        match (d.below(4), &mut schema.fields) {
            (0, fields) => *fields = None,
            (1, Some(fields)) => _ = fields.pop(),
            (2, Some(fields)) if !fields.is_empty() => fields.push(d.pick(fields).clone()),
            (_, Some(fields)) if !fields.is_empty() => {
                let n = fields.len();
                fields.swap(d.below(n), d.below(n));
            }
            _ => {}
        }
    }),
    ("column name", |s, d| {
        if let Some(field) = field(s, d) {
            field.name =
                d.pick(&[None, Some(""), Some("actor"), Some("Actor"), Some("units ")]).map(str::to_owned);
        }
    }),
    ("column type", |s, d| {
        const KINDS: [Kind; 9] = [
            Kind::Utf8,
            Kind::LargeUtf8,
            Kind::Binary,
            Kind::Bool,
            Kind::None,
            Kind::Int { bits: 64, signed: true },
            Kind::Int { bits: 32, signed: false },
            Kind::Int { bits: 0, signed: false },
            Kind::Int { bits: 64, signed: false },
        ];
        if let Some(field) = field(s, d) {
            field.kind = *d.pick(&KINDS);
        }
    }),
    ("column children", |s, d| {
        if let Some(field) = field(s, d) {
            let child = field.clone();
            field.children.push(child);
        }
    }),
    ("nullable", |s, d| {
        if let Some(field) = field(s, d) {
            field.nullable = !field.nullable;
        }
    }),
    ("dictionary encoding", |s, d| {
        let Some(field) = field(s, d) else { return };
        match (d.below(5), &mut field.dictionary) {
            (0, encoding) => *encoding = None,
            (1, Some(encoding)) => encoding.id = *d.pick(&[0, 1, -1, i64::MAX]),
            (2, Some(encoding)) => {
                encoding.index = *d.pick(&[None, Some((32, true)), Some((8, false)), Some((32, false))])
            }
            (3, Some(encoding)) => encoding.ordered = true,
            (_, encoding) => {
                *encoding = Some(Encoding { id: d.below(3) as i64, index: Some((32, false)), ordered: false })
            }
        }
    }),
    ("dictionaries ordered", |s, _| {
        if let Some(fields) = schema(s).and_then(|schema| schema.fields.as_mut()) {
            fields
                .iter_mut()
                .filter_map(|field| field.dictionary.as_mut())
                .for_each(|encoding| encoding.ordered = true);
        }
    }),
    ("dictionary ids alike", |s, d| {
        let id = d.below(2) as i64;
        if let Some(fields) = schema(s).and_then(|schema| schema.fields.as_mut()) {
            fields
                .iter_mut()
                .filter_map(|field| field.dictionary.as_mut())
                .for_each(|encoding| encoding.id = id);
        }
    }),
    ("dictionary ids elsewhere", |s, d| {
        // Consistently: still valid.
        let shift = d.next() as i64;
        for m in &mut s.messages {
            match &mut m.header {
                Header::Dictionary { id, .. } => *id = id.wrapping_add(shift),
                Header::Schema(schema) => (schema.fields.iter_mut().flatten())
                    .filter_map(|field| field.dictionary.as_mut())
                    .for_each(|encoding| encoding.id = encoding.id.wrapping_add(shift)),
                _ => {}
            }
        }
    }),
    // Schema metadata.
    ("key removed", |s, d| {
        if let Some(schema) = schema(s)
            && !schema.metadata.is_empty()
        {
            schema.metadata.remove(d.below(schema.metadata.len()));
        }
    }),
    ("key twice", |s, d| {
        if let Some(schema) = schema(s)
            && !schema.metadata.is_empty()
        {
            schema.metadata.push(d.pick(&schema.metadata).clone());
        }
    }),
    ("key null", |s, d| {
        if let Some(schema) = schema(s)
            && !schema.metadata.is_empty()
        {
            let at = d.below(schema.metadata.len());
            match d.below(2) {
                0 => schema.metadata[at].0 = None,
                _ => schema.metadata[at].1 = None,
            }
        }
    }),
    ("key unknown", |s, d| {
        const KEYS: [&str; 7] = [
            "rewarder.",
            "rewarder.notes",
            "rewarder.Tenant",
            "rewarder",
            "Rewarder.tenant",
            "rewarder.tenant ",
            "",
        ];
        if let Some(schema) = schema(s) {
            schema.metadata.push((Some((*d.pick(&KEYS)).into()), Some("x".into())));
        }
    }),
    ("metadata shuffled", |s, d| {
        if let Some(schema) = schema(s) {
            let n = schema.metadata.len();
            (0..n).for_each(|_| schema.metadata.swap(d.below(n), d.below(n)));
        }
    }),
    ("metadata large", |s, d| {
        let len = *d.pick(&[1000, 60_000, 66_000, 200_000]);
        if let Some(schema) = schema(s) {
            schema.metadata.push((Some("large".into()), Some("x".repeat(len))));
        }
    }),
    ("many keys", |s, d| {
        let n = *d.pick(&[100, 1000, 1500]);
        if let Some(schema) = schema(s) {
            schema.metadata.extend((0..n).map(|n| (Some(format!("k{n}")), Some(String::new()))));
        }
    }),
    ("value", |s, d| {
        const VALUES: [&str; 19] = [
            "",
            "snapshot.v2",
            "snapshot.v1",
            "Acme",
            "acme/x",
            "a",
            "-x",
            "..",
            "2026 11",
            "it's",
            "é",
            "01",
            "+1",
            "-1",
            "1e3",
            "0",
            "99999999999999999999999999999999999999",
            "100000000000000000000000000000000000000",
            "1.0",
        ];
        if let Some(schema) = schema(s)
            && !schema.metadata.is_empty()
        {
            let at = d.below(schema.metadata.len());
            let value = if d.one_in(6) {
                "x".repeat(*d.pick(&[64, 65, 128, 129]))
            } else {
                (*d.pick(&VALUES)).to_owned()
            };
            schema.metadata[at].1 = Some(value);
        }
    }),
    // Bodies.
    ("names", |s, d| {
        // A dictionary written again with a name or two that do not belong there.
        let Some(m) = any(s, d, is_dictionary) else { return };
        let Some(mut values) = names(m).filter(|values| !values.is_empty()) else { return };
        for _ in 0..=d.below(2) {
            let (at, from) = (d.below(values.len()), d.below(values.len()));
            values[at] = match d.below(3) {
                0 => values[from].clone(),
                _ => evil(d),
            };
        }
        if let Header::Dictionary { id, .. } = m.header {
            *m = forge::dictionary(id, &values);
        }
    }),
    ("names in another order", |s, d| {
        let Some(m) = any(s, d, is_dictionary) else { return };
        let Some(mut values) = names(m).filter(|values| !values.is_empty()) else { return };
        let n = values.len();
        (0..4).for_each(|_| values.swap(d.below(n), d.below(n)));
        if let Header::Dictionary { id, .. } = m.header {
            *m = forge::dictionary(id, &values);
        }
    }),
    ("no names", |s, d| {
        let Some(m) = any(s, d, is_dictionary) else { return };
        if let Header::Dictionary { id, .. } = m.header {
            *m = forge::dictionary(id, &[] as &[&[u8]]);
            if d.one_in(2) {
                // Arrow allows an empty column without any offset.
                m.batch_mut().and_then(|b| b.buffers.as_mut()).unwrap()[1].1 = 0;
            }
        }
    }),
    ("offset", |s, d| {
        let Some(offsets) = any(s, d, is_dictionary).and_then(|m| buffer(m, 1)) else { return };
        let (offsets, _) = offsets.as_chunks_mut::<4>();
        if !offsets.is_empty() {
            let at = d.below(offsets.len());
            offsets[at] = (odd(u32::from_le_bytes(offsets[at]).into(), d) as u32).to_le_bytes();
        }
    }),
    ("offsets all the same", |s, d| {
        let Some(offsets) = any(s, d, is_dictionary).and_then(|m| buffer(m, 1)) else { return };
        let (offsets, _) = offsets.as_chunks_mut::<4>();
        let from = d.below(offsets.len());
        if let Some(last) = offsets.last().copied() {
            offsets[from..].fill(last);
        }
    }),
    ("text", |s, d| {
        let Some(text) = any(s, d, is_dictionary).and_then(|m| buffer(m, 2)) else { return };
        if !text.is_empty() {
            let at = d.below(text.len());
            text[at] = *d.pick(&[0, b'\n', 0x7f, 0x80, 0xc2, 0xe2, 0xff, b'"', b'\'', b'\\', b'A']);
        }
    }),
    ("validity", |s, d| {
        let Some(m) = any(s, d, |m| m.batch().is_some()) else { return };
        let index = if is_rows(m) { 2 * d.below(3) } else { 0 };
        if let Some(bits) = buffer(m, index).filter(|bits| !bits.is_empty()) {
            let at = d.below(bits.len());
            bits[at] &= !(1 << d.below(8));
        }
    }),
    ("keys", |s, d| {
        let Some(m) = any(s, d, is_rows) else { return };
        let index = *d.pick(&[1, 3]);
        if let Some(keys) = buffer(m, index).filter(|keys| !keys.is_empty()) {
            let at = d.below(keys.len());
            keys[at] = *d.pick(&[0, 1, 3, 4, 0xff]);
        }
    }),
    ("units", |s, d| {
        if let Some(units) = any(s, d, is_rows).and_then(|m| buffer(m, 5)).filter(|units| !units.is_empty()) {
            let at = d.below(units.len());
            units[at] = d.next() as u8;
        }
    }),
];

type Spoil = fn(&mut Vec<u8>, &mut Dice);

/// What may become of the bytes as such.
const SPOILS: &[Spoil] = &[
    // Cut anywhere, and where messages and words end.
    |b, d| b.truncate(d.below(b.len() + 1)),
    |b, d| b.truncate(d.below(b.len() + 1) & !7),
    |b, d| b.truncate(b.len().saturating_sub(d.below(40))),
    |b, d| b.truncate(d.below(20)),
    // Flips.
    |b, d| {
        for _ in 0..=d.below(4) {
            if !b.is_empty() {
                let at = d.below(b.len());
                b[at] ^= 1 << d.below(8);
            }
        }
    },
    // Flips where the metadata is.
    |b, d| {
        for _ in 0..=d.below(3) {
            if !b.is_empty() {
                let at = d.below(b.len().min(1500));
                b[at] = d.next() as u8;
            }
        }
    },
    // A word that is wrong.
    |b, d| {
        let words = b.len() / 4;
        if words > 0 {
            let at = 4 * d.below(words);
            let word = i32::from_le_bytes(b[at..at + 4].try_into().unwrap());
            b[at..at + 4].copy_from_slice(&(odd(word.into(), d) as i32).to_le_bytes());
        }
    },
    // Splices.
    |b, d| {
        let (from, to, len) = (d.below(b.len()), d.below(b.len()), d.below(200));
        let piece: Vec<u8> = b[from..].iter().copied().take(len).collect();
        let end = b.len().min(to + piece.len());
        b[to..end].copy_from_slice(&piece[..end - to]);
    },
    |b, d| {
        let (from, to) = (d.below(b.len() + 1) & !7, d.below(b.len() + 1) & !7);
        let piece = b[from..].iter().copied().take(8 * d.below(20)).collect::<Vec<_>>();
        b.splice(to..to, piece);
    },
    |b, d| {
        let from = d.below(b.len() + 1) & !7;
        let to = (from + 8 * d.below(8)).min(b.len());
        b.drain(from..to);
    },
    // More behind it, and the file format around it.
    |b, d| b.resize(b.len() + d.below(40), 0xff),
    |b, _| {
        b.splice(0..0, *b"ARROW1\0\0");
        b.extend_from_slice(b"\x10\0\0\0ARROW1");
    },
];

/// The mutation of this number.
fn mutation(shapes: &[(usize, Stream)], dice: &mut Dice) -> (Vec<&'static str>, Vec<u8>) {
    let mut at = dice.below(shapes.iter().map(|(often, _)| often).sum());
    let shape = shapes.iter().find(|(often, _)| {
        at < *often || {
            at -= often;
            false
        }
    });
    let mut stream = shape.expect("one of them").1.clone();
    let mut done = Vec::new();
    for _ in 0..*dice.pick(&[0, 1, 1, 1, 1, 1, 1, 2, 2, 3]) {
        let (name, edit) = dice.pick(EDITS);
        edit(&mut stream, dice);
        done.push(*name);
    }
    let mut bytes = stream.encode();
    if done.is_empty() || dice.one_in(6) {
        dice.pick(SPOILS)(&mut bytes, dice);
        done.push("bytes");
    }
    (done, bytes)
}

// ------------------------------------------------------------------------------------------------ the test

/// What became of a mutation.
#[derive(PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Verdict {
    Taken,
    Refused(Fault),
}

fn verdict(result: Result<Decoded<Sums, Vec<u64>>, DecodeError>) -> Verdict {
    match result {
        Ok(_) => Verdict::Taken,
        Err(DecodeError::Invalid { fault, .. }) => Verdict::Refused(fault),
        Err(other) => panic!("{other}"),
    }
}

/// One actor's rows, looked up without the others, are those among all rows.
fn look_up(bytes: &[u8], number: u64, rows: &[(String, String, u64)]) {
    let decoded = decode(bytes, None, &Progress::default(), sums).expect("it was taken just now");
    let names = &decoded.actors;
    assert_eq!(actor_rows(bytes, b"nobody", names.order().is_none()).unwrap(), None);
    if names.is_empty() {
        return;
    }
    let rank = number as usize % names.len();
    let name = names.value(names.order().map_or(rank, |order| order[rank] as usize));
    let found = actor_rows(bytes, name, names.order().is_none()).unwrap().expect("a name of the dictionary");
    let mut units: BTreeMap<String, u128> = BTreeMap::new();
    let mine = rows.iter().filter(|(actor, ..)| actor.as_bytes() == name);
    let count = mine
        .map(|(_, category, u)| *units.entry(category.clone()).or_default() += u128::from(*u))
        .count() as u64;
    let mut noted = Lookup::open(bytes, names.order().is_none()).unwrap();
    noted.index(u64::MAX).unwrap();
    assert_eq!(noted.rows_of(name).unwrap().as_ref(), Some(&found), "with its rows noted");
    assert_eq!(noted.rows_of(b"nobody").unwrap(), None);
    assert_eq!((found.rank, found.rows, found.units), (rank, count, units), "looked up");
}

/// Whether a panic is that of another reader and need not be printed.
static QUIET: AtomicBool = AtomicBool::new(false);

/// All that has to hold of one mutation.
fn check(number: u64, bytes: &[u8], worst: &mut (usize, usize)) -> Verdict {
    let progress = Progress::default();
    let (result, allocated, resident) = memory(|| decode(bytes, None, &progress, sums));
    let found = verdict(result);
    let bound = 4 * bytes.len() + (16 << 20);
    assert!(allocated <= bound, "{allocated} bytes allocated for {} of snapshot", bytes.len());
    assert!(resident <= bound, "{resident} bytes resident for {} of snapshot", bytes.len());
    *worst = (worst.0.max(allocated), worst.1.max(resident));
    if number.is_multiple_of(8) {
        assert_eq!(
            verdict(decode(bytes, Some(Cid::of(bytes)), &progress, sums)),
            found,
            "with the right CID"
        );
    }
    if number % 8 == 2 {
        let (result, allocated, resident) = memory(|| decode(bytes, None, &progress, choosy));
        assert_eq!(verdict(result), found, "where few names are wanted");
        assert!(allocated.max(resident) <= bound, "{allocated} and {resident} bytes where few are wanted");
    }
    if number % 8 == 1 {
        let result = decode(bytes, Some(Cid::of(b"another")), &progress, sums);
        assert!(matches!(result, Err(DecodeError::CidMismatch)), "with a wrong CID");
    }
    if found == Verdict::Taken {
        // As it is, or where that makes arrow-ipc's reader panic, with buffers as long as their rows need.
        QUIET.store(true, Ordering::Relaxed);
        let theirs = catch_unwind(|| theirs(bytes));
        QUIET.store(false, Ordering::Relaxed);
        let theirs = theirs.unwrap_or_else(|_| self::theirs(&trimmed(bytes)));
        let ours = ours(bytes);
        look_up(bytes, number, &ours.rows);
        assert_eq!(Ok(ours), theirs, "another reading differs");
    } else {
        // Nobody looks up actors in what was refused; if somebody did, it would not panic either.
        let _ = actor_rows(bytes, b"a00001", number.is_multiple_of(2));
        if let Ok(mut noted) = Lookup::open(bytes, number.is_multiple_of(2)) {
            let _ = noted.index(u64::MAX).and_then(|()| noted.rows_of(b"a00001"));
        }
    }
    found
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

#[test]
fn mutations() {
    let (count, seed) = (setting("MUTATIONS").unwrap_or(MUTATIONS), setting("MUTATION_SEED").unwrap_or(SEED));
    let only = setting("MUTATION_ONLY");
    println!("{count} mutations from MUTATION_SEED={seed}");
    let shapes = shapes(&mut Dice(seed));
    for (_, stream) in &shapes {
        let bytes = stream.encode();
        assert_eq!(check(0, &bytes, &mut (0, 0)), Verdict::Taken, "the shapes themselves are valid");
        assert_eq!(Stream::parse(&bytes).encode(), bytes, "the forge gives back what it took");
    }
    let loud = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if !QUIET.load(Ordering::Relaxed) {
            loud(info);
        }
    }));
    let mapped = status("VmPeak");
    let mut verdicts: BTreeMap<Verdict, u64> = BTreeMap::new();
    let (mut worst, mut largest, mut failures) = ((0, 0), 0, 0);
    // Inside a pool, so that work is shared out in earnest.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
    pool.install(|| {
        for number in 0..count {
            if only.is_some_and(|only| only != number) {
                continue;
            }
            let mut dice = Dice(seed ^ number.wrapping_mul(0xd134_2543_de82_ef95));
            let (edits, bytes) = mutation(&shapes, &mut dice);
            largest = largest.max(bytes.len());
            match catch_unwind(AssertUnwindSafe(|| check(number, &bytes, &mut worst))) {
                Ok(verdict) => *verdicts.entry(verdict).or_default() += 1,
                Err(_) => {
                    println!(
                        "MUTATION_SEED={seed} MUTATION_ONLY={number} ({edits:?}, {} bytes) failed",
                        bytes.len()
                    );
                    failures += 1;
                    assert!(failures < 20, "that is enough");
                }
            }
        }
    });
    println!("{:>9}  taken", verdicts.get(&Verdict::Taken).copied().unwrap_or(0));
    let mut missed = Vec::new();
    for fault in Fault::ALL {
        let reached = verdicts.get(&Verdict::Refused(*fault)).copied().unwrap_or(0);
        let excuse = UNREACHABLE.iter().find(|(unreachable, _)| unreachable == fault);
        println!("{reached:>9}  {fault:?}{}", excuse.map_or("", |_| " (cannot be reached)"));
        if (reached == 0) != excuse.is_some() {
            missed.push(fault);
        }
    }
    println!("most memory for one of them: {} KiB allocated, {} KiB resident", worst.0 >> 10, worst.1 >> 10);
    println!("{} held, {failures} failed", verdicts.values().sum::<u64>());
    assert_eq!(failures, 0);
    // Memory that is only asked for and never touched is not resident; that none is asked for shows here. Beside the
    // bound there is room for the arenas (64 MiB each) that the C library may set up for a thread.
    let grown = status("VmPeak") - mapped;
    assert!(grown <= 4 * largest + (16 << 20) + (256 << 20), "{grown} bytes more were mapped");
    assert!(only.is_some() || missed.is_empty(), "reached or not, against what is said of them: {missed:?}");
}
