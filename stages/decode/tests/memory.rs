//! Memory follows actors, not rows, and stays within contract §2 for the inputs that cost most.
//!
//! A process of its own with one test in it, since what is measured is the peak of resident memory of the process.

mod forge;

use forge::Dice;
use rewarder_decode::{Dictionary, FileSource, Progress, RowSink, Rows, Source, decode};
use rewarder_model::{Bits, SnapshotHeader};
use std::io;

const MIB: usize = 1 << 20;

/// Adds up units by actor.
struct Sums {
    actors: usize,
    /// Whether only the names of those are wanted who have units.
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

    fn wanted(&self, lanes: &mut Vec<Vec<u64>>) -> Option<Bits> {
        let mut wanted = Bits::none(self.actors);
        let has_units = |actor: &usize| lanes.iter().any(|lane| lane[*actor] > 0);
        (0..self.actors).filter(has_units).for_each(|actor| wanted.insert(actor));
        self.choosy.then_some(wanted)
    }
}

fn choosy(_: &SnapshotHeader, actors: usize, _: &Dictionary) -> Option<Sums> {
    Some(Sums { actors, choosy: true })
}

fn sums(_: &SnapshotHeader, actors: usize, _: &Dictionary) -> Option<Sums> {
    Some(Sums { actors, choosy: false })
}

/// A stream that repeats one batch, made up as it is read: only its head and one batch exist.
struct Endless {
    head: Vec<u8>,
    batch: Vec<u8>,
    batches: u64,
}

impl Source for Endless {
    fn len(&self) -> u64 {
        self.head.len() as u64 + self.batches * self.batch.len() as u64 + 8
    }

    fn read_at(&self, mut offset: u64, mut buffer: &mut [u8]) -> io::Result<()> {
        while !buffer.is_empty() {
            let (piece, at) = match offset.checked_sub(self.head.len() as u64) {
                None => (&self.head[..], offset),
                Some(at) if at / self.batch.len() as u64 == self.batches => {
                    (&forge::END[..], at % self.batch.len() as u64)
                }
                Some(at) => (&self.batch[..], at % self.batch.len() as u64),
            };
            let piece = &piece[at as usize..];
            let len = piece.len().min(buffer.len());
            let (now, later) = buffer.split_at_mut(len);
            now.copy_from_slice(&piece[..len]);
            (buffer, offset) = (later, offset + len as u64);
        }
        Ok(())
    }
}

fn status(name: &str) -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim_start_matches(':').trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}

/// The result of `work`, and how far resident memory went beyond what it was.
fn peak<T>(work: impl FnOnce() -> T) -> (T, usize) {
    // 5 resets the peak (proc_pid_clear_refs(5)).
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = status("VmRSS");
    let result = work();
    (result, status("VmHWM").saturating_sub(before))
}

fn encode(messages: &[forge::Message], end: bool) -> Vec<u8> {
    forge::Stream { messages: messages.to_vec(), tail: if end { forge::END.to_vec() } else { Vec::new() } }
        .encode()
}

/// 20 million rows of a thousand actors: 260 MB that are never there.
fn rows_cost_nothing() {
    const ACTORS: usize = 1000;
    const ROWS: usize = 64 * 1024;
    const BATCHES: u64 = 306;
    let names: Vec<String> = (0..ACTORS).map(|n| format!("actor-{n:04}")).collect();
    let mut dice = Dice(1);
    let rows: Vec<_> =
        (0..ROWS).map(|_| (dice.below(ACTORS) as u32, dice.below(2) as u8, dice.next() >> 30)).collect();
    let source = Endless {
        head: encode(
            &[forge::schema(), forge::dictionary(0, &names), forge::dictionary(1, &["a", "b"])],
            false,
        ),
        batch: encode(&[forge::rows(&rows)], false),
        batches: BATCHES,
    };
    let (decoded, grown) = peak(|| decode(&source, None, &Progress::default(), sums).unwrap());
    println!("{} rows, {} bytes: {} KiB", decoded.rows, source.len(), grown >> 10);
    assert!(decoded.rows > 20_000_000);
    let mut expected = vec![0u64; ACTORS];
    rows.iter().for_each(|(actor, _, units)| expected[*actor as usize] += units * BATCHES);
    let mut found = vec![0u64; ACTORS];
    decoded
        .lanes
        .iter()
        .flat_map(|lane| lane.iter().enumerate())
        .for_each(|(actor, units)| found[actor] += units);
    assert_eq!(found, expected);
    assert!(grown < 40 * MIB, "{grown} bytes");
}

