//! The kernel against an oracle that takes contract §4 at its word: big integers, literal rounds of capping, a sort for
//! the largest remainders, one actor after the other.
//!
//! Everything goes in and comes out through the public interface: rows into lanes, a policy as JSON, the canonical text
//! and the manifest. [`Case`] is an epoch with its policy, [`oracle`] says what has to come of it.

use num_bigint::BigUint;
use proptest::prelude::*;
use rewarder_model::manifest::{Status, Unpayable};
use rewarder_model::{Cid, Names, Policy, SnapshotHeader};
use rewarder_reward::{Derivation, Lane, Outcome, Payer, Scorer, Scores, compute, derive, lines, payable};
use std::collections::{BTreeMap, BTreeSet};

/// 10^38: no amount and no total of scores reaches it.
const LIMIT: u128 = 10u128.pow(38);
/// A weight of one at scale 10, and one of 2^63: two rows make any score below the limit. And the largest weight.
const ONE: &str = "0.0000000001";
const TWO_TO_63: &str = "922337203.6854775808";
const MOST: &str = "1844674407.3709551615";

// ------------------------------------------------------------------------------------------------ cases

/// Names and, unless they stand in it, their byte order.
#[derive(Debug, Clone)]
struct List {
    names: Vec<String>,
    order: Option<Vec<u32>>,
}

impl List {
    fn new(names: Vec<String>) -> Self {
        let mut order: Vec<u32> = (0..names.len() as u32).collect();
        order.sort_by_key(|index| names[*index as usize].as_bytes());
        let order = Some(order).filter(|order| !order.is_sorted());
        Self { names, order }
    }

    /// The index of the name at a rank.
    fn at(&self, rank: usize) -> usize {
        self.order.as_ref().map_or(rank, |order| order[rank] as usize)
    }
}

impl Names for List {
    fn len(&self) -> usize {
        self.names.len()
    }

    fn name(&self, index: usize) -> &[u8] {
        self.names[index].as_bytes()
    }

    fn order(&self) -> Option<&[u32]> {
        self.order.as_deref()
    }
}

type Row = (u32, u8, u64);

/// An epoch and its policy.
#[derive(Debug, Clone)]
struct Case {
    actors: List,
    /// By category key.
    weights: Vec<&'static str>,
    rows: Vec<Row>,
    pool: u128,
    rule: Rule,
}

/// What a policy says beside the weights.
#[derive(Debug, Clone, Copy)]
struct Rule {
    mode: &'static str,
    rounding: &'static str,
    excess: Option<&'static str>,
    min_payout: Option<u128>,
    epoch_cap: Option<u128>,
    actor_cap: Option<u128>,
}

impl Rule {
    const SHARE: Self = Self {
        mode: "share",
        rounding: "largest_remainder",
        excess: None,
        min_payout: None,
        epoch_cap: None,
        actor_cap: None,
    };

    fn residual(&self) -> bool {
        self.excess == Some("residual")
    }
}

/// Adds rows, actor key, category key and units, as the columns that a snapshot has.
fn add(scorer: &Scorer, lane: &mut Lane, first_row: u64, rows: &[Row]) {
    let actors: Vec<[u8; 4]> = rows.iter().map(|row| row.0.to_le_bytes()).collect();
    let categories: Vec<u8> = rows.iter().map(|row| row.1).collect();
    let units: Vec<[u8; 8]> = rows.iter().map(|row| row.2.to_le_bytes()).collect();
    scorer.add(lane, first_row, &actors, &categories, &units);
}

impl Case {
    /// A case in which the actors `a0000`, `a0001`, ... have just these scores (at scale 10).
    fn scored(scores: &[u128], pool: u128, rule: Rule) -> Self {
        let mut rows = Vec::new();
        for (actor, score) in (0..).zip(scores) {
            rows.push((actor, 0, (score & ((1 << 63) - 1)) as u64));
            rows.push((actor, 1, u64::try_from(score >> 63).unwrap()));
        }
        let actors = List::new((0..scores.len()).map(|n| format!("a{n:04}")).collect());
        Self { actors, weights: vec![ONE, TWO_TO_63], rows, pool, rule }
    }

    fn policy(&self) -> Policy {
        let weights: Vec<String> =
            (0..).zip(&self.weights).map(|(key, w): (usize, _)| format!("\"c{key}\":\"{w}\"")).collect();
        let Rule { mode, rounding, excess, min_payout, epoch_cap, actor_cap } = self.rule;
        let amount =
            |name: &str, amount: Option<u128>| amount.map(|amount| format!("\"{name}\":\"{amount}\""));
        let excess = excess.map(|excess| format!("\"excess\":\"{excess}\""));
        let caps = [amount("epoch_minor_units", epoch_cap), amount("actor_minor_units", actor_cap), excess];
        let caps: Vec<String> = caps.into_iter().flatten().collect();
        let min = amount("min_payout_minor_units", min_payout).map_or(String::new(), |min| min + ",");
        let text = format!(
            r#"{{"schema":"rewarder.policy.v1","id":"p","mode":"{mode}","weights":{{{}}},"rounding":"{rounding}",{min}"caps":{{{}}}}}"#,
            weights.join(","),
            caps.join(","),
        );
        Policy::parse(text.as_bytes()).unwrap_or_else(|e| panic!("{e}: {text}"))
    }

