//! What every ledger does: the law of [`crate::ledger`], as one suite. A new backend makes a [`Bed`] and passes whole.
//!
//! What counts is never what a ledger answered alone, but what stands in it: a bed lets the suite read every
//! settlement by a way of its own (a file, a listing, SQL). No case waits by a clock; loops are bounded.

use crate::ledger::{Answer, Ledger, LedgerError, Record, Verdict};
use rewarder_model::world::BoxFuture;
use rewarder_model::{Amount, Cid, Intent};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

/// A ledger under test.
pub trait Bed: Send + Sync {
    /// Another client of it.
    fn client(&self) -> Arc<dyn Ledger>;
    /// Everything that stands in it, read past the port.
    fn settlements(&self) -> BoxFuture<'_, Vec<Intent>>;
    /// Ends it as `kill -9` does, and starts it again with what was durable.
    fn crash(&mut self) -> BoxFuture<'_, ()>;
    /// Whether anything outlives a crash.
    fn is_durable(&self) -> bool {
        true
    }
    /// Whether clients of before find the ledger again after a crash; they do unless they are the ledger.
    fn clients_survive(&self) -> bool {
        true
    }
}

/// Epochs that are raced for, runs that race for each, and tasks of each run.
const RACES: usize = 12;
const RACERS: usize = 6;
const TWINS: usize = 4;
/// Polls after which a submission is dropped, from none to more than any backend needs.
const POLLS_MAX: usize = 40;
/// Tries of a client whose connections have just died: more than any pool keeps.
const TRIES_MAX: usize = 64;

/// The `n`th intent of a case: an epoch of its own.
pub fn intent(case: &str, n: usize) -> Intent {
    let cid = |what: &str| Cid::of(format!("{case} {what} {n}").as_bytes());
    Intent {
        run_key: cid("run"),
        tenant: "acme".parse().expect("a tenant"),
        epoch_id: format!("{case}-{n}").parse().expect("an epoch"),
        commitment: cid("manifest"),
        allocations_root: cid("table"),
        asset: "roc".parse().expect("an asset"),
        payout_minor_units: (n as u64 + 1).into(),
        recipients: 1,
        policy_hash: cid("policy"),
        inputs_cid: cid("inputs"),
    }
}

/// What a ledger says of a settled intent.
pub fn record(intent: &Intent) -> Record {
    Record { run_key: intent.run_key, commitment: intent.commitment }
}

fn other_run(of: &Intent, name: &str) -> Intent {
    let cid = |what: &str| Cid::of(format!("{} {name} {what}", of.epoch_id).as_bytes());
    Intent { run_key: cid("run"), commitment: cid("manifest"), ..of.clone() }
}

/// Submits until an answer comes, as delivery would after asking.
///
/// # Errors
/// The last one, when no try was answered.
pub async fn settle(ledger: &dyn Ledger, intent: &Intent) -> Result<Answer, LedgerError> {
    let mut last = None;
    for _ in 0..TRIES_MAX {
        match ledger.submit(intent).await {
            Ok(answer) => return Ok(answer),
            Err(error) => {
                assert_ne!(error.verdict, Verdict::Refused, "{error}");
                last = Some(error);
            }
        }
        tokio::task::yield_now().await;
    }
    Err(last.expect("at least one try"))
}

/// The whole suite.
///
/// # Panics
/// When a law is broken.
pub async fn whole(bed: &mut dyn Bed) {
    nothing_comes_of_questions(bed).await;
    answers_carry_what_is_stored(bed).await;
    the_settlement_key_is_tenant_and_epoch(bed).await;
    odd_but_legal_values(bed).await;
    many_at_once(bed).await;
    races(bed).await;
    one_run_key_for_two_epochs(bed).await;
    submissions_broken_off(bed).await;
    if bed.is_durable() {
        what_was_answered_outlives_a_crash(bed).await;
    }
    nothing_stands_twice(bed).await;
}

