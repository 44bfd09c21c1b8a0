//! Why an actor got what it got, or nothing: from the derivation of a run and the actor's own rows.

use crate::epoch::Names;
use rewarder_decode::ActorRows;
use rewarder_model::{Amount, Mode, Policy};
use rewarder_reward::rounding::Rule;
use rewarder_reward::{Derivation, Outcome, Payer};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::fmt::{self, Write};

/// What is kept of a run to answer the question later.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// From what every payout follows; none when the run is unpayable.
    pub derivation: Option<Derivation>,
    /// Whether the snapshot's actor dictionary is in byte order.
    pub sorted: bool,
    /// Actors with a score.
    pub positive: u64,
}

impl Kept {
    /// Of a run that has just been computed.
    pub fn of(outcome: &Outcome, names: &dyn Names) -> Self {
        Self {
            derivation: outcome.derivation.clone(),
            sorted: names.order().is_none(),
            positive: outcome.scores.positive,
        }
    }
}

/// A fraction and its decimal, cut after nine digits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Exact {
    /// `numerator/denominator` in lowest terms; the numerator may have 77 digits.
    pub fraction: String,
    /// The decimal, cut, not rounded; ends in `…` if there is more.
    pub decimal: String,
}

/// Work in one category.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Work {
    /// The category.
    pub category: String,
    /// Units of all the actor's rows in it.
    pub units: String,
    /// Its weight, a decimal.
    pub weight: String,
    /// `units × weight`, a decimal.
    pub score: String,
}

/// What became of the share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Not in the epoch at all.
    Absent,
    /// The run is unpayable; nobody is paid.
    Unpayable,
    /// In the epoch, without a score.
    NoScore,
    /// Below the smallest payout.
    Dust,
    /// The share rounds to zero.
    RoundsToZero,
    /// Paid the cap.
    Capped,
    /// Paid the share.
    Paid,
}

/// The answer, as JSON and (by `Display`) in words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Why {
    /// Who.
    pub actor: String,
    /// What became of it.
    pub verdict: Verdict,
    /// What is paid, in minor units.
    #[schemars(with = "Amount")]
    pub payout_minor_units: String,
    /// What for.
    pub work: Vec<Work>,
    /// The score, a decimal at the policy's scale.
    pub score: String,
    /// The exact share before rounding, cap and dust, in minor units.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub share: Option<Exact>,
    /// 1 if rounding gave a unit more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remainder_units: Option<String>,
    /// The numbers of the run from which the share follows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run: Option<RunNumbers>,
    /// What a share that is not paid lacks to the smallest payout.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub short_of: Option<Short>,
    /// How a capped one was capped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cap: Option<CapStory>,
}

/// The numbers of a run: `share = pot × score / base`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RunNumbers {
    /// `share` or `tariff`.
    pub mode: Cow<'static, str>,
    /// `floor`, `half_even` or `largest_remainder`.
    pub rounding: Cow<'static, str>,
    /// The budget.
    #[schemars(with = "Amount")]
    pub budget_minor_units: String,
    /// What the uncapped share.
    #[schemars(with = "Amount")]
    pub pot_minor_units: String,
    /// The scores of those, a decimal; in tariff mode 1.
    pub base_score: String,
    /// Below this nothing is paid.
    #[schemars(with = "Amount")]
    pub min_payout_minor_units: String,
    /// The cap of an actor.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Amount>")]
    pub actor_cap_minor_units: Option<String>,
}

/// How far a share is from the smallest payout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Short {
    /// The smallest payout.
    #[schemars(with = "Amount")]
    pub min_payout_minor_units: String,
    /// `min_payout - share`.
    pub minor_units: String,
    /// The smallest score whose share at this run's rate (`pot / base`) is the smallest payout; none if no score of this
    /// run could have reached it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub score_needed: Option<String>,
}

/// The cap's doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CapStory {
    /// The cap.
    #[schemars(with = "Amount")]
    pub cap_minor_units: String,
    /// In which round, from 1; none if there were too many to retell, or if the cap came after the sharing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub round: Option<usize>,
    /// The share that was cut, rounded down, where it is known: of a capped round the one with which it began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub share_before: Option<String>,
    /// Where the excess went.
    pub excess: Cow<'static, str>,
    /// How much that was, where it is known: `share_before - cap`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Amount>")]
    pub excess_minor_units: Option<String>,
}

