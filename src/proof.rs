//! Proofs of one payout, or of its absence, against the root of the canonical text (contract §5).
//!
//! A proof is a Bao slice: the bytes of a range of whole lines and, of everything else, only the chaining values that
//! lead to the root (Bao specification, "slicing"; format of the `bao` crate 0.13, chunks of 1 KiB). `ronctl` verifies
//! with that crate; the slices are made here, from the text itself, without an encoding being stored.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use blake3::hazmat::{ChainingValue, HasherExt, Mode, left_subtree_len, merge_subtrees_non_root};
use rayon::prelude::*;
use rewarder_model::Cid;
use rewarder_model::name::check_actor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// Bytes of a BLAKE3 chunk.
const CHUNK_BYTES: u64 = 1024;

/// That a range of the canonical text belongs to its root: a Bao slice (contract §5).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Proof {
    /// CID of the whole text.
    pub root: Cid,
    /// Bytes of the whole text.
    pub length: u64,
    /// Where the range begins.
    pub offset: u64,
    /// Bytes of the range.
    pub len: u64,
    /// Base64 of the Bao slice.
    #[schemars(pattern("^[A-Za-z0-9+/]*={0,2}$"))]
    pub slice: String,
}

/// Where an actor's line is, or would be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// Its line, without the line feed before it.
    Line(Range<usize>),
    /// Between two lines, or at an end: from the start of the one before to the end of the one after.
    Between(Range<usize>),
}

/// Looks for an actor in canonical text, by binary search.
pub fn find(text: &[u8], actor: &[u8]) -> Found {
    let line_start = |at: usize| text[..at].iter().rposition(|byte| *byte == b'\n').map_or(0, |lf| lf + 1);
    let line_end =
        |at: usize| text[at..].iter().position(|byte| *byte == b'\n').map_or(text.len(), |lf| at + lf + 1);
    let name = |start: usize| {
        let line = &text[start..line_end(start)];
        &line[..line.iter().rposition(|byte| *byte == b'\t').unwrap_or(line.len())]
    };
    // Lines that begin before `low` are smaller; those from `high` on are not.
    let (mut low, mut high) = (0, text.len());
    while low < high {
        let middle = line_start(low.midpoint(high));
        if name(middle) < actor { low = line_end(middle) } else { high = middle }
    }
    if low < text.len() && name(low) == actor {
        return Found::Line(low..line_end(low));
    }
    let before = if low == 0 { 0 } else { line_start(low - 1) };
    Found::Between(before..if low == text.len() { low } else { line_end(low) })
}

/// The payout on an actor's line, as text.
pub fn payout(text: &[u8], found: &Found) -> Option<String> {
    let Found::Line(range) = found else { return None };
    let line = text[range.clone()].strip_suffix(b"\n")?;
    let digits = &line[line.iter().rposition(|byte| *byte == b'\t')? + 1..];
    Some(std::str::from_utf8(digits).ok()?.to_owned())
}

/// The hash tree of a text, down to leaves of [`LEAF_BYTES`]: with it a proof hashes the leaves that the range lies in, and not
/// the whole text. An empty one stands for nothing noted.
#[derive(Debug, Clone, Default)]
pub struct Tree(Vec<ChainingValue>);

/// Bytes of a leaf: it takes three microseconds to hash one, and the leaves of a table of a hundred megabytes are 200 KiB.
const LEAF_BYTES: usize = 16 * 1024;

impl Tree {
    /// That of `text`.
    pub fn of(text: &[u8]) -> Self {
        let nothing = Self::default();
        let leaf = |(at, leaf): (usize, &[u8])| nothing.chaining_value(leaf, (at * LEAF_BYTES) as u64);
        Self(text.par_chunks(LEAF_BYTES).enumerate().map(leaf).collect())
    }

    /// Bytes that it holds in memory.
    pub fn bytes(&self) -> usize {
        size_of_val(&self.0[..])
    }

    /// The chaining value of a subtree that is not the root: `bytes`, which begin at `offset` of the text.
    fn chaining_value(&self, bytes: &[u8], offset: u64) -> ChainingValue {
        // Halves above this are hashed by two threads: without a tree a table of a hundred megabytes is proved in milliseconds.
        const PARALLEL_BYTES: usize = 1 << 20;
        // A subtree of a power of two begins at a multiple of its size: one of a leaf's size is that leaf.
        if bytes.len() == LEAF_BYTES
            && let Some(leaf) = self.0.get(offset as usize / LEAF_BYTES)
        {
            return *leaf;
        }
        if bytes.len() <= LEAF_BYTES || (self.0.is_empty() && bytes.len() <= PARALLEL_BYTES) {
            return blake3::Hasher::new().set_input_offset(offset).update(bytes).finalize_non_root();
        }
        let (left, right) = bytes.split_at(left_subtree_len(bytes.len() as u64) as usize);
        let middle = offset + left.len() as u64;
        let (a, b) = if self.0.is_empty() {
            rayon::join(|| self.chaining_value(left, offset), || self.chaining_value(right, middle))
        } else {
            (self.chaining_value(left, offset), self.chaining_value(right, middle))
        };
        merge_subtrees_non_root(&a, &b, Mode::Hash)
    }
}