    fn header(&self) -> SnapshotHeader {
        SnapshotHeader {
            tenant: "acme".parse().unwrap(),
            epoch: "e1".parse().unwrap(),
            asset: "roc".parse().unwrap(),
            pool: self.pool.to_string().parse().unwrap(),
        }
    }

    /// Scores the rows, `lane(number)` saying which of `lanes` a row goes to; rows of one lane that follow each other come
    /// in one piece.
    fn scores(&self, lanes: usize, lane: impl Fn(usize) -> usize) -> Scores {
        let categories = List::new((0..self.weights.len()).map(|key| format!("c{key}")).collect());
        let scorer = Scorer::new(&self.policy(), self.actors.len(), &categories);
        assert_eq!(scorer.lane_bytes(), 8 * self.actors.len() as u64);
        let mut filled: Vec<_> = (0..lanes).map(|_| scorer.lane()).collect();
        let numbered: Vec<(usize, Row)> = self.rows.iter().copied().enumerate().collect();
        for piece in numbered.chunk_by(|a, b| lane(a.0) == lane(b.0)) {
            let rows: Vec<Row> = piece.iter().map(|(_, row)| *row).collect();
            add(&scorer, &mut filled[lane(piece[0].0)], piece[0].0 as u64, &rows);
        }
        let merged = Scores::merge(filled, self.actors.len()).expect("all categories have weights");
        merged.in_order(self.actors.order())
    }

    fn outcome(&self, scores: Scores) -> Outcome {
        let (header, policy, rows) = (self.header(), self.policy(), self.rows.len() as u64);
        let derived = derive(&header, &policy, &scores);
        let payable = derived.as_ref().map(|derived| payable(derived, &scores));
        let outcome = compute(&header, Cid::of(b"inputs"), rows, &policy, scores, None, &self.actors)
            .expect("no breach");
        // Whoever is paid was known to be payable before names were at hand.
        if let Some(payable) = payable {
            outcome.table.each_paid(0..self.actors.len(), |rank| assert!(payable.contains(rank)));
        }
        outcome
    }

    fn run(&self) -> Outcome {
        self.outcome(self.scores(1, |_| 0))
    }
}

/// What is paid, by name.
fn paid(outcome: &Outcome) -> BTreeMap<String, u128> {
    let text = outcome.table.pieces().collect::<Vec<_>>().concat();
    lines(&text)
        .map(|line| line.unwrap())
        .map(|line| (String::from_utf8(line.name.to_vec()).unwrap(), line.payout))
        .collect()
}

// ------------------------------------------------------------------------------------------------ the oracle

/// What the contract says has to come of a case.
#[derive(Debug)]
struct Expected {
    verdict: Option<Unpayable>,
    demanded: Option<BigUint>,
    budget: u128,
    /// Distinct actors among the rows.
    actors: u64,
    /// In byte order of the names; zeros left out.
    payouts: Vec<(String, BigUint)>,
    /// Who is capped with the excess going round again, and in how many rounds that was found.
    capped: BTreeSet<usize>,
    rounds: usize,
}

/// `(digits, fraction digits)` of a decimal, without trailing zeros.
fn decimal(text: &str) -> (BigUint, usize) {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let fraction = fraction.trim_end_matches('0');
    (format!("{whole}{fraction}").parse().unwrap(), fraction.len())
}

fn big(n: u128) -> BigUint {
    BigUint::from(n)
}

