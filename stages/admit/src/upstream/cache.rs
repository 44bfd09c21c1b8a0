//! Verdicts that are still good, by the hash of the token: whoever reads this memory finds no capability in it.
//!
//! Bounded three ways: each kind of verdict has its own entries, so that a stranger who makes up tokens pushes out other
//! made-up tokens and never a good one; the texts that come with good verdicts have a number of bytes; each entry has an
//! end. What has to leave is the oldest, for all live about equally long.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// BLAKE3 of a token as it was sent, discharges included.
pub type TokenHash = [u8; 32];

/// Most verdicts of each kind: as many as there are buckets for tenants; about 150 bytes each, so 5 MiB in all.
pub const ENTRIES_MAX: usize = 16_384;

/// Most bytes of caveats that verifiers have added, in all.
pub const CAVEAT_BYTES_MAX: usize = 4 << 20;

/// Longest life of a refusal: a token that was issued a moment after it was first tried works soon.
pub const REFUSED_MAX: Duration = Duration::from_secs(5);

/// What the cache holds of a token that verifies: the caveats that the verifier adds to the token's own.
pub type Added = Arc<[String]>;

/// What is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Known {
    /// It verifies, with these caveats beside its own.
    Good(Added),
    /// It does not.
    Refused,
}

/// What was found.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// A verdict; `old` when less than a fifth of its life is left and it is time to ask again.
    Known {
        /// It.
        known: Known,
        /// Time to ask again.
        old: bool,
    },
    /// Nothing that is still good.
    Nothing,
}

/// Both kinds of verdicts.
#[derive(Default)]
pub struct Cache {
    good: Kind,
    refused: Kind,
    caveat_bytes: usize,
}

#[derive(Default)]
struct Kind {
    entries: HashMap<TokenHash, Entry>,
    /// Oldest first; an entry that was written again stands here more than once, the last of them counts.
    order: VecDeque<(TokenHash, u64)>,
    written: u64,
}

struct Entry {
    added: Option<Added>,
    born: Duration,
    dies: Duration,
    /// Which place in the order is its own.
    number: u64,
}

fn bytes(added: Option<&Added>) -> usize {
    added.map_or(0, |added| added.iter().map(String::len).sum())
}

impl Kind {
    /// Takes an entry out; its caveats' bytes.
    fn remove(&mut self, hash: &TokenHash) -> usize {
        self.entries.remove(hash).map_or(0, |entry| bytes(entry.added.as_ref()))
    }

    /// Takes the oldest out; its caveats' bytes, or nothing when it is empty.
    fn pop(&mut self) -> Option<usize> {
        while let Some((hash, number)) = self.order.pop_front() {
            if self.entries.get(&hash).is_some_and(|entry| entry.number == number) {
                return Some(self.remove(&hash));
            }
        }
        None
    }

    fn put(&mut self, hash: TokenHash, added: Option<Added>, born: Duration, dies: Duration) {
        let number = self.written;
        self.written += 1;
        self.entries.insert(hash, Entry { added, born, dies, number });
        self.order.push_back((hash, number));
        // Places of entries that were written again since: without this the order grows by every renewal.
        if self.order.len() > 2 * ENTRIES_MAX {
            let entries = &self.entries;
            self.order
                .retain(|(hash, number)| entries.get(hash).is_some_and(|entry| entry.number == *number));
        }
    }
}

impl Cache {
    /// How many verdicts there are.
    pub fn count(&self) -> usize {
        self.good.entries.len() + self.refused.entries.len()
    }

    /// What is known of a token.
    pub fn get(&self, hash: &TokenHash, now: Duration) -> Found {
        let found = self.good.entries.get(hash).or_else(|| self.refused.entries.get(hash));
        let Some(entry) = found.filter(|entry| now < entry.dies) else { return Found::Nothing };
        match &entry.added {
            Some(added) => {
                let life = entry.dies.saturating_sub(entry.born);
                let old = entry.dies.saturating_sub(now) < life / 5;
                Found::Known { known: Known::Good(added.clone()), old }
            }
            // Refusals are not renewed: a forger would have us ask for ever.
            None => Found::Known { known: Known::Refused, old: false },
        }
    }

