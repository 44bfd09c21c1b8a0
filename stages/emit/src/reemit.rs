//! Sends quarantined intents again: oldest first, under the same run key, until they are settled.
//!
//! The law: one at a time; after a failure everything waits, longer with each failure in a row; an entry that
//! fails waits longer by itself, so that one that can never be delivered does not stand before the others. A ledger's
//! `Retry-After` is obeyed for all of them.
//! Under the latch nothing is sent. What the ledger refuses, or finds in conflict with another run, waits for
//! an operator from then on. How fast it goes is the breaker's to say: after a brownout the rate begins low.
//!
//! [`Schedule`] decides and is pure; [`Deliverer::reemit_until`] carries out.

use crate::config::ReemitConfig;
use crate::delivery::{Delivered, Deliverer, Permit};
use crate::plant;
use crate::spool::State;
use rewarder_model::Intent;
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

/// How soon a run that somebody else is sending is looked at again.
const BUSY_POLL: Duration = Duration::from_millis(50);
/// How often a set latch, or a change that nobody announced, is looked at.
const IDLE_POLL: Duration = Duration::from_secs(1);

/// When which entry is tried again. Kept in memory only: after a restart everything is due, which is what one
/// wants.
#[derive(Debug, Default)]
pub struct Schedule {
    failures_in_a_row: u32,
    not_before: Duration,
    /// By place in the quarantine: failures, and not before when.
    entries: BTreeMap<u64, (u32, Duration)>,
}

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Send this entry.
    Send(u64),
    /// Nothing before this moment.
    WaitUntil(Duration),
    /// Nothing at all.
    Idle,
}

impl Schedule {
    /// What to do at `now`, given the pending entries, oldest first.
    pub fn turn(&mut self, pending: &[u64], now: Duration) -> Turn {
        self.entries.retain(|seq, _| pending.binary_search(seq).is_ok());
        let due =
            |seq: &u64| self.entries.get(seq).map_or(Duration::ZERO, |(_, at)| *at).max(self.not_before);
        let newest =
            plant::is("spool_order_lost").then(|| pending.iter().rev().find(|seq| due(seq) <= now)).flatten();
        match newest.or_else(|| pending.iter().find(|seq| due(seq) <= now)) {
            Some(seq) => Turn::Send(*seq),
            None => pending.iter().map(due).min().map_or(Turn::Idle, Turn::WaitUntil),
        }
    }

    /// An entry is settled, or gone: the ledger is there.
    pub fn succeeded(&mut self, seq: u64, gap: Duration, now: Duration) {
        self.entries.remove(&seq);
        self.failures_in_a_row = 0;
        self.not_before = if plant::is("no_pause_between_two") { now } else { now + gap };
    }

    /// An entry failed; `jitter` draws a time below a ceiling.
    pub fn failed(
        &mut self,
        seq: u64,
        config: &ReemitConfig,
        now: Duration,
        jitter: impl Fn(Duration) -> Duration,
    ) {
        // Half fixed, half random: a full jitter of near nothing would hammer a ledger that is down.
        let wait = |failures: u32| {
            let doubled = config.backoff_first.saturating_mul(1u32.checked_shl(failures).unwrap_or(u32::MAX));
            let ceiling = doubled.min(config.backoff_max) / 2;
            now + ceiling + jitter(ceiling)
        };
        self.not_before = wait(self.failures_in_a_row);
        self.failures_in_a_row = self.failures_in_a_row.saturating_add(1);
        let failures = self.entries.get(&seq).map_or(0, |(failures, _)| *failures);
        self.entries.insert(seq, (failures.saturating_add(1), wait(failures)));
    }
}

impl Deliverer {
    /// Sends quarantined intents again until `stop` completes; `settled` hears of each that is done with. An emission under way is brought to its end.
    pub async fn reemit_until(
        self: &Arc<Self>,
        stop: impl Future<Output = ()> + Send,
        settled: impl Fn(&Intent, &Delivered) + Send + Sync,
    ) {
        let mut schedule = Schedule::default();
        let mut stop = std::pin::pin!(stop);
        loop {
            let wait = self.reemit_once(&mut schedule, &settled).await;
            tokio::select! {
                biased;
                () = &mut stop => return,
                () = self.clock().sleep(wait) => {}
                () = self.changed.notified(), if wait >= IDLE_POLL => {}
            }
        }
    }

