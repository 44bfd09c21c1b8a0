//! Prints the CIDs of made-up streams of many lengths, for `testing/paths`, which compares what builds with other instruction sets
//! print. Each is taken as decode takes it, by subtrees on several threads, and must be the plain hash.

use rewarder_decode::{Progress, hash};
use rewarder_model::Cid;

/// Lengths around which BLAKE3 and our tree change their course: blocks, chunks, as many chunks as there are lanes, leaves.
const AROUND: [usize; 13] =
    [0, 64, 1024, 2048, 4096, 8192, 16_384, 17_408, 32_768, 131_072, 262_144, 524_288, 1_048_576];

fn main() {
    let longest = AROUND[AROUND.len() - 1] + 2;
    let mut state = 1u64;
    let bytes: Vec<u8> = std::iter::repeat_with(|| {
        // Knuth's MMIX generator; its upper bits.
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    })
    .take(longest)
    .collect();
    for around in AROUND {
        for len in around.saturating_sub(1)..around + 2 {
            let stream = &bytes[..len];
            let ours = hash(stream, &Progress::default()).expect("memory can be read");
            assert_eq!(ours, Cid::of(stream), "{len}");
            println!("{len} {ours}");
        }
    }
}