fn oracle(case: &Case) -> Expected {
    let zero = BigUint::ZERO;
    let decimals: Vec<_> = case.weights.iter().map(|weight| decimal(weight)).collect();
    let scale = decimals.iter().map(|(_, fraction)| *fraction).max().unwrap_or(0);
    let ten = |power: usize| big(10).pow(power as u32);
    let weights: Vec<BigUint> =
        decimals.iter().map(|(digits, fraction)| digits * ten(scale - fraction)).collect();
    let mut scores = vec![zero.clone(); case.actors.len()];
    let mut seen = BTreeSet::new();
    for (actor, category, units) in &case.rows {
        scores[*actor as usize] += BigUint::from(*units) * &weights[usize::from(*category)];
        seen.insert(*actor);
    }
    let total: BigUint = scores.iter().sum();
    let rule = case.rule;
    let budget = rule.epoch_cap.map_or(case.pool, |cap| cap.min(case.pool));
    let mut expected = Expected {
        verdict: None,
        demanded: None,
        budget,
        actors: seen.len() as u64,
        payouts: Vec::new(),
        capped: BTreeSet::new(),
        rounds: 0,
    };
    if total >= big(LIMIT) {
        expected.verdict = Some(Unpayable::Overflow);
        return expected;
    }
    let mut payouts = vec![zero.clone(); scores.len()];
    if rule.mode == "tariff" {
        let unit = ten(scale);
        for (payout, score) in payouts.iter_mut().zip(&scores) {
            *payout = score / &unit;
            let twice = (score % &unit) * 2u8;
            let odd = &*payout % 2u8 == big(1);
            if rule.rounding == "half_even" && (twice > unit || (twice == unit && odd)) {
                *payout += 1u8;
            }
        }
    } else {
        let (mut pot, mut base) = (big(budget), total.clone());
        if let (Some(cap), false) = (rule.actor_cap, rule.residual()) {
            loop {
                let round: Vec<usize> = (0..scores.len())
                    .filter(|actor| {
                        !expected.capped.contains(actor) && &pot * &scores[*actor] > big(cap) * &base
                    })
                    .collect();
                if round.is_empty() {
                    break;
                }
                expected.rounds += 1;
                expected.capped.extend(round);
                pot = big(budget) - big(cap) * expected.capped.len();
                base = &total - expected.capped.iter().map(|actor| &scores[*actor]).sum::<BigUint>();
            }
            expected.capped.iter().for_each(|actor| payouts[*actor] = big(cap));
        }
        let others: Vec<usize> = (0..scores.len())
            .filter(|actor| !expected.capped.contains(actor) && scores[*actor] > zero)
            .collect();
        let mut missing = pot.clone();
        for actor in &others {
            payouts[*actor] = &pot * &scores[*actor] / &base;
            missing -= &payouts[*actor];
        }
        if rule.rounding == "largest_remainder" && !others.is_empty() {
            let mut ranked = others;
            ranked.sort_by(|a, b| {
                let remainder = |actor: &usize| &pot * &scores[*actor] % &base;
                remainder(b).cmp(&remainder(a)).then_with(|| case.actors.name(*a).cmp(case.actors.name(*b)))
            });
            let missing = usize::try_from(&missing).unwrap();
            ranked[..missing].iter().for_each(|actor| payouts[*actor] += 1u8);
        }
    }
    if let Some(cap) = rule.actor_cap {
        payouts.iter_mut().for_each(|payout| *payout = std::mem::take(payout).min(big(cap)));
    }
    let min = big(rule.min_payout.unwrap_or(1));
    let mut lines: Vec<(String, BigUint)> = (case.actors.names.iter().cloned().zip(payouts))
        .filter(|(_, payout)| *payout >= min && *payout > zero)
        .collect();
    lines.sort_by(|a, b| a.0.as_bytes().cmp(b.0.as_bytes()));
    let demanded: BigUint = lines.iter().map(|(_, payout)| payout).sum();
    if rule.mode == "tariff" && demanded > big(budget) {
        expected.verdict = Some(Unpayable::OverBudget);
        expected.demanded = Some(demanded);
        return expected;
    }
    expected.payouts = lines;
    expected
}

/// The kernel gives what the oracle gives, to the byte.
fn agrees(case: &Case, outcome: &Outcome) -> Expected {
    let expected = oracle(case);
    let text: String = expected.payouts.iter().map(|(name, payout)| format!("{name}\t{payout}\n")).collect();
    assert_eq!(String::from_utf8(outcome.table.pieces().collect::<Vec<_>>().concat()).unwrap(), text);
    let manifest = &outcome.manifest;
    let sum: BigUint = expected.payouts.iter().map(|(_, payout)| payout).sum();
    assert_eq!(manifest.allocations_root, Cid::of(text.as_bytes()));
    assert_eq!(manifest.inputs.actors, expected.actors, "distinct actors");
    assert_eq!(manifest.inputs.rows, case.rows.len() as u64);
    assert_eq!(manifest.reason, expected.verdict);
    assert_eq!(manifest.status, if expected.verdict.is_some() { Status::Unpayable } else { Status::Ok });
    assert_eq!(manifest.totals.recipients, expected.payouts.len() as u64);
    assert_eq!(manifest.totals.budget_minor_units.get(), expected.budget);
    assert_eq!(manifest.totals.pool_minor_units.get(), case.pool);
    assert_eq!(big(manifest.totals.payout_minor_units.get()), sum);
    assert_eq!(big(manifest.totals.residual_minor_units.get()), big(expected.budget) - &sum);
    assert_eq!(manifest.totals.demanded_minor_units.map(|demanded| big(demanded.get())), expected.demanded);
    assert_eq!(outcome.commitment, Cid::of(&outcome.manifest_bytes));
    assert_eq!(outcome.derivation.is_some(), expected.verdict.is_none());
    if let Some(derivation) = &outcome.derivation {
        assert_eq!(
            derivation.capped,
            expected.capped.len() as u64,
            "as many are capped as in the literal rounds"
        );
        if let Some(above) = derivation.capped_above {
            let found: BTreeSet<usize> = (0..outcome.scores.len())
                .filter(|rank| outcome.scores.at(*rank) > above)
                .map(|rank| case.actors.at(rank))
                .collect();
            assert_eq!(found, expected.capped, "and they are the same");
        }
    }
    expected
}

