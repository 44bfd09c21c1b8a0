//! What every ledger does. A new backend adds one test at the foot and passes whole.

use super::peer::Peer;
use super::world::{HandClock, HastyClock, intent};
use crate::ledger::*;
use rewarder_model::{Cid, Intent};
use std::sync::Arc;

fn stored(intent: &Intent) -> Record {
    Record { run_key: intent.run_key, commitment: intent.commitment }
}

async fn conformance(ledger: Arc<dyn Ledger>) {
    let first = intent(1);
    ledger.probe().await.unwrap();
    assert_eq!(ledger.lookup(&first.run_key).await.unwrap(), None);
    assert_eq!(ledger.submit(&first).await.unwrap(), Answer::Accepted);
    assert_eq!(ledger.lookup(&first.run_key).await.unwrap(), Some(stored(&first)));

    // The same run again, also with another commitment: the stored values, never the sent ones.
    assert_eq!(ledger.submit(&first).await.unwrap(), Answer::Dup(stored(&first)));
    let forged = Intent { commitment: Cid::of(b"forged"), ..first.clone() };
    assert_eq!(ledger.submit(&forged).await.unwrap(), Answer::Dup(stored(&first)));

    // Another run of the same epoch: a conflict, and it is nowhere afterwards.
    let rival = Intent { run_key: Cid::of(b"rival"), commitment: Cid::of(b"rival"), ..first.clone() };
    assert_eq!(ledger.submit(&rival).await.unwrap(), Answer::Conflict(stored(&first)));
    assert_eq!(ledger.lookup(&rival.run_key).await.unwrap(), None);

    // The settlement key is (tenant, epoch): the epoch of another tenant, and another epoch, are free.
    let neighbour = Intent { tenant: "other".parse().unwrap(), ..rival.clone() };
    assert_eq!(ledger.submit(&neighbour).await.unwrap(), Answer::Accepted);
    assert_eq!(ledger.submit(&intent(2)).await.unwrap(), Answer::Accepted);
    // Epochs and tenants that would run together without a boundary.
    for (n, (tenant, epoch)) in [("a", "b1"), ("a-b", "1"), ("a", "B1")].into_iter().enumerate() {
        let near = Intent {
            tenant: tenant.parse().unwrap(),
            epoch_id: epoch.parse().unwrap(),
            ..intent(100 + n as u64)
        };
        assert_eq!(ledger.submit(&near).await.unwrap(), Answer::Accepted);
    }

    // A run key that stands under another epoch settles nothing.
    let moved = Intent { epoch_id: "elsewhere".parse().unwrap(), ..first.clone() };
    assert_eq!(ledger.submit(&moved).await.unwrap_err().verdict, Verdict::Refused);

    // Two runs of one epoch, eight times each, at once: one settles.
    let runs: Vec<_> = (0..16)
        .map(|n| {
            let name = format!("twin run {}", n % 2);
            let run = Intent {
                run_key: Cid::of(name.as_bytes()),
                commitment: Cid::of(name.as_bytes()),
                ..intent(3)
            };
            let ledger = ledger.clone();
            tokio::spawn(async move { (run.clone(), ledger.submit(&run).await.unwrap()) })
        })
        .collect();
    let mut answers = Vec::new();
    for run in runs {
        answers.push(run.await.unwrap());
    }
    let winners: Vec<_> = answers.iter().filter(|(_, answer)| *answer == Answer::Accepted).collect();
    assert_eq!(winners.len(), 1);
    let winner = stored(&winners[0].0);
    let expected = |run: &Intent| {
        if run.run_key == winner.run_key { Answer::Dup(winner) } else { Answer::Conflict(winner) }
    };
    assert_eq!(answers.iter().filter(|(run, answer)| *answer == expected(run)).count(), 15);
}

#[tokio::test]
async fn embedded_in_memory() {
    conformance(Arc::new(EmbeddedLedger::open(None, &HandClock::new()).await.unwrap())).await;
}

#[tokio::test]
async fn embedded_on_disk_survives_a_restart_and_a_crash() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = EmbeddedLedger::open(Some(dir.path()), &HandClock::new()).await.unwrap();
    conformance(Arc::new(ledger.clone())).await;
    let count = ledger.count().unwrap();
    // What `kill -9` leaves: the file as it is now, while the ledger has it open.
    let image = tempfile::tempdir().unwrap();
    std::fs::copy(dir.path().join(LEDGER_FILE), image.path().join(LEDGER_FILE)).unwrap();
    drop(ledger);
    for dir in [dir, image] {
        let ledger = EmbeddedLedger::open(Some(dir.path()), &HandClock::new()).await.unwrap();
        assert_eq!(ledger.count().unwrap(), count);
        assert_eq!(ledger.submit(&intent(1)).await.unwrap(), Answer::Dup(stored(&intent(1))));
        let first = intent(1);
        assert_eq!(ledger.settlement(&first.tenant, &first.epoch_id).unwrap(), Some(first));
    }
}

#[tokio::test]
async fn http() {
    let peer = Peer::start().await;
    conformance(Arc::new(HttpLedger::new(&peer.url))).await;
    let nobody = HttpLedger::new("http://127.0.0.1:1");
    assert_eq!(
        nobody.submit(&intent(1)).await.unwrap_err().verdict,
        Verdict::Retry,
        "nothing left the machine"
    );
    assert!(nobody.probe().await.is_err());
}

#[tokio::test]
async fn a_ledger_in_use_says_by_whom() {
    let dir = tempfile::tempdir().unwrap();
    let held = EmbeddedLedger::open(Some(dir.path()), &HandClock::new()).await.unwrap();
    let Err(error) = EmbeddedLedger::open(Some(dir.path()), &HastyClock::default()).await else {
        panic!("two processes had one ledger");
    };
    assert!(error.to_string().contains("submit the job to it, stop it"), "{error}");
    // The other one lets go while we wait.
    let clock = HandClock::new();
    let (path, waiting) = (dir.path().to_owned(), clock.clone());
    let opening = tokio::spawn(async move { EmbeddedLedger::open(Some(&path), &waiting).await.map(drop) });
    tokio::task::yield_now().await;
    drop(held);
    while !opening.is_finished() {
        clock.advance(std::time::Duration::from_millis(1));
        tokio::task::yield_now().await;
    }
    opening.await.unwrap().unwrap();
}
