//! Made-up epochs for the benches: `epoch SIZE OUT` seals one and prints its CID. The same bytes on every machine.
//!
//! Rows come in no order of actors, which is the worst that caches can meet; one row in 41 is as large as 2^40. `WIDE` is `XL`
//! with a pool of 10^37. `CROWD` and `LADDER` have one row for each of a million actors, and are hard for caps: see [`Work`].

mod draw;

use draw::SplitMix64;
use rewarder_model::SnapshotHeader;
use rewarder_seal::SnapshotWriter;
use std::fs::File;
use std::io::BufWriter;

/// How an epoch's rows come about.
#[derive(Clone, Copy, PartialEq)]
enum Work {
    /// Any actor, any category, units of every magnitude.
    Drawn,
    /// Actor `i` has 2^60 + i units: all scores share their leading 40 bits, so that counting by leading bits has to go to
    /// the last ones, and a cap at the average share caps half of those who are left in each of some twenty rounds.
    Crowd,
    /// Actor `i` has 2^(i mod 40) units: a cap below the average share caps class after class, in forty rounds at the most.
    Ladder,
}

struct Size {
    name: &'static str,
    rows: u64,
    actors: u64,
    pool: &'static str,
    work: Work,
}

const fn size(name: &'static str, rows: u64, actors: u64) -> Size {
    Size { name, rows, actors, pool: "1000000000000", work: Work::Drawn }
}

const SIZES: [Size; 8] = [
    size("S", 10_000, 1_000),
    size("M", 200_000, 20_000),
    size("L", 2_000_000, 200_000),
    size("XL", 10_000_000, 1_000_000),
    size("XXL", 100_000_000, 1_000_000),
    Size { pool: TEN_TO_37, ..size("WIDE", 10_000_000, 1_000_000) },
    Size { pool: TEN_TO_37, work: Work::Crowd, ..size("CROWD", 1_000_000, 1_000_000) },
    Size { work: Work::Ladder, ..size("LADDER", 1_000_000, 1_000_000) },
];
const TEN_TO_37: &str = "10000000000000000000000000000000000000";
const CATEGORIES: [&str; 4] = ["bytes_stored", "subs", "uptime", "views"];
/// Rows that are drawn before they are written.
const DRAWN: u64 = 1 << 16;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let names = SIZES.each_ref().map(|size| size.name).join("|");
    let usage = || format!("usage: epoch {names} OUT");
    let (size, out) = args.next().zip(args.next()).ok_or_else(usage)?;
    let Size { name, rows, actors, pool, work } =
        SIZES.into_iter().find(|known| known.name == size).ok_or_else(usage)?;
    let header = SnapshotHeader {
        tenant: "acme".parse()?,
        epoch: format!("bench-{}", name.to_lowercase()).parse()?,
        asset: "roc".parse()?,
        pool: pool.parse()?,
    };
    let names: Vec<String> = (0..actors).map(|actor| format!("acct-{actor:07}")).collect();
    let mut writer = SnapshotWriter::new(BufWriter::new(File::create(out)?), &header, &names, &CATEGORIES)?;
    let mut draw = SplitMix64(rows);
    for start in (0..rows).step_by(DRAWN as usize) {
        let (mut actor, mut category, mut units) = (Vec::new(), Vec::new(), Vec::new());
        for row in start..rows.min(start + DRAWN) {
            let (a, b) = (draw.draw(), draw.draw());
            let (who, what, much) = match work {
                Work::Drawn => (a % actors, (a >> 62) as u8, (b & ((1 << 40) - 1)) >> ((b >> 40) % 41)),
                Work::Crowd => (row, 0, (1 << 60) + row),
                Work::Ladder => (row, 0, 1 << (row % 40)),
            };
            actor.push(who as u32);
            category.push(what);
            units.push(much);
        }
        writer.rows(&actor, &category, &units)?;
    }
    println!("{}", writer.finish()?.1.cid);
    Ok(())
}