/// The laws that hold of every outcome by itself.
fn laws(case: &Case, outcome: &Outcome) {
    let totals = &outcome.manifest.totals;
    let (budget, residual) = (totals.budget_minor_units.get(), totals.residual_minor_units.get());
    let paid = paid(outcome);
    let sum: u128 = paid.values().sum();
    assert_eq!(sum + residual, budget, "conservation");
    assert_eq!(sum, totals.payout_minor_units.get());
    assert_eq!(outcome.table.len(), outcome.table.pieces().map(|piece| piece.len() as u64).sum::<u64>());
    assert_eq!(outcome.table.is_empty(), paid.is_empty());
    if let Some(cap) = case.rule.actor_cap {
        assert!(paid.values().all(|payout| *payout <= cap), "caps");
    }
    assert!(paid.values().all(|payout| *payout >= case.rule.min_payout.unwrap_or(1).max(1)), "dust");
    let Some(derivation) = &outcome.derivation else { return };
    let read: Derivation = serde_json::from_str(&serde_json::to_string(derivation).unwrap()).unwrap();
    assert_eq!(read, *derivation, "JSON and back");
    // Steps of each actor, by the derivation that went through JSON: the table line for line, and the parts of the budget.
    let payer = Payer::new(&read);
    let (mut shared, mut dust, mut cut, mut last) = (0u128, 0u128, 0u128, (0u128, 0u128));
    let mut ascending = Vec::new();
    for rank in 0..outcome.scores.len() {
        let score = outcome.scores.at(rank);
        let steps = payer.steps(score, rank);
        let name = &case.actors.names[case.actors.at(rank)];
        assert_eq!(steps.payout, paid.get(name).copied().unwrap_or(0), "{name}: {steps:?}");
        assert_eq!(steps.score, score);
        assert!(score >= payer.dust_below() || (steps.payout == 0 && steps.cut == 0), "{steps:?}");
        assert!(steps.extra <= 1 && steps.remainder < read.base.max(1), "{steps:?}");
        let before =
            if steps.capped_outright { read.actor_cap.unwrap() } else { steps.quotient + steps.extra };
        assert_eq!(
            before,
            steps.payout + steps.cut + if steps.dust { before - steps.cut } else { 0 },
            "{steps:?}"
        );
        shared += if steps.capped_outright { 0 } else { before };
        dust += if steps.dust { before - steps.cut } else { 0 };
        cut += steps.cut;
        ascending.push((score, steps.payout));
    }
    assert_eq!(cut, outcome.table.cut);
    let ranges = outcome.table.cut(64);
    let mut lines = 0;
    for (at, range) in ranges.iter().enumerate() {
        let mut count = 0;
        outcome.recipients(range.clone(), 0, &case.actors, |_, _, _| count += 1);
        assert!((1..=64).contains(&count), "{count} lines in {range:?}");
        assert_eq!(range.start, at.checked_sub(1).map_or(0, |before| ranges[before].end));
        lines += count;
    }
    assert_eq!(lines, paid.len(), "cut into ranges, none is lost");
    // Asked for those of at least so much: no fewer and no more, in canonical order.
    let names = &case.actors;
    for least in [0, 1, outcome.table.largest / 2, outcome.table.largest, outcome.table.largest + 1] {
        let mut found = Vec::new();
        outcome.recipients(0..outcome.scores.len(), least, names, |name, _, payout| {
            found.push((String::from_utf8(name.to_vec()).unwrap(), payout));
        });
        let asked = paid.iter().filter(|(_, payout)| **payout >= least.max(1));
        assert_eq!(found, asked.map(|(name, payout)| (name.clone(), *payout)).collect::<Vec<_>>());
    }
    assert_eq!(paid.values().max().copied().unwrap_or(0), outcome.table.largest);
    if read.tariff {
        assert_eq!(shared, sum + dust + cut, "what the price list says is paid, cut or dust");
    } else {
        let capped = read.actor_cap.unwrap_or(0) * u128::from(read.capped);
        assert_eq!(capped + read.pot, budget, "the budget is the pot and the caps");
        assert_eq!(shared, read.shared);
        assert_eq!(
            residual,
            dust + cut + (read.pot - shared),
            "the residual is dust, cuts and what rounding left"
        );
        assert_eq!(capped + shared, sum + dust + cut);
        if matches!(case.rule.rounding, "largest_remainder") && read.base > 0 {
            assert_eq!(shared, read.pot, "the largest remainders leave nothing");
        }
    }
    // Who scores more is paid no less. The sort is stable, so equal scores stay in byte order: the first is paid most.
    ascending.reverse();
    ascending.sort_by_key(|(score, _)| *score);
    for (score, payout) in ascending {
        assert!(payout >= last.1, "{score} is paid {payout}, {} is paid {}", last.0, last.1);
        last = (score, payout);
    }
}

