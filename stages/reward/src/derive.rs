//! The derivation: the few numbers of a run from which every payout follows by itself.
//!
//! `payout(a) = f(derivation, S_a, rank of a)`. The kernel finds the numbers once; the table, a single actor's
//! explanation and an auditor's check all apply the same function, and nothing else has to be kept to answer *why*.

use crate::cap::{self, Round};
use crate::rounding::Rule;
use crate::rounding::largest_remainder::{self, Counts, Remainders};
use crate::score::Scores;
use crate::wide::{self, Divisor, Fractional, Short};
use rayon::prelude::*;
use rewarder_model::{Excess, Mode, Policy, Rounding};
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// Remainders below so small a part of the divisor seldom come to a unit: they are counted only if those above are too few.
const UNLIKELY_PART: u128 = 4;

/// The numbers of a run. Scores are integers at `scale` decimal places, money is minor units.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Derivation {
    /// A price list instead of shares.
    pub tariff: bool,
    /// `k`, the policy's decimal scale.
    pub scale: u8,
    /// `S`, the sum of all scores.
    #[serde(with = "crate::text")]
    pub total_score: u128,
    /// `B`, the smaller of pool and epoch cap.
    #[serde(with = "crate::text")]
    pub budget: u128,
    /// Payouts below this are dust.
    #[serde(with = "crate::text")]
    pub min_payout: u128,
    /// `C`, the cap of one actor.
    #[serde(with = "crate::text::optional")]
    pub actor_cap: Option<u128>,
    /// What a score is multiplied by: `B'` in share mode, 1 in tariff mode.
    #[serde(with = "crate::text")]
    pub pot: u128,
    /// What it is divided by: `S'` in share mode, `10^k` in tariff mode. Zero if there is nobody to share.
    #[serde(with = "crate::text")]
    pub base: u128,
    /// Scores above this get the cap outright, the excess having gone round again.
    #[serde(with = "crate::text::optional")]
    pub capped_above: Option<u128>,
    /// How many those are.
    pub capped: u64,
    /// The rounds in which they were capped; empty when there were too many to retell.
    pub rounds: Vec<Round>,
    /// The rounding rule and its findings.
    pub rounding: Rule,
    /// `Σ` of the quotients and extra units of everyone who is not capped outright.
    #[serde(with = "crate::text")]
    pub shared: u128,
}

/// How one actor's payout came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Steps {
    /// The score.
    pub score: u128,
    /// The score is above the line of the cap: the payout is the cap, and there was no share to compute.
    pub capped_outright: bool,
    /// `floor(pot * score / base)`
    pub quotient: u128,
    /// `pot * score mod base`
    pub remainder: u128,
    /// 1 if rounding gave one unit more.
    pub extra: u128,
    /// What the cap of an actor took away afterwards and left unpaid.
    pub cut: u128,
    /// What would have been paid was below the smallest payout.
    pub dust: bool,
    /// What is paid.
    pub payout: u128,
}

impl Derivation {
    /// Finds the numbers of a run whose total is `total`, below 10^38.
    pub fn of(scores: &Scores, policy: &Policy, budget: u128, total: u128) -> Self {
        let mut this = Self {
            tariff: matches!(policy.mode(), Mode::Tariff { .. }),
            scale: policy.scale(),
            total_score: total,
            budget,
            min_payout: policy.min_payout().get(),
            actor_cap: policy.actor_cap().map(|cap| cap.get()),
            pot: 1,
            base: 10u128.pow(policy.scale().into()),
            capped_above: None,
            capped: 0,
            rounds: Vec::new(),
            rounding: Rule::Floor,
            shared: 0,
        };
        match policy.mode() {
            Mode::Tariff { rounding } => {
                if rounding == Rounding::HalfEven {
                    this.rounding = Rule::HalfEven;
                }
            }
            Mode::Share { rounding, excess } => {
                (this.pot, this.base) = (budget, total);
                if let (Some(cap), Excess::Redistribute) = (this.actor_cap, excess)
                    && total > 0
                {
                    let found = cap::find(scores, budget, cap, total);
                    let capped = found.0;
                    if capped.count > 0 {
                        this.capped_above = Some(capped.above);
                        this.capped = capped.count;
                        this.rounds = cap::rounds(scores, budget, cap, total, found);
                        this.pot = budget - cap * u128::from(capped.count);
                        this.base = total - capped.score;
                    }
                }
                this.share(scores, rounding);
            }
        }
        this
    }