async fn standing(bed: &dyn Bed, case: &str) -> Vec<Intent> {
    let prefix = format!("{case}-");
    let all = bed.settlements().await;
    all.into_iter().filter(|intent| intent.epoch_id.as_str().starts_with(&prefix)).collect()
}

async fn nothing_comes_of_questions(bed: &dyn Bed) {
    let ledger = bed.client();
    let before = bed.settlements().await.len();
    for n in 0..3 {
        ledger.probe().await.unwrap();
        assert_eq!(ledger.lookup(&intent("question", n).run_key).await.unwrap(), None);
    }
    assert_eq!(bed.settlements().await.len(), before);
}

async fn answers_carry_what_is_stored(bed: &dyn Bed) {
    let ledger = bed.client();
    let first = intent("stored", 0);
    assert_eq!(ledger.lookup(&first.run_key).await.unwrap(), None);
    assert_eq!(ledger.submit(&first).await.unwrap(), Answer::Accepted);
    assert_eq!(ledger.lookup(&first.run_key).await.unwrap(), Some(record(&first)));
    // The same run again, also with other contents: the stored values, never the sent ones.
    let forged = Intent { commitment: Cid::of(b"forged"), payout_minor_units: 7.into(), ..first.clone() };
    // Another run of the same epoch: a conflict, and it is nowhere afterwards.
    let rival = other_run(&first, "rival");
    for ledger in [ledger.clone(), bed.client()] {
        assert_eq!(ledger.submit(&first).await.unwrap(), Answer::Dup(record(&first)));
        assert_eq!(ledger.submit(&forged).await.unwrap(), Answer::Dup(record(&first)));
        assert_eq!(ledger.submit(&rival).await.unwrap(), Answer::Conflict(record(&first)));
        assert_eq!(ledger.lookup(&rival.run_key).await.unwrap(), None);
        assert_eq!(ledger.lookup(&first.run_key).await.unwrap(), Some(record(&first)));
    }
    assert_eq!(standing(bed, "stored").await, std::slice::from_ref(&first));
    // A run key that stands under another epoch settles nothing.
    let moved = Intent { epoch_id: "stored-elsewhere".parse().unwrap(), ..first.clone() };
    assert_eq!(ledger.submit(&moved).await.unwrap_err().verdict, Verdict::Refused);
    assert_eq!(standing(bed, "stored").await, [first]);
}

async fn the_settlement_key_is_tenant_and_epoch(bed: &dyn Bed) {
    let ledger = bed.client();
    // Pairs that would run together without a boundary, without case, or under a collation that ignores marks.
    let pairs = [
        ("near", "n-1"),
        ("near-n", "1"),
        ("near", "N-1"),
        ("near", "n.1"),
        ("near", "n1"),
        ("ne-ar", "n-1"),
        ("near0", "n-1"),
    ];
    for (n, (tenant, epoch)) in pairs.into_iter().enumerate() {
        let (tenant, epoch_id) = (tenant.parse().unwrap(), epoch.parse().unwrap());
        let near = Intent { tenant, epoch_id, ..intent("near", n) };
        assert_eq!(ledger.submit(&near).await.unwrap(), Answer::Accepted, "{near:?}");
        assert_eq!(ledger.submit(&other_run(&near, "far")).await.unwrap(), Answer::Conflict(record(&near)));
    }
}

