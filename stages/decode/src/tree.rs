//! BLAKE3 by subtrees: each aligned leaf of 256 KiB is hashed on whatever thread has it in cache, and the chaining values are
//! merged at the end. The result is the plain BLAKE3-256 of the bytes (BLAKE3 paper, §2.1 and §5.1.2).

use blake3::hazmat::{
    ChainingValue, HasherExt, Mode, left_subtree_len, merge_subtrees_non_root, merge_subtrees_root,
};
use blake3::{Hash, Hasher};

/// Bytes of one leaf of our tree: a power of two, at least one BLAKE3 chunk. Large enough that SIMD lanes stay full and
/// scheduling costs nothing, small enough to stay in a core's L2 between reading, hashing and decoding.
pub const LEAF_BYTES: usize = 256 * 1024;

/// Hashes the leaf that begins at `offset` of a stream of `len` bytes; the leaf's bytes come in pieces.
pub fn leaf<'a>(offset: u64, pieces: impl Iterator<Item = &'a [u8]>) -> ChainingValue {
    let mut hasher = Hasher::new();
    hasher.set_input_offset(offset);
    for piece in pieces {
        hasher.update(piece);
    }
    hasher.finalize_non_root()
}

/// The hash of a stream of `len` bytes, more than one leaf, from the chaining values of its leaves in order.
///
/// # Panics
/// When there are not exactly `ceil(len / LEAF_BYTES)` of at least two leaves: a fault of the caller.
pub fn root(leaves: &[ChainingValue], len: u64) -> Hash {
    assert!(
        leaves.len() >= 2 && leaves.len() as u64 == len.div_ceil(LEAF_BYTES as u64),
        "one value for each leaf"
    );
    let left = (left_subtree_len(len) / LEAF_BYTES as u64) as usize;
    merge_subtrees_root(
        &subtree(&leaves[..left], left_subtree_len(len)),
        &subtree(&leaves[left..], len - left_subtree_len(len)),
        Mode::Hash,
    )
}

