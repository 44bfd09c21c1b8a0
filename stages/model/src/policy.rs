//! The policy: which work counts how much, and how the pool is cut (contract §3).
//!
//! The law: a [`Policy`] has passed every rule of `rewarder.policy.v1`. Weights are exact integers at one decimal scale
//! `k`, the most fraction digits that any weight needs, so that nothing is ever rounded: 10 units at "0.7" are 7.
//!
//! The reader is written out, not derived: a derived one takes arrays for objects, lets `null` stand for absent, and its
//! messages repeat what a stranger sent.

use crate::cid::Cid;
use crate::money::Amount;
use crate::name::{Category, PolicyId};
use serde::de::{self, DeserializeSeed, IgnoredAny, MapAccess, Visitor};
use std::collections::BTreeMap;
use std::fmt;

/// The value of `schema`.
pub const SCHEMA: &str = "rewarder.policy.v1";

/// Most digits before the point of a weight.
const WEIGHT_WHOLE_DIGITS_MAX: usize = 10;
/// Most digits after the point of a weight.
const WEIGHT_FRACTION_DIGITS_MAX: usize = 18;

/// A valid policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    hash: Cid,
    id: PolicyId,
    mode: Mode,
    scale: u8,
    weights: BTreeMap<Category, u64>,
    min_payout: Amount,
    budget_cap: Option<Amount>,
    actor_cap: Option<Amount>,
}

/// How scores become payouts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Pro rata of the budget.
    Share {
        /// What happens to fractions of a unit.
        rounding: Rounding,
        /// What happens to shares above the cap of an actor.
        excess: Excess,
    },
    /// A price list.
    Tariff {
        /// What happens to fractions of a unit.
        rounding: Rounding,
    },
}

/// A rounding rule; which of them a mode takes is checked when the policy is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rounding {
    /// Down.
    Floor,
    /// Down, then the missing units one each to the largest remainders (share mode).
    LargestRemainder,
    /// To nearest, ties to even (tariff mode).
    HalfEven,
}

impl Rounding {
    /// The word in the policy.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Floor => "floor",
            Self::LargestRemainder => "largest_remainder",
            Self::HalfEven => "half_even",
        }
    }
}

/// What becomes of the part of a share that is above the cap of an actor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Excess {
    /// It goes round again among those below the cap.
    Redistribute,
    /// It stays unpaid.
    Residual,
}

impl Excess {
    /// The word in the policy.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Redistribute => "redistribute",
            Self::Residual => "residual",
        }
    }
}

impl Mode {
    /// The word in the policy.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Share { .. } => "share",
            Self::Tariff { .. } => "tariff",
        }
    }

    /// The rounding rule, whichever the mode.
    pub const fn rounding(self) -> Rounding {
        match self {
            Self::Share { rounding, .. } | Self::Tariff { rounding } => rounding,
        }
    }
}

/// Which rule the policy breaks, and where in the file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}{}", Position(*.line, *.column))]
pub struct PolicyError {
    what: String,
    line: usize,
    column: usize,
}

struct Position(usize, usize);

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(line, column) = *self;
        if line == 0 { Ok(()) } else { write!(f, " (line {line}, column {column})") }
    }
}

impl Policy {
    /// Reads the bytes of a policy file.
    ///
    /// # Errors
    /// The first rule of contract §3 that the bytes break, with line and column, without repeating what they hold.
    pub fn parse(bytes: &[u8]) -> Result<Self, PolicyError> {
        if bytes.starts_with(b"\xef\xbb\xbf") {
            return Err(PolicyError {
                what: "the file begins with a byte order mark; save it without".into(),
                line: 1,
                column: 1,
            });
        }
        if let Err(e) = std::str::from_utf8(bytes) {
            let what = format!("the file is not UTF-8 (byte {})", e.valid_up_to());
            return Err(PolicyError { what, line: 0, column: 0 });
        }
        let mut reader = serde_json::Deserializer::from_slice(bytes);
        let raw = Object(RawPolicy::default()).deserialize(&mut reader).map_err(json_error)?;
        reader.end().map_err(|e| PolicyError {
            what: "there is something after the policy's closing brace".into(),
            line: e.line(),
            column: e.column(),
        })?;
        raw.check(Cid::of(bytes)).map_err(|what| PolicyError { what, line: 0, column: 0 })
    }

