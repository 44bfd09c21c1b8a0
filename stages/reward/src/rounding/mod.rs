//! Rounding: who gets a unit more than the quotient. One rule a file; a rule that has shipped is never edited, a new one
//! is a new file, a line in [`Rule`] and a golden case.

pub mod floor;
pub mod half_even;
pub mod largest_remainder;

use serde::{Deserialize, Serialize};

/// The rule of a run, with whatever it had to find out about the run as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "rule", rename_all = "snake_case")]
pub enum Rule {
    /// Nobody.
    Floor,
    /// To nearest, ties to even.
    HalfEven,
    /// The largest remainders.
    LargestRemainder(largest_remainder::Cut),
}

impl Rule {
    /// Units (0 or 1) on top of the quotient `q`, `r` being the remainder by `d` and `rank` the canonical position.
    #[inline]
    pub fn extra(&self, q: u128, r: u128, d: u128, rank: usize) -> u128 {
        match self {
            Self::Floor => floor::extra(),
            Self::HalfEven => half_even::extra(q, r, d),
            Self::LargestRemainder(cut) => cut.extra(r, rank),
        }
    }
}