    /// Adds up the quotients, and for the largest remainders finds who gets what is missing.
    fn share(&mut self, scores: &Scores, rounding: Rounding) {
        match Divider::of(self) {
            Some(Divider { short: Some(short), .. }) if scores.are_short() => match short.fractional() {
                Some(fractional) => self.share_by(scores, rounding, fractional),
                None => self.share_by(scores, rounding, short),
            },
            Some(divider) => self.share_by(scores, rounding, divider),
            None => {}
        }
    }

    fn share_by(&mut self, scores: &Scores, rounding: Rounding, divide: impl Divide) {
        let largest = rounding == Rounding::LargestRemainder;
        let below = self.capped_above.unwrap_or(u128::MAX);
        let shares = Shares { scores, divide, pot: self.pot, below };
        // Whoever has a share below this adds nothing to the quotients, and most actors may be such. Whether their remainders
        // come to one of the units that are left over is seen when the larger ones have been counted.
        let from = if largest { self.base / UNLIKELY_PART } else { self.base };
        let empty = || (0u128, largest.then(|| Counts::for_divisor(self.base, from)));
        let (quotients, counts) = scores
            .tasks()
            .fold(empty, |(mut sum, mut counts), range| {
                shares.each_with(range, from, |_, (q, r)| {
                    sum += q;
                    if let Some(counts) = &mut counts {
                        counts.add(r);
                    }
                });
                (sum, counts)
            })
            .reduce(empty, |a, b| (a.0 + b.0, a.1.zip(b.1).map(|(a, b)| a.merge(b))));
        self.shared = quotients;
        if let Some(counts) = counts {
            let missing = self.pot - quotients;
            let cut = largest_remainder::cut(missing, counts, &shares);
            self.rounding = Rule::LargestRemainder(cut);
            self.shared = self.pot;
        }
    }
}

/// The remainders of a share run, found again each time they are asked for rather than kept.
struct Shares<'a, D> {
    scores: &'a Scores,
    divide: D,
    pot: u128,
    below: u128,
}

impl<D: Divide> Shares<'_, D> {
    /// Quotient and remainder of all whose quotient is above zero or whose remainder is at least `least`, which is at most the base,
    /// and perhaps of others.
    #[inline]
    fn each_with(&self, range: Range<usize>, least: u128, mut take: impl FnMut(usize, (u128, u128))) {
        // Below this a score times the pot is below `least`: that is the remainder, and the quotient is zero.
        let least_score = if self.pot == 0 { 0 } else { least.div_ceil(self.pot) };
        self.scores.each_from(range, least_score, |rank, score| {
            if score <= self.below {
                take(rank, self.divide.divide(score));
            }
        });
    }
}

impl<D: Divide> Remainders for Shares<'_, D> {
    fn tasks(&self) -> impl IndexedParallelIterator<Item = Range<usize>> {
        self.scores.tasks()
    }

    fn each_from(&self, range: Range<usize>, least: u128, mut take: impl FnMut(usize, u128)) {
        self.each_with(range, least, |rank, (_, r)| take(rank, r));
    }
}

/// Quotient and remainder of `pot * score / base`. The loops over all actors are compiled for each way to find them.
trait Divide: Copy + Sync {
    fn divide(&self, score: u128) -> (u128, u128);
}

impl Divide for Divider {
    #[inline]
    fn divide(&self, score: u128) -> (u128, u128) {
        if let (Some(short), Ok(score)) = (&self.short, u64::try_from(score)) {
            return short.divide(score);
        }
        self.long(score)
    }
}

