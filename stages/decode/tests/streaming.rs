//! The same rows give the same result, whatever the layout of the stream, the number of threads and the source.

mod forge;

use forge::{Dice, Header, METADATA, Message, Stream};
use rewarder_decode::{
    DecodeError, Decoded, Dictionary, Fault, FileSource, Progress, RowSink, Rows, Source, decode, hash,
};
use rewarder_model::{Bits, Cid, SnapshotHeader};
use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// Decode reads, hashes and hands on by leaves of this size, and by windows of sixteen of them.
const LEAF: usize = 256 * 1024;
const WINDOW: usize = 16 * LEAF;

/// The row of this number: any actor, one of three categories, any units.
fn row(number: u64, actors: usize) -> (u32, u8, u64) {
    let mut dice = Dice(number);
    (dice.below(actors) as u32, dice.below(3) as u8, dice.next() >> 20)
}

/// What a sink makes of rows, in a form that does not depend on their order but on everything else.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Digest {
    by_actor: Vec<u64>,
    by_category: [u64; 3],
    rows: u64,
    /// Ties each row to its number.
    numbered: u64,
}

impl Digest {
    fn new(actors: usize) -> Self {
        Self { by_actor: vec![0; actors], by_category: [0; 3], rows: 0, numbered: 0 }
    }

    fn add(&mut self, number: u64, (actor, category, units): (u32, u8, u64)) {
        self.by_actor[actor as usize] += units;
        self.by_category[usize::from(category)] += units;
        self.rows += 1;
        let tied =
            (number + 1).wrapping_mul(u64::from(actor) * 3 + u64::from(category) + 7).wrapping_mul(units | 1);
        self.numbered = self.numbered.wrapping_add(tied);
    }

    fn merge(mut self, other: Self) -> Self {
        self.by_actor.iter_mut().zip(other.by_actor).for_each(|(to, from)| *to += from);
        self.by_category.iter_mut().zip(other.by_category).for_each(|(to, from)| *to += from);
        self.rows += other.rows;
        self.numbered = self.numbered.wrapping_add(other.numbered);
        self
    }

    /// Of the rows themselves.
    fn expected(rows: u64, actors: usize) -> Self {
        let mut digest = Self::new(actors);
        (0..rows).for_each(|number| digest.add(number, row(number, actors)));
        digest
    }
}

impl RowSink for Digest {
    type Lane = Self;

    fn lane_bytes(&self) -> u64 {
        8 * self.by_actor.len() as u64
    }

    fn lane(&self) -> Self {
        self.clone()
    }

    fn rows(&self, lane: &mut Self, rows: Rows<'_>) {
        assert_eq!(rows.len(), rows.categories().len());
        assert_eq!(rows.len(), rows.iter().count());
        (rows.first_row..).zip(rows.iter()).for_each(|(number, row)| lane.add(number, row));
    }
}

fn sink(_: &SnapshotHeader, actors: usize, _: &Dictionary) -> Option<Digest> {
    Some(Digest::new(actors))
}

fn digest(
    source: &(impl Source + ?Sized),
    expected: Option<Cid>,
) -> Result<(Cid, Digest, Dictionary), DecodeError> {
    let progress = Progress::default();
    let Decoded { cid, header, actors, categories, rows, lanes, .. } =
        decode(source, expected, &progress, sink)?;
    assert_eq!(header.tenant.as_str(), METADATA[1].1);
    assert_eq!(header.epoch.as_str(), METADATA[2].1);
    assert_eq!(header.asset.as_str(), METADATA[3].1);
    assert_eq!(header.pool.to_string(), METADATA[4].1);
    assert_eq!(categories.len(), 3);
    assert_eq!(progress.bytes.load(Ordering::Relaxed), source.len());
    assert_eq!(progress.rows.load(Ordering::Relaxed), rows);
    let digest = lanes.into_iter().fold(Digest::new(actors.len()), Digest::merge);
    assert_eq!(digest.rows, rows);
    Ok((cid, digest, actors))
}

