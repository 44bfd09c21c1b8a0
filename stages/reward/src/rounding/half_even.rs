//! `half_even`: to the nearest whole unit; exactly in the middle, to the even one (IEEE 754-2019, roundTiesToEven).

/// 1 if `r / d` is above one half, or is one half and `q` is odd. `d` is at most 10^18 here, but any `d` is fine.
pub const fn extra(q: u128, r: u128, d: u128) -> u128 {
    // r > d - r says 2r > d without the overflow.
    let rest = d - r;
    (r > rest || (r == rest && q & 1 == 1)) as u128
}

#[cfg(test)]
mod tests {
    use super::extra;

    #[test]
    fn ties_go_to_even() {
        for (q, r, d, expected) in
            [(0, 5, 10, 0), (1, 5, 10, 1), (2, 5, 10, 0), (0, 6, 10, 1), (1, 4, 10, 0), (7, 0, 1, 0)]
        {
            assert_eq!(extra(q, r, d), expected, "{q} {r}/{d}");
        }
    }
}
