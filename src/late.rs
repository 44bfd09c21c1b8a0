//! Answers that came after the deadline of the request that asked, kept for the next one that asks the same.
//!
//! Why: a job may take longer than a request waits. Its asker hears 202 and asks again; a refused job and a dry run leave no run
//! behind, and would be computed anew each time, and each time for too long.
//!
//! The laws: an answer is told once, within [`KEPT`], to whoever asks for the same run in the same way; nobody hears of a queue
//! that was full or of inputs that were missing, which may be mended by then; and there are at most [`LATE_MAX`]. Whoever takes the
//! word that a run is held looks whether it still is.

use crate::pipeline::Answer;
use rewarder_model::{Cid, LedgerResult, PolicyId, TenantId};
use std::collections::{HashMap, VecDeque};
use std::time::Duration;

/// Most answers that are kept: about two kilobytes each.
const LATE_MAX: usize = 1024;
/// How long one is kept: a follower asks again within seconds.
const KEPT: Duration = Duration::from_secs(60);

/// Which question it is the answer to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LateKey {
    /// Whose.
    pub tenant: TenantId,
    /// Which run.
    pub run_key: Cid,
    /// By which name of the policy.
    pub policy_id: PolicyId,
    /// Compute only.
    pub dry_run: bool,
}

/// The answers that nobody has heard.
#[derive(Default)]
pub struct Late {
    answers: HashMap<LateKey, (Duration, Answer)>,
    /// The oldest first; some of them are taken.
    order: VecDeque<(Duration, LateKey)>,
}

/// Whether it is news to who asks again.
fn lasts(answer: &Answer) -> bool {
    match answer {
        // A run that was settled is remembered by the service itself.
        Ok(done) => done.quarantine || done.ledger == LedgerResult::None,
        Err(refusal) => matches!(refusal.reason.status(), 409 | 422),
    }
}

impl Late {
    /// Keeps an answer that came at `now`.
    pub fn keep(&mut self, key: LateKey, answer: Answer, now: Duration) {
        if !lasts(&answer) {
            return;
        }
        while let Some((since, _)) = self.order.front()
            && (self.order.len() >= LATE_MAX || now.saturating_sub(*since) >= KEPT)
        {
            if let Some((since, key)) = self.order.pop_front()
                && self.answers.get(&key).is_some_and(|(kept, _)| *kept == since)
            {
                self.answers.remove(&key);
            }
        }
        self.order.push_back((now, key.clone()));
        self.answers.insert(key, (now, answer));
    }

    /// The answer, once.
    pub fn take(&mut self, key: &LateKey, now: Duration) -> Option<Answer> {
        let (since, answer) = self.answers.remove(key)?;
        (now.saturating_sub(since) < KEPT).then_some(answer)
    }

    /// Whether there are none: most of the time.
    pub fn is_empty(&self) -> bool {
        self.answers.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::refusal::Refusal;
    use rewarder_model::Reason;

    fn key(n: u32) -> LateKey {
        LateKey {
            tenant: "acme".parse().unwrap(),
            run_key: Cid::of(&n.to_le_bytes()),
            policy_id: "p".parse().unwrap(),
            dry_run: false,
        }
    }

    fn refused(reason: Reason) -> Answer {
        Err(Refusal::new(reason, "because"))
    }

    #[test]
    fn an_answer_is_told_once_and_in_time() {
        let (mut late, now) = (Late::default(), Duration::from_secs(7));
        for n in 0..2 {
            late.keep(key(n), refused(Reason::EpochConflict), now);
        }
        let told = late.take(&key(0), now + KEPT - Duration::from_millis(1)).unwrap();
        assert_eq!(told.unwrap_err().reason, Reason::EpochConflict);
        assert!(late.take(&key(0), now).is_none(), "once");
        assert!(late.take(&key(1), now + KEPT).is_none(), "too late");
        assert!(late.is_empty());
    }

    #[test]
    fn what_may_be_mended_is_not_kept() {
        let mut late = Late::default();
        for reason in
            [Reason::InputsNotFound, Reason::QueueFull, Reason::Caveat, Reason::Internal, Reason::Latched]
        {
            late.keep(key(0), refused(reason), Duration::ZERO);
            assert!(late.is_empty(), "{reason:?}");
        }
    }

    #[test]
    fn there_is_a_bound_and_the_same_question_asked_again_is_one() {
        let (mut late, mut now) = (Late::default(), Duration::ZERO);
        for n in 0..3 * LATE_MAX as u32 {
            now += Duration::from_millis(1);
            late.keep(key(n % 1500), refused(Reason::SnapshotInvalid), now);
        }
        assert!(late.answers.len() <= LATE_MAX && late.order.len() <= LATE_MAX);
        assert!(late.take(&key((3 * LATE_MAX as u32 - 1) % 1500), now).is_some(), "the newest is there");
    }
}