fn subtree(leaves: &[ChainingValue], len: u64) -> ChainingValue {
    if let [only] = leaves {
        return *only;
    }
    let left = (left_subtree_len(len) / LEAF_BYTES as u64) as usize;
    merge_subtrees_non_root(
        &subtree(&leaves[..left], left_subtree_len(len)),
        &subtree(&leaves[left..], len - left_subtree_len(len)),
        Mode::Hash,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// BLAKE3 word by word, as the paper's §2 has it: no vectors, no tree of ours, nothing detected. The oracle for whatever
    /// path the library finds for the processor at hand.
    mod plainly {
        const IV: [u32; 8] = [
            0x6a09_e667,
            0xbb67_ae85,
            0x3c6e_f372,
            0xa54f_f53a,
            0x510e_527f,
            0x9b05_688c,
            0x1f83_d9ab,
            0x5be0_cd19,
        ];
        const PERMUTATION: [usize; 16] = [2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8];
        const CHUNK_START: u32 = 1;
        const CHUNK_END: u32 = 2;
        const PARENT: u32 = 4;
        const ROOT: u32 = 8;

        fn mix(v: &mut [u32; 16], [a, b, c, d]: [usize; 4], x: u32, y: u32) {
            for (add, first, second) in [(x, 16, 12), (y, 8, 7)] {
                v[a] = v[a].wrapping_add(v[b]).wrapping_add(add);
                v[d] = (v[d] ^ v[a]).rotate_right(first);
                v[c] = v[c].wrapping_add(v[d]);
                v[b] = (v[b] ^ v[c]).rotate_right(second);
            }
        }

        fn compress(cv: [u32; 8], block: &[u8], counter: u64, flags: u32) -> [u32; 8] {
            let mut padded = [0; 64];
            padded[..block.len()].copy_from_slice(block);
            let mut m: [u32; 16] = std::array::from_fn(|i| {
                u32::from_le_bytes([padded[4 * i], padded[4 * i + 1], padded[4 * i + 2], padded[4 * i + 3]])
            });
            let mut v: [u32; 16] = std::array::from_fn(|i| if i < 8 { cv[i] } else { IV[i % 4] });
            (v[12], v[13], v[14], v[15]) =
                (counter as u32, (counter >> 32) as u32, block.len() as u32, flags);
            for _ in 0..7 {
                for i in 0..4 {
                    mix(&mut v, [i, 4 + i, 8 + i, 12 + i], m[2 * i], m[2 * i + 1]);
                }
                for i in 0..4 {
                    mix(
                        &mut v,
                        [i, 4 + (i + 1) % 4, 8 + (i + 2) % 4, 12 + (i + 3) % 4],
                        m[8 + 2 * i],
                        m[9 + 2 * i],
                    );
                }
                m = PERMUTATION.map(|from| m[from]);
            }
            std::array::from_fn(|i| v[i] ^ v[i + 8])
        }

        fn chunk(bytes: &[u8], counter: u64, root: u32) -> [u32; 8] {
            let blocks: Vec<&[u8]> = if bytes.is_empty() { vec![&[]] } else { bytes.chunks(64).collect() };
            let mut cv = IV;
            for (i, block) in blocks.iter().enumerate() {
                let start = if i == 0 { CHUNK_START } else { 0 };
                let end = if i + 1 == blocks.len() { CHUNK_END | root } else { 0 };
                cv = compress(cv, block, counter, start | end);
            }
            cv
        }

        fn subtree(bytes: &[u8], counter: u64, root: u32) -> [u32; 8] {
            if bytes.len() <= 1024 {
                return chunk(bytes, counter, root);
            }
            // The left half is the largest power of two of chunks that leaves something to the right.
            let chunks = bytes.len().div_ceil(1024);
            let left = chunks.next_power_of_two() / 2;
            let halves = [
                subtree(&bytes[..1024 * left], counter, 0),
                subtree(&bytes[1024 * left..], counter + left as u64, 0),
            ];
            let block: Vec<u8> = halves.iter().flatten().flat_map(|word| word.to_le_bytes()).collect();
            compress(IV, &block, 0, PARENT | root)
        }

        pub fn hash(bytes: &[u8]) -> Vec<u8> {
            subtree(bytes, 0, ROOT).iter().flat_map(|word| word.to_le_bytes()).collect()
        }
    }

    fn bytes(len: usize) -> Vec<u8> {
        (0..len).map(|i| ((i * 31) >> 3) as u8).collect()
    }

    #[test]
    fn is_plain_blake3() {
        let bytes = bytes(9 * LEAF_BYTES + 5);
        for len in [LEAF_BYTES + 1, 2 * LEAF_BYTES, 3 * LEAF_BYTES - 1, 5 * LEAF_BYTES + 1023, bytes.len()] {
            let leaves: Vec<_> = bytes[..len]
                .chunks(LEAF_BYTES)
                .enumerate()
                // Split unevenly: pieces need not fall on chunk borders.
                .map(|(i, l)| {
                    leaf((i * LEAF_BYTES) as u64, [&l[..l.len() / 3], &l[l.len() / 3..]].into_iter())
                })
                .collect();
            assert_eq!(root(&leaves, len as u64), blake3::hash(&bytes[..len]), "{len}");
            assert_eq!(root(&leaves, len as u64).as_bytes()[..], plainly::hash(&bytes[..len]), "{len}");
        }
    }

    /// Lengths at which the library changes from one vector width to another: up to sixteen chunks at once, and rests of each.
    #[test]
    fn the_processor_s_path_is_the_portable_one() {
        let bytes = bytes(40 * 1024);
        let around = |n: usize| [n.saturating_sub(1), n, n + 1];
        let lengths = (0..=33).flat_map(|chunks| around(1024 * chunks)).chain((0..=130).step_by(13));
        for len in lengths {
            assert_eq!(blake3::hash(&bytes[..len]).as_bytes()[..], plainly::hash(&bytes[..len]), "{len}");
        }
    }
}