async fn odd_but_legal_values(bed: &dyn Bed) {
    let ledger = bed.client();
    let amount = |units| Amount::new(units).unwrap();
    let mut odd = Vec::new();
    for (n, (payout, recipients)) in
        [(0, 0), (1, u64::MAX), (Amount::LIMIT - 1, 1 << 63), (u128::from(u64::MAX) + 1, 7)]
            .into_iter()
            .enumerate()
    {
        odd.push(Intent { payout_minor_units: amount(payout), recipients, ..intent("odd", n) });
    }
    // Every character that each name may have, and the longest of each.
    let printable: String =
        (' '..='~').filter(|c| !matches!(c, '\'' | '"' | '\\')).filter(|c| *c != ' ').collect();
    for (n, asset) in printable.as_bytes().chunks(64).enumerate() {
        let asset = std::str::from_utf8(asset).unwrap().parse().unwrap();
        odd.push(Intent { asset, ..intent("odd", 10 + n) });
    }
    let long = |text: &str, len: usize| text.chars().cycle().take(len).collect::<String>();
    odd.push(Intent {
        tenant: long("z-9", 64).parse().unwrap(),
        epoch_id: long("odd-.:_Z", 128).parse().unwrap(),
        asset: long("%;-{}$1", 64).parse().unwrap(),
        ..intent("odd", 20)
    });
    odd.push(Intent { tenant: "-".parse().unwrap(), epoch_id: "0".parse().unwrap(), ..intent("odd", 21) });
    for intent in &odd {
        assert_eq!(ledger.submit(intent).await.unwrap(), Answer::Accepted, "{intent:?}");
        assert_eq!(ledger.submit(intent).await.unwrap(), Answer::Dup(record(intent)));
        assert_eq!(ledger.lookup(&intent.run_key).await.unwrap(), Some(record(intent)));
    }
    let all = bed.settlements().await;
    for intent in &odd {
        assert!(all.contains(intent), "not stored as it was sent: {intent:?}");
    }
}

async fn many_at_once(bed: &dyn Bed) {
    let clients = [bed.client(), bed.client()];
    let tasks: Vec<_> = (0..200)
        .map(|n| {
            let (ledger, intent) = (clients[n % 2].clone(), intent("many", n / 2));
            tokio::spawn(async move { (intent.clone(), ledger.submit(&intent).await.unwrap()) })
        })
        .collect();
    let mut accepted = 0;
    for task in tasks {
        let (intent, answer) = task.await.unwrap();
        match answer {
            Answer::Accepted => accepted += 1,
            answer => assert_eq!(answer, Answer::Dup(record(&intent))),
        }
    }
    assert_eq!(accepted, 100);
    assert_eq!(standing(bed, "many").await.len(), 100);
}

/// Runs race for each epoch, each in several tasks, from several clients: one settles, all others hear of it.
async fn races(bed: &dyn Bed) {
    let clients = [bed.client(), bed.client(), bed.client()];
    for epoch in 0..RACES {
        let start = Arc::new(tokio::sync::Barrier::new(RACERS * TWINS));
        let tasks: Vec<_> = (0..RACERS * TWINS)
            .map(|n| {
                let run = other_run(&intent("race", epoch), &format!("run {}", n % RACERS));
                let (ledger, start) = (clients[n % clients.len()].clone(), start.clone());
                tokio::spawn(async move {
                    start.wait().await;
                    (run.clone(), ledger.submit(&run).await.unwrap())
                })
            })
            .collect();
        let mut answers = Vec::new();
        for task in tasks {
            answers.push(task.await.unwrap());
        }
        let winners: Vec<_> = answers.iter().filter(|(_, answer)| *answer == Answer::Accepted).collect();
        assert_eq!(winners.len(), 1, "{answers:?}");
        let winner = record(&winners[0].0);
        for (run, answer) in answers.iter().filter(|(_, answer)| *answer != Answer::Accepted) {
            let same = run.run_key == winner.run_key;
            assert_eq!(*answer, if same { Answer::Dup(winner) } else { Answer::Conflict(winner) });
        }
    }
    assert_eq!(standing(bed, "race").await.len(), RACES);
}

/// The other constraint: a run key settles one epoch, whoever comes first.
async fn one_run_key_for_two_epochs(bed: &dyn Bed) {
    for n in 0..RACES {
        let here = intent("key", n);
        let there = Intent { epoch_id: format!("key-there-{n}").parse().unwrap(), ..here.clone() };
        let clients = [bed.client(), bed.client()];
        let (a, b) = tokio::join!(clients[0].submit(&here), clients[1].submit(&there));
        let (won, lost) = if a.is_ok() { (a, b) } else { (b, a) };
        assert_eq!(won.unwrap(), Answer::Accepted);
        assert_eq!(lost.unwrap_err().verdict, Verdict::Refused);
    }
    assert_eq!(standing(bed, "key").await.len(), RACES);
}

