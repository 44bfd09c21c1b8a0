//! Content identifiers: `b3:` and the 64 lowercase hex digits of BLAKE3-256 over an object's exact bytes (contract §1).

use crate::name::EpochId;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;
use std::str::FromStr;

/// The BLAKE3-256 of an object's bytes. `b3sum FILE` prints the same hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cid([u8; 32]);

/// The value of each lowercase hex digit; of anything else, more than a digit can be.
const DIGITS: [u8; 256] = {
    let mut values = [0xff; 256];
    let mut value = 0;
    while value < 16 {
        values[b"0123456789abcdef"[value] as usize] = value as u8;
        value += 1;
    }
    values
};

/// The text is not `b3:` followed by 64 lowercase hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a CID is `b3:` and 64 lowercase hex digits, as `b3sum` prints them")]
pub struct CidError;

impl Cid {
    /// The CID of `bytes`, hashed on this thread.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// The 32 bytes of the hash.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The 64 lowercase hex digits without the prefix: a file name that holds no `:`.
    pub fn hex(&self) -> String {
        blake3::Hash::from_bytes(self.0).to_hex().to_string()
    }
}

impl From<blake3::Hash> for Cid {
    fn from(hash: blake3::Hash) -> Self {
        Self(*hash.as_bytes())
    }
}

impl From<[u8; 32]> for Cid {
    fn from(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl FromStr for Cid {
    type Err = CidError;

    fn from_str(text: &str) -> Result<Self, CidError> {
        let hex = text.strip_prefix("b3:").ok_or(CidError)?.as_bytes();
        if hex.len() != 64 {
            return Err(CidError);
        }
        // Without a branch for each digit: what is no digit leaves a bit above the four of a digit.
        let mut bytes = [0; 32];
        let mut wrong = 0;
        for (byte, pair) in bytes.iter_mut().zip(hex.as_chunks::<2>().0) {
            let [high, low] = pair.map(|digit| DIGITS[usize::from(digit)]);
            wrong |= high | low;
            *byte = high << 4 | low;
        }
        if wrong > 0xf { Err(CidError) } else { Ok(Self(bytes)) }
    }
}

impl fmt::Display for Cid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "b3:{}", blake3::Hash::from_bytes(self.0).to_hex())
    }
}

impl fmt::Debug for Cid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Cid {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Cid {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        crate::name::deserialize_text(d, |text| text.parse().map_err(de::Error::custom))
    }
}

/// The identity of one computation: CID of `svc-rewarder|v1|{epoch_id}|{policy_hash}|{inputs_cid}` (contract §1).
pub fn run_key(epoch: &EpochId, policy_hash: &Cid, inputs_cid: &Cid) -> Cid {
    Cid::of(format!("svc-rewarder|v1|{epoch}|{policy_hash}|{inputs_cid}").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_what_it_reads() {
        let text = "b3:af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262";
        assert_eq!(text.parse::<Cid>().unwrap().to_string(), text);
        assert_eq!(Cid::of(b"").to_string(), text);
    }

    #[test]
    fn refuses_other_forms() {
        let good = Cid::of(b"x").to_string();
        for bad in [
            "",
            "b3:",
            &good[1..],
            &good[..66],
            &good.to_uppercase(),
            &format!("{good}0"),
            &good.replace("b3:", "B3:"),
        ] {
            assert_eq!(bad.parse::<Cid>(), Err(CidError), "{bad}");
        }
    }

    #[test]
    fn run_key_of_the_contracts_first_example() {
        let key = run_key(
            &"e1".parse().unwrap(),
            &"b3:82f2f1fb27cd4536896a97407f505e1139837af306cfdc84a4074b454bdb2c16".parse().unwrap(),
            &"b3:0f622edf7194d9bd3d9b7b0ec69ad6c314849bc0776310f6ff6a45b46853ed68".parse().unwrap(),
        );
        assert_eq!(key.to_string(), "b3:a418af7a5befa77c2bd3625ada08a975b37487c2f963c35128d7cfac0e54a60b");
    }
}
