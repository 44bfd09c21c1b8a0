//! Numbers that are drawn, the same on every machine.

/// Steele, Lea and Flood, SplitMix64 (OOPSLA 2014).
pub struct SplitMix64(pub u64);

impl SplitMix64 {
    /// The next one.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}