    /// Keeps a verdict for `life`.
    pub fn put(&mut self, hash: TokenHash, known: &Known, life: Duration, now: Duration) {
        self.forget(&hash);
        let (kind, added, life) = match known {
            Known::Good(added) => (&mut self.good, Some(added.clone()), life),
            Known::Refused => (&mut self.refused, None, life.min(REFUSED_MAX)),
        };
        if life.is_zero() {
            return;
        }
        self.caveat_bytes += bytes(added.as_ref());
        kind.put(hash, added, now, now.saturating_add(life));
        while kind.entries.len() > ENTRIES_MAX || self.caveat_bytes > CAVEAT_BYTES_MAX {
            match kind.pop() {
                Some(bytes) => self.caveat_bytes -= bytes,
                None => break,
            }
        }
    }

    /// Forgets one.
    pub fn forget(&mut self, hash: &TokenHash) {
        self.caveat_bytes -= self.good.remove(hash);
        self.refused.remove(hash);
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFE: Duration = Duration::from_secs(10);

    fn hash(n: usize) -> TokenHash {
        *blake3::hash(&n.to_le_bytes()).as_bytes()
    }

    fn good(text: &str) -> Known {
        Known::Good(Arc::from([text.to_owned()]))
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn verdicts_live_their_time_and_are_renewed_in_the_last_fifth() {
        let mut cache = Cache::default();
        cache.put(hash(1), &good("a"), LIFE, at(100));
        assert_eq!(cache.get(&hash(1), at(108)), Found::Known { known: good("a"), old: false });
        assert_eq!(cache.get(&hash(1), at(109)), Found::Known { known: good("a"), old: true });
        assert_eq!(cache.get(&hash(1), at(110)), Found::Nothing);
        assert_eq!(cache.get(&hash(2), at(100)), Found::Nothing);
        cache.put(hash(3), &Known::Refused, LIFE, at(100));
        assert_eq!(cache.get(&hash(3), at(104)), Found::Known { known: Known::Refused, old: false });
        assert_eq!(cache.get(&hash(3), at(105)), Found::Nothing, "a refusal lives five seconds at most");
        cache.put(hash(4), &good("a"), Duration::ZERO, at(100));
        assert_eq!(cache.get(&hash(4), at(100)), Found::Nothing);
    }

    #[test]
    fn the_latest_verdict_counts() {
        let mut cache = Cache::default();
        cache.put(hash(1), &good("a"), LIFE, at(0));
        cache.put(hash(1), &Known::Refused, LIFE, at(1));
        assert_eq!(cache.get(&hash(1), at(1)), Found::Known { known: Known::Refused, old: false });
        cache.put(hash(1), &good("b"), LIFE, at(2));
        assert_eq!(cache.get(&hash(1), at(2)), Found::Known { known: good("b"), old: false });
        assert_eq!((cache.count(), cache.caveat_bytes), (1, 1));
    }

    #[test]
    fn made_up_tokens_push_out_no_good_one_and_memory_is_bounded() {
        let mut cache = Cache::default();
        cache.put(hash(0), &good("a"), LIFE, at(0));
        for n in 1..3 * ENTRIES_MAX {
            cache.put(hash(n), &Known::Refused, LIFE, at(0));
        }
        assert_eq!(cache.count(), 1 + ENTRIES_MAX);
        assert_eq!(cache.get(&hash(0), at(1)), Found::Known { known: good("a"), old: false });
        assert_eq!(cache.get(&hash(1), at(1)), Found::Nothing, "the oldest has left");

        let long = "x".repeat(CAVEAT_BYTES_MAX / 4);
        for n in 0..8 {
            cache.put(hash(n), &good(&long), LIFE, at(0));
            assert!(cache.caveat_bytes <= CAVEAT_BYTES_MAX);
        }
        for _ in 0..5 * ENTRIES_MAX {
            cache.put(hash(7), &good("a"), LIFE, at(0));
        }
        assert!(cache.good.order.len() <= 2 * ENTRIES_MAX, "renewals leave no trace in the order");
        cache.clear();
        assert_eq!((cache.count(), cache.caveat_bytes), (0, 0));
    }
}