/// Names of equal length in ascending order, or in none.
fn names(count: usize, bytes: usize, sorted: bool) -> Vec<String> {
    let mut names: Vec<String> = (0..count).map(|n| format!("{n:0bytes$}")).collect();
    if !sorted {
        let mut dice = Dice(1);
        (1..count).for_each(|n| names.swap(n, dice.below(n + 1)));
    }
    names
}

const CATEGORIES: [&str; 3] = ["views", "subs", "clips"];

/// A stream of these rows in batches of `per_batch`.
fn snapshot(names: &[String], rows: u64, per_batch: u64) -> Stream {
    let mut messages = vec![forge::schema(), forge::dictionary(0, names), forge::dictionary(1, &CATEGORIES)];
    let mut first = 0;
    while first < rows {
        let end = rows.min(first + per_batch);
        messages.push(forge::rows(&(first..end).map(|number| row(number, names.len())).collect::<Vec<_>>()));
        first = end;
    }
    Stream { messages, tail: forge::END.to_vec() }
}

fn in_pool<T: Send>(threads: usize, work: impl FnOnce() -> T + Send) -> T {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(work)
}

/// Decodes in pools of several sizes; each has to give the CID of the bytes and what the rows add up to.
fn check(stream: &Stream, names: &[String], expected: &Digest, threads: &[usize]) {
    let bytes = stream.encode();
    let cid = Cid::of(&bytes);
    for threads in threads {
        let (found, digest, actors) = in_pool(*threads, || digest(&bytes[..], Some(cid))).unwrap();
        assert_eq!(found, cid);
        assert!(digest == *expected, "{threads} threads, {} bytes: the rows do not add up", bytes.len());
        assert_eq!(in_pool(*threads, || hash(&bytes[..], &Progress::default())).unwrap(), cid);
        assert_eq!(actors.len(), names.len());
        assert!((0..names.len()).all(|index| actors.value(index) == names[index].as_bytes()));
        let is_sorted = names.is_sorted();
        assert_eq!(actors.order().is_none(), is_sorted);
        if let Some(order) = actors.order() {
            assert!(order.is_sorted_by_key(|index| &names[*index as usize]));
        }
    }
}

#[test]
fn batches_of_any_size() {
    let names = names(500, 8, false);
    let expected = Digest::expected(20_000, names.len());
    for per_batch in [1, 7, 4096, 65_536] {
        check(&snapshot(&names, 20_000, per_batch), &names, &expected, &[1, 2, 3, 8]);
    }
}

#[test]
fn one_huge_batch_and_the_same_in_small_ones() {
    const ROWS: u64 = 3_000_000;
    let names = names(1000, 12, true);
    let expected = Digest::expected(ROWS, names.len());
    let huge = snapshot(&names, ROWS, ROWS);
    assert!(huge.messages[3].body.len() > 9 * WINDOW);
    check(&huge, &names, &expected, &[1, 2, 3, 8]);
    check(&snapshot(&names, ROWS, 65_536), &names, &expected, &[2, 3]);
}

#[test]
fn dictionaries_of_any_size() {
    for (count, bytes, sorted) in [
        (1, 1, true),
        (3000, 20, false),
        (15_000, 30, true),
        (15_000, 30, false),
        (180_000, 24, true),
        (180_000, 24, false),
    ] {
        let names = names(count, bytes, sorted);
        let expected = Digest::expected(30_000, count);
        let mut stream = snapshot(&names, 30_000, 10_000);
        check(&stream, &names, &expected, &[1, 3]);
        stream.messages.swap(1, 2);
        assert!(
            matches!(stream.messages[1].header, Header::Dictionary { id: 1, .. }),
            "the actors come second"
        );
        check(&stream, &names, &expected, &[2, 8]);
    }
}