    /// CID of the file's bytes.
    pub fn hash(&self) -> Cid {
        self.hash
    }

    /// The id inside the file.
    pub fn id(&self) -> &PolicyId {
        &self.id
    }

    /// Share or tariff.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// `k`: scores are integers of 10^-k units.
    pub fn scale(&self) -> u8 {
        self.scale
    }

    /// The weight of a category as the integer `weight * 10^k`, if the policy names it.
    pub fn weight(&self, category: &str) -> Option<u64> {
        self.weights.iter().find(|(name, _)| name.as_str() == category).map(|(_, weight)| *weight)
    }

    /// All weights, by category, as integers at scale `k`.
    pub fn weights(&self) -> &BTreeMap<Category, u64> {
        &self.weights
    }

    /// Payouts below this become zero.
    pub fn min_payout(&self) -> Amount {
        self.min_payout
    }

    /// Most that the epoch may pay.
    pub fn budget_cap(&self) -> Option<Amount> {
        self.budget_cap
    }

    /// Most that one actor may get.
    pub fn actor_cap(&self) -> Option<Amount> {
        self.actor_cap
    }
}

/// Our own messages come through as they are; those of the JSON reader are replaced, since they repeat what they read.
fn json_error(e: serde_json::Error) -> PolicyError {
    let what = match e.classify() {
        serde_json::error::Category::Data => {
            let text = e.to_string();
            match text.strip_prefix(OURS) {
                Some(ours) => ours.rsplit_once(" at line ").map_or(ours, |(what, _)| what).to_owned(),
                None => "a value is not of the kind that the contract asks for here".to_owned(),
            }
        }
        serde_json::error::Category::Eof => "the JSON ends in the middle".to_owned(),
        _ => "the JSON is malformed".to_owned(),
    };
    PolicyError { what, line: e.line(), column: e.column() }
}

/// Marks messages that are safe to show.
const OURS: &str = "\u{1}";

fn ours<E: de::Error>(what: impl fmt::Display) -> E {
    E::custom(format_args!("{OURS}{what}"))
}

/// A JSON object whose names `T` reads one by one.
trait Fields: Sized {
    /// What the object is called in messages.
    const WHAT: &'static str;
    /// Reads the value of the field `name`.
    fn field<'de, A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<(), A::Error>;
}

struct Object<T>(T);

impl<'de, T: Fields> DeserializeSeed<'de> for Object<T> {
    type Value = T;
    fn deserialize<D: de::Deserializer<'de>>(self, d: D) -> Result<T, D::Error> {
        d.deserialize_any(self)
    }
}

impl<'de, T: Fields> Visitor<'de> for Object<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an object")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<T, A::Error> {
        while let Some(name) = map.next_key::<std::borrow::Cow<'de, str>>()? {
            self.0.field(&name, &mut map)?;
        }
        Ok(self.0)
    }
}

/// A value that has to be a string.
struct Text(&'static str);

impl<'de> DeserializeSeed<'de> for Text {
    type Value = String;
    fn deserialize<D: de::Deserializer<'de>>(self, d: D) -> Result<String, D::Error> {
        d.deserialize_any(self)
    }
}

impl Visitor<'_> for Text {
    type Value = String;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} as a string", self.0)
    }
    fn visit_str<E: de::Error>(self, text: &str) -> Result<String, E> {
        Ok(text.to_owned())
    }
}

