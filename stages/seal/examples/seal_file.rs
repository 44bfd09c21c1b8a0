//! Seals a file and prints its CID, the time it took, and this process's peak memory. A figure to compare
//! with: DuckDB's CSV → Parquet (`against_duckdb.py`), on the same number of threads.
//!
//! `cargo run --release -p rewarder-seal --example seal_file -- INPUT OUT.arrows [THREADS] [RUNS]`

use rewarder_model::SnapshotHeader;
use rewarder_seal::{Phase, Progress, SealOptions, seal};
use std::path::Path;
use std::sync::Mutex;
use std::time::Instant;

/// Prints when each phase began.
struct Times(Mutex<Vec<(Phase, Instant)>>);

impl Progress for Times {
    fn phase(&self, phase: Phase) {
        if let Ok(mut times) = self.0.lock() {
            times.push((phase, Instant::now()));
        }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [input, out, rest @ ..] = &args[..] else { return Err("INPUT OUT.arrows [THREADS] [RUNS]".into()) };
    let header = SnapshotHeader {
        tenant: "npm".parse()?,
        epoch: "2026-03".parse()?,
        asset: "usd".parse()?,
        pool: 100_000_000.into(),
    };
    let mut options = SealOptions::new(header);
    options.threads = rest.first().map_or(Ok(0), |threads| threads.parse())?;
    let runs: usize = rest.get(1).map_or(Ok(1), |runs| runs.parse())?;
    for _ in 0..runs {
        let times = Times(Mutex::new(Vec::new()));
        let begun = Instant::now();
        let sealed = seal(Path::new(input), &options, Path::new(out), &times)?;
        let done = Instant::now();
        let times = times.0.into_inner()?;
        let ends = times.iter().skip(1).map(|(_, at)| *at).chain([done]);
        let phases: Vec<String> =
            times.iter().zip(ends).map(|((p, at), end)| format!("{p:?} {:?}", end - *at)).collect();
        println!("{} in {:?} ({})", sealed.cid, done - begun, phases.join(", "));
        println!("{} rows, {} actors, {} bytes", sealed.rows, sealed.actors, sealed.bytes);
        if !sealed.warnings.is_empty() {
            println!("{}", sealed.warnings);
        }
    }
    if let Ok(status) = std::fs::read_to_string("/proc/self/status") {
        println!("{}", status.lines().find(|line| line.starts_with("VmHWM")).unwrap_or_default());
    }
    Ok(())
}