/// Dictionaries that lie about themselves and are longer than what is read at once: found out, not tripped over.
#[test]
fn odd_dictionaries_of_several_windows() {
    use forge::Batch;
    let long = vec![b'a'; 2 * WINDOW + 5];
    let offsets = |ends: &[u32]| ends.iter().flat_map(|end| end.to_le_bytes()).collect::<Vec<u8>>();
    let tell = |values: usize, offsets: &[u8]| {
        let (batch, body) = Batch::of(values, 1, &[&[], offsets, &long]);
        let dictionary =
            Message::new(Header::Dictionary { id: 0, is_delta: false, batch: Some(batch) }, body);
        let messages = vec![forge::schema(), dictionary, forge::dictionary(1, &CATEGORIES)];
        let bytes = Stream { messages, tail: forge::END.to_vec() }.encode();
        let result = in_pool(2, || decode(&bytes[..], None, &Progress::default(), sink));
        result.map(|decoded| decoded.actors.len()).map_err(|error| match error {
            DecodeError::Invalid { fault, .. } => fault,
            other => panic!("{other}"),
        })
    };
    assert_eq!(tell(0, &[]), Ok(0), "bytes that no value uses");
    assert_eq!(tell(0, &offsets(&[0])), Ok(0));
    assert_eq!(tell(0, &offsets(&[long.len() as u32 + 1])), Err(Fault::OffsetsInvalid));
    assert_eq!(tell(1, &offsets(&[0, 200])), Ok(1));
    assert_eq!(tell(1, &offsets(&[0, long.len() as u32])), Err(Fault::ActorTooLong));
    assert_eq!(tell(2, &offsets(&[long.len() as u32, 3, 4])), Err(Fault::OffsetsInvalid));
    assert_eq!(tell(3, &offsets(&[0, 3, u32::MAX, 4])), Err(Fault::OffsetsInvalid));
    assert_eq!(tell(3, &offsets(&[0, 3, 3, 4])), Err(Fault::ActorEmpty));
}

/// Ends and beginnings of messages, bodies and buffers on, just before and just behind the border of a leaf.
#[test]
fn borders_of_leaves() {
    let names = names(7000, 24, true);
    let expected = Digest::expected(30_000, names.len());
    let stream = snapshot(&names, 30_000, 15_000);
    let encoded =
        |messages: &[Message]| Stream { messages: messages.to_vec(), tail: Vec::new() }.encode().len();
    let buffers = stream.messages[3].batch().unwrap().buffers.as_ref().unwrap();
    let head = encoded(&stream.messages[..4]) - stream.messages[3].body.len();
    // The end of the actors' body, of the second dictionary, of the first batch's metadata, and its buffers.
    let mut marks = vec![encoded(&stream.messages[..2]), encoded(&stream.messages[..3]), head];
    marks.extend([1, 3, 5].map(|index| head + buffers[index].0 as usize));
    for mark in marks {
        for beyond in [0, 8, LEAF - 8] {
            let mut stream = stream.clone();
            // Padding in front of everything moves the mark to where it should be; what one message may not take, another
            // does.
            let mut padding = (beyond + 3 * LEAF - mark) % LEAF;
            let mut message = 0;
            while padding > 0 && message < 3 {
                let part = padding.min(60_000);
                stream.messages[message].metadata_padding = part;
                (padding, message) = (padding - part, message + 1);
            }
            check(&stream, &names, &expected, &[2]);
        }
    }
}

#[test]
fn nothing_in_it() {
    let mut stream = snapshot(&names(4, 3, true), 0, 1);
    let empty = |stream: &Stream| {
        let bytes = stream.encode();
        let decoded = decode(&bytes[..], Some(Cid::of(&bytes)), &Progress::default(), sink).unwrap();
        (decoded.actors.len(), decoded.rows, decoded.lanes.len())
    };
    // There was a sink, and it got nothing.
    assert_eq!(empty(&stream), (4, 0, 0));
    // Without batches the dictionaries may be absent.
    stream.messages.truncate(2);
    assert_eq!(empty(&stream), (4, 0, 0));
    stream.messages.truncate(1);
    assert_eq!(empty(&stream), (0, 0, 0));
}