// ------------------------------------------------------------------------------------------------ strategies

/// Numbers of every width, small ones and the extremes.
fn number(limit: u128) -> impl Strategy<Value = u128> {
    prop_oneof![
        2 => (any::<u128>(), 0u32..127).prop_map(move |(n, shift)| (n >> shift) % limit),
        1 => (0u128..30).prop_map(move |n| n % limit),
        1 => (1u128..4).prop_map(move |n| limit - n.min(limit)),
    ]
}

fn rule(pool: u128) -> impl Strategy<Value = Rule> {
    let part = move || {
        prop_oneof![
            3 => Just(None),
            1 => Just(Some(0)),
            3 => (1u128..60).prop_map(move |n| Some(pool / n)),
            1 => number(LIMIT).prop_map(Some),
        ]
    };
    let min = prop_oneof![
        3 => Just(None),
        1 => (0u128..50).prop_map(Some),
        2 => (1u128..200).prop_map(move |n| Some(pool / n)),
    ];
    let kind = prop_oneof![
        3 => prop_oneof![Just("floor"), Just("largest_remainder")].prop_flat_map(|rounding| {
            let excess = prop_oneof![Just(None), Just(Some("redistribute")), Just(Some("residual"))];
            (Just("share"), Just(rounding), excess)
        }),
        1 => (Just("tariff"), prop_oneof![Just("floor"), Just("half_even")], Just(None)),
    ];
    (kind, min, part(), part()).prop_map(|((mode, rounding, excess), min_payout, epoch_cap, actor_cap)| {
        Rule { mode, rounding, excess, min_payout, epoch_cap, actor_cap }
    })
}

/// Sets of weights that go together, by how wide the scores become.
const WEIGHTS: [&[&str]; 5] = [
    &["0.3", "0.7"],
    &["1", "0", "2.50", "12"],
    &["0.5", "0.25"],
    &["0.000000000000000001", "18.446744073709551615", "1.5"],
    &[MOST, ONE, TWO_TO_63],
];

fn units() -> impl Strategy<Value = u64> {
    prop_oneof![
        1 => Just(0),
        4 => 1u64..40,
        3 => (any::<u64>(), 0u32..64).prop_map(|(n, shift)| n >> shift),
        1 => Just(u64::MAX),
    ]
}

fn case() -> impl Strategy<Value = Case> {
    let names = prop::collection::btree_set("[a-cé]{1,4}", 1..30).prop_map(Vec::from_iter).prop_shuffle();
    let pool = prop_oneof![3 => number(LIMIT), 1 => 0u128..100_000, 1 => Just(LIMIT - 1)];
    (names, 0..WEIGHTS.len(), pool)
        .prop_flat_map(|(names, weights, pool)| {
            let row = (0..names.len() as u32, 0..WEIGHTS[weights].len() as u8, units());
            (Just((names, weights, pool)), prop::collection::vec(row, 0..80), rule(pool))
        })
        .prop_map(|((names, weights, pool), rows, rule)| Case {
            actors: List::new(names),
            weights: WEIGHTS[weights].to_vec(),
            rows,
            pool,
            rule,
        })
}

/// Scores that are hard for caps and remainders: ladders, crowds, giants.
fn scores() -> impl Strategy<Value = Vec<u128>> {
    prop_oneof![
        prop::collection::vec(number(LIMIT / 64), 0..60),
        // Geometric, by any ratio.
        (1usize..60, 2u128..17, 1u128..4, 1u128..1000).prop_map(|(n, up, down, first)| {
            let ladder =
                std::iter::successors(Some(first), move |s| Some(s.checked_mul(up + down)? / down + 1));
            ladder.take_while(|s| *s < LIMIT / 64).take(n).collect()
        }),
        // Everybody alike, or nearly.
        (1usize..60, number(LIMIT / 64), 0u128..3)
            .prop_map(|(n, s, by)| (0..n as u128).map(|i| s + i % 3 * by).collect()),
        // One that is larger than all the others together.
        (prop::collection::vec(1u128..1000, 1..60), number(LIMIT / 2)).prop_map(|(mut scores, giant)| {
            scores.push(giant);
            scores
        }),
    ]
}

fn scored() -> impl Strategy<Value = Case> {
    (scores(), number(LIMIT)).prop_flat_map(|(scores, pool)| {
        (Just(scores), Just(pool), rule(pool))
            .prop_map(|(scores, pool, rule)| Case::scored(&scores, pool, rule))
    })
}