/// An integer at a decimal scale, without trailing zeros of the fraction.
pub fn decimal(value: u128, scale: u8) -> String {
    let unit = 10u128.pow(scale.into());
    let (whole, fraction) = (value / unit, value % unit);
    if fraction == 0 {
        return whole.to_string();
    }
    let digits = format!("{fraction:0width$}", width = scale.into());
    format!("{whole}.{}", digits.trim_end_matches('0'))
}

/// Digits after the point that are shown of a fraction.
const SHOWN: usize = 9;

/// `quotient + remainder / base` as a decimal, by long division.
fn cut_decimal(quotient: u128, mut remainder: u128, base: u128) -> String {
    let mut text = quotient.to_string();
    if remainder == 0 || base == 0 {
        return text;
    }
    text.push('.');
    for _ in 0..SHOWN {
        // base is below 10^38 < 2^127: ten times the remainder may pass 2^128, so the digit is found by subtraction.
        let mut digit = b'0';
        let mut sum = 0u128;
        for _ in 0..10 {
            match (base - sum).checked_sub(remainder) {
                Some(left) if left > 0 => sum += remainder,
                _ => {
                    digit += 1;
                    sum = remainder - (base - sum);
                }
            }
        }
        text.push(digit as char);
        remainder = sum;
        if remainder == 0 {
            return text;
        }
    }
    text.push('…');
    text
}

/// `(quotient * base + remainder) / base` in lowest terms. `remainder < base < 10^38`, so the numerator may need 253 bits.
fn fraction(quotient: u128, remainder: u128, base: u128) -> String {
    let (mut a, mut b) = (base, remainder);
    while b > 0 {
        (a, b) = (b, a % b);
    }
    let divisor = a.max(1);
    format!("{}/{}", mul_add(quotient, base / divisor, remainder / divisor), base / divisor)
}

/// `a * b + c` in decimal, by school multiplication in limbs of nine digits.
fn mul_add(a: u128, b: u128, c: u128) -> String {
    const LIMB: u128 = 1_000_000_000;
    let limbs = |mut n: u128| -> Vec<u128> {
        let mut limbs = vec![n % LIMB];
        while n >= LIMB {
            n /= LIMB;
            limbs.push(n % LIMB);
        }
        limbs
    };
    let (a, b, c) = (limbs(a), limbs(b), limbs(c));
    let mut sum = vec![0u128; a.len() + b.len() + c.len()];
    sum[..c.len()].copy_from_slice(&c);
    for (i, x) in a.iter().enumerate() {
        for (j, y) in b.iter().enumerate() {
            sum[i + j] += x * y;
        }
    }
    for at in 1..sum.len() {
        sum[at] += sum[at - 1] / LIMB;
        sum[at - 1] %= LIMB;
    }
    let text: String = sum.iter().rev().map(|limb| format!("{limb:09}")).collect();
    let text = text.trim_start_matches('0');
    if text.is_empty() { "0".into() } else { text.into() }
}