#[test]
fn without_a_sink_rows_are_checked_and_counted() {
    let names = names(10, 4, true);
    let mut stream = snapshot(&names, 100, 30);
    let none = |bytes: &[u8]| decode(bytes, None, &Progress::default(), |_, _, _| None::<Digest>);
    let decoded = none(&stream.encode()).unwrap();
    assert_eq!((decoded.rows, decoded.lanes.len()), (100, 0));
    stream.messages[4] = forge::rows(&[(10, 0, 1)]);
    let error = none(&stream.encode()).unwrap_err().to_string();
    assert_eq!(error, "a row's dictionary key names no value (message 4, column actor, row 30)");
}

/// Whatever is wrong with bytes that are not the ones asked for, nothing is said but that.
#[test]
fn the_cid_comes_first() {
    let names = names(20_000, 20, false);
    let good = snapshot(&names, 100_000, 30_000).encode();
    let wrong = Some(Cid::of(b"another"));
    let broken = [
        (Vec::new(), Fault::NoEndOfStream),
        (good[..good.len() - 8].to_vec(), Fault::NoEndOfStream),
        (good[..good.len() / 2].to_vec(), Fault::BodyBeyondEnd),
        (good[..good.len() - 3].to_vec(), Fault::Truncated),
        ([&good[..], b"x"].concat(), Fault::TrailingBytes),
        ([&b"ARROW1\0\0"[..], &good].concat(), Fault::FileNotStream),
    ];
    for (bytes, fault) in broken {
        for threads in [1, 3] {
            in_pool(threads, || {
                for expected in [None, Some(Cid::of(&bytes))] {
                    let error = digest(&bytes[..], expected).unwrap_err();
                    assert!(
                        matches!(error, DecodeError::Invalid { fault: found, .. } if found == fault),
                        "{error}"
                    );
                }
                assert!(matches!(digest(&bytes[..], wrong), Err(DecodeError::CidMismatch)), "{fault:?}");
            });
        }
    }
    assert!(matches!(digest(&good[..], wrong), Err(DecodeError::CidMismatch)));
}

/// Bytes that fail from some position on.
struct Failing<'b>(&'b [u8], u64);

impl Source for Failing<'_> {
    fn len(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        if offset + buffer.len() as u64 > self.1 {
            return Err(io::Error::other("the disk is gone"));
        }
        self.0.read_at(offset, buffer)
    }
}

#[test]
fn a_source_that_fails() {
    let names = names(15_000, 30, false);
    let bytes = snapshot(&names, 600_000, 50_000).encode();
    assert!(bytes.len() > WINDOW + LEAF);
    for from in [0, 100, LEAF, 2 * LEAF + 1, WINDOW, WINDOW + LEAF, bytes.len() - 1] {
        let source = Failing(&bytes, from as u64);
        for expected in [None, Some(Cid::of(&bytes)), Some(Cid::of(b"another"))] {
            for threads in [1, 3] {
                let error = in_pool(threads, || digest(&source, expected).unwrap_err());
                assert!(matches!(error, DecodeError::Io(_)), "{from}: {error}");
                assert!(error.to_string().contains("the disk is gone"), "{error}");
            }
        }
        assert!(hash(&source, &Progress::default()).is_err());
    }
    // A format that is broken before the disk fails is said, but not of bytes whose CID nobody has seen.
    let broken = [&b"ARROW1\0\0"[..], &bytes].concat();
    let source = Failing(&broken, WINDOW as u64);
    assert!(matches!(digest(&source, None), Err(DecodeError::Invalid { fault: Fault::FileNotStream, .. })));
    assert!(matches!(digest(&source, Some(Cid::of(&broken))), Err(DecodeError::Io(_))));
}