/// As many cases as take two seconds, or `PROPTEST_CASES`.
fn config() -> ProptestConfig {
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
    if std::env::var_os("PROPTEST_CASES").is_some() {
        config
    } else {
        ProptestConfig { cases: 1500, ..config }
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn like_the_oracle(case in case()) {
        let outcome = case.run();
        agrees(&case, &outcome);
        laws(&case, &outcome);
    }

    #[test]
    fn like_the_oracle_on_hard_scores(case in scored()) {
        let outcome = case.run();
        agrees(&case, &outcome);
        laws(&case, &outcome);
    }

    /// Order of the rows, lanes, batches: nothing of it shows.
    #[test]
    fn rows_are_a_multiset(case in case(), lanes in 1usize..5, seed in any::<usize>(), order in any::<u64>()) {
        let one = case.run();
        let mut other = case.clone();
        other.rows.sort_by_key(|(actor, category, units)| {
            order.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(*actor + 7 * u32::from(*category)) ^ units
        });
        let lane = |row: usize| (row.wrapping_mul(seed | 1) >> 7) % lanes;
        let two = other.outcome(other.scores(lanes, lane));
        prop_assert_eq!(&one.manifest_bytes, &two.manifest_bytes);
        prop_assert_eq!(one.table.pieces().collect::<Vec<_>>().concat(), two.table.pieces().collect::<Vec<_>>().concat());
        prop_assert_eq!(one.derivation, two.derivation);
    }

    /// With all other scores as they are, who scores more is paid no less.
    #[test]
    fn monotone_in_ones_own_score(scores in scores(), pool in number(LIMIT), who in any::<prop::sample::Index>(),
        more in number(LIMIT / 64), rule in number(LIMIT).prop_flat_map(rule))
    {
        prop_assume!(!scores.is_empty());
        let who = who.index(scores.len());
        let name = format!("a{who:04}");
        let rule = Rule { actor_cap: rule.actor_cap.map(|cap| cap % (pool + 1)), ..rule };
        let (before, mut scores) = (Case::scored(&scores, pool, rule).run(), scores);
        scores[who] += more;
        let after = Case::scored(&scores, pool, rule).run();
        if before.derivation.is_some() && after.derivation.is_some() {
            let of = |outcome| paid(outcome).get(&name).copied().unwrap_or(0);
            prop_assert!(of(&after) >= of(&before), "{} then {}", of(&before), of(&after));
        }
    }

    /// The same units times any factor: the same shares.
    #[test]
    fn shares_do_not_know_the_unit(case in case(), factor in 1u64..1 << 40) {
        let mut small = case;
        small.rows.iter_mut().for_each(|(_, _, units)| *units %= 1 << 23);
        small.rule = Rule { mode: "share", rounding: "largest_remainder", ..small.rule };
        small.weights = vec!["0.3", "0.7", "1", "2.50"];
        let mut large = small.clone();
        large.rows.iter_mut().for_each(|(_, _, units)| *units *= factor);
        for rounding in ["floor", "largest_remainder"] {
            (small.rule.rounding, large.rule.rounding) = (rounding, rounding);
            prop_assert_eq!(paid(&small.run()), paid(&large.run()));
        }
    }

    /// All money times 10^k: the products no longer fit in 128 bits, and the shares are the same but for the digits gained.
    #[test]
    fn wide_like_narrow(scores in prop::collection::vec(0u128..1 << 40, 1..40), pool in 1u128..1 << 50, cap in 1u128..60,
        capped in any::<bool>(), power in 14u32..20)
    {
        let rule = Rule { rounding: "floor", actor_cap: capped.then_some(pool / cap), ..Rule::SHARE };
        let narrow = Case::scored(&scores, pool, rule);
        let by = 10u128.pow(power);
        let rule = Rule { actor_cap: rule.actor_cap.map(|cap| cap * by), ..rule };
        let wide = Case::scored(&scores, pool * by, rule);
        let (narrow, wide) = (narrow.run(), wide.run());
        let found: BTreeMap<String, u128> =
            paid(&wide).into_iter().map(|(name, payout)| (name, payout / by)).filter(|(_, payout)| *payout > 0).collect();
        prop_assert_eq!(found, paid(&narrow));
    }
}

// ------------------------------------------------------------------------------------------------ single cases

/// Scores and a pool for which the contract's rounds cap one actor at a time, as often as scores below 10^38 allow.
///
/// From the last rung, who is not capped, upwards: with `B'` and `S'` what is left below, the next one up has to score
/// more than `C S' / B'`, to be capped at all, and so much that the one below him is not capped in the same round.
fn hostile_ladder(cap: u128, rest: u128) -> (Vec<u128>, u128) {
    let (mut scores, mut pot, mut sum) = (vec![1000u128], rest, 1000u128);
    loop {
        let below = scores[scores.len() - 1];
        let enough = cap * sum / pot + 1;
        // S_below (B' + C) <= C (S' + S): not in the same round.
        let Some(apart) =
            below.checked_mul(pot + cap).map(|product| product.div_ceil(cap).saturating_sub(sum))
        else {
            break;
        };
        let next = enough.max(apart);
        if next >= LIMIT || sum + next >= LIMIT {
            break;
        }
        scores.push(next);
        (pot, sum) = (pot + cap, sum + next);
    }
    scores.reverse();
    (scores, pot)
}

#[test]
fn a_ladder_of_many_rounds() {
    let mut most = 0;
    for (cap, rest) in [(1000, 999), (1000, 400), (1_000_000, 7), (10, 1), (3, 2), (1 << 40, (1 << 40) - 1)] {
        let (scores, pool) = hostile_ladder(cap, rest);
        for rounding in ["floor", "largest_remainder"] {
            let case = Case::scored(&scores, pool, Rule { rounding, actor_cap: Some(cap), ..Rule::SHARE });
            let outcome = case.run();
            let expected = agrees(&case, &outcome);
            laws(&case, &outcome);
            assert_eq!(expected.rounds, scores.len() - 1, "one at a time");
            most = most.max(expected.rounds);
        }
    }
    assert!(most >= 20, "only {most} rounds");
}

fn verdict(scores: &[u128], rule: Rule) -> Option<Unpayable> {
    let case = Case::scored(scores, 1_000_000, rule);
    let outcome = case.run();
    agrees(&case, &outcome);
    outcome.manifest.reason
}

#[test]
fn the_total_stays_below_the_limit() {
    let tariff = Rule { mode: "tariff", rounding: "floor", actor_cap: Some(1), ..Rule::SHARE };
    for rule in [Rule::SHARE, tariff] {
        assert_eq!(verdict(&[LIMIT - 1], rule), None);
        assert_eq!(verdict(&[LIMIT], rule), Some(Unpayable::Overflow));
        assert_eq!(verdict(&[LIMIT - 2, 1], rule), None);
        assert_eq!(verdict(&[LIMIT - 1, 1], rule), Some(Unpayable::Overflow));
        let hundred = [LIMIT / 100; 100];
        assert_eq!(verdict(&hundred, rule), Some(Unpayable::Overflow));
        assert_eq!(verdict(&hundred[1..], rule), None);
        assert_eq!(verdict(&[&hundred[1..], &[LIMIT / 100 - 1]].concat(), rule), None);
        // The sum over the actors goes beyond 128 bits although no score does.
        assert_eq!(verdict(&[u128::MAX >> 1; 5], rule), Some(Unpayable::Overflow));
    }
}

/// Rows of no units, or of a category that weighs nothing, make an actor of the epoch all the same; names without rows
/// do not.
#[test]
fn rows_that_score_nothing_count() {
    let names: Vec<String> = (0..200).map(|n| format!("a{n:03}")).collect();
    let rows: Vec<Row> = vec![
        (0, 0, 0),
        (63, 1, 5),
        (64, 1, 0),
        (65, 0, 0),
        (65, 0, 7),
        (199, 0, 3),
        (199, 1, 9),
        (199, 0, 0),
    ];
    for lanes in 1..4 {
        let case = Case {
            actors: List::new(names.clone()),
            weights: vec!["1", "0"],
            rows: rows.clone(),
            pool: 100,
            rule: Rule::SHARE,
        };
        let outcome = case.outcome(case.scores(lanes, |row| row % lanes));
        agrees(&case, &outcome);
        assert_eq!((outcome.manifest.inputs.actors, outcome.manifest.totals.recipients), (5, 2));
        assert_eq!(outcome.scores.positive, 2);
    }
}

/// Accumulators of 128 bits go over: it is an overflow however often, also when they come back to exactly zero, and the
/// actors are counted as they are.
#[test]
fn accumulators_that_go_over() {
    let check = |weight, rows: &[Row]| {
        for lanes in [1, 2, 3, rows.len()] {
            let case = Case {
                actors: List::new((0..4).map(|n| format!("a{n}")).collect()),
                weights: vec![weight, ONE],
                rows: rows.to_vec(),
                pool: 1,
                rule: Rule::SHARE,
            };
            let outcome = case.outcome(case.scores(lanes, |row| row % lanes));
            agrees(&case, &outcome);
            assert_eq!(outcome.manifest.reason, Some(Unpayable::Overflow));
        }
    };
    check(MOST, &[(0, 0, u64::MAX); 2]);
    check(MOST, &[(1, 0, u64::MAX); 500]);
    check(MOST, &(0..400).map(|n| (n % 3, 0, u64::MAX)).collect::<Vec<_>>());
    // 4 x 2^63 x 2^63 = 2^128.
    check(TWO_TO_63, &[(0, 0, 1 << 63); 4]);
    check(
        TWO_TO_63,
        &[(0, 0, 1 << 63), (2, 1, 1), (0, 0, 1 << 63), (0, 0, 1 << 63), (0, 0, 1 << 63), (3, 1, 0)],
    );
    check(TWO_TO_63, &[(2, 0, 1 << 63); 8]);
    // By a carry of the low word alone: 2^128 - 1 + 1.
    check(MOST, &[(0, 0, u64::MAX), (0, 0, 2), (0, 1, u64::MAX), (0, 1, 1), (0, 1, 1), (0, 1, 1)]);
}

/// More actors than one task takes, so that threads really share the work; crowds of equal scores make ties across tasks.
#[test]
fn threads_do_not_show() {
    const ACTORS: u32 = 50_000;
    let names: Vec<String> =
        (0..ACTORS).map(|n| format!("{:05}", (u64::from(n) * 7919) % u64::from(ACTORS))).collect();
    let mut rows: Vec<Row> =
        (0..120_000u32).map(|n| (n.wrapping_mul(40_503) % ACTORS, (n % 3) as u8, u64::from(n % 5))).collect();
    rows.extend((0..300).map(|n| (n * 11, 2, u64::MAX / u64::from(n + 1))));
    let wide = 10u128.pow(37) + 12_345;
    let case = |pool, rule| Case {
        actors: List::new(names.clone()),
        weights: vec!["0.3", "0.7", "1"],
        rows: rows.clone(),
        pool,
        rule,
    };
    // Scores below 2^64, of which one in twenty is large.
    let mut narrow = case(100_003, Rule { min_payout: Some(50), ..Rule::SHARE });
    narrow.rows = (0..120_000u32)
        .map(|n| {
            (
                n.wrapping_mul(40_503) % ACTORS,
                (n % 3) as u8,
                u64::from(n % 7) << if n % 20 == 0 { 20 } else { 0 },
            )
        })
        .collect();
    let cases = [
        narrow,
        case(1_000_003, Rule::SHARE),
        case(wide, Rule { actor_cap: Some(wide / 40_000), ..Rule::SHARE }),
        case(wide, Rule { rounding: "floor", min_payout: Some(wide / 1_000_000), ..Rule::SHARE }),
        case(wide, Rule { actor_cap: Some(wide / 100), excess: Some("residual"), ..Rule::SHARE }),
        case(wide, Rule { mode: "tariff", rounding: "half_even", ..Rule::SHARE }),
    ];
    for case in cases {
        let runs: Vec<Outcome> = [1, 2, 3, 8, 16]
            .into_iter()
            .map(|threads| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                pool.install(|| case.outcome(case.scores(threads, |row| (row / 1000) % threads)))
            })
            .collect();
        for run in &runs {
            assert_eq!(run.manifest_bytes, runs[0].manifest_bytes);
            assert_eq!(
                run.table.pieces().collect::<Vec<_>>().concat(),
                runs[0].table.pieces().collect::<Vec<_>>().concat()
            );
            assert_eq!(run.derivation, runs[0].derivation);
        }
        laws(&case, &runs[0]);
    }
}

