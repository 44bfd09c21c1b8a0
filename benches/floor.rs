//! The floor under every epoch: reading a file once through BLAKE3, as decode reads it. `floor FILE [THREADS]` prints
//! milliseconds; the process itself is what `testing/real/figures` times. `floor --touch BYTES` takes as much fresh memory instead,
//! as the kernel takes its own, and writes to each page: what the system asks for that before anything is computed.

use rewarder_decode::{FileSource, Progress, hash};
use rewarder_model::memory::Block;
use std::fs::File;
use std::time::Instant;

fn main() {
    let mut args = std::env::args().skip(1);
    let Some(file) = args.next() else {
        eprintln!("usage: floor FILE [THREADS] | floor --touch BYTES");
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
    let threads = args.next().and_then(|n| n.parse().ok()).unwrap_or(0);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads can be started");
    let begun = Instant::now();
    let source = File::open(&file).and_then(FileSource::new).expect("the file can be opened");
    let cid = pool.install(|| hash(&source, &Progress::default())).expect("the file can be read");
    println!("{:.2} ms {cid}", begun.elapsed().as_secs_f64() * 1e3);
}