/// Reads a string into `slot`, once.
fn text<'de, A: MapAccess<'de>>(
    slot: &mut Option<String>,
    name: &'static str,
    map: &mut A,
) -> Result<(), A::Error> {
    if slot.is_some() {
        return Err(ours(format_args!("`{name}` stands there twice")));
    }
    // A number, null, list or object here is refused by the visitor; say which field it was.
    *slot = Some(map.next_value_seed(Text(name)).map_err(|e| {
        if e.to_string().contains("invalid type") {
            ours(format_args!("`{name}` has to be a string"))
        } else {
            e
        }
    })?);
    Ok(())
}

fn nested<'de, A: MapAccess<'de>, T: Fields>(
    slot: &mut Option<T>,
    empty: T,
    map: &mut A,
) -> Result<(), A::Error> {
    if slot.is_some() {
        return Err(ours(format_args!("{} stand there twice", T::WHAT)));
    }
    *slot = Some(map.next_value_seed(Object(empty)).map_err(|e| {
        if e.to_string().contains("invalid type") {
            ours(format_args!("{} have to be an object", T::WHAT))
        } else {
            e
        }
    })?);
    Ok(())
}

#[derive(Default)]
struct RawPolicy {
    schema: Option<String>,
    id: Option<String>,
    mode: Option<String>,
    rounding: Option<String>,
    min_payout: Option<String>,
    weights: Option<RawWeights>,
    caps: Option<RawCaps>,
}

impl Fields for RawPolicy {
    const WHAT: &'static str = "the policy";

    fn field<'de, A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<(), A::Error> {
        match name {
            "schema" => text(&mut self.schema, "schema", map),
            "id" => text(&mut self.id, "id", map),
            "mode" => text(&mut self.mode, "mode", map),
            "rounding" => text(&mut self.rounding, "rounding", map),
            "min_payout_minor_units" => text(&mut self.min_payout, "min_payout_minor_units", map),
            "weights" => nested(&mut self.weights, RawWeights::default(), map),
            "caps" => nested(&mut self.caps, RawCaps::default(), map),
            _ => unknown(
                map,
                "the policy",
                "schema, id, mode, weights, rounding, min_payout_minor_units and caps",
            ),
        }
    }
}

fn unknown<'de, A: MapAccess<'de>>(map: &mut A, what: &str, known: &str) -> Result<(), A::Error> {
    map.next_value::<IgnoredAny>()?;
    Err(ours(format_args!("{what} has a field that is not known; known are {known}")))
}

#[derive(Default)]
struct RawCaps {
    epoch: Option<String>,
    actor: Option<String>,
    excess: Option<String>,
}

impl Fields for RawCaps {
    const WHAT: &'static str = "`caps`";

    fn field<'de, A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<(), A::Error> {
        match name {
            "epoch_minor_units" => text(&mut self.epoch, "epoch_minor_units", map),
            "actor_minor_units" => text(&mut self.actor, "actor_minor_units", map),
            "excess" => text(&mut self.excess, "excess", map),
            _ => unknown(map, "`caps`", "epoch_minor_units, actor_minor_units and excess"),
        }
    }
}

#[derive(Default)]
struct RawWeights(BTreeMap<Category, Decimal>);

impl Fields for RawWeights {
    const WHAT: &'static str = "`weights`";

    fn field<'de, A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<(), A::Error> {
        let category: Category =
            name.parse().map_err(|e| ours(format_args!("a name in `weights` is no category: {e}")))?;
        let mut value = None;
        text(&mut value, "a weight", map)?;
        let weight = value.as_deref().and_then(Decimal::parse).ok_or_else(|| {
            ours("a weight is a decimal string of 1 to 10 digits, with a point and 1 to 18 more if it has a fraction")
        })?;
        match self.0.insert(category, weight) {
            None => Ok(()),
            Some(_) => Err(ours("a category stands in `weights` twice")),
        }
    }
}