/// Gives the right bytes once; whoever reads a byte a second time gets another. Looking at a few of the first names is no reading:
/// nothing is made of them but a guess.
struct Changing<'b> {
    bytes: &'b [u8],
    read: Mutex<Vec<bool>>,
    again: AtomicU64,
}

/// Bytes that are looked at together at the most.
const LOOKED_AT: usize = 8 * 1024;

impl<'b> Changing<'b> {
    fn new(bytes: &'b [u8]) -> Self {
        Self { bytes, read: Mutex::new(vec![false; bytes.len()]), again: AtomicU64::new(0) }
    }
}

impl Source for Changing<'_> {
    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.bytes.read_at(offset, buffer)?;
        if (1..LOOKED_AT).contains(&buffer.len()) && buffer.len() as u64 + offset < self.len() {
            return Ok(());
        }
        let range = offset as usize..offset as usize + buffer.len();
        let read = &mut self.read.lock().unwrap()[range];
        if read.contains(&true) {
            self.again.fetch_add(1, Ordering::Relaxed);
            buffer.iter_mut().for_each(|byte| *byte ^= 1);
        }
        read.fill(true);
        Ok(())
    }
}

#[test]
fn every_byte_is_read_once() {
    for (count, per_batch, sorted) in [(10, 100, false), (200_000, 400_000, false), (200_000, 400_000, true)]
    {
        let names = names(count, 24, sorted);
        let expected = Digest::expected(400_000, count);
        let bytes = snapshot(&names, 400_000, per_batch).encode();
        let cid = Cid::of(&bytes);
        let source = Changing::new(&bytes);
        let (found, digest, _) = digest(&source, Some(cid)).unwrap();
        assert!((found, &digest) == (cid, &expected));
        assert_eq!(source.again.load(Ordering::Relaxed), 0, "nothing is read twice");
        assert!(source.read.lock().unwrap().iter().all(|read| *read), "everything is read");
        // What has changed since is another snapshot, whatever is in it.
        assert!(matches!(self::digest(&source, Some(cid)), Err(DecodeError::CidMismatch)));
    }
}

/// Wants the names of some actors only.
#[derive(Debug)]
struct Wanting(Digest, Bits);

impl RowSink for Wanting {
    type Lane = Digest;

    fn lane_bytes(&self) -> u64 {
        self.0.lane_bytes()
    }

    fn lane(&self) -> Digest {
        self.0.lane()
    }

    fn rows(&self, lane: &mut Digest, rows: Rows<'_>) {
        self.0.rows(lane, rows);
    }

    fn wanted(&self, _: &mut Vec<Digest>) -> Option<Bits> {
        Some(self.1.clone())
    }
}

fn chosen(source: &(impl Source + ?Sized), which: &[usize]) -> Result<Decoded<Wanting, Digest>, DecodeError> {
    let sink = |_: &SnapshotHeader, actors: usize, _: &Dictionary| {
        let mut bits = Bits::none(actors);
        which.iter().filter(|index| **index < actors).for_each(|index| bits.insert(*index));
        Some(Wanting(Digest::new(actors), bits))
    };
    let progress = Progress::default();
    let decoded = decode(source, None, &progress, sink)?;
    assert_eq!(progress.bytes.load(Ordering::Relaxed), source.len());
    Ok(decoded)
}

/// Names that share beginnings, of many lengths, in order.
fn various(count: usize) -> Vec<Vec<u8>> {
    let name = |n: usize| {
        let tail = match n % 97 {
            0 => "\u{e9}".repeat(n % 100),
            1 => "z".repeat(n % 230),
            2 => String::new(),
            _ => "some more".into(),
        };
        format!("{}{n:07}{tail}", if n > count / 2 { "github.com/" } else { "e" }).into_bytes()
    };
    (0..count).map(name).collect()
}