/// A submission whose future is dropped after any number of polls: whatever became of it, the epoch is settled once
/// afterwards, by it or by the rival that came next, and the ledger goes on.
async fn submissions_broken_off(bed: &dyn Bed) {
    let ledger = bed.client();
    for polls in 0..POLLS_MAX {
        let ours = intent("broken", polls);
        {
            let mut submission = ledger.submit(&ours);
            for _ in 0..polls {
                let done = poll_fn(|context| Poll::Ready(submission.as_mut().poll(context).is_ready())).await;
                if done {
                    break;
                }
                tokio::task::yield_now().await;
            }
        }
        let next = if polls % 2 == 0 { ours.clone() } else { other_run(&ours, "rival") };
        let expected = match settle(&*ledger, &next).await.unwrap() {
            Answer::Accepted => record(&next),
            Answer::Dup(stored) => {
                assert_eq!(stored, record(&next));
                stored
            }
            Answer::Conflict(stored) => {
                assert_eq!(stored, record(&ours));
                stored
            }
        };
        let stands = standing(bed, "broken").await;
        let of_epoch: Vec<_> = stands.iter().filter(|intent| intent.epoch_id == ours.epoch_id).collect();
        assert_eq!(of_epoch.iter().map(|i| record(i)).collect::<Vec<_>>(), [expected]);
    }
    assert_eq!(standing(bed, "broken").await.len(), POLLS_MAX);
}

async fn what_was_answered_outlives_a_crash(bed: &mut dyn Bed) {
    let old = bed.client();
    for round in 0..3 {
        let case = format!("crash{round}");
        let (told, mut hears) = tokio::sync::mpsc::unbounded_channel();
        let tasks: Vec<_> = (0..64)
            .map(|n| {
                let (ledger, told, intent) = (old.clone(), told.clone(), intent(&case, n));
                let ledger = if bed.clients_survive() { ledger } else { bed.client() };
                tokio::spawn(async move {
                    let answer = ledger.submit(&intent).await;
                    let _ = told.send((n, answer.clone()));
                })
            })
            .collect();
        drop(told);
        // The crash comes when about a third is answered; who is answered by then is durable.
        let mut answered = BTreeMap::new();
        while answered.len() < 20 {
            let Some((n, answer)) = hears.recv().await else { break };
            answered.insert(n, answer);
        }
        bed.crash().await;
        for task in tasks {
            task.await.unwrap();
        }
        let ledger = if bed.clients_survive() { old.clone() } else { bed.client() };
        for n in 0..64 {
            let intent = intent(&case, n);
            let before = answered.get(&n);
            if let Some(Err(error)) = before {
                assert_ne!(error.verdict, Verdict::Refused, "{error}");
            }
            match settle(&*ledger, &intent).await.unwrap() {
                Answer::Accepted => assert_ne!(before, Some(&Ok(Answer::Accepted)), "{n} was forgotten"),
                answer => assert_eq!(answer, Answer::Dup(record(&intent))),
            }
        }
        assert_eq!(standing(bed, &case).await.len(), 64);
    }
    let first = intent("stored", 0);
    let ledger = bed.client();
    assert_eq!(settle(&*ledger, &first).await.unwrap(), Answer::Dup(record(&first)));
    assert_eq!(ledger.lookup(&first.run_key).await.unwrap(), Some(record(&first)));
}

async fn nothing_stands_twice(bed: &dyn Bed) {
    let all = bed.settlements().await;
    let keys: BTreeMap<_, _> =
        all.iter().map(|i| ((i.tenant.to_string(), i.epoch_id.to_string()), i.run_key)).collect();
    let runs: BTreeMap<_, _> = all.iter().map(|i| (i.run_key.to_string(), ())).collect();
    assert_eq!((keys.len(), runs.len()), (all.len(), all.len()));
    assert!(all.len() > 150, "the suite has settled {} only", all.len());
}
