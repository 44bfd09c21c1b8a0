//! Faults of ours, planted on purpose to see them caught. Without the feature `plant` nothing of this is in the program.

/// The payout as it should be, or, in a build for tests whose environment says `RON_PLANT=payout`, one unit more for
/// the first in the order.
#[inline]
pub fn payout(payout: u128, rank: usize) -> u128 {
    #[cfg(feature = "plant")]
    if rank == 0 && std::env::var("RON_PLANT").is_ok_and(|fault| fault == "payout") {
        return payout + 1;
    }
    let _ = rank;
    payout
}