/// A snapshot with this dictionary of actors, and so many words behind it in the same body. One that says of each value that it is
/// not null is read in its turn.
fn with_actors(
    offsets: &[u32],
    text: &[u8],
    in_its_turn: bool,
    behind: usize,
    rows: &[(u32, u8, u64)],
) -> Stream {
    let values = offsets.len() - 1;
    let offsets: Vec<u8> = offsets.iter().flat_map(|offset| offset.to_le_bytes()).collect();
    let validity = if in_its_turn { vec![0xff; values.div_ceil(8)] } else { Vec::new() };
    let (batch, mut body) = forge::Batch::of(values, 1, &[&validity, &offsets, text]);
    body.extend(std::iter::repeat_n(0, behind * 8));
    let dictionary = Message::new(Header::Dictionary { id: 0, is_delta: false, batch: Some(batch) }, body);
    let messages = vec![
        forge::schema(),
        dictionary,
        forge::dictionary(1, &CATEGORIES),
        forge::rows(rows),
        forge::rows(rows),
    ];
    Stream { messages, tail: forge::END.to_vec() }
}

fn laid_out(names: &[Vec<u8>]) -> (Vec<u32>, Vec<u8>) {
    let ends = names.iter().scan(0, |end, name| {
        *end += name.len() as u32;
        Some(*end)
    });
    ([0].into_iter().chain(ends).collect(), names.concat())
}

/// A dictionary that is passed over gives what one gives that is read in its turn: the names that are wanted, or all of them.
#[test]
fn names_that_are_wanted() {
    const NAMES: usize = 90_000;
    let all = various(NAMES);
    assert!(all.is_sorted());
    let rows: Vec<_> = (0..20_000).map(|number| row(number, NAMES)).collect();
    let wanted: [&[usize]; 5] = [
        &[],
        &[0],
        &[NAMES - 1, 0, 63, 64, 65],
        &(0..NAMES).step_by(7).collect::<Vec<_>>(),
        &(0..NAMES).step_by(2).collect::<Vec<_>>(),
    ];
    // In order; two far from each other exchanged; the first ones in none.
    for (swapped, threads) in [(None, 1), (None, 3), (Some((70_000, 70_001)), 2), (Some((5, 80_000)), 2)] {
        let mut names = all.clone();
        if let Some((one, other)) = swapped {
            names.swap(one, other);
        }
        let (offsets, text) = laid_out(&names);
        for behind in [0, 1000] {
            let bytes = with_actors(&offsets, &text, false, behind, &rows).encode();
            for which in wanted {
                let decoded = in_pool(threads, || chosen(&bytes[..], which)).unwrap();
                assert_eq!(decoded.cid, Cid::of(&bytes));
                assert_eq!((decoded.actors.len(), decoded.rows), (NAMES, 2 * rows.len() as u64));
                assert_eq!(decoded.actors.order().is_none(), swapped.is_none());
                assert!(which.iter().all(|index| decoded.actors.value(*index) == names[*index]));
                if let Some(order) = decoded.actors.order() {
                    assert!(order.is_sorted_by_key(|index| &names[*index as usize]));
                }
            }
        }
    }
}

