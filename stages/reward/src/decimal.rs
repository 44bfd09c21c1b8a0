//! Decimal digits without a branch on how many there are, which is a coin's toss from one payout to the next.

/// Numbers below this have at most sixteen digits.
const SHORT: u64 = 10_000_000_000_000_000;

/// The digits of a number of at most sixteen, from the first byte on, and how many; none for a larger number.
#[inline]
pub fn short(number: u128) -> Option<([u8; 16], usize)> {
    let number = u64::try_from(number).ok().filter(|number| *number < SHORT)?;
    let all = u128::from(eight(number / 100_000_000)) | u128::from(eight(number % 100_000_000)) << 64;
    // Leading zeros, but for the last digit's.
    let zeros = (all.trailing_zeros() / 8).min(15);
    let text = (all | u128::from_le_bytes([b'0'; 16])) >> (8 * zeros);
    Some((text.to_le_bytes(), 16 - zeros as usize))
}

/// Eight digits as numbers, the first in the lowest byte, of a number below 10^8.
///
/// Halved three times, all parts of a step at once (Khuong, "How to print integers really fast", 2017): `n / 100` is
/// `n * 10486 >> 20` below 10^4, and `n / 10` is `n * 103 >> 10` below 100.
#[inline]
const fn eight(number: u64) -> u64 {
    let fours = (number / 10_000) | (number % 10_000) << 32;
    let hundreds = ((fours * 10_486) >> 20) & 0x0000_007f_0000_007f;
    let twos = hundreds | (fours - 100 * hundreds) << 16;
    let tens = ((twos * 103) >> 10) & 0x000f_000f_000f_000f;
    tens | (twos - 10 * tens) << 8
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn said(number: u128) -> Option<String> {
        short(number).map(|(text, digits)| String::from_utf8(text[..digits].to_vec()).unwrap())
    }

    #[test]
    fn every_half_of_eight_digits_is_right() {
        // The steps work on four digits at a time, and no step looks across.
        for four in 0..10_000 {
            for number in [four, 10_000 * four, 10_001 * four] {
                assert_eq!(said(number), Some(number.to_string()));
            }
        }
    }

    #[test]
    fn every_length_is_right() {
        for digits in 0..=38 {
            let power = 10u128.pow(digits);
            for number in [power - 1, power, power + 1, 9 * (power / 10), u128::from(u64::MAX)] {
                assert_eq!(said(number), (number < SHORT.into()).then(|| number.to_string()), "{number}");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]

        #[test]
        fn any_number_is_right(number in any::<u64>(), shift in 0u32..64) {
            let number = u128::from(number >> shift);
            prop_assert_eq!(said(number), (number < SHORT.into()).then(|| number.to_string()));
        }
    }
}
