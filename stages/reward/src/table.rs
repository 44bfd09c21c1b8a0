//! The canonical allocations: `actor TAB payout LF`, actors in ascending byte order, zero payouts left out (contract §5).

use crate::derive::{Derivation, Payer};
use crate::score::Scores;
use rayon::prelude::*;
use rewarder_model::{Cid, Names};

/// The canonical text in pieces that hold whole lines, its root, and the sums that came up while it was written.
#[derive(Debug, Clone)]
pub struct Table {
    /// The text.
    pub pieces: Vec<Vec<u8>>,
    /// CID of the text.
    pub root: Cid,
    /// Number of lines.
    pub recipients: u64,
    /// Sum of the payouts.
    pub paid: u128,
    /// Sum of what a cap took away from shares and left unpaid.
    pub cut: u128,
    /// The largest payout.
    pub largest: u128,
}

#[derive(Default)]
struct Piece {
    text: Vec<u8>,
    recipients: u64,
    paid: u128,
    cut: u128,
    largest: u128,
}

impl Table {
    /// A table without lines.
    pub fn empty() -> Self {
        Self { pieces: Vec::new(), root: Cid::of(b""), recipients: 0, paid: 0, cut: 0, largest: 0 }
    }

    /// Applies a derivation to every score, in canonical order.
    pub fn write(derivation: &Derivation, scores: &Scores, names: &dyn Names) -> Self {
        let payer = Payer::new(derivation);
        let order = names.order();
        let pieces: Vec<Piece> = scores
            .tasks()
            .map(|range| {
                let mut piece = Piece::default();
                let mut digits = itoa::Buffer::new();
                scores.each(range, |rank, score| {
                    if payer.is_dust(score) {
                        return;
                    }
                    let steps = payer.steps(score, rank);
                    piece.cut += steps.cut;
                    if steps.payout > 0 {
                        let payout = crate::plant::payout(steps.payout, rank);
                        let index = order.map_or(rank, |order| order[rank] as usize);
                        piece.text.extend_from_slice(names.name(index));
                        piece.text.push(b'\t');
                        // Most payouts fit in 64 bits, which are printed several times as fast.
                        match u64::try_from(payout) {
                            Ok(payout) => piece.text.extend_from_slice(digits.format(payout).as_bytes()),
                            Err(_) => piece.text.extend_from_slice(digits.format(payout).as_bytes()),
                        }
                        piece.text.push(b'\n');
                        piece.recipients += 1;
                        piece.paid += steps.payout;
                        piece.largest = piece.largest.max(steps.payout);
                    }
                });
                piece
            })
            .collect();
        let mut hasher = blake3::Hasher::new();
        let mut table = Self::empty();
        for piece in pieces.into_iter().filter(|piece| piece.recipients > 0 || piece.cut > 0) {
            hasher.update(&piece.text);
            table.recipients += piece.recipients;
            table.paid += piece.paid;
            table.cut += piece.cut;
            table.largest = table.largest.max(piece.largest);
            table.pieces.push(piece.text);
        }
        table.root = hasher.finalize().into();
        table
    }

    /// Number of bytes of the text.
    pub fn len(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.len() as u64).sum()
    }

    /// Whether nobody is paid.
    pub fn is_empty(&self) -> bool {
        self.recipients == 0
    }
}

/// The lines of canonical text: name and payout. `None` for what is no such line.
pub fn lines(text: &[u8]) -> impl Iterator<Item = Option<(&[u8], u128)>> {
    text.split_inclusive(|byte| *byte == b'\n').map(|line| {
        let (name, payout) =
            line.strip_suffix(b"\n")?.split_at(line.iter().rposition(|byte| *byte == b'\t')?);
        let digits = std::str::from_utf8(payout.get(1..)?).ok()?;
        Some((name, digits.parse::<rewarder_model::Amount>().ok()?.get()))
    })
}