/// Decodes a file in a process of its own, whose heap nothing has been in before; how far its memory grew.
fn measured(name: &str, bytes: &[u8]) -> usize {
    let path = std::env::temp_dir().join(format!("memory-{}.arrows", std::process::id()));
    std::fs::write(&path, bytes).unwrap();
    let mut child = std::process::Command::new(std::env::current_exe().unwrap());
    let output = child.args(["--exact", "memory", "--nocapture"]).env(MEASURE, &path).output().unwrap();
    std::fs::remove_file(&path).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let output = String::from_utf8(output.stdout).unwrap();
    let grown = output.lines().find_map(|line| line.strip_prefix("grown ")).unwrap().parse().unwrap();
    println!("{name}, {} bytes: {} KiB", bytes.len(), grown >> 10);
    grown
}

/// Names the file that a process of its own measures.
const MEASURE: &str = "REWARDER_MEMORY_OF";

/// Very many very short names in no order: what a dictionary costs at most for its size.
fn short_names_cost_their_share() {
    const NAMES: usize = 3_000_000;
    let name = |n: usize| {
        // A permutation of 0..2^22, as four digits of base 64.
        let n = (n * 0x9e37_79b1 + 12_345) % (1 << 22);
        [18, 12, 6, 0].map(|shift| b'0' + (n >> shift & 63) as u8)
    };
    let names: Vec<[u8; 4]> = (0..NAMES).map(name).collect();
    let messages = [
        forge::schema(),
        forge::dictionary(0, &names),
        forge::dictionary(1, &["a"]),
        forge::rows(&[(7, 0, 1)]),
    ];
    let bytes = encode(&messages, true);
    let grown = measured("3 M names in no order", &bytes);
    assert!(grown <= 4 * bytes.len() + 16 * MIB, "{grown} bytes");
    // Both the names and their order have to be there: were it less, nothing would have been measured.
    assert!(grown > bytes.len(), "{grown} bytes");
}

/// Names that nobody wants: two million in order, of which the sink wants two.
fn names_that_nobody_wants_cost_nothing() {
    const NAMES: usize = 2_000_000;
    let names: Vec<String> = (0..NAMES).map(|n| format!("github.com/somebody-{n:07}")).collect();
    let messages = [
        forge::schema(),
        forge::dictionary(0, &names),
        forge::dictionary(1, &["a"]),
        forge::rows(&[(7, 0, 1), (1_999_999, 0, 2)]),
    ];
    let bytes = encode(&messages, true);
    drop(names);
    let grown = measured("2 M names, two of them wanted", &bytes);
    // 4 bytes a name for the offsets, and 8 for the sums, of which only those that rows touch are there. The names are far more.
    assert!(grown < 12 * NAMES + 12 * MIB && grown < bytes.len(), "{grown} bytes");
    assert!(grown > 4 * NAMES, "{grown} bytes");
}

/// Very many very short names, in order but for the last two: found out when the rows are in.
fn names_that_turn_out_to_be_in_no_order_cost_their_share() {
    const NAMES: usize = 3_000_000;
    let name = |n: usize| [18, 12, 6, 0].map(|shift| b'0' + (n >> shift & 63) as u8);
    let mut names: Vec<[u8; 4]> = (0..NAMES).map(name).collect();
    names.swap(NAMES - 1, NAMES - 2);
    let rows: Vec<_> = (0..NAMES as u32).step_by(512).map(|actor| (actor, 0, 1)).collect();
    let messages =
        [forge::schema(), forge::dictionary(0, &names), forge::dictionary(1, &["a"]), forge::rows(&rows)];
    let bytes = encode(&messages, true);
    let grown = measured("3 M names, the last two in no order", &bytes);
    assert!(grown <= 4 * bytes.len() + 16 * MIB, "{grown} bytes");
    assert!(grown > 2 * bytes.len(), "{grown} bytes");
}

/// One batch has to be there as a whole, and is there once.
fn a_huge_batch_costs_itself() {
    let rows: Vec<_> = (0..2_000_000u64).map(|n| ((n % 1000) as u32, 0, n)).collect();
    let names: Vec<String> = (0..1000).map(|n| format!("{n:04}")).collect();
    let messages =
        [forge::schema(), forge::dictionary(0, &names), forge::dictionary(1, &["a"]), forge::rows(&rows)];
    let bytes = encode(&messages, true);
    let grown = measured("2 M rows in one batch", &bytes);
    assert!(grown <= bytes.len() + 16 * MIB, "{grown} bytes");
    assert!(grown > bytes.len(), "{grown} bytes");
}

#[test]
fn memory() {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
    if let Some(path) = std::env::var_os(MEASURE) {
        let source = FileSource::new(std::fs::File::open(path).unwrap()).unwrap();
        let (_, grown) =
            peak(|| pool.install(|| decode(&source, None, &Progress::default(), choosy).unwrap()));
        println!("\ngrown {grown}");
        return;
    }
    pool.install(rows_cost_nothing);
    short_names_cost_their_share();
    names_that_nobody_wants_cost_nothing();
    names_that_turn_out_to_be_in_no_order_cost_their_share();
    a_huge_batch_costs_itself();
}
