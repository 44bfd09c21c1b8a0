//! The conformance suite on the ledgers that need nothing but this process, and what is particular to each.

use super::peer::Peer;
use super::world::{HandClock, HastyClock, intent};
use crate::conformance::{self, Bed, record};
use crate::ledger::*;
use rewarder_model::Intent;
use rewarder_model::world::BoxFuture;
use std::sync::Arc;
use tempfile::TempDir;

/// An embedded ledger; on disk, a crash leaves the file as it is while the ledger has it open.
struct Embedded {
    dir: Option<TempDir>,
    ledger: EmbeddedLedger,
}

impl Embedded {
    async fn start(dir: Option<TempDir>) -> Self {
        let path = dir.as_ref().map(|dir| dir.path());
        let ledger = EmbeddedLedger::open(path, &HandClock::new()).await.unwrap();
        Self { dir, ledger }
    }
}

fn all(ledger: &EmbeddedLedger) -> Vec<Intent> {
    let mut all: Vec<Intent> = Vec::new();
    loop {
        let after = all.last().map(|intent| (&intent.tenant, &intent.epoch_id));
        // A page that is not the largest, so that the turn of pages is walked over.
        let page = ledger.page(None, after, 37).unwrap();
        if page.is_empty() {
            assert_eq!(all.len() as u64, ledger.count().unwrap());
            return all;
        }
        all.extend(page);
    }
}

impl Bed for Embedded {
    fn client(&self) -> Arc<dyn Ledger> {
        Arc::new(self.ledger.clone())
    }

    fn settlements(&self) -> BoxFuture<'_, Vec<Intent>> {
        let ledger = self.ledger.clone();
        Box::pin(async move { tokio::task::spawn_blocking(move || all(&ledger)).await.unwrap() })
    }

    fn crash(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            let image = tempfile::tempdir().unwrap();
            let old = self.dir.as_ref().unwrap().path().join(LEDGER_FILE);
            std::fs::copy(old, image.path().join(LEDGER_FILE)).unwrap();
            *self = Self::start(Some(image)).await;
        })
    }

    fn is_durable(&self) -> bool {
        self.dir.is_some()
    }

    fn clients_survive(&self) -> bool {
        false
    }
}

/// The HTTP client against a ledger in memory behind a real socket.
struct Http(Peer);

impl Bed for Http {
    fn client(&self) -> Arc<dyn Ledger> {
        Arc::new(HttpLedger::new(&self.0.url))
    }

    fn settlements(&self) -> BoxFuture<'_, Vec<Intent>> {
        Box::pin(async { all(&self.0.ledger) })
    }

    fn crash(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }

    fn is_durable(&self) -> bool {
        false
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn embedded_in_memory() {
    conformance::whole(&mut Embedded::start(None).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn embedded_on_disk() {
    conformance::whole(&mut Embedded::start(Some(tempfile::tempdir().unwrap())).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http() {
    conformance::whole(&mut Http(Peer::start().await)).await;
}

#[tokio::test]
async fn a_ledger_that_is_not_there_has_settled_nothing() {
    let nobody = HttpLedger::new("http://127.0.0.1:1");
    assert_eq!(nobody.submit(&intent(1)).await.unwrap_err().verdict, Verdict::Retry);
    assert!(nobody.probe().await.is_err());
}

#[tokio::test]
async fn pages_are_in_order_and_of_one_tenant() {
    let ledger = Embedded::start(None).await.ledger;
    let names = [("a", "1"), ("a", "2"), ("a", "10"), ("a-", "0"), ("b", "1")];
    for (n, (tenant, epoch)) in names.into_iter().enumerate() {
        let tenant = tenant.parse().unwrap();
        let one = Intent { tenant, epoch_id: epoch.parse().unwrap(), ..intent(n as u64) };
        assert_eq!(ledger.submit(&one).await.unwrap(), Answer::Accepted);
    }
    let check = |tenant: Option<&str>, after: Option<(&str, &str)>, limit, expect: &[(&str, &str)]| {
        let tenant = tenant.map(|tenant| tenant.parse().unwrap());
        let after = after.map(|(tenant, epoch)| (tenant.parse().unwrap(), epoch.parse().unwrap()));
        let after = after.as_ref().map(|(tenant, epoch)| (tenant, epoch));
        let page = ledger.page(tenant.as_ref(), after, limit).unwrap();
        let seen: Vec<_> = page.iter().map(|i| (i.tenant.as_str(), i.epoch_id.as_str())).collect();
        assert_eq!(seen, expect);
    };
    let sorted = [("a", "1"), ("a", "10"), ("a", "2"), ("a-", "0"), ("b", "1")];
    check(None, None, 9, &sorted);
    check(None, None, 2, &sorted[..2]);
    check(None, Some(("a", "10")), 9, &sorted[2..]);
    check(Some("a"), None, 9, &sorted[..3]);
    check(Some("a"), Some(("a", "1")), 1, &sorted[1..2]);
    check(Some("a-"), Some(("a", "1")), 9, &sorted[3..4]);
    check(Some("a"), Some(("b", "1")), 9, &[]);
    check(Some("c"), None, 9, &[]);
}

/// While the disk stands still nobody waits beyond the bound, and who has gone away is not settled.
#[tokio::test]
async fn the_desk_is_bounded_and_forgets_who_has_gone() {
    let ledger = Embedded::start(None).await.ledger;
    let still = ledger.hold_the_disk();
    let (first, many) = (intent(0), (1..=17_000).map(intent).collect::<Vec<_>>());
    let mut waiting = vec![ledger.submit(&first)];
    still.begun().await;
    let mut turned_away = 0;
    for intent in &many {
        let mut submission = ledger.submit(intent);
        match futures_now(&mut submission) {
            Some(Err(error)) => {
                assert_eq!(error.verdict, Verdict::Retry);
                assert!(error.retry_after.is_some());
                turned_away += 1;
            }
            Some(Ok(answer)) => panic!("{answer:?} from a disk that stands still"),
            None => waiting.push(submission),
        }
    }
    assert!(turned_away > 0 && turned_away < many.len());
    // All but the first give up, the last one excepted.
    let last = waiting.pop().unwrap();
    waiting.truncate(1);
    drop(still);
    assert_eq!(waiting.pop().unwrap().await.unwrap(), Answer::Accepted);
    assert_eq!(last.await.unwrap(), Answer::Accepted);
    assert_eq!(ledger.count().unwrap(), 2);
    assert_eq!(ledger.submit(&intent(1)).await.unwrap(), Answer::Accepted);
}

fn futures_now<T>(future: &mut BoxFuture<'_, T>) -> Option<T> {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match future.as_mut().poll(&mut context) {
        std::task::Poll::Ready(value) => Some(value),
        std::task::Poll::Pending => None,
    }
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
    let ledger = EmbeddedLedger::open(Some(dir.path()), &HandClock::new()).await.unwrap();
    let first = intent(1);
    assert_eq!(ledger.submit(&first).await.unwrap(), Answer::Accepted);
    assert_eq!(ledger.settlement(&first.tenant, &first.epoch_id).unwrap(), Some(first.clone()));
    assert_eq!(ledger.lookup(&first.run_key).await.unwrap(), Some(record(&first)));
}