/// Proves what `found` says of `text`, whose root is `root` and whose tree is `tree`.
pub fn prove(text: &[u8], tree: &Tree, root: Cid, found: &Found) -> Proof {
    let (Found::Line(lines) | Found::Between(lines)) = found;
    // With the line feed before it, so that the range shows that its first line is a whole one.
    let range = lines.start.saturating_sub(1)..lines.end;
    Proof {
        root,
        length: text.len() as u64,
        offset: range.start as u64,
        len: range.len() as u64,
        slice: STANDARD.encode(slice(text, tree, range)),
    }
}

/// The Bao slice of a range.
fn slice(text: &[u8], tree: &Tree, range: Range<usize>) -> Vec<u8> {
    // A slice always holds a chunk: an empty range stands for one byte, a range behind the end for the last one.
    let start = (range.start as u64).min((text.len() as u64).saturating_sub(1));
    let end = (range.end as u64).max(start + 1);
    let mut out = (text.len() as u64).to_le_bytes().to_vec();
    subtree(text, tree, 0, &(start..end), &mut out);
    out
}

/// Appends the part of the encoding of `bytes`, which begin at `offset` of the text, that a range needs (pre-order).
fn subtree(bytes: &[u8], tree: &Tree, offset: u64, range: &Range<u64>, out: &mut Vec<u8>) {
    let len = bytes.len() as u64;
    if len <= CHUNK_BYTES {
        out.extend_from_slice(bytes);
        return;
    }
    let (left, right) = bytes.split_at(left_subtree_len(len) as usize);
    let middle = offset + left.len() as u64;
    out.extend_from_slice(&tree.chaining_value(left, offset));
    out.extend_from_slice(&tree.chaining_value(right, middle));
    if range.start < middle {
        subtree(left, tree, offset, range, out);
    }
    if range.end > middle {
        subtree(right, tree, middle, range, out);
    }
}

/// Why a proof shows nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// It is for another table.
    #[error("the proof is for another root")]
    OtherRoot,
    /// The slice is not base64.
    #[error("the slice is not base64")]
    Base64,
    /// The slice does not lead to the root.
    #[error("the slice does not verify against the root: {0}")]
    Slice(String),
    /// The range is not made of whole, well-formed, ascending lines.
    #[error("the range does not hold whole lines in ascending order")]
    Lines,
    /// The actor's line is not in the range, and the range does not show that there is none.
    #[error("the range shows neither this actor's payout nor that there is none")]
    Silent,
}

impl Proof {
    /// The payout that the proof shows for `actor`, or `None` if it shows that there is none.
    ///
    /// # Errors
    /// When it shows neither.
    pub fn verify(&self, root: &Cid, actor: &[u8]) -> Result<Option<u128>, ProofError> {
        if self.root != *root {
            return Err(ProofError::OtherRoot);
        }
        let slice = STANDARD.decode(&self.slice).map_err(|_| ProofError::Base64)?;
        let refuse = |e: std::io::Error| ProofError::Slice(e.to_string());
        if slice.get(..8) != Some(&self.length.to_le_bytes())
            || self.offset.checked_add(self.len).is_none_or(|end| end > self.length)
        {
            return Err(ProofError::Slice("offset, len and length do not go together".into()));
        }
        let hash = blake3::Hash::from_bytes(*root.as_bytes());
        let mut reader = std::io::Cursor::new(&slice[..]);
        let mut bytes = Vec::new();
        let mut decoder = bao::decode::SliceDecoder::new(&mut reader, &hash, self.offset, self.len);
        std::io::Read::read_to_end(&mut decoder, &mut bytes).map_err(refuse)?;
        if bytes.len() as u64 != self.len || reader.position() != slice.len() as u64 {
            return Err(ProofError::Slice("its length is not that of the range".into()));
        }
        self.read(&bytes, actor)
    }

