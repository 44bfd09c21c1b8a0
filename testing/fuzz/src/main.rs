//! The fuzzer: libFuzzer over the target that `FUZZ_TARGET` names. `./run` builds and starts it.

#![no_main]

mod targets;

use libfuzzer_sys::fuzz_target;
use std::sync::OnceLock;

/// The target. On one thread, so that an execution is one thread's work and coverage is the same each time.
fn chosen() -> targets::Target {
    static CHOSEN: OnceLock<targets::Target> = OnceLock::new();
    *CHOSEN.get_or_init(|| {
        let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
        let found = targets::TARGETS.iter().find(|(known, _)| *known == name);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).use_current_thread().build_global();
        match (found, pool) {
            (Some((_, target)), Ok(())) => *target,
            _ => {
                let known: Vec<&str> = targets::TARGETS.iter().map(|(name, _)| *name).collect();
                eprintln!("FUZZ_TARGET has to be one of {}", known.join(", "));
                std::process::exit(2);
            }
        }
    })
}

fuzz_target!(|bytes: &[u8]| chosen()(bytes));
