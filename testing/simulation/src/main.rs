//! The real emission code in a simulated world. `--seeds N [--first S]` plays runs and prints figures; `--seed S` plays
//! one and prints what happened. A run is one thread; as many are played at once as there are processors.

mod check;
mod disk;
mod ledger;
mod run;
mod watch;
mod world;

use run::Report;
use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

/// A planted fault that so many runs do not show is missed.
#[cfg(feature = "plant")]
const PLANT_SEEDS_MAX: u64 = 5000;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let number = |text: &str| text.parse::<u64>().ok();
    let done = match arguments[..] {
        #[cfg(feature = "plant")]
        ["--plants"] => Some(plants(None)),
        #[cfg(feature = "plant")]
        ["--plants", name] => Some(plants(Some(name))),
        ["--seed", seed] => number(seed).map(one),
        ["--seeds", seeds] => number(seeds).map(|seeds| many(0, seeds)),
        ["--seeds", seeds, "--first", first] => {
            number(first).zip(number(seeds)).map(|(first, n)| many(first, n))
        }
        _ => None,
    };
    done.unwrap_or_else(|| {
        eprintln!("usage: rewarder-simulation --seeds N [--first S] | --seed S");
        ExitCode::FAILURE
    })
}

fn code(good: bool) -> ExitCode {
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Does what is numbered from 0 on, each thread taking the next in turn and keeping what comes of its own.
fn on_all_threads<T: Default + Send>(count: u64, work: impl Fn(&mut T, u64) + Sync) -> Vec<T> {
    let next = AtomicU64::new(0);
    let mine = || {
        let mut mine = T::default();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            if at >= count {
                return mine;
            }
            work(&mut mine, at);
        }
    };
    let threads = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(mine)).collect();
        let joined = running.into_iter().map(|thread| thread.join());
        joined.map(|done| done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    })
}

/// Each fault of ours, planted alone: by which law it is caught, and in how many seeds.
#[cfg(feature = "plant")]
fn plants(only: Option<&str>) -> ExitCode {
    let names: Vec<_> =
        rewarder_emit::plant::ALL.iter().filter(|name| only.is_none_or(|only| only == **name)).collect();
    let caught = on_all_threads(names.len() as u64, |caught: &mut Vec<_>, at| {
        rewarder_emit::plant::plant(Some(names[at as usize]));
        let found = (0..PLANT_SEEDS_MAX).find_map(|seed| Some((seed + 1, run::run(seed, false).broken?)));
        caught.push((at, found));
    });
    let mut caught: Vec<_> = caught.into_iter().flatten().collect();
    caught.sort_unstable_by_key(|(at, _)| *at);
    println!("| planted | seeds | caught by |\n|---|---|---|");
    for (name, (_, found)) in names.iter().zip(&caught) {
        let (seeds, law) =
            found.as_ref().map_or((PLANT_SEEDS_MAX, "**nothing**"), |(seeds, law)| (*seeds, law));
        println!("| {name} | {seeds} | {law} |");
    }
    let missed = caught.iter().filter(|(_, found)| found.is_none()).count();
    println!("{} planted, {missed} missed", names.len());
    code(missed == 0 && !names.is_empty())
}

/// One run, with all that happened.
fn one(seed: u64) -> ExitCode {
    let report = run::run(seed, true);
    report.trace.iter().for_each(|line| println!("{line}"));
    println!("seed {seed}: hash {:016x}, {:?}", report.hash, report.broken);
    code(report.broken.is_none())
}

/// What many runs came to.
#[derive(Default)]
struct Sums {
    failed: u64,
    settled: u64,
    restarts: u64,
    faults: BTreeMap<&'static str, u64>,
}

impl Sums {
    fn add(&mut self, other: Self) {
        self.failed += other.failed;
        self.settled += other.settled;
        self.restarts += other.restarts;
        for (kind, n) in other.faults {
            *self.faults.entry(kind).or_default() += n;
        }
    }
}

/// Many runs: figures, and each that failed with the command that plays it again.
fn many(first: u64, seeds: u64) -> ExitCode {
    let begun = Instant::now();
    let parts = on_all_threads(seeds, |sums: &mut Sums, at| {
        let seed = first.saturating_add(at);
        let Report { broken, faults, settled, restarts, .. } = run::run(seed, false);
        if let Some(law) = &broken {
            println!("seed {seed}: {law}\n  replay: cargo run -p rewarder-simulation -- --seed {seed}");
        }
        sums.add(Sums { failed: broken.is_some().into(), settled, restarts, faults });
    });
    let mut sums = Sums::default();
    parts.into_iter().for_each(|part| sums.add(part));
    let rate = u128::from(seeds) * 1000 / begun.elapsed().as_millis().max(1);
    let Sums { failed, settled, restarts, faults } = sums;
    println!("{seeds} seeds, {rate} seeds/s, {settled} settlements, {restarts} restarts, {failed} failed");
    faults.iter().for_each(|(kind, n)| println!("  {n:>10}  {kind}"));
    code(failed == 0)
}