/// For scores below 2^64 only: see [`Scores::are_short`].
impl Divide for Short {
    #[inline]
    fn divide(&self, score: u128) -> (u128, u128) {
        Short::divide(self, score as u64)
    }
}

impl Divide for Fractional {
    #[inline]
    fn divide(&self, score: u128) -> (u128, u128) {
        let (q, r) = Fractional::divide(self, score as u64);
        (q.into(), r.into())
    }
}

/// Multiplies by the pot and divides by the base of a run, on the narrowest path that is exact.
#[derive(Debug, Clone, Copy)]
struct Divider {
    pot: u128,
    divisor: Divisor,
    short: Option<Short>,
    narrow: bool,
}

impl Divider {
    /// None when the base is zero: then nobody has a score that counts.
    fn of(derivation: &Derivation) -> Option<Self> {
        let Derivation { pot, base, .. } = *derivation;
        let divisor = Divisor::new(base)?;
        // Shares: score <= base, so that pot bounds every quotient and pot * base every product. Tariffs: the pot is 1.
        let narrow = pot == 1 || pot.checked_mul(base).is_some();
        Some(Self { pot, divisor, short: Short::new(pot, base), narrow })
    }

    #[inline(never)]
    fn long(&self, score: u128) -> (u128, u128) {
        if self.narrow {
            let product = self.pot * score;
            if product < self.divisor.get() { (0, product) } else { self.divisor.narrow(product) }
        } else {
            self.divisor.wide(wide::mul(self.pot, score))
        }
    }
}

/// A derivation made ready to be applied to many scores.
#[derive(Debug, Clone, Copy)]
pub struct Payer<'a> {
    derivation: &'a Derivation,
    divider: Option<Divider>,
    /// Scores below this cannot reach the smallest payout, whatever rounding adds.
    dust_below: u128,
}

impl<'a> Payer<'a> {
    /// For one run.
    pub fn new(derivation: &'a Derivation) -> Self {
        let divider = Divider::of(derivation);
        let mut this = Self { derivation, divider, dust_below: 0 };
        if derivation.actor_cap.is_none_or(|cap| cap >= derivation.min_payout) {
            this.dust_below = this.reach(derivation.min_payout);
        }
        this
    }

    /// Scores below this are paid less than so much, which need not be computed; of what a cap allows.
    #[inline]
    pub fn reach(&self, payout: u128) -> u128 {
        // floor(pot * s / base) + 1 < payout as soon as s < floor((payout - 1) * base / pot).
        Divisor::new(self.derivation.pot)
            .zip(payout.checked_sub(1))
            .and_then(|(pot, less)| wide::mul_div(less, self.derivation.base, &pot))
            .unwrap_or(0)
    }

    /// Scores below this get nothing, which need not be computed.
    #[inline]
    pub fn dust_below(&self) -> u128 {
        self.dust_below
    }

    /// How the payout of a score at a canonical position comes about. Always inlined: of most calls only the payout is wanted.
    #[inline(always)]
    pub fn steps(&self, score: u128, rank: usize) -> Steps {
        let d = self.derivation;
        let mut steps = Steps {
            score,
            capped_outright: false,
            quotient: 0,
            remainder: 0,
            extra: 0,
            cut: 0,
            dust: false,
            payout: 0,
        };
        if score == 0 {
            return steps;
        }
        if let (Some(above), Some(cap)) = (d.capped_above, d.actor_cap)
            && score > above
        {
            steps.capped_outright = true;
            steps.payout = cap;
        } else if let Some(divider) = &self.divider {
            (steps.quotient, steps.remainder) = divider.divide(score);
            steps.extra = d.rounding.extra(steps.quotient, steps.remainder, d.base, rank);
            steps.payout = steps.quotient + steps.extra;
            if let Some(cap) = d.actor_cap
                && steps.payout > cap
            {
                steps.cut = steps.payout - cap;
                steps.payout = cap;
            }
        }
        if steps.payout < d.min_payout {
            steps.dust = steps.payout > 0;
            steps.payout = 0;
        }
        steps
    }
}
