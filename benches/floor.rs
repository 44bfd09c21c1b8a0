//! The floor under every epoch: reading a file once through BLAKE3, as decode reads it. `floor FILE [THREADS]` prints
//! milliseconds; the process itself is what `testing/real/figures` times. `floor --touch BYTES` takes as much fresh memory instead,
//! as the kernel takes its own, and writes to each page: what the system asks for that before anything is computed. `floor
//! --additions ACTORS` adds to so many sums in no order, nothing checked, decoded or hashed, and prints nanoseconds a row: the least
//! that rows cost where sums do not fit into a core's own cache, which is as many misses under way as the core can have. `floor
//! --lines ACTORS` makes so many lines of text out of names and numbers that are there, nothing looked at, and hashes it, and
//! prints nanoseconds a line: the least that a canonical table costs.

mod draw;

use draw::SplitMix64;
use rewarder_decode::{FileSource, Progress, hash};
use rewarder_model::memory::{Block, prefetch};
use std::fs::File;
use std::time::Instant;

/// Rows that are added again and again: their keys take four megabytes, read in order.
const ROWS: usize = 1 << 20;

/// Nanoseconds a row of the fastest of some rounds, at the distance of prefetching that is fastest here.
fn additions(actors: usize) -> f64 {
    let mut draw = SplitMix64(1);
    let rows: Vec<(u32, u32)> =
        (0..ROWS).map(|_| ((draw.draw() % actors as u64) as u32, draw.draw() as u32)).collect();
    let mut sums = Block::<u64>::zeroed(actors);
    let mut round = |ahead: usize| {
        let begun = Instant::now();
        for (at, (actor, units)) in rows.iter().enumerate() {
            prefetch(&sums, rows[(at + ahead) % ROWS].0 as usize);
            let sum = &mut sums[*actor as usize];
            *sum = sum.wrapping_add(u64::from(*units));
        }
        std::hint::black_box(&sums);
        begun.elapsed().as_secs_f64() * 1e9 / ROWS as f64
    };
    let distances = [0, 16, 48, 96, 192, 384];
    distances.iter().flat_map(|ahead| [*ahead; 8]).map(&mut round).fold(f64::INFINITY, f64::min)
}

/// Nanoseconds a line of the fastest of some rounds.
fn lines(actors: usize) -> f64 {
    let mut draw = SplitMix64(1);
    let names: String = (0..actors).map(|actor| format!("actor-{actor:08}")).collect();
    let name_len = names.len() / actors;
    let payouts: Vec<u64> = (0..actors).map(|_| draw.draw() >> (24 + draw.draw() % 16)).collect();
    let mut text = Block::<u8>::scratch(actors * (name_len + 22));
    let mut round = || {
        let begun = Instant::now();
        let mut len = 0;
        let mut put = |bytes: &[u8]| {
            text[len..len + bytes.len()].copy_from_slice(bytes);
            len += bytes.len();
        };
        let mut digits = itoa::Buffer::new();
        for (name, payout) in names.as_bytes().chunks(name_len).zip(&payouts) {
            put(name);
            put(b"\t");
            put(digits.format(*payout).as_bytes());
            put(b"\n");
        }
        std::hint::black_box(blake3::hash(&text[..len]));
        begun.elapsed().as_secs_f64() * 1e9 / actors as f64
    };
    (0..8).map(|_| round()).fold(f64::INFINITY, f64::min)
}

fn main() {
    let mut args = std::env::args().skip(1);
    let Some(file) = args.next() else {
        eprintln!(
            "usage: floor FILE [THREADS] | floor --touch BYTES | floor --additions ACTORS | floor --lines ACTORS"
        );
        std::process::exit(64);
    };
    if file == "--touch" {
        let bytes = args.next().and_then(|n| n.parse().ok()).expect("--touch takes a number of bytes");
        let begun = Instant::now();
        let mut block = Block::<u8>::scratch(bytes);
        block.iter_mut().step_by(4096).for_each(|byte| *byte = 1);
        println!("{:.2} ms {}", begun.elapsed().as_secs_f64() * 1e3, std::hint::black_box(&block).len());
        return;
    }
    if file == "--additions" || file == "--lines" {
        let actors = args.next().and_then(|n| n.parse().ok()).filter(|actors| *actors > 0);
        let actors = actors.expect("a number of actors");
        match file.as_str() {
            "--lines" => println!("{:.2} ns a line", lines(actors)),
            _ => println!("{:.2} ns a row", additions(actors)),
        }
        return;
    }
    let threads = args.next().and_then(|n| n.parse().ok()).unwrap_or(0);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads can be started");
    let begun = Instant::now();
    let source = File::open(&file).and_then(FileSource::new).expect("the file can be opened");
    let cid = pool.install(|| hash(&source, &Progress::default())).expect("the file can be read");
    println!("{:.2} ms {cid}", begun.elapsed().as_secs_f64() * 1e3);
}