    /// One turn: sends at most one entry, and says how long to wait before the next turn.
    pub async fn reemit_once(
        self: &Arc<Self>,
        schedule: &mut Schedule,
        settled: &(impl Fn(&Intent, &Delivered) + Sync),
    ) -> Duration {
        let latched = self.latch().is_set() && !plant::is("latch_ignored_by_reemission");
        if latched || self.gap().is_none() {
            return IDLE_POLL;
        }
        let patience = self.patience();
        if !patience.is_zero() && !plant::is("retry_after_ignored_by_reemission") {
            return patience;
        }
        let now = self.clock().monotonic();
        let seq = match schedule.turn(&self.spool().pending(), now) {
            Turn::Send(seq) => seq,
            Turn::WaitUntil(then) => return then.saturating_sub(now),
            Turn::Idle => return IDLE_POLL,
        };
        let Some(entry) = self.spool().show(seq) else { return Duration::ZERO };
        let Ok(flight) = self.take_off(entry.intent.run_key) else { return BUSY_POLL };
        // Only now nobody else can have sent it in the meantime.
        let Some(entry) = self.spool().show(seq).filter(|entry| entry.state == State::Pending) else {
            return Duration::ZERO;
        };
        let delivered = self.run(&entry, Permit::Quarantine).await;
        let hold = self.hold_promised(&delivered);
        let pending = hold.as_ref().is_some_and(|hold| hold.state == State::Pending);
        if let Some(hold) = &hold {
            self.spool().update(seq, hold).await;
        }
        self.recorded(&entry.intent, &delivered).await;
        if hold.is_none() {
            // Only now: what a crash takes before is asked about again, and recorded.
            self.spool().settle(seq);
        }
        if !pending {
            settled(&entry.intent, &delivered);
        }
        flight.land(&delivered);
        self.show_depth();
        let now = self.clock().monotonic();
        if pending {
            schedule.failed(seq, &self.reemit, now, |ceiling| self.jitter(ceiling));
        } else {
            schedule.succeeded(seq, self.gap().unwrap_or(IDLE_POLL), now);
        }
        Duration::ZERO
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn oldest_first_and_nobody_blocks_the_others() {
        let config = ReemitConfig { backoff_first: ms(100), backoff_max: ms(1000), gap: ms(5) };
        let most = |ceiling| ceiling;
        let mut s = Schedule::default();
        assert_eq!(s.turn(&[], ms(0)), Turn::Idle);
        assert_eq!(s.turn(&[3, 7, 9], ms(0)), Turn::Send(3));
        s.failed(3, &config, ms(0), most);
        assert_eq!(s.turn(&[3, 7, 9], ms(0)), Turn::WaitUntil(ms(100)));
        assert_eq!(s.turn(&[3, 7, 9], ms(100)), Turn::Send(3));
        s.failed(3, &config, ms(100), most);
        assert_eq!(s.turn(&[3, 7, 9], ms(300)), Turn::Send(3));
        s.failed(3, &config, ms(300), |_| ms(0));
        assert_eq!(s.turn(&[3, 7, 9], ms(500)), Turn::Send(3));
        s.failed(3, &config, ms(500), most);
        s.succeeded(7, config.gap, ms(600));
        assert_eq!(s.turn(&[3, 9], ms(600)), Turn::WaitUntil(ms(605)));
        assert_eq!(s.turn(&[3, 9], ms(605)), Turn::Send(9), "3 waits for itself only");
        s.succeeded(9, config.gap, ms(605));
        assert_eq!(s.turn(&[3], ms(610)), Turn::WaitUntil(ms(1300)));
        assert_eq!(s.turn(&[], ms(610)), Turn::Idle);
        assert!(s.entries.is_empty(), "what is gone is forgotten");
    }
}
