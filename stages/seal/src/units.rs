//! Units as text: a whole number in decimal digits, `0 ..= 2^64 - 1`, and nothing else.
//!
//! The law: what is read is exactly what is written there. `2.0` and `1e3` are refused although their value
//! is whole, because whoever wrote them had a float in hand, and a float has already lost what it lost.
//! Leading zeros are taken: they change nothing. A sign, blanks, or separators are not.

/// Why a text is no amount of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum UnitsError {
    Empty,
    Negative,
    Float,
    TooLarge,
    NotDigits,
}

impl UnitsError {
    pub(crate) fn why(self) -> &'static str {
        match self {
            Self::Empty => "is empty",
            Self::Negative => "is negative; units are 0 or more",
            Self::Float => "is not a plain whole number: no point, no exponent",
            Self::TooLarge => "is 2^64 or more",
            Self::NotDigits => "is not a whole number in decimal digits",
        }
    }
}

/// A one in each byte.
const REPEATED: u64 = 0x0101_0101_0101_0101;

/// The units at the start of `text`, and how many of its bytes are digits of them; `None` for no digit, or
/// too many.
#[inline]
pub(crate) fn leading(text: &[u8]) -> Option<(u64, usize)> {
    // Up to seven digits, as nearly all are, without a branch for each: eight bytes as one number, the first digit lowest.
    if let Some(chunk) = text.first_chunk::<8>() {
        let word = u64::from_le_bytes(*chunk) ^ (REPEATED * u64::from(b'0'));
        // The highest bit of each byte that is more than 9.
        let others = (((word & (REPEATED * 0x7f)) + (REPEATED * 0x76)) | word) & (REPEATED * 0x80);
        let digits = others.trailing_zeros() / 8;
        if digits == 0 {
            return None;
        }
        if digits < 8 {
            // Zeros before them, then pairs of digits, of pairs, of fours.
            let word = word << (64 - 8 * digits);
            let pairs = (word * 10 + (word >> 8)) & 0x00ff_00ff_00ff_00ff;
            let fours = (pairs * 100 + (pairs >> 16)) & 0x0000_ffff_0000_ffff;
            return Some((fours as u32 as u64 * 10_000 + (fours >> 32), digits as usize));
        }
    }
    // 19 digits are always below 2^64, so none of these multiplications can overflow.
    let mut units = 0_u64;
    let mut digits = 0;
    for byte in text.iter().take(20) {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return (digits > 0).then_some((units, digits));
        }
        if digits == 19 {
            return None;
        }
        units = units * 10 + u64::from(digit);
        digits += 1;
    }
    (digits > 0).then_some((units, digits))
}

/// The units that `text` is.
pub(crate) fn parse(text: &[u8]) -> Result<u64, UnitsError> {
    if text.is_empty() {
        return Err(UnitsError::Empty);
    }
    if !text.iter().all(u8::is_ascii_digit) {
        return Err(kind_of(text));
    }
    text.iter().try_fold(0_u64, |units, digit| {
        let tens = units.checked_mul(10).ok_or(UnitsError::TooLarge)?;
        tens.checked_add(u64::from(digit - b'0')).ok_or(UnitsError::TooLarge)
    })
}

fn kind_of(text: &[u8]) -> UnitsError {
    let (sign, rest) = match text {
        [b'-', rest @ ..] => (Some(b'-'), rest),
        [b'+', rest @ ..] => (Some(b'+'), rest),
        _ => (None, text),
    };
    let number = rest.first().is_some_and(u8::is_ascii_digit)
        && rest.iter().all(|c| matches!(c, b'0'..=b'9' | b'.' | b'e' | b'E' | b'+' | b'-'));
    match sign {
        Some(b'-') if number => UnitsError::Negative,
        None if number => UnitsError::Float,
        _ => UnitsError::NotDigits,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use UnitsError::*;

    #[test]
    fn digits_and_nothing_else() {
        let max = u64::MAX.to_string();
        for (text, units) in
            [("0", 0), ("7", 7), ("007", 7), (&max, u64::MAX), (&format!("{}1", "0".repeat(99)), 1)]
        {
            assert_eq!(parse(text.as_bytes()), Ok(units), "{text}");
        }
        for (text, why) in [
            ("", Empty),
            ("-1", Negative),
            ("-0", Negative),
            ("-1.5", Negative),
            ("1.5", Float),
            ("2.0", Float),
            ("1e3", Float),
            ("1E+3", Float),
            ("18446744073709551616", TooLarge),
            ("99999999999999999999999", TooLarge),
            ("+1", NotDigits),
            (" 1", NotDigits),
            ("1 ", NotDigits),
            ("1,000", NotDigits),
            ("0x10", NotDigits),
            ("nan", NotDigits),
            (".5", NotDigits),
            ("١", NotDigits),
        ] {
            assert_eq!(parse(text.as_bytes()), Err(why), "{text}");
        }
    }

    #[test]
    fn the_quick_way_agrees() {
        for text in ["0", "12", "9999999999999999999", "007", "1"] {
            assert_eq!(leading(text.as_bytes()), Some((text.parse().unwrap(), text.len())));
            assert_eq!(leading(format!("{text},x").as_bytes()), Some((text.parse().unwrap(), text.len())));
        }
        // Every length up to the longest, with all that can follow a digit.
        for digits in 1..=19 {
            let number = &"9081726354918273645"[..digits];
            for after in 0..=u8::MAX {
                for behind in ["", "1", "999999999"] {
                    let text = [number.as_bytes(), &[after], behind.as_bytes()].concat();
                    let found = leading(&text);
                    if after.is_ascii_digit() {
                        let all = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
                        let whole = std::str::from_utf8(&text[..all]).unwrap().parse();
                        assert_eq!(found, (all < 20).then(|| (whole.unwrap(), all)), "{text:?}");
                    } else {
                        assert_eq!(found, Some((number.parse().unwrap(), digits)), "{text:?}");
                    }
                }
            }
        }
        for text in ["", "x", "-1", "18446744073709551615", "99999999999999999999"] {
            assert_eq!(leading(text.as_bytes()), None, "{text}");
        }
    }
}
