//! 256-bit products and their exact division by a 128-bit number that stays the same for a whole run.
//!
//! A share is `floor(pot * score / base)` with all three up to 10^38: the product needs 254 bits. The divisor is the same
//! for every actor, so its reciprocal is computed once.
//!
//! * Narrow: when `pot * base < 2^128` every product fits in 128 bits (`score <= base`). With `m = floor((2^128 - 1) / d)`
//!   and `q' = floor(p * m / 2^128)`: `m > 2^128/d - 1 - 1/d`, so `p/d - p*m/2^128 < p/2^128 * (1 + 1/d) < 2`, and `q'` is the quotient
//!   or at most two below it; the remainder tells, and at most two subtractions mend it.
//! * Wide: Möller and Granlund, "Improved division by invariant integers" (IEEE Trans. Comp. 60, 2011), algorithm 4,
//!   with limbs of 128 bits: exact for every dividend whose high limb is below the normalised divisor.
//! * Short: when a score is below 2^64 and the base below 2^127, however large the pot, see [`Short`]. Nearly all epochs.

/// A 256-bit number: high and low 128 bits.
pub type U256 = (u128, u128);

/// `a * b`, exact.
pub const fn mul(a: u128, b: u128) -> U256 {
    const LOW: u128 = u64::MAX as u128;
    let (a1, a0, b1, b0) = (a >> 64, a & LOW, b >> 64, b & LOW);
    let (low, cross, other, high) = (a0 * b0, a1 * b0, a0 * b1, a1 * b1);
    // The three summands are below 2^64 each but for `cross`, which is at most (2^64 - 1)^2: no overflow.
    let middle = cross + (low >> 64) + (other & LOW);
    (high + (middle >> 64) + (other >> 64), (middle << 64) | (low & LOW))
}

/// A number to divide by, with its reciprocals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Divisor {
    d: u128,
    /// `floor((2^128 - 1) / d)`
    narrow: u128,
    shift: u32,
    /// `d << shift`, the top bit set.
    normalised: u128,
    /// `floor((2^256 - 1) / normalised) - 2^128`
    wide: u128,
}

impl Divisor {
    /// `None` for zero.
    pub fn new(d: u128) -> Option<Self> {
        if d == 0 {
            return None;
        }
        let shift = d.leading_zeros();
        let normalised = d << shift;
        // (2^256 - 1) / n - 2^128 = ((2^128 - 1 - n) * 2^128 + 2^128 - 1) / n, whose high limb is below n.
        let wide = long_division((!normalised, u128::MAX), normalised);
        Some(Self { d, narrow: u128::MAX / d, shift, normalised, wide })
    }

    /// The number itself.
    pub const fn get(&self) -> u128 {
        self.d
    }

    /// Quotient and remainder of a 128-bit number.
    #[inline]
    pub const fn narrow(&self, p: u128) -> (u128, u128) {
        let mut q = mul(p, self.narrow).0;
        let mut r = p - q * self.d;
        if r >= self.d {
            q += 1;
            r -= self.d;
            if r >= self.d {
                q += 1;
                r -= self.d;
            }
        }
        (q, r)
    }

    /// Quotient and remainder of a 256-bit number whose quotient fits in 128 bits, that is `high < d`.
    #[inline]
    pub fn wide(&self, (high, low): U256) -> (u128, u128) {
        debug_assert!(high < self.d, "the quotient fits");
        let (d, shift) = (self.normalised, self.shift);
        let (u1, u0) =
            if shift == 0 { (high, low) } else { (high << shift | low >> (128 - shift), low << shift) };
        let (q1, q0) = mul(self.wide, u1);
        let (q0, carry) = q0.overflowing_add(u0);
        let mut q = q1.wrapping_add(u1).wrapping_add(carry as u128).wrapping_add(1);
        let mut r = u0.wrapping_sub(q.wrapping_mul(d));
        if r > q0 {
            q = q.wrapping_sub(1);
            r = r.wrapping_add(d);
        }
        if r >= d {
            q = q.wrapping_add(1);
            r -= d;
        }
        (q, r >> shift)
    }
}

/// `floor(pot * score / base)` and its remainder for scores below 2^64 and a base below 2^127.
///
/// With `R = floor(pot * 2^64 / base)`, kept as a whole part and 64 bits of fraction, `score * R / 2^64` is at most the exact
/// quotient and above it less one, since `score / 2^64 < 1`. So its floor `q'` is the quotient or one below it, and
/// `pot * score - q' * base` is below `2 * base`: the low bits of both products are enough to know it, 64 of them if the base
/// is below 2^63 and 128 otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Short {
    pot: u128,
    base: u128,
    whole: u128,
    fraction: u64,
    /// 64 bits are enough for remainders.
    small: bool,
}