/// The first row of the stream whose category has no weight, whichever lane met it.
#[test]
fn the_first_unknown_category_is_named() {
    let case = Case::scored(&[1], 1, Rule::SHARE);
    let categories = List::new(["c0", "c1", "nobody's", "c9"].map(String::from).to_vec());
    let scorer = Scorer::new(&case.policy(), 1, &categories);
    let (mut one, mut two) = (scorer.lane(), scorer.lane());
    add(&scorer, &mut one, 40, &[(0, 0, 1), (0, 3, 0), (0, 2, 1)]);
    add(&scorer, &mut two, 10, &[(0, 0, 1), (0, 1, 0)]);
    add(&scorer, &mut two, 20, &[(0, 1, 1), (0, 1, 0), (0, 2, 0)]);
    let unknown = Scores::merge(vec![one, two], case.actors.len()).unwrap_err();
    assert_eq!((unknown.row, unknown.category), (22, 2));
}

/// The kernel agrees with the oracle on many actors too, where remainders and caps are searched by counting.
#[test]
fn a_crowd_like_the_oracle() {
    for (n, spread) in [(20_000u128, 1u128), (20_000, 7), (20_000, 1 << 60)] {
        let scores: Vec<u128> = (0..n).map(|i| 1_000_003 + (i * i * 31) % spread).collect();
        for (pool, cap) in
            [(12_345_678, None), (12_345_679, Some(600)), (10u128.pow(37) + 1, Some(10u128.pow(37) / 19_000))]
        {
            let case = Case::scored(&scores, pool, Rule { actor_cap: cap, ..Rule::SHARE });
            let outcome = case.run();
            agrees(&case, &outcome);
            laws(&case, &outcome);
        }
    }
}
