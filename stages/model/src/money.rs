//! Amounts: whole minor units below 10^38, decimal strings in JSON (contract §1). No float, no sign, no unit conversion.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;
use std::str::FromStr;

/// An amount of minor units, `0 ..= 10^38 - 1`: what `Decimal128(38,0)` holds.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Amount(u128);

/// The text is not `0` or up to 38 digits without a leading zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an amount is a string of 1 to 38 decimal digits without sign, point or leading zero")]
pub struct AmountError;

impl Amount {
    /// One more than the largest amount.
    pub const LIMIT: u128 = 10u128.pow(38);
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// An amount, if `units` is below 10^38.
    pub const fn new(units: u128) -> Option<Self> {
        if units < Self::LIMIT { Some(Self(units)) } else { None }
    }

    /// The minor units.
    pub const fn get(self) -> u128 {
        self.0
    }

    /// `self - other`, if that is not below zero.
    pub fn checked_sub(self, other: Self) -> Option<Self> {
        self.0.checked_sub(other.0).map(Self)
    }
}

impl From<u64> for Amount {
    fn from(units: u64) -> Self {
        Self(units.into())
    }
}

impl FromStr for Amount {
    type Err = AmountError;

    fn from_str(text: &str) -> Result<Self, AmountError> {
        let digits = text.as_bytes();
        let canonical = match digits {
            [b'0'] => true,
            [b'1'..=b'9', rest @ ..] => rest.len() < 38 && rest.iter().all(u8::is_ascii_digit),
            _ => false,
        };
        if !canonical {
            return Err(AmountError);
        }
        Ok(Self(digits.iter().fold(0, |units, digit| units * 10 + u128::from(digit - b'0'))))
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl Serialize for Amount {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        crate::name::deserialize_text(d, |text| text.parse().map_err(de::Error::custom))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_canonical_form() {
        for (text, units) in [("0", 0), ("7", 7), (&"9".repeat(38), Amount::LIMIT - 1)] {
            assert_eq!(text.parse(), Ok(Amount(units)));
            assert_eq!(Amount(units).to_string(), text);
        }
        for bad in
            ["", "00", "01", "+1", "-1", "1.0", "1e3", " 1", "1 ", "١", &format!("1{}", "0".repeat(38))]
        {
            assert_eq!(bad.parse::<Amount>(), Err(AmountError), "{bad:?}");
        }
    }
}
