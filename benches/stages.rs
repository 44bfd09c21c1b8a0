//! Where the time of one epoch goes, against the floor measured in the same rounds.
//!
//! `stages SNAPSHOT POLICY [THREADS [ROUNDS [alone]]]` prints one line of JSON: the medians of read + BLAKE3 alone, of decode
//! (verify, score) and of reward (allocate, write, check, seal), in milliseconds; the median of the rounds' ratios; the
//! peak of resident memory. Where decode asks for the derivation before it reads the names, that counts as reward's: what it takes
//! is measured by deriving once more. `alone` leaves the floor out, for a profiler.

use rewarder_decode::{FileSource, Progress, hash};
use rewarder_model::Policy;
use std::fs::File;
use std::time::Instant;
use svc_rewarder::{epoch, telemetry};

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let (snapshot, policy) =
        args.next().zip(args.next()).ok_or("usage: stages SNAPSHOT POLICY [THREADS [ROUNDS [alone]]]")?;
    let threads = args.next().map_or(Ok(2), |n| n.parse())?;
    let rounds: usize = args.next().map_or(Ok(9), |n| n.parse())?;
    let alone = args.next().is_some_and(|word| word == "alone");
    let policy = std::fs::read(policy)?;
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
    let (mut floors, mut decodes, mut rewards, mut ratios) = (vec![], vec![], vec![], vec![]);
    let mut said = None;
    for round in 0..=rounds {
        let source = FileSource::new(File::open(&snapshot)?)?;
        let ms = |begun: Instant| begun.elapsed().as_secs_f64() * 1e3;
        let begun = Instant::now();
        if !alone {
            pool.install(|| hash(&source, &Progress::default()))?;
        }
        let floor = ms(begun);
        let begun = Instant::now();
        let policy = Policy::parse(&policy)?;
        let scored = pool
            .install(|| epoch::decode(&source, None, &|_| Ok(()), Ok(policy), &Progress::default()))
            .map_err(|refusal| refusal.to_string())?;
        let decode = ms(begun);
        let begun = Instant::now();
        let early = scored.derivation.as_ref().map_or(0.0, |known| {
            let again =
                pool.install(|| rewarder_reward::derive(&scored.header, &scored.policy, &scored.scores));
            assert_eq!(again.as_ref(), Some(known));
            ms(begun)
        });
        let begun = Instant::now();
        let (outcome, names) = pool.install(|| epoch::reward(scored))?;
        let (decode, reward) = (decode - early, ms(begun) + early);
        // The first round warms the caches.
        if round > 0 {
            floors.push(floor);
            decodes.push(decode);
            rewards.push(reward);
            ratios.push((decode + reward) / floor);
        }
        said = Some((outcome.manifest.inputs, outcome.commitment));
        drop((outcome, names));
    }
    let (inputs, commitment) = said.ok_or("no round")?;
    let over_floor = median(&mut ratios);
    let line = serde_json::json!({
        "rows": inputs.rows,
        "actors": inputs.actors,
        "commitment": commitment,
        "threads": threads,
        "rounds": rounds,
        "floor_ms": median(&mut floors),
        "decode_ms": median(&mut decodes),
        "reward_ms": median(&mut rewards),
        // On a shared machine the least of many rounds is the nearest to what the work costs.
        "least": { "floor_ms": floors[0], "decode_ms": decodes[0], "reward_ms": rewards[0], "over_floor": ratios[0] },
        "over_floor": over_floor,
        "peak_resident_mib": telemetry::peak_resident_bytes().unwrap_or(0) >> 20,
    });
    println!("{line}");
    Ok(())
}
