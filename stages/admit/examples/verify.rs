//! How long the check of a capability takes, decoding included: `cargo run --release -p rewarder-admit --example verify`.
//!
//! Prints nanoseconds for a token with five caveats, for one that does not verify, and for one with a bound discharge; each
//! the best of several rounds, which is the time that the machine's other work did not lengthen.

use rewarder_admit::capability::{bind, discharge, keygen, require_discharge};
use rewarder_admit::{Caveat, Keyring};
use rewarder_model::world::Entropy;
use std::hint::black_box;
use std::time::{Duration, Instant};

const ROUNDS: usize = 20;
const CHECKS: u32 = 10_000;

/// Enough to tell keys apart; nothing here is secret.
struct Counting;

impl Entropy for Counting {
    fn fill(&self, bytes: &mut [u8]) {
        bytes.iter_mut().enumerate().for_each(|(at, byte)| *byte = at as u8);
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let home = std::env::temp_dir().join(format!("rewarder-verify-{}", std::process::id()));
    std::fs::create_dir(&home)?;
    let path = home.join("keys.json");
    let loaded = keygen(&path, None, &Counting).and_then(|_| Keyring::load(&path));
    std::fs::remove_dir_all(&home)?;
    let ring = loaded?;
    let caveats = |text: &str| text.lines().map(str::parse).collect::<Result<Vec<Caveat>, _>>();
    let token = ring.mint(
        &caveats("tenant = acme\nscope = rewarder.run rewarder.inspect\nepoch_prefix = 2026-\nexpires = 2099-01-01T00:00:00Z\nmax_pool_minor_units = 250000")?,
        &Counting,
    )?;
    let issuer = b"the secret of another service...";
    let root = require_discharge(&token, "https://auth.example", issuer, b"who", &Counting)?;
    let said = discharge("https://auth.example", issuer, b"who", &caveats("dry_run = true")?)?;
    let mut forged = token.clone();
    forged.replace_range(
        token.len() - 9..token.len() - 8,
        if token.as_bytes()[token.len() - 9] == b'A' { "B" } else { "A" },
    );
    let now = Duration::from_secs(1_795_475_645);
    for (what, token, verifies) in [
        ("five caveats", &token, true),
        ("forged", &forged, false),
        ("with a discharge", &bind(&root, [&*said])?, true),
    ] {
        assert_eq!(ring.verify(token, now).is_ok(), verifies, "{what}");
        let best = (0..ROUNDS)
            .map(|_| {
                let begun = Instant::now();
                (0..CHECKS).for_each(|_| {
                    let _ = black_box(ring.verify(black_box(token), now));
                });
                begun.elapsed() / CHECKS
            })
            .min();
        println!("{what:18} {:6} ns", best.unwrap_or_default().as_nanos());
    }
    Ok(())
}
