//! The form of the spool on disk: records behind each other, each with its length, its place and a checksum.
//!
//! ```text
//! 0   4  "EMIT"
//! 4   4  bytes of the payload
//! 8   8  number of the record: 1, 2, 3, … through all segments
//! 16  8  number of the first record that was made durable together with this one
//! 24  8  first bytes of BLAKE3(number of the segment | the 24 bytes before | payload)
//! 32     payload
//! ```
//!
//! The law: what [`read`] returns was written by [`put`], to this segment, and has not changed since. The
//! fourth number tells a write that the machine's death cut off from one that the disk has lost: a record
//! that is missing *before* a later group was durable once.
//!
//! All numbers are little-endian. Why not JSON lines as in the audit log: nobody reads this by eye, and a
//! line feed within a torn payload would look like an end.

/// Before each payload.
pub const HEADER_BYTES: usize = 32;
/// Largest payload that is believed: entries are below 4 KiB; a length beyond this is damage.
pub const PAYLOAD_BYTES_MAX: usize = 64 * 1024;
const MAGIC: [u8; 4] = *b"EMIT";

/// A record that holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    /// Its number.
    pub number: u64,
    /// The first of those that were made durable together.
    pub first: u64,
    /// What it says.
    pub payload: &'a [u8],
    /// Where the next one begins.
    pub end: usize,
}

fn checksum(segment: u64, head: &[u8], payload: &[u8]) -> [u8; 8] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&segment.to_le_bytes()).update(head).update(payload);
    let mut sum = [0; 8];
    sum.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    sum
}

/// Appends a record to `to`. The payload is at most [`PAYLOAD_BYTES_MAX`] long.
pub fn put(to: &mut Vec<u8>, segment: u64, number: u64, first: u64, payload: &[u8]) {
    let begin = to.len();
    to.extend_from_slice(&MAGIC);
    to.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    to.extend_from_slice(&number.to_le_bytes());
    to.extend_from_slice(&first.to_le_bytes());
    let sum = checksum(segment, &to[begin..], payload);
    to.extend_from_slice(&sum);
    to.extend_from_slice(payload);
}

/// The record at `at`, if one begins there.
pub fn read(bytes: &[u8], at: usize, segment: u64) -> Option<Record<'_>> {
    let head = bytes.get(at..at.checked_add(HEADER_BYTES)?)?;
    let number = |at: usize| head[at..at + 8].iter().rev().fold(0, |n, byte| n << 8 | u64::from(*byte));
    let len = head[4..8].iter().rev().fold(0, |n, byte| n << 8 | usize::from(*byte));
    if head[..4] != MAGIC || len > PAYLOAD_BYTES_MAX {
        return None;
    }
    let end = at + HEADER_BYTES + len;
    let payload = bytes.get(at + HEADER_BYTES..end)?;
    if checksum(segment, &head[..24], payload) != head[24..32] && !crate::plant::is("checksum_not_verified") {
        return None;
    }
    Some(Record { number: number(8), first: number(16), payload, end })
}

/// The next place after `at` where a record holds.
pub fn resume(bytes: &[u8], at: usize, segment: u64) -> Option<usize> {
    (at + 1..bytes.len().saturating_sub(HEADER_BYTES - 1))
        .filter(|at| bytes[*at..*at + 4] == MAGIC)
        .find(|at| read(bytes, *at, segment).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_flipped_bit_is_seen_and_the_next_record_found() {
        let mut bytes = Vec::new();
        put(&mut bytes, 7, 1, 1, b"EMIT inside");
        let second = bytes.len();
        put(&mut bytes, 7, 2, 1, b"");
        put(&mut bytes, 7, 3, 3, b"three");
        assert_eq!(read(&bytes, 0, 7).unwrap().end, second);
        assert_eq!(read(&bytes, 0, 8), None, "a record of another segment is none of this");
        for bit in 0..second * 8 {
            let mut hurt = bytes.clone();
            hurt[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(read(&hurt, 0, 7), None, "bit {bit}");
            assert_eq!(resume(&hurt, 0, 7), Some(second), "bit {bit}");
        }
        for cut in 0..second {
            assert_eq!((read(&bytes[..cut], 0, 7), resume(&bytes[..cut], 0, 7)), (None, None));
        }
    }
}
