//! Where the time of one epoch goes, against the floor: `floor FILE.arrows POLICY.json [RUNS]`, threads by
//! `RAYON_NUM_THREADS`. Prints medians in milliseconds.

use rewarder_decode::{FileSource, Progress, hash};
use rewarder_model::Policy;
use std::fs::File;
use std::time::Instant;
use svc_rewarder::epoch::{self, Expected};

fn main() {
    let mut args = std::env::args().skip(1);
    let (Some(inputs), Some(policy)) = (args.next(), args.next()) else {
        eprintln!("usage: floor FILE.arrows POLICY.json [RUNS]");
        std::process::exit(64);
    };
    let runs: usize = args.next().and_then(|n| n.parse().ok()).unwrap_or(9);
    let policy = std::fs::read(policy).expect("the policy can be read");
    let mut times: [Vec<f64>; 3] = Default::default();
    for _ in 0..runs {
        let source = FileSource::new(File::open(&inputs).expect("the snapshot can be opened")).expect("a regular file");
        let start = Instant::now();
        hash(&source, &Progress::default()).expect("the snapshot can be read");
        times[0].push(start.elapsed().as_secs_f64() * 1e3);
        let start = Instant::now();
        let policy = Policy::parse(&policy).expect("a valid policy");
        let scored = epoch::decode(&source, &Expected::default(), Ok(policy), &Progress::default()).expect("valid inputs");
        times[1].push(start.elapsed().as_secs_f64() * 1e3);
        let start = Instant::now();
        let (outcome, _) = epoch::reward(scored).expect("no breach");
        times[2].push(start.elapsed().as_secs_f64() * 1e3);
        std::hint::black_box(outcome);
    }
    let [floor, decode, reward] = times.map(|mut times| {
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    });
    println!("floor {floor:.1} ms, decode+score {decode:.1} ms, reward {reward:.1} ms: {:.2} x", (decode + reward) / floor);
}
