//! BLAKE3 by subtrees: each aligned megabyte is hashed on whatever thread has it in cache, and the chaining values are
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

    #[test]
    fn is_plain_blake3() {
        let bytes: Vec<u8> = (0..9 * LEAF_BYTES + 5).map(|i| ((i * 31) >> 3) as u8).collect();
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
        }
    }
}
