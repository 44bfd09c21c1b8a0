//! The floor under every epoch: reading a file once through BLAKE3, as decode reads it. `floor FILE [THREADS]` prints
//! milliseconds; the process itself is what `testing/real/figures` times.

use rewarder_decode::{FileSource, Progress, hash};
use std::fs::File;
use std::time::Instant;

fn main() {
    let mut args = std::env::args().skip(1);
    let Some(file) = args.next() else {
        eprintln!("usage: floor FILE [THREADS]");
        std::process::exit(64);
    };
    let threads = args.next().and_then(|n| n.parse().ok()).unwrap_or(0);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads can be started");
    let begun = Instant::now();
    let source = File::open(&file).and_then(FileSource::new).expect("the file can be opened");
    let cid = pool.install(|| hash(&source, &Progress::default())).expect("the file can be read");
    println!("{:.2} ms {cid}", begun.elapsed().as_secs_f64() * 1e3);
}
