//! The floor under every epoch: reading a file once through BLAKE3, as decode reads it. `floor FILE [THREADS]` prints
//! milliseconds; the process itself is what `testing/real/figures` times. `floor --touch BYTES` takes as much fresh memory instead,
//! as the kernel takes its own, and writes to each page: what the system asks for that before anything is computed. `floor
//! --additions ACTORS` adds to so many sums in no order, nothing checked, decoded or hashed, and prints nanoseconds a row: the least
//! that rows cost where sums do not fit into a core's own cache, which is as many misses under way as the core can have. `floor
//! --lines ACTORS` makes so many lines of text out of names and numbers that are there, nothing looked at, and hashes it, and
//! prints nanoseconds a line: the least that a canonical table costs. `floor FILE THREADS ROWS ACTORS OUT BYTES [LINES]` does all of
//! it, one behind the other and each on all threads: reads and hashes, adds, looks whether each name is text that may be printed and
//! stands behind the one before it, makes lines (one for each actor, if it is not said how many), and writes so many bytes to a new
//! file. Made-up rows and names are there before its clock starts. No program that does the job on these cores takes less. `floor
//! FILE THREADS --upload OUT` reads and hashes, and then sends the file to another thread over loopback, which hashes it too, writes
//! it to OUT and makes it durable: the least that an upload costs, without any HTTP.

mod draw;