/// `digits * 10^-fraction`, trailing zeros of the fraction left off.
struct Decimal {
    digits: u128,
    fraction: u8,
}

impl Decimal {
    /// Reads `[0-9]{1,10}(\.[0-9]{1,18})?`; 28 digits fit easily into 128 bits.
    fn parse(text: &str) -> Option<Self> {
        let (whole, fraction) = match text.split_once('.') {
            Some((whole, fraction)) => (whole, Some(fraction)),
            None => (text, None),
        };
        let is_digits =
            |s: &str, max: usize| (1..=max).contains(&s.len()) && s.bytes().all(|c| c.is_ascii_digit());
        if !is_digits(whole, WEIGHT_WHOLE_DIGITS_MAX)
            || !fraction.is_none_or(|f| is_digits(f, WEIGHT_FRACTION_DIGITS_MAX))
        {
            return None;
        }
        let fraction = fraction.unwrap_or("").trim_end_matches('0');
        let digits = whole.bytes().chain(fraction.bytes()).fold(0, |n, c| n * 10 + u128::from(c - b'0'));
        Some(Self { digits, fraction: fraction.len() as u8 })
    }
}

impl RawPolicy {
    fn check(self, hash: Cid) -> Result<Policy, String> {
        fn required<T>(value: Option<T>, name: &str) -> Result<T, String> {
            value.ok_or_else(|| format!("`{name}` is missing"))
        }
        fn amount(value: Option<String>, name: &str) -> Result<Option<Amount>, String> {
            value.map(|text| text.parse().map_err(|e| format!("`{name}`: {e}"))).transpose()
        }

        if required(self.schema, "schema")? != SCHEMA {
            return Err(format!("`schema` has to be {SCHEMA}"));
        }
        let id = required(self.id, "id")?.parse().map_err(|e| format!("`id`: {e}"))?;
        let caps = self.caps.unwrap_or_default();
        let rounding = match required(self.rounding, "rounding")?.as_str() {
            "floor" => Rounding::Floor,
            "largest_remainder" => Rounding::LargestRemainder,
            "half_even" => Rounding::HalfEven,
            _ => {
                return Err(
                    "`rounding` is floor, largest_remainder (share mode) or half_even (tariff mode)".into()
                );
            }
        };
        let mode = match (required(self.mode, "mode")?.as_str(), rounding, caps.excess.as_deref()) {
            ("share", Rounding::HalfEven, _) => {
                return Err("share mode takes rounding floor or largest_remainder".into());
            }
            ("tariff", Rounding::LargestRemainder, _) => {
                return Err("tariff mode takes rounding floor or half_even".into());
            }
            ("tariff", _, Some(_)) => return Err("`excess` is for share mode only".into()),
            ("tariff", _, None) => Mode::Tariff { rounding },
            ("share", _, None | Some("redistribute")) => {
                Mode::Share { rounding, excess: Excess::Redistribute }
            }
            ("share", _, Some("residual")) => Mode::Share { rounding, excess: Excess::Residual },
            ("share", _, Some(_)) => return Err("`excess` is redistribute or residual".into()),
            _ => return Err("`mode` is share or tariff".into()),
        };

        let decimals = required(self.weights, "weights")?.0;
        let scale = decimals.values().map(|w| w.fraction).max().unwrap_or(0);
        let weights = decimals
            .into_iter()
            .map(|(category, w)| {
                // At most 28 digits times 10^18: below 2^153, so the product needs the check.
                let scaled = w.digits.checked_mul(10u128.pow(u32::from(scale - w.fraction)));
                match scaled.and_then(|w| u64::try_from(w).ok()) {
                    Some(weight) => Ok((category, weight)),
                    None => {
                        Err(format!("a weight at the common scale of {scale} fraction digits reaches 2^64"))
                    }
                }
            })
            .collect::<Result<_, _>>()?;

        Ok(Policy {
            hash,
            id,
            mode,
            scale,
            weights,
            min_payout: amount(self.min_payout, "min_payout_minor_units")?.unwrap_or(Amount::from(1)),
            budget_cap: amount(caps.epoch, "epoch_minor_units")?,
            actor_cap: amount(caps.actor, "actor_minor_units")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: &str = r#"{ "schema": "rewarder.policy.v1", "id": "rev42", "mode": "share",
        "weights": { "views": "0.30", "subs": "0.7", "n": "12" }, "rounding": "largest_remainder",
        "min_payout_minor_units": "1",
        "caps": { "epoch_minor_units": "250000", "actor_minor_units": "1000", "excess": "redistribute" } }"#;

    #[test]
    fn reads_the_contracts_example() {
        let p = Policy::parse(FULL.as_bytes()).unwrap();
        assert_eq!(
            (p.scale(), p.weight("views"), p.weight("subs"), p.weight("n")),
            (1, Some(3), Some(7), Some(120))
        );
        assert_eq!(
            p.mode(),
            Mode::Share { rounding: Rounding::LargestRemainder, excess: Excess::Redistribute }
        );
        assert_eq!(p.hash(), Cid::of(FULL.as_bytes()));
    }

    #[test]
    fn refuses_by_rule_and_repeats_nothing() {
        let cases = [
            ("\u{feff}", "", "byte order mark"),
            ("\"id\": \"rev42\"", "\"id\": null", "`id` has to be a string"),
            ("\"id\": \"rev42\"", "\"id\": \"rev42\", \"i\\u0064\": \"x\"", "`id` stands there twice"),
            ("\"id\": \"rev42\"", "\"id\": \"../secret\"", "`id`: a policy id is"),
            ("\"id\"", "\"secret\": 1, \"id\"", "a field that is not known"),
            ("\"0.7\"", "0.7", "a weight` has to be a string"),
            ("\"0.7\"", "\"1e3\"", "decimal string"),
            ("\"0.7\"", "\"-1\"", "decimal string"),
            ("\"0.7\"", "\".5\"", "decimal string"),
            ("\"0.7\"", "\"1.\"", "decimal string"),
            ("\"0.7\"", "\"9999999999.9999999999\"", "2^64"),
            ("\"subs\"", "\"views\"", "twice"),
            ("\"subs\"", "\"it's\"", "no category"),
            ("\"share\"", "\"tariff\"", "tariff mode takes"),
            ("\"largest_remainder\"", "\"half_even\"", "share mode takes"),
            ("\"1000\"", "\"01000\"", "an amount is"),
            ("\"1000\"", "null", "has to be a string"),
            ("\"redistribute\"", "\"secret\"", "`excess` is"),
            ("policy.v1", "policy.v2", "`schema` has to be"),
            ("} }", "} } x", "after the policy"),
            ("} }", "}", "ends in the middle"),
            (
                "{ \"epoch_minor_units\": \"250000\", \"actor_minor_units\": \"1000\", \"excess\": \"redistribute\" }",
                "[]",
                "`caps` have to be",
            ),
        ];
        for (from, to, expected) in cases {
            let text = if from == "\u{feff}" { format!("{from}{FULL}") } else { FULL.replacen(from, to, 1) };
            assert_ne!(text, FULL, "{from}");
            let error = Policy::parse(text.as_bytes()).expect_err(to).to_string();
            assert!(error.contains(expected), "{to}: {error}");
            assert!(!error.contains("secret"), "{error}");
        }
        for bad in ["", "[]", "\"x\"", "{}", "null", r#"["rewarder.policy.v1","a"]"#] {
            assert!(Policy::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn excess_is_refused_in_tariff_mode() {
        let text = FULL.replace("share", "tariff").replace("largest_remainder", "half_even");
        assert_eq!(
            Policy::parse(text.as_bytes()).unwrap_err().to_string(),
            "`excess` is for share mode only"
        );
    }
}
