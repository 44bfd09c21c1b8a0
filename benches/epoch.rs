//! Made-up epochs for the benches: `epoch SIZE OUT` seals one and prints its CID. The same bytes on every machine.
//!
//! Rows come in no order of actors, which is the worst that caches can meet; one row in 41 is as large as 2^40.

use rewarder_model::SnapshotHeader;
use rewarder_seal::SnapshotWriter;
use std::fs::File;
use std::io::BufWriter;

/// Name, rows, actors.
const SIZES: [(&str, u64, u64); 5] = [
    ("S", 10_000, 1_000),
    ("M", 200_000, 20_000),
    ("L", 2_000_000, 200_000),
    ("XL", 10_000_000, 1_000_000),
    ("XXL", 100_000_000, 1_000_000),
];
const CATEGORIES: [&str; 4] = ["bytes_stored", "subs", "uptime", "views"];
/// Rows that are drawn before they are written.
const DRAWN: u64 = 1 << 16;

/// Steele, Lea and Flood, SplitMix64 (OOPSLA 2014).
struct SplitMix64(u64);

impl SplitMix64 {
    fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let (size, out) = args.next().zip(args.next()).ok_or("usage: epoch S|M|L|XL|XXL OUT")?;
    let (name, rows, actors) = SIZES.into_iter().find(|known| known.0 == size).ok_or("no such size")?;
    let header = SnapshotHeader {
        tenant: "acme".parse()?,
        epoch: format!("bench-{}", name.to_lowercase()).parse()?,
        asset: "roc".parse()?,
        pool: "1000000000000".parse()?,
    };
    let names: Vec<String> = (0..actors).map(|actor| format!("acct-{actor:07}")).collect();
    let mut writer = SnapshotWriter::new(BufWriter::new(File::create(out)?), &header, &names, &CATEGORIES)?;
    let mut draw = SplitMix64(rows);
    let mut left = rows;
    while left > 0 {
        let n = left.min(DRAWN);
        let (mut actor, mut category, mut units) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..n {
            let (a, b) = (draw.draw(), draw.draw());
            actor.push((a % actors) as u32);
            category.push((a >> 62) as u8);
            units.push((b & ((1 << 40) - 1)) >> ((b >> 40) % 41));
        }
        writer.rows(&actor, &category, &units)?;
        left -= n;
    }
    println!("{}", writer.finish()?.1.cid);
    Ok(())
}
