//! The real emission code in a simulated world. `--seeds N [--first S]` plays runs and prints figures; `--seed S` plays
//! one and prints what happened.

mod check;
mod disk;
mod ledger;
mod run;
mod watch;
mod world;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Instant;

/// A planted fault that so many runs do not show is missed.
#[cfg(feature = "plant")]
const PLANT_SEEDS_MAX: u64 = 5000;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let number = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        arguments.get(at + 1)?.parse::<u64>().ok()
    };
    #[cfg(feature = "plant")]
    if arguments.iter().any(|argument| argument == "--plants") {
        let only = arguments.iter().skip_while(|argument| *argument != "--plants").nth(1);
        let mut missed = 0;
        println!("| planted | seeds | caught by |\n|---|---|---|");
        for name in rewarder_emit::plant::ALL.iter().filter(|name| only.is_none_or(|only| only == *name)) {
            rewarder_emit::plant::plant(Some(name));
            match (0..PLANT_SEEDS_MAX).find_map(|seed| Some((seed, run::run(seed, false).broken?))) {
                Some((seed, law)) => println!("| {name} | {} | {law} |", seed + 1),
                None => {
                    missed += 1;
                    println!("| {name} | {PLANT_SEEDS_MAX} | **nothing** |");
                }
            }
        }
        println!("{} planted, {missed} missed", rewarder_emit::plant::ALL.len());
        return if missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    if let Some(seed) = number("--seed") {
        let report = run::run(seed, true);
        report.trace.iter().for_each(|line| println!("{line}"));
        println!("seed {seed}: hash {:016x}, {:?}", report.hash, report.broken);
        return if report.broken.is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS };
    }
    let Some(seeds) = number("--seeds") else {
        eprintln!("usage: rewarder-simulation --seeds N [--first S] | --seed S");
        return ExitCode::FAILURE;
    };
    let first = number("--first").unwrap_or(0);
    let begun = Instant::now();
    let (mut failed, mut settled, mut restarts) = (0_u64, 0, 0);
    let mut faults = BTreeMap::<_, u64>::new();
    for seed in first..first.saturating_add(seeds) {
        let report = run::run(seed, false);
        settled += report.settled;
        restarts += report.restarts;
        for (kind, n) in report.faults {
            *faults.entry(kind).or_default() += n;
        }
        if let Some(broken) = report.broken {
            failed += 1;
            println!("seed {seed}: {broken}\n  replay: cargo run -p rewarder-simulation -- --seed {seed}");
        }
    }
    let millis = begun.elapsed().as_millis().max(1);
    let rate = u128::from(seeds) * 1000 / millis;
    println!("{seeds} seeds, {rate} seeds/s, {settled} settlements, {restarts} restarts, {failed} failed");
    faults.iter().for_each(|(kind, n)| println!("  {n:>10}  {kind}"));
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