/// What is wrong is said as if the dictionary had been read in its turn, whatever is wrong with the rows as well.
#[test]
fn faults_of_names_that_come_late() {
    const NAMES: usize = 90_000;
    let good = various(NAMES);
    let places = [0, 300, 44_444, NAMES - 1];
    let mut spoilt: Vec<(&str, Vec<u32>, Vec<u8>)> = Vec::new();
    for at in places {
        let mut names = good.clone();
        for (what, name) in [
            ("empty", Vec::new()),
            ("control", b"github.com/\x07".to_vec()),
            ("no UTF-8", b"github.com/\xff".to_vec()),
            ("long", vec![b'g'; 257]),
            ("far too long", vec![b'g'; 300_000]),
            ("twice", good[(at + 7) % NAMES].clone()),
        ] {
            names[at] = name;
            let (offsets, text) = laid_out(&names);
            spoilt.push((what, offsets, text));
        }
        let (offsets, text) = laid_out(&good);
        let before = offsets[at].wrapping_sub(1);
        for (what, offset) in [("beyond", text.len() as u32 + 1), ("negative", u32::MAX), ("back", before)] {
            let mut offsets = offsets.clone();
            offsets[at + 1] = offset;
            spoilt.push((what, offsets, text.clone()));
        }
    }
    let (offsets, text) = laid_out(&good);
    spoilt.push(("short of text", offsets.clone(), text[..text.len() - 20].to_vec()));
    spoilt.push(("nothing", offsets, text));
    let fine: Vec<_> = (0..1000).map(|number| row(number, NAMES)).collect();
    for (what, offsets, text) in spoilt {
        for rows in [&fine[..], &[(0, 0, 1), (NAMES as u32, 0, 1)]] {
            let said = |in_its_turn| {
                let bytes = with_actors(&offsets, &text, in_its_turn, 0, rows).encode();
                let decoded = in_pool(2, || chosen(&bytes[..], &[0, 1, 2]));
                decoded.map(|decoded| decoded.actors.order().is_none()).map_err(|e| e.to_string())
            };
            let (late, in_turn) = (said(false), said(true));
            assert_eq!(late, in_turn, "{what}, {} rows", rows.len());
            assert_eq!(late.is_ok(), what == "nothing" && rows.len() > 2, "{what}: {late:?}");
        }
    }
}

/// A stream that ends behind the dictionary, at any place of a leaf.
#[test]
fn nothing_behind_the_names() {
    let names = names(100_000, 24, true);
    let mut stream = snapshot(&names, 0, 1);
    stream.messages.swap(1, 2);
    // Among them the one that ends with a leaf.
    let border = LEAF - (stream.encode().len() - forge::END.len()) % LEAF;
    for padding in (0..LEAF).step_by(LEAF / 8).chain([8, border - 8, border, border + 8]) {
        for whole in [true, false] {
            let mut stream = stream.clone();
            assert!(matches!(stream.messages[2].header, Header::Dictionary { id: 0, .. }));
            stream.messages[2].body.extend(std::iter::repeat_n(0, padding));
            let mut bytes = stream.encode();
            if !whole {
                bytes.truncate(bytes.len() - forge::END.len());
            }
            match chosen(&bytes[..], &[7]) {
                Ok(decoded) if whole => {
                    assert_eq!(decoded.cid, Cid::of(&bytes));
                    assert_eq!(decoded.actors.value(7), names[7].as_bytes());
                }
                Err(DecodeError::Invalid { fault: Fault::NoEndOfStream, .. }) if !whole => {
                    assert_eq!(padding == border, bytes.len().is_multiple_of(LEAF));
                }
                other => panic!("{padding}, {whole}: {other:?}"),
            }
        }
    }
}

#[test]
fn a_file_is_like_its_bytes() {
    let names = names(15_000, 30, false);
    let bytes = snapshot(&names, 100_000, 50_000).encode();
    let path = std::env::temp_dir().join(format!("streaming-{}.arrows", std::process::id()));
    std::fs::write(&path, &bytes).unwrap();
    let source = FileSource::new(std::fs::File::open(&path).unwrap()).unwrap();
    let (cid, found, _) = digest(&source, Some(Cid::of(&bytes))).unwrap();
    assert!(cid == Cid::of(&bytes) && found == Digest::expected(100_000, names.len()));
    // Cut after it was opened.
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(bytes.len() as u64 / 2).unwrap();
    let error = digest(&source, Some(Cid::of(&bytes))).unwrap_err();
    std::fs::remove_file(&path).unwrap();
    assert!(matches!(error, DecodeError::Io(_)), "{error}");
    assert!(
        FileSource::new(std::fs::File::open(std::env::temp_dir()).unwrap()).is_err(),
        "a directory is no file"
    );
}