/// Explains one actor's payout.
pub fn explain(actor: &str, rows: Option<&ActorRows>, policy: &Policy, kept: &Kept) -> Why {
    let scale = policy.scale();
    let mut score = Some(0u128);
    let work = rows.into_iter().flat_map(|rows| &rows.units).map(|(category, units)| {
        let weight = policy.weight(category).unwrap_or(0);
        let part = units.checked_mul(weight.into());
        score = score.zip(part).and_then(|(score, part)| score.checked_add(part));
        Work {
            category: category.clone(),
            units: units.to_string(),
            weight: decimal(weight.into(), scale),
            score: part.map_or_else(|| "beyond 10^38".into(), |part| decimal(part, scale)),
        }
    });
    let work: Vec<Work> = work.collect();
    let mut why = Why {
        actor: actor.to_owned(),
        verdict: Verdict::Absent,
        payout_minor_units: "0".into(),
        work,
        score: score.map_or_else(|| "beyond 10^38".into(), |score| decimal(score, scale)),
        share: None,
        remainder_units: None,
        run: None,
        short_of: None,
        cap: None,
    };
    // A name without rows is not part of the epoch, even if the dictionary holds it.
    let Some(rows) = rows.filter(|rows| rows.rows > 0) else { return why };
    let (Some(derivation), Some(score)) = (&kept.derivation, score) else {
        why.verdict = Verdict::Unpayable;
        return why;
    };
    let payer = Payer::new(derivation);
    let steps = payer.steps(score, rows.rank);
    let base_scale = if derivation.tariff { 0 } else { scale };
    why.payout_minor_units = steps.payout.to_string();
    why.run = Some(RunNumbers {
        mode: if derivation.tariff { "tariff" } else { "share" }.into(),
        // The policy's: where nobody is left below the cap, the derivation had nothing to round.
        rounding: match policy.mode() {
            Mode::Share { rounding, .. } | Mode::Tariff { rounding } => rounding.as_str().into(),
        },
        budget_minor_units: derivation.budget.to_string(),
        pot_minor_units: derivation.pot.to_string(),
        base_score: if derivation.tariff { "1".into() } else { decimal(derivation.base, base_scale) },
        min_payout_minor_units: derivation.min_payout.to_string(),
        actor_cap_minor_units: derivation.actor_cap.map(|cap| cap.to_string()),
    });
    if !steps.capped_outright && score > 0 {
        why.share = Some(Exact {
            fraction: fraction(steps.quotient, steps.remainder, derivation.base),
            decimal: cut_decimal(steps.quotient, steps.remainder, derivation.base),
        });
        why.remainder_units = Some(steps.extra.to_string());
    }
    let capped = steps.capped_outright || steps.cut > 0;
    why.verdict = if score == 0 {
        Verdict::NoScore
    } else if steps.dust || (steps.payout == 0 && derivation.min_payout > 1) {
        // With a smallest payout of more than one unit, a share below a unit is dust like any other.
        Verdict::Dust
    } else if capped {
        // Also at nothing, if that is the cap.
        Verdict::Capped
    } else if steps.payout == 0 {
        Verdict::RoundsToZero
    } else {
        Verdict::Paid
    };
    // Where the cap is what lies below the smallest payout, no score would have helped.
    if matches!(why.verdict, Verdict::Dust | Verdict::RoundsToZero) && !capped {
        why.short_of = Some(short(derivation, steps.quotient, steps.remainder, scale));
    }
    if let (true, Some(cap)) = (capped, derivation.actor_cap) {
        let round =
            derivation.rounds.iter().position(|round| score > round.above).filter(|_| steps.capped_outright);
        let share = round.map(|round| share_in_round(derivation, score, round));
        let share = share.or((steps.cut > 0).then(|| steps.quotient + steps.extra));
        why.cap = Some(CapStory {
            cap_minor_units: cap.to_string(),
            round: round.map(|round| round + 1),
            share_before: share.map(|share| share.to_string()),
            excess: if steps.capped_outright && derivation.base > 0 {
                "went round again among those below the cap"
            } else if steps.capped_outright {
                "stayed unpaid, in the residual: nobody is below the cap"
            } else {
                "stayed unpaid, in the residual"
            }
            .into(),
            excess_minor_units: share
                .and_then(|share| share.checked_sub(cap))
                .map(|excess| excess.to_string()),
        });
    }
    why
}

/// The share that an actor would have had when a round began: of what the round before had left, or of everything.
fn share_in_round(derivation: &Derivation, score: u128, round: usize) -> u128 {
    let before = round.checked_sub(1).and_then(|round| derivation.rounds.get(round));
    let (pot, base) =
        before.map_or((derivation.budget, derivation.total_score), |round| (round.pot, round.base));
    share(derivation, pot, base, score).0
}

/// `floor(pot * score / base)` and the remainder, with nothing else done to it. `score <= base`.
fn share(derivation: &Derivation, pot: u128, base: u128, score: u128) -> (u128, u128) {
    let (capped_above, actor_cap, min_payout, rounding) = (None, None, 0, Rule::Floor);
    let bare = Derivation { pot, base, capped_above, actor_cap, min_payout, rounding, ..derivation.clone() };
    let steps = Payer::new(&bare).steps(score, 0);
    (steps.quotient, steps.remainder)
}