use draw::SplitMix64;
use rewarder_decode::{FileSource, Progress, hash};
use rewarder_model::memory::{Block, prefetch};
use std::fs::File;
use std::io::{Error, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::sync::Mutex;
use std::thread::JoinHandle;
use std::time::Instant;

/// Rows that are added again and again: their keys take four megabytes, read in order.
const ROWS: usize = 1 << 20;

/// What is written at once: half of what a core's own cache holds.
const PIECE: usize = 1 << 20;

/// Actors and units of made-up rows.
fn rows(actors: usize) -> Vec<(u32, u32)> {
    let mut draw = SplitMix64(1);
    (0..ROWS).map(|_| ((draw.draw() % actors as u64) as u32, draw.draw() as u32)).collect()
}

/// The rows onto their sums, each asked for `ahead` rows before.
fn add(rows: &[(u32, u32)], sums: &mut [u64], ahead: usize) {
    for (at, (actor, units)) in rows.iter().enumerate() {
        prefetch(sums, rows[(at + ahead) % rows.len()].0 as usize);
        let sum = &mut sums[*actor as usize];
        *sum = sum.wrapping_add(u64::from(*units));
    }
}

/// Nanoseconds a row of the fastest of some rounds, and the distance of prefetching at which it was.
fn additions(actors: usize) -> (f64, usize) {
    let rows = rows(actors);
    let mut sums = Block::<u64>::zeroed(actors);
    let mut round = |ahead: usize| {
        let begun = Instant::now();
        add(&rows, &mut sums, ahead);
        std::hint::black_box(&sums);
        (begun.elapsed().as_secs_f64() * 1e9 / ROWS as f64, ahead)
    };
    let distances = [0, 16, 48, 96, 192, 384];
    let taken = distances.iter().flat_map(|ahead| [*ahead; 8]).map(&mut round);
    taken.min_by(|one, other| one.0.total_cmp(&other.0)).expect("there are rounds")
}

/// Made-up names, one behind the other.
fn names(actors: usize) -> String {
    (0..actors).map(|actor| format!("actor-{actor:08}")).collect()
}

/// Whether all of them may be printed, and each is greater than the one before.
fn are_good(names: &str, actors: usize) -> bool {
    let plain = names.bytes().fold(true, |good, byte| good & (b' '..=b'~').contains(&byte));
    let all = names.as_bytes().chunks(names.len() / actors.max(1));
    plain && all.clone().zip(all.skip(1)).fold(true, |good, (one, next)| good & (one < next))
}

/// Names and payouts, and room for their lines.
struct Table {
    names: String,
    payouts: Vec<u64>,
    text: Block<u8>,
}

impl Table {
    fn made_up(actors: usize) -> Self {
        let mut draw = SplitMix64(1);
        let names = names(actors);
        let payouts = (0..actors).map(|_| draw.draw() >> (24 + draw.draw() % 16)).collect();
        let text = Block::scratch(names.len() + actors * 22);
        Self { names, payouts, text }
    }

    /// The lines and their hash.
    fn write(&mut self) -> blake3::Hash {
        let mut len = 0;
        let mut put = |bytes: &[u8]| {
            self.text[len..len + bytes.len()].copy_from_slice(bytes);
            len += bytes.len();
        };
        let mut digits = itoa::Buffer::new();
        let name_len = self.names.len() / self.payouts.len();
        for (name, payout) in self.names.as_bytes().chunks(name_len).zip(&self.payouts) {
            put(name);
            put(b"\t");
            put(digits.format(*payout).as_bytes());
            put(b"\n");
        }
        blake3::hash(&self.text[..len])
    }
}

/// Nanoseconds a line of the fastest of some rounds.
fn lines(actors: usize) -> f64 {
    let mut table = Table::made_up(actors);
    let mut round = || {
        let begun = Instant::now();
        std::hint::black_box(table.write());
        begun.elapsed().as_secs_f64() * 1e9 / actors as f64
    };
    (0..8).map(|_| round()).fold(f64::INFINITY, f64::min)
}

/// Milliseconds of reading, hashing, adding, looking at names, making lines and writing, and of nothing else.
fn least(
    pool: &rayon::ThreadPool,
    file: &str,
    [made, actors, bytes, lines]: [usize; 4],
    out: &str,
) -> Result<f64, Error> {
    let threads = pool.current_num_threads();
    // As if each thread had the rows of its own actors.
    let actors = actors.div_ceil(threads);
    let work = rows(actors);
    let names = names(actors);
    let (_, ahead) = additions(actors);
    let tables: Vec<Mutex<Table>> =
        (0..threads).map(|_| Mutex::new(Table::made_up(lines.div_ceil(threads)))).collect();
    // The memory of the lines is not fresh: whoever does the job may write them block by block into the same.
    pool.broadcast(|at| tables[at.index()].lock().expect("one thread a table").write());

    let begun = Instant::now();
    let source = FileSource::new(File::open(file)?)?;
    pool.install(|| hash(&source, &Progress::default())).map_err(Error::other)?;
    pool.broadcast(|_| {
        let mut sums = Block::<u64>::zeroed(actors);
        let mut left = made / threads;
        while left > 0 {
            let some = left.min(work.len());
            add(&work[..some], &mut sums, ahead);
            left -= some;
        }
        std::hint::black_box(&sums);
    });
    pool.broadcast(|_| assert!(are_good(std::hint::black_box(&names), actors)));
    pool.broadcast(|at| std::hint::black_box(tables[at.index()].lock().expect("one thread a table").write()));
    let file = File::create(out)?;
    let part = bytes / threads;
    let written = pool.broadcast(|at| {
        let table = tables[at.index()].lock().expect("one thread a table");
        let piece = &table.text[..PIECE.min(table.text.len())];
        (0..part).step_by(piece.len()).try_for_each(|offset| {
            file.write_all_at(&piece[..piece.len().min(part - offset)], (at.index() * part + offset) as u64)
        })
    });
    written.into_iter().collect::<Result<(), Error>>()?;
    Ok(begun.elapsed().as_secs_f64() * 1e3)
}

/// Milliseconds of reading, hashing, sending, hashing again, writing and making durable, and of nothing else.
fn upload(pool: &rayon::ThreadPool, file: &str, out: &str) -> Result<f64, Error> {
    /// Bytes that the disk is asked for together.
    const SYNC_EVERY: u64 = 8 << 20;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let (source, stored) = (File::open(file)?, File::create(out)?);
    let len = source.metadata()?.len();

    let begun = Instant::now();
    let named = FileSource::new(source.try_clone()?)?;
    let cid = pool.install(|| hash(&named, &Progress::default()))?;
    let receive = move || -> Result<blake3::Hash, Error> {
        let (mut peer, _) = listener.accept()?;
        let mut piece = Block::<u8>::scratch(PIECE);
        let (mut hasher, mut got) = (blake3::Hasher::new(), 0);
        let mut syncing: Option<JoinHandle<Result<(), Error>>> = None;
        while got < len {
            let count = peer.read(&mut piece)?;
            if count == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            hasher.update(&piece[..count]);
            (&stored).write_all(&piece[..count])?;
            let before = got;
            got += count as u64;
            if got / SYNC_EVERY > before / SYNC_EVERY && syncing.as_ref().is_none_or(JoinHandle::is_finished)
            {
                let file = stored.try_clone()?;
                syncing = Some(std::thread::spawn(move || file.sync_data()));
            }
        }
        stored.sync_data()?;
        Ok(hasher.finalize())
    };
    let receiver = std::thread::spawn(receive);
    let mut peer = TcpStream::connect(address)?;
    let mut piece = Block::<u8>::scratch(PIECE);
    for at in (0..len).step_by(PIECE) {
        let part = &mut piece[..(len - at).min(PIECE as u64) as usize];
        source.read_exact_at(part, at)?;
        peer.write_all(part)?;
    }
    let arrived = receiver.join().map_err(|_| Error::other("the receiver failed"))??;
    assert_eq!(cid, arrived.into(), "what was sent arrived");
    Ok(begun.elapsed().as_secs_f64() * 1e3)
}

fn main() {
    let mut args = std::env::args().skip(1);
    let Some(file) = args.next() else {
        eprintln!(
            "usage: floor FILE [THREADS [ROWS ACTORS OUT BYTES [LINES]]] | floor FILE THREADS --upload OUT | floor --touch BYTES | floor --additions ACTORS | floor --lines ACTORS"
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
            _ => println!("{:.2} ns a row", additions(actors).0),
        }
        return;
    }
    let threads = args.next().and_then(|n| n.parse().ok()).unwrap_or(0);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads can be started");
    let more: Vec<String> = args.collect();
    let taken = match more.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] => None,
        ["--upload", out] => Some(upload(&pool, &file, out)),
        [rows, actors, out, bytes, lines @ ..] => {
            let lines = lines.first().unwrap_or(actors);
            let numbers = [rows, actors, bytes, lines].map(|number| number.parse().expect("a number"));
            Some(least(&pool, &file, numbers, out))
        }
        _ => panic!("too few arguments"),
    };
    if let Some(taken) = taken {
        println!("{:.2} ms", taken.expect("files can be read and written, and loopback is there"));
        return;
    }
    let begun = Instant::now();
    let source = File::open(&file).and_then(FileSource::new).expect("the file can be opened");
    let cid = pool.install(|| hash(&source, &Progress::default())).expect("the file can be read");
    println!("{:.2} ms {cid}", begun.elapsed().as_secs_f64() * 1e3);
}
