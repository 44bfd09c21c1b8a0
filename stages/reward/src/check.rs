//! The check by another route: what is about to be signed is read back from its text, knowing nothing of how it came
//! about, and held against the sums (contract §4, invariant breach).
//!
//! A failure is a fault of ours, whatever the input was, and stops emission; see `docs/FAILURES.md`.

use crate::derive::Derivation;
use crate::rounding::Rule;
use crate::table::{Line, Table, lines};
use rayon::prelude::*;
use rewarder_model::names::head;

/// Which law the result breaks. The word is the label of `reward_invariant_fail_total{kind}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Breach {
    /// A line is not of the canonical form.
    #[error("a line of the canonical allocations is malformed")]
    Form,
    /// Actors are not in strictly ascending byte order.
    #[error("the canonical allocations are out of order")]
    Order,
    /// The number of lines is not the number of recipients.
    #[error("the number of lines is not the number of recipients")]
    Count,
    /// The payouts do not add up, to the sum that was announced or to what there was to share.
    #[error("the payouts do not add up")]
    Conservation,
    /// More is paid than the budget.
    #[error("the payouts exceed the budget")]
    Budget,
    /// A payout is above the cap of an actor.
    #[error("a payout is above the cap")]
    Cap,
    /// A payout is below the smallest payout, or zero.
    #[error("a payout is below the smallest payout")]
    Dust,
    /// More recipients than actors with a score.
    #[error("there are more recipients than actors with a score")]
    Recipients,
}

impl Breach {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Form,
        Self::Order,
        Self::Count,
        Self::Conservation,
        Self::Budget,
        Self::Cap,
        Self::Dust,
        Self::Recipients,
    ];

    /// The label.
    pub const fn kind(self) -> &'static str {
        match self {
            Self::Form => "form",
            Self::Order => "order",
            Self::Count => "count",
            Self::Conservation => "conservation",
            Self::Budget => "budget",
            Self::Cap => "cap",
            Self::Dust => "dust",
            Self::Recipients => "recipients",
        }
    }
}

/// Bytes that one task reads back.
const PART_BYTES: usize = 256 * 1024;

/// What one piece of the text says.
struct Said<'a> {
    first: &'a [u8],
    last: &'a [u8],
    count: u64,
    sum: u128,
}

/// Reads the table back.
///
/// # Errors
/// The law that it breaks.
pub fn check(table: &Table, derivation: &Derivation, positive: u64) -> Result<(), Breach> {
    let pieces: Vec<&[u8]> = table.pieces().flat_map(parts).collect();
    let said: Vec<Said<'_>> =
        pieces.par_iter().map(|piece| read(piece, derivation)).collect::<Result<_, _>>()?;
    if said.windows(2).any(|pair| pair[0].last >= pair[1].first) {
        return Err(Breach::Order);
    }
    let count: u64 = said.iter().map(|piece| piece.count).sum();
    let sum =
        said.iter().try_fold(0u128, |sum, piece| sum.checked_add(piece.sum)).ok_or(Breach::Conservation)?;
    if count != table.recipients {
        return Err(Breach::Count);
    }
    if count > positive {
        return Err(Breach::Recipients);
    }
    if sum != table.paid {
        return Err(Breach::Conservation);
    }
    if sum > derivation.budget {
        return Err(Breach::Budget);
    }
    // Nothing that could have been paid got lost on the way: with the largest remainders the pot is emptied to the unit,
    // so without dust and cuts what is paid is the pot and the caps.
    let handed_out = derivation.actor_cap.unwrap_or(0).saturating_mul(derivation.capped.into());
    let due = handed_out.saturating_add(derivation.shared);
    let exact = matches!(derivation.rounding, Rule::LargestRemainder(_)) && derivation.base > 0;
    if exact && derivation.min_payout <= 1 && (sum + table.cut) != due {
        return Err(Breach::Conservation);
    }
    Ok(())
}

/// Cuts a piece at line feeds into parts for several threads.
fn parts(piece: &[u8]) -> Vec<&[u8]> {
    let (mut parts, mut left) = (Vec::new(), piece);
    while left.len() > PART_BYTES {
        let Some(end) = memchr::memchr(b'\n', &left[PART_BYTES..]) else { break };
        let (part, rest) = left.split_at(PART_BYTES + end + 1);
        parts.push(part);
        left = rest;
    }
    parts.extend((!left.is_empty()).then_some(left));
    parts
}

fn read<'a>(piece: &'a [u8], derivation: &Derivation) -> Result<Said<'a>, Breach> {
    let mut said = Said { first: &[], last: &[], count: 0, sum: 0 };
    let mut last_head = 0;
    let cap = derivation.actor_cap.unwrap_or(u128::MAX);
    for line in lines(piece) {
        let Line { name, payout, start } = line.ok_or(Breach::Form)?;
        let head = head(piece, start, start + name.len());
        if said.count == 0 {
            said.first = name;
        } else if head <= last_head && (head < last_head || said.last >= name) {
            return Err(Breach::Order);
        }
        if payout == 0 || payout < derivation.min_payout {
            return Err(Breach::Dust);
        }
        if payout > cap {
            return Err(Breach::Cap);
        }
        (said.last, last_head) = (name, head);
        said.count += 1;
        said.sum = said.sum.checked_add(payout).ok_or(Breach::Conservation)?;
    }
    Ok(said)
}