fn short(derivation: &Derivation, quotient: u128, remainder: u128, scale: u8) -> Short {
    // Nobody is paid nothing: a smallest payout of zero is one of a unit.
    let (min, pot, base) = (derivation.min_payout.max(1), derivation.pot, derivation.base);
    let missing_whole = min - quotient;
    // min - (q + r/b) = (min - q - 1) + (b - r)/b for r > 0
    let minor_units = if remainder == 0 {
        missing_whole.to_string()
    } else {
        cut_decimal(missing_whole - 1, base - remainder, base)
    };
    // The smallest s with pot * s >= min * base; in share mode nobody scores more than the base.
    let needed = if derivation.tariff {
        min.checked_mul(base)
    } else if min <= pot {
        let (quotient, remainder) = share(derivation, base, pot, min);
        Some(quotient + u128::from(remainder > 0))
    } else {
        None
    };
    Short {
        min_payout_minor_units: min.to_string(),
        minor_units,
        score_needed: needed.map(|needed| decimal(needed, scale)),
    }
}

/// Digits in groups of three, as people read them.
pub fn grouped(number: &str) -> String {
    let (whole, rest) = number.split_once('.').map_or((number, None), |(whole, rest)| (whole, Some(rest)));
    let mut text = String::with_capacity(number.len() * 4 / 3);
    for (at, digit) in whole.chars().enumerate() {
        if at > 0 && (whole.len() - at) % 3 == 0 && whole.bytes().all(|c| c.is_ascii_digit()) {
            text.push(',');
        }
        text.push(digit);
    }
    if let Some(rest) = rest {
        text.push('.');
        text.push_str(rest);
    }
    text
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let g = grouped;
        let verdict = match self.verdict {
            Verdict::Absent => "is in none of the epoch's rows, and gets nothing".to_owned(),
            Verdict::Unpayable => "gets nothing: the run is unpayable, nobody is paid".to_owned(),
            Verdict::NoScore => "gets nothing: its rows score nothing".to_owned(),
            Verdict::Dust if self.cap.is_some() => {
                "gets nothing: the most that one actor may get is below the smallest payout".to_owned()
            }
            Verdict::Dust => "gets nothing: its share is below the smallest payout".to_owned(),
            Verdict::RoundsToZero => "gets nothing: its share is below one minor unit".to_owned(),
            Verdict::Capped => {
                format!("gets {}, the most that one actor may get", g(&self.payout_minor_units))
            }
            Verdict::Paid => format!("gets {}", g(&self.payout_minor_units)),
        };
        writeln!(f, "{} {verdict}.", self.actor)?;
        for work in &self.work {
            let units = if work.units == "1" { "unit" } else { "units" };
            writeln!(
                f,
                "  {:<16} {} {units} × {} = {}",
                work.category,
                g(&work.units),
                work.weight,
                g(&work.score)
            )?;
        }
        if !self.work.is_empty() {
            writeln!(f, "  {:<16} {}", "score", g(&self.score))?;
        }
        if let (Some(run), Some(share)) = (&self.run, &self.share) {
            let mut how = String::new();
            if run.mode == "share" {
                write!(how, "{} × {} / {}", g(&run.pot_minor_units), g(&self.score), g(&run.base_score))?;
            } else {
                write!(how, "the score, rounded by {}", run.rounding)?;
            }
            writeln!(f, "  {:<16} {} minor units ({how})", "exact share", g(&share.decimal))?;
            if let Some((numerator, denominator)) = share.fraction.split_once('/').filter(|(_, d)| *d != "1")
            {
                writeln!(f, "  {:<16} {} / {}", "as a fraction", g(numerator), g(denominator))?;
            }
            match self.remainder_units.as_deref() {
                Some("0") | None => {}
                Some(_) => {
                    writeln!(f, "  {:<16} one unit more, by {}", "rounding", run.rounding.replace('_', " "))?
                }
            }
        }
        if let Some(short) = &self.short_of {
            writeln!(f, "  {:<16} {} minor units", "smallest payout", g(&short.min_payout_minor_units))?;
            write!(f, "  {:<16} {} minor units; ", "short of it by", g(&short.minor_units))?;
            match &short.score_needed {
                Some(score) => {
                    writeln!(f, "at this run's rate a score of {} would have been paid", g(score))?
                }
                None => writeln!(f, "no score would have reached it, there is less to share")?,
            }
        }
        if let Some(cap) = &self.cap {
            write!(f, "  {:<16} {} minor units", "cap", g(&cap.cap_minor_units))?;
            if let Some(round) = cap.round {
                write!(f, ", in round {round}")?;
            }
            if let Some(share) = &cap.share_before {
                write!(f, ", where the share was {}", g(share))?;
            }
            match &cap.excess_minor_units {
                Some(excess) => writeln!(f, "; the {} above it {}", g(excess), cap.excess)?,
                None => writeln!(f, "; what was above it {}", cap.excess)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals() {
        assert_eq!(decimal(1234500, 4), "123.45");
        assert_eq!(decimal(5, 18), "0.000000000000000005");
        assert_eq!(decimal(7, 0), "7");
        assert_eq!(cut_decimal(2, 1, 4), "2.25");
        assert_eq!(cut_decimal(0, 2, 3), "0.666666666…");
        let big = 10u128.pow(38) - 1;
        assert_eq!(cut_decimal(0, big - 1, big), "0.999999999…");
        assert_eq!(cut_decimal(0, big / 2, big), "0.499999999…");
    }

    #[test]
    fn fractions() {
        assert_eq!(fraction(2, 2, 8), "9/4");
        assert_eq!(fraction(7, 0, 5), "7/1");
        assert_eq!(fraction(0, 1, 3), "1/3");
        let big = 10u128.pow(38) - 1;
        assert_eq!(mul_add(big, big, 0), format!("{}8{}1", "9".repeat(37), "0".repeat(37)));
        assert_eq!(mul_add(0, big, 0), "0");
        assert_eq!(mul_add(1_000_000_000, 1_000_000_000, 999), "1000000000000000999");
    }

    fn derivation(pot: u128, base: u128, min_payout: u128) -> Derivation {
        Derivation {
            tariff: false,
            scale: 0,
            total_score: base,
            budget: pot,
            min_payout,
            actor_cap: None,
            pot,
            base,
            capped_above: None,
            capped: 0,
            rounds: Vec::new(),
            rounding: Rule::Floor,
            shared: 0,
        }
    }

    #[test]
    fn what_is_short_of_the_smallest_payout() {
        let check = |pot, base, min, score, minor_units: &str, needed: Option<&str>| {
            let derivation = derivation(pot, base, min);
            let steps = Payer::new(&derivation).steps(score, 0);
            let short = short(&derivation, steps.quotient, steps.remainder, 0);
            assert_eq!((short.minor_units.as_str(), short.score_needed.as_deref()), (minor_units, needed));
        };
        check(100, 1000, 10, 99, "0.1", Some("100"));
        check(100, 3000, 10, 1, "9.966666666…", Some("300"));
        check(5, 1000, 10, 1000, "5", None);
        // Nothing is no payout: a smallest payout of zero is one of a unit.
        check(10, 1000, 0, 1, "0.99", Some("100"));
        check(10, 10, 0, 0, "1", Some("1"));
        let big = 10u128.pow(37);
        check(10u128.pow(8), big, 100, 1, "99.999999999…", Some(&10u128.pow(31).to_string()));
    }

    #[test]
    fn the_share_of_a_later_round_is_of_what_was_left() {
        let round = |pot, base| rewarder_reward::Round { above: 0, capped: 1, claimed: 0, pot, base };
        let derivation = Derivation { rounds: vec![round(60, 50), round(40, 20)], ..derivation(100, 100, 1) };
        assert_eq!([0, 1].map(|at| share_in_round(&derivation, 30, at)), [30, 36]);
    }

    #[test]
    fn groups() {
        assert_eq!(grouped("1234567.5"), "1,234,567.5");
        assert_eq!(grouped("123"), "123");
        assert_eq!(grouped("beyond 10^38"), "beyond 10^38");
    }

    #[test]
    fn a_cap_of_nothing_is_what_one_gets_nothing_for() {
        let policy = r#"{ "schema": "rewarder.policy.v1", "id": "p", "mode": "share", "rounding": "floor",
            "weights": { "views": "1" }, "caps": { "actor_minor_units": "0", "excess": "residual" } }"#;
        let policy = Policy::parse(policy.as_bytes()).unwrap();
        let rows = ActorRows { rank: 0, rows: 1, units: [("views".to_owned(), 5)].into() };
        let derivation = Derivation { actor_cap: Some(0), ..derivation(1000, 8, 1) };
        let kept = Kept { derivation: Some(derivation), sorted: true, positive: 2 };
        let why = explain("ann", Some(&rows), &policy, &kept);
        assert_eq!((why.verdict, why.payout_minor_units.as_str()), (Verdict::Capped, "0"));
        assert!(why.to_string().starts_with("ann gets 0, the most that one actor may get."), "{why}");
    }
}