impl Short {
    /// `None` for a base that is zero or too large.
    pub fn new(pot: u128, base: u128) -> Option<Self> {
        if base >= 1 << 127 {
            return None;
        }
        let fraction = mul_div(pot % base.max(1), 1 << 64, &Divisor::new(base)?)?;
        Some(Self { pot, base, whole: pot / base, fraction: fraction as u64, small: base < 1 << 63 })
    }

    /// Quotient and remainder of `pot * score / base`; the quotient has to be below 2^128.
    #[inline]
    pub const fn divide(&self, score: u64) -> (u128, u128) {
        let q = self.whole.wrapping_mul(score as u128) + ((score as u128 * self.fraction as u128) >> 64);
        let r = if self.small {
            (self.pot as u64).wrapping_mul(score).wrapping_sub((q as u64).wrapping_mul(self.base as u64))
                as u128
        } else {
            self.pot.wrapping_mul(score as u128).wrapping_sub(q.wrapping_mul(self.base))
        };
        if r >= self.base { (q + 1, r - self.base) } else { (q, r) }
    }
}

/// [`Short`] for a base below 2^63 and a pot below it: quotients of 64 bits at three multiplications.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fractional {
    pot: u64,
    base: u64,
    fraction: u64,
}

impl Short {
    /// The same, when nothing but a fraction of a unit goes to a unit of score.
    pub fn fractional(&self) -> Option<Fractional> {
        (self.small && self.whole == 0).then_some(Fractional {
            pot: self.pot as u64,
            base: self.base as u64,
            fraction: self.fraction,
        })
    }
}

impl Fractional {
    /// Quotient and remainder of `pot * score / base`.
    #[inline]
    pub const fn divide(&self, score: u64) -> (u64, u64) {
        let q = ((score as u128 * self.fraction as u128) >> 64) as u64;
        let r = self.pot.wrapping_mul(score).wrapping_sub(q.wrapping_mul(self.base));
        if r >= self.base { (q + 1, r - self.base) } else { (q, r) }
    }
}

/// `n / d` bit by bit, for `n.0 < d`: once a run for the reciprocal, and the oracle of the tests.
fn long_division((high, low): U256, d: u128) -> u128 {
    let (mut r, mut q) = (high, 0u128);
    for bit in (0..128).rev() {
        let overflow = r >> 127 != 0;
        r = r << 1 | (low >> bit & 1);
        q <<= 1;
        if overflow || r >= d {
            r = r.wrapping_sub(d);
            q |= 1;
        }
    }
    q
}

/// `floor(a * b / d)`, if it is below 2^128.
pub fn mul_div(a: u128, b: u128, d: &Divisor) -> Option<u128> {
    let product = mul(a, b);
    (product.0 < d.get()).then(|| d.wide(product).0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Numbers of every width, and those near powers of two, where carries are.
    fn number() -> impl Strategy<Value = u128> {
        prop_oneof![
            any::<u128>(),
            (any::<u128>(), 0u32..128).prop_map(|(n, shift)| n >> shift),
            (0u32..128, -2i128..3).prop_map(|(bit, off)| (1u128 << bit).wrapping_add_signed(off)),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]

        #[test]
        fn product_by_schoolbook(a in number(), b in number()) {
            let (high, low) = mul(a, b);
            prop_assert_eq!(low, a.wrapping_mul(b));
            // Add up a * 2^i for the bits of b.
            let mut sum: U256 = (0, 0);
            for bit in (0..128).filter(|bit| b >> bit & 1 == 1) {
                let part: U256 = (if bit == 0 { 0 } else { a >> (128 - bit) }, a << bit);
                let (low, carry) = sum.1.overflowing_add(part.1);
                sum = (sum.0 + part.0 + carry as u128, low);
            }
            prop_assert_eq!((high, low), sum);
        }

        #[test]
        fn division_is_exact(a in number(), b in number(), d in number()) {
            let Some(divisor) = Divisor::new(d) else { return Ok(()) };
            prop_assert_eq!(divisor.narrow(a), (a / d, a % d));
            let score = a as u64;
            let product = mul(b, score.into());
            if let Some(short) = Short::new(b, d).filter(|_| product.0 < d) {
                let (q, r) = divisor.wide(product);
                prop_assert_eq!(short.divide(score), (q, r));
                if let Some(fractional) = short.fractional() {
                    prop_assert_eq!(fractional.divide(score), (q as u64, r as u64));
                }
            }
            let product = mul(a, b);
            if product.0 < d {
                let (q, r) = divisor.wide(product);
                prop_assert_eq!(q, long_division(product, d));
                // q * d + r is the product again, and r < d.
                let (high, low) = mul(q, d);
                let (low, carry) = low.overflowing_add(r);
                prop_assert_eq!((high + carry as u128, low), product);
                prop_assert!(r < d);
            }
        }
    }
}
