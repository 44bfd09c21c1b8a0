//! Correlation ids: the caller's, if it sent a sane one, or one of ours.

use super::CORR_ID;
use http::{HeaderValue, Request};
use rewarder_model::world::Entropy;
use std::fmt;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// Longest correlation id that is taken over from a caller.
const CHARS_MAX: usize = 64;

/// What names one request in logs, events and its answer. Held as the header's value: cheap to clone, and ready to be sent.
#[derive(Clone, PartialEq, Eq)]
pub struct CorrId(HeaderValue);

impl CorrId {
    /// That of a request.
    pub fn of<B>(request: &Request<B>) -> Self {
        match request.headers().get(CORR_ID).filter(|value| is_sane(value.as_bytes())) {
            Some(value) => Self(value.clone()),
            None => Self::fresh(),
        }
    }

    /// One that no other request has: a count, scattered from a start that differs from process to process. It is no secret,
    /// so that it need not cost a draw from the system's randomness for each request.
    pub fn fresh() -> Self {
        static NEXT: LazyLock<AtomicU64> = LazyLock::new(|| {
            let mut start = [0; 8];
            crate::world::SystemEntropy.fill(&mut start);
            AtomicU64::new(u64::from_le_bytes(start))
        });
        let mut digits = [0; 16];
        let mut rest = scattered(NEXT.fetch_add(1, Ordering::Relaxed));
        for digit in digits.iter_mut().rev() {
            *digit = b"0123456789abcdef"[(rest & 15) as usize];
            rest >>= 4;
        }
        // Hex digits are a header's value.
        Self(HeaderValue::from_bytes(&digits).unwrap_or_else(|_| HeaderValue::from_static("none")))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        // It was found to be ASCII, or made so.
        self.0.to_str().unwrap_or_default()
    }

    /// As a header's value.
    pub fn into_value(self) -> HeaderValue {
        self.0
    }
}

impl fmt::Display for CorrId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

fn is_sane(text: &[u8]) -> bool {
    (1..=CHARS_MAX).contains(&text.len())
        && text.iter().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-' | b':'))
}

/// A permutation of all numbers that shows no neighbourhood: the last steps of SplitMix64 (Steele, Lea and Flood, 2014).
fn scattered(n: u64) -> u64 {
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn sane_ids_are_taken_over_and_others_replaced_by_one_of_a_kind() {
        let of = |sent: &[u8]| {
            let mut request = Request::new(());
            if let Ok(value) = HeaderValue::from_bytes(sent) {
                request.headers_mut().insert(CORR_ID, value);
            }
            CorrId::of(&request).to_string()
        };
        for sane in ["a", "2026:a_b-c.d", &"x".repeat(CHARS_MAX)] {
            assert_eq!(of(sane.as_bytes()), sane);
        }
        let long = "x".repeat(CHARS_MAX + 1);
        let ids: HashSet<String> = ["", "a b", "ä", "a\tb", "a/b", &long]
            .into_iter()
            .cycle()
            .take(6000)
            .map(|sent| of(sent.as_bytes()))
            .collect();
        assert_eq!(ids.len(), 6000);
        assert!(ids.iter().all(|id| id.len() == 16 && id.bytes().all(|c| c.is_ascii_hexdigit())));
    }
}