    /// What verified bytes say.
    fn read(&self, bytes: &[u8], actor: &[u8]) -> Result<Option<u128>, ProofError> {
        let at_start = self.offset == 0;
        let at_end = self.offset + self.len == self.length;
        // Where the range does not begin at 0 it begins with the line feed of the line before.
        let text = if at_start { bytes } else { bytes.strip_prefix(b"\n").ok_or(ProofError::Lines)? };
        let lines: Vec<_> = rewarder_reward::lines(text).collect::<Option<_>>().ok_or(ProofError::Lines)?;
        // A table whose root was signed may still be none: what holds it to the contract here costs a line or two.
        let is_line = |line: &rewarder_reward::Line<'_>| line.payout > 0 && check_actor(line.name).is_ok();
        if !lines.iter().all(is_line) || lines.windows(2).any(|pair| pair[0].name >= pair[1].name) {
            return Err(ProofError::Lines);
        }
        if let Some(line) = lines.iter().find(|line| line.name == actor) {
            return Ok(Some(line.payout));
        }
        let after = lines.partition_point(|line| line.name < actor);
        let bounded_below = after > 0 || at_start;
        let bounded_above = after < lines.len() || at_end;
        if bounded_below && bounded_above { Ok(None) } else { Err(ProofError::Silent) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(n: usize) -> Vec<u8> {
        (0..n).flat_map(|i| format!("actor-{:06}\t{}\n", 2 * i, i * 31 + 1).into_bytes()).collect()
    }

    /// Our slices are the crate's slices.
    #[test]
    fn slices_are_those_of_the_bao_crate() {
        for len in [
            0usize, 1, 1023, 1024, 1025, 2048, 2049, 5000, 16_383, 16_384, 16_385, 32_768, 33_000, 48_000,
            70_000, 200_000,
        ] {
            let text: Vec<u8> = (0..len).map(|i| (i * 7) as u8).collect();
            let (encoded, _) = bao::encode::encode(&text);
            for (start, end) in [
                (0, 0),
                (0, 1),
                (0, len),
                (len / 2, len / 2 + 10),
                (len.saturating_sub(1), len),
                (len, len),
                (1000, 1030),
            ] {
                let range = start.min(len)..end.min(len).max(start.min(len));
                let mut expected = Vec::new();
                let cursor = std::io::Cursor::new(&encoded);
                let mut extractor =
                    bao::encode::SliceExtractor::new(cursor, range.start as u64, range.len() as u64);
                std::io::Read::read_to_end(&mut extractor, &mut expected).unwrap();
                for tree in [Tree::default(), Tree::of(&text)] {
                    assert_eq!(slice(&text, &tree, range.clone()), expected, "{len} {range:?}");
                }
            }
        }
    }

    #[test]
    fn every_payout_and_every_gap_is_proved() {
        for n in [0, 1, 2, 60, 3000] {
            let text = table(n);
            let root = Cid::of(&text);
            for i in (0..n.max(1)).step_by(n / 50 + 1) {
                for (name, expected) in [
                    (format!("actor-{:06}", 2 * i), (n > 0).then_some(i as u128 * 31 + 1)),
                    (format!("actor-{:06}", 2 * i + 1), None),
                ] {
                    let proof = prove(&text, &Tree::of(&text), root, &find(&text, name.as_bytes()));
                    assert_eq!(proof.verify(&root, name.as_bytes()), Ok(expected), "{n} {name}");
                }
            }
            for name in ["", "a", "zzz"] {
                assert_eq!(
                    prove(&text, &Tree::default(), root, &find(&text, name.as_bytes()))
                        .verify(&root, name.as_bytes()),
                    Ok(None)
                );
            }
        }
    }

    #[test]
    fn a_table_that_is_none_proves_nothing() {
        for line in ["a\t1\t2\n", "a\u{1}\t1\n", "a\t0\n", "a\t01\n", "\t1\n", "a\u{85}\t1\n"] {
            let text = format!("A\t5\n{line}b\t7\n").into_bytes();
            let root = Cid::of(&text);
            let proof = prove(&text, &Tree::default(), root, &Found::Between(0..text.len()));
            for name in ["a", "A", "aa"] {
                assert_eq!(proof.verify(&root, name.as_bytes()), Err(ProofError::Lines), "{line:?} {name}");
            }
        }
        let text = b"A\t5\n\xff\t1\n";
        let proof = prove(text, &Tree::default(), Cid::of(text), &Found::Between(0..text.len()));
        assert_eq!(proof.verify(&Cid::of(text), b"a"), Err(ProofError::Lines));
    }

    #[test]
    fn what_is_not_proved_is_refused() {
        let text = table(300);
        let root = Cid::of(&text);
        let proof = prove(&text, &Tree::default(), root, &find(&text, b"actor-000100"));
        assert_eq!(proof.verify(&Cid::of(b"x"), b"actor-000100"), Err(ProofError::OtherRoot));
        assert_eq!(proof.verify(&root, b"actor-000400"), Err(ProofError::Silent));
        let shifted = Proof { offset: proof.offset + 1, len: proof.len - 1, ..proof.clone() };
        assert!(shifted.verify(&root, b"actor-000100").is_err());
        let slice = STANDARD.decode(&proof.slice).unwrap();
        for at in (0..slice.len()).step_by(7) {
            let mut bad = slice.clone();
            bad[at] ^= 1;
            let bad = Proof { slice: STANDARD.encode(bad), ..proof.clone() };
            assert!(bad.verify(&root, b"actor-000100").is_err(), "byte {at}");
        }
    }
}
