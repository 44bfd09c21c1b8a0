//! Delivery as a pure state machine: `step(state, event, now) -> (state, actions)`. No I/O, no clock, no
//! randomness.
//!
//! ```text
//! pending ─► sent ─► done: accepted | dup-ours | conflict | permanent | foreign dup (latches) | held
//!             │ ▲
//!             ▼ │ not found
//!          unknown ─► asking ─► done
//! ```
//!
//! docs/EMIT.md holds the whole table, made from this code ([`super::table`]).
//!
//! The laws: nothing is sent while an outcome is unknown; at most `1 + retries_max` submissions and as many
//! questions; nothing begins after the deadline; a dup is a success only if the commitment is ours. An event
//! that does not belong to a state (a late answer) changes nothing.

use crate::config::DeliveryConfig;
use crate::ledger::{Answer, LedgerError, Record, Verdict};
use crate::plant;
use rewarder_model::Intent;
use std::time::Duration;

/// What became of an intent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Settled by this emission.
    Accepted,
    /// Settled before, with our commitment.
    Dup,
    /// The epoch is another run's (409 `epoch_conflict`).
    Conflict(Record),
    /// Our run key stands in the ledger with this other commitment: emission is latched off.
    ForeignDup(Record),
    /// The ledger said no for good (502 `ledger_refused`): held for an operator.
    Refused {
        /// What it said.
        detail: String,
    },
    /// Not delivered in time (202): kept, to be sent again.
    Held {
        /// Whether the ledger may have settled it.
        unknown: bool,
        /// Why.
        detail: String,
    },
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The first event.
    Begin,
    /// The ledger answered a submission.
    Answered(Answer),
    /// The ledger answered a question.
    Found(Option<Record>),
    /// The submission or question failed.
    Failed(LedgerError),
    /// The submission or question took longer than it may.
    TimedOut,
    /// The wait is over.
    Woke,
    /// Emission has been turned off.
    EmissionOff,
    /// The breaker is open.
    Brownout,
    /// The process has no retries left to spend.
    NoBudget,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Hand the intent to the ledger; give up after this time.
    Submit(Duration),
    /// Ask the ledger for the run key; give up after this time.
    Lookup(Duration),
    /// Wait for `floor`, and beside it for a random time below `jitter` (full jitter).
    Wait {
        /// What the ledger asked for.
        floor: Duration,
        /// Ceiling of the random part.
        jitter: Duration,
    },
    /// Turn emission off.
    Latch(Record),
    /// It is over.
    Finish(Outcome),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Submit,
    Lookup,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Pending,
    Sent,
    Asking,
    Waiting(Next),
    Done,
}

/// The state of one emission.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    config: DeliveryConfig,
    ours: Record,
    phase: Phase,
    /// Set by `Begin`.
    deadline: Duration,
    submits_left: u32,
    lookups_left: u32,
    failures: u32,
    /// A submission left and what became of it is not known.
    unknown: bool,
    detail: String,
}

impl Delivery {
    /// Before anything. `unknown`: an earlier emission of this intent may have been settled, so ask first.
    pub fn new(intent: &Intent, config: DeliveryConfig, unknown: bool) -> Self {
        let tries = config.retries_max.saturating_add(1);
        Self {
            config,
            ours: Record { run_key: intent.run_key, commitment: intent.commitment },
            phase: Phase::Pending,
            deadline: Duration::ZERO,
            submits_left: tries,
            lookups_left: tries,
            failures: 0,
            unknown,
            detail: String::new(),
        }
    }

    /// Whether it is over.
    pub fn is_done(&self) -> bool {
        self.phase == Phase::Done
    }

    /// The state in a word, as the docs call it.
    pub fn name(&self) -> &'static str {
        match self.phase {
            Phase::Pending if self.unknown => "pending, unknown",
            Phase::Pending => "pending",
            Phase::Sent => "sent",
            Phase::Waiting(Next::Submit) => "waiting to send",
            Phase::Waiting(Next::Lookup) => "unknown",
            Phase::Asking => "asking",
            Phase::Done => "done",
        }
    }

    fn finish(&mut self, outcome: Outcome) -> Vec<Action> {
        self.phase = Phase::Done;
        vec![Action::Finish(outcome)]
    }

    fn hold(&mut self, why: &str) -> Vec<Action> {
        let detail = if self.detail.is_empty() { why.to_owned() } else { format!("{why}: {}", self.detail) };
        self.finish(Outcome::Held { unknown: self.unknown, detail })
    }

    fn foreign(&mut self, record: Record) -> Vec<Action> {
        self.phase = Phase::Done;
        if plant::is("foreign_dup_does_not_latch") {
            return vec![Action::Finish(Outcome::ForeignDup(record))];
        }
        vec![Action::Latch(record), Action::Finish(Outcome::ForeignDup(record))]
    }

    /// Begins an attempt, if there are time and tries for it.
    fn attempt(&mut self, next: Next, now: Duration) -> Vec<Action> {
        let mut left = self.deadline.saturating_sub(now);
        if plant::is("deadline_ignored") {
            left = self.config.attempt;
        }
        if left.is_zero() {
            return self.hold("the ledger deadline has passed");
        }
        let tries = match next {
            Next::Submit => &mut self.submits_left,
            Next::Lookup => &mut self.lookups_left,
        };
        let Some(fewer) = tries.checked_sub(1) else {
            return self.hold("all tries at the ledger are used up");
        };
        if !plant::is("tries_not_counted") {
            *tries = fewer;
        }
        let timeout = self.config.attempt.min(left);
        match next {
            Next::Submit => {
                self.phase = Phase::Sent;
                vec![Action::Submit(timeout)]
            }
            Next::Lookup => {
                self.phase = Phase::Asking;
                vec![Action::Lookup(timeout)]
            }
        }
    }

    /// Waits before the next attempt, if there would be time and tries for one.
    fn back_off(&mut self, next: Next, floor: Option<Duration>, now: Duration) -> Vec<Action> {
        let tries = if next == Next::Submit { self.submits_left } else { self.lookups_left };
        if tries == 0 {
            return self.hold("all tries at the ledger are used up");
        }
        let mut floor = floor.unwrap_or_default();
        if plant::is("retry_after_ignored") {
            floor = Duration::ZERO;
        }
        if plant::is("deadline_ignored") {
            self.deadline = now + floor + self.config.attempt;
        }
        let Some(left) = self.deadline.checked_sub(now + floor).filter(|left| !left.is_zero()) else {
            return self.hold("the ledger deadline leaves no time for another try");
        };
        let doubled =
            self.config.backoff_first.saturating_mul(1u32.checked_shl(self.failures).unwrap_or(u32::MAX));
        self.failures = self.failures.saturating_add(1);
        self.phase = Phase::Waiting(next);
        vec![Action::Wait { floor, jitter: doubled.min(self.config.backoff_max).min(left) }]
    }

    fn answered(&mut self, answer: Answer, now: Duration) -> Vec<Action> {
        match answer {
            Answer::Accepted => self.finish(Outcome::Accepted),
            Answer::Dup(record) if record == self.ours || plant::is("foreign_dup_taken_as_ours") => {
                self.finish(Outcome::Dup)
            }
            Answer::Dup(record) => self.foreign(record),
            Answer::Conflict(record) if record == self.ours => {
                // The ledger contradicts itself: whatever it meant, ask.
                self.unknown = true;
                self.detail = "the ledger answered a conflict with our own run".into();
                self.back_off(Next::Lookup, None, now)
            }
            Answer::Conflict(record) if record.run_key == self.ours.run_key => self.foreign(record),
            Answer::Conflict(_) if plant::is("conflict_taken_as_ours") => self.finish(Outcome::Dup),
            Answer::Conflict(record) => self.finish(Outcome::Conflict(record)),
        }
    }

    fn failed(&mut self, error: LedgerError, now: Duration) -> Vec<Action> {
        self.detail = error.detail;
        match (self.phase, error.verdict) {
            (Phase::Sent, Verdict::Refused) => self.finish(Outcome::Refused { detail: self.detail.clone() }),
            (Phase::Sent, Verdict::Retry) => self.back_off(Next::Submit, error.retry_after, now),
            (Phase::Sent, Verdict::Unknown) => {
                self.unknown = true;
                let next = if plant::is("retry_forgets_to_ask") { Next::Submit } else { Next::Lookup };
                self.back_off(next, error.retry_after, now)
            }
            _ => self.back_off(Next::Lookup, error.retry_after, now),
        }
    }
}

/// Takes one event at `now` (monotonic) and says what to do.
pub fn step(mut state: Delivery, event: Event, now: Duration) -> (Delivery, Vec<Action>) {
    let actions = match (state.phase, event) {
        (Phase::Done, _) => Vec::new(),
        (_, Event::EmissionOff) => state.hold("emission is latched off"),
        (_, Event::Brownout) => state.hold("the ledger is browned out"),
        (_, Event::NoBudget) => state.hold("the retry budget of the process is spent"),
        (Phase::Pending, Event::Begin) => {
            state.deadline = now + state.config.deadline;
            let first = if state.unknown && !plant::is("restart_forgets_to_ask") {
                Next::Lookup
            } else {
                Next::Submit
            };
            state.attempt(first, now)
        }
        (Phase::Sent, Event::Answered(answer)) => state.answered(answer, now),
        (Phase::Sent | Phase::Asking, Event::Failed(error)) => state.failed(error, now),
        (Phase::Sent, Event::TimedOut) if plant::is("silence_counts_as_settled") => {
            state.finish(Outcome::Accepted)
        }
        (Phase::Sent, Event::TimedOut) if plant::is("silence_taken_as_not_sent") => {
            state.failed(LedgerError::new(Verdict::Retry, "planted"), now)
        }
        (Phase::Sent | Phase::Asking, Event::TimedOut) => {
            state.failed(LedgerError::new(Verdict::Unknown, "the ledger did not answer in time"), now)
        }
        // Settled by this emission, or by one before it, of which a crash may have taken the answer.
        (Phase::Asking, Event::Found(Some(record))) if record == state.ours => {
            let submitted = state.submits_left <= state.config.retries_max;
            state.finish(if submitted { Outcome::Accepted } else { Outcome::Dup })
        }
        (Phase::Asking, Event::Found(Some(record))) => state.foreign(record),
        (Phase::Asking, Event::Found(None)) => {
            state.unknown = false;
            state.attempt(Next::Submit, now)
        }
        (Phase::Waiting(next), Event::Woke) => state.attempt(next, now),
        _ => Vec::new(),
    };
    (state, actions)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::world::intent;
    use proptest::prelude::*;
    use rewarder_model::Cid;

    const T: Duration = Duration::from_millis(800);

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    fn ours() -> Record {
        let intent = intent(1);
        Record { run_key: intent.run_key, commitment: intent.commitment }
    }

    fn other() -> Record {
        Record { run_key: Cid::of(b"other"), commitment: Cid::of(b"other") }
    }

    fn error(verdict: Verdict) -> Event {
        Event::Failed(LedgerError::new(verdict, "e"))
    }

    /// Feeds events, all at time zero, and compares the last actions.
    fn check(unknown: bool, events: &[Event], expect: &[Action]) {
        let mut state = Delivery::new(&intent(1), DeliveryConfig::default(), unknown);
        let mut last = Vec::new();
        for event in events {
            (state, last) = step(state, event.clone(), Duration::ZERO);
        }
        assert_eq!(last, expect, "{events:?}");
    }

    fn wait(jitter: u64) -> Action {
        Action::Wait { floor: Duration::ZERO, jitter: ms(jitter) }
    }

    #[test]
    fn the_table() {
        use Event::*;
        let foreign = Record { commitment: Cid::of(b"x"), ..ours() };
        let latched = |record| vec![Action::Latch(record), Action::Finish(Outcome::ForeignDup(record))];
        check(false, &[Begin], &[Action::Submit(T)]);
        check(true, &[Begin], &[Action::Lookup(T)]);
        check(false, &[Begin, Answered(Answer::Accepted)], &[Action::Finish(Outcome::Accepted)]);
        check(false, &[Begin, Answered(Answer::Dup(ours()))], &[Action::Finish(Outcome::Dup)]);
        check(false, &[Begin, Answered(Answer::Dup(foreign))], &latched(foreign));
        check(false, &[Begin, Answered(Answer::Dup(other()))], &latched(other()));
        check(false, &[Begin, Answered(Answer::Conflict(foreign))], &latched(foreign));
        check(false, &[Begin, Answered(Answer::Conflict(ours()))], &[wait(25)]);
        check(
            false,
            &[Begin, Answered(Answer::Conflict(other()))],
            &[Action::Finish(Outcome::Conflict(other()))],
        );
        check(
            false,
            &[Begin, error(Verdict::Refused)],
            &[Action::Finish(Outcome::Refused { detail: "e".into() })],
        );
        check(false, &[Begin, error(Verdict::Retry), Woke], &[Action::Submit(T)]);
        check(false, &[Begin, error(Verdict::Unknown)], &[wait(25)]);
        check(false, &[Begin, error(Verdict::Unknown), Woke], &[Action::Lookup(T)]);
        check(false, &[Begin, TimedOut, Woke, Found(None)], &[Action::Submit(T)]);
        check(false, &[Begin, TimedOut, Woke, Found(Some(ours()))], &[Action::Finish(Outcome::Accepted)]);
        check(false, &[Begin, TimedOut, Woke, Found(Some(foreign))], &latched(foreign));
        check(false, &[Begin, TimedOut, Woke, error(Verdict::Retry)], &[wait(50)]);
        check(false, &[Begin, TimedOut, Woke, TimedOut, Woke], &[Action::Lookup(T)]);
        check(false, &[Begin, Answered(Answer::Accepted), Answered(Answer::Dup(foreign))], &[]);
        check(false, &[Begin, TimedOut, Answered(Answer::Accepted)], &[]);
    }

    #[test]
    fn patience_beyond_the_deadline_is_held_at_once() {
        let late = LedgerError { retry_after: Some(ms(1000)), ..LedgerError::new(Verdict::Retry, "busy") };
        let detail = "the ledger deadline leaves no time for another try: busy".to_owned();
        check(
            false,
            &[Event::Begin, Event::Failed(late)],
            &[Action::Finish(Outcome::Held { unknown: false, detail })],
        );
        let soon = LedgerError { retry_after: Some(ms(990)), ..LedgerError::new(Verdict::Retry, "busy") };
        check(
            false,
            &[Event::Begin, Event::Failed(soon)],
            &[Action::Wait { floor: ms(990), jitter: ms(10) }],
        );
    }

    fn events() -> impl Strategy<Value = Event> {
        prop_oneof![
            Just(Event::Begin),
            Just(Event::Answered(Answer::Accepted)),
            Just(Event::Answered(Answer::Conflict(ours()))),
            Just(Event::Found(None)),
            Just(error(Verdict::Retry)),
            Just(error(Verdict::Unknown)),
            Just(Event::TimedOut),
            Just(Event::Woke),
        ]
    }

    proptest! {
        /// Whatever happens in whatever order: bounded tries, nothing after the deadline, no submission while
        /// unknown, and what is held says that it is unknown whenever a submission's fate was not learnt.
        #[test]
        fn laws_hold_for_any_history(history in proptest::collection::vec((events(), 0u64..300), 0..60)) {
            let config = DeliveryConfig::default();
            let mut state = Delivery::new(&intent(1), config, false);
            let (mut now, mut begun) = (Duration::ZERO, None);
            let (mut submits, mut lookups, mut open) = (0, 0, false);
            for (event, passed) in history {
                now += ms(passed);
                let before = state.phase;
                let learnt = before == Phase::Asking && event == Event::Found(None);
                let lost = before == Phase::Sent && (event == Event::TimedOut || event == error(Verdict::Unknown)
                    || event == Event::Answered(Answer::Conflict(ours())));
                let (next, actions) = step(state, event, now);
                state = next;
                if learnt { open = false }
                if lost { open = true }
                for action in actions {
                    begun.get_or_insert(now);
                    let spent = now - begun.unwrap();
                    match action {
                        Action::Submit(timeout) => {
                            submits += 1;
                            prop_assert!(!open && spent + timeout <= config.deadline);
                        }
                        Action::Lookup(timeout) => {
                            lookups += 1;
                            prop_assert!(spent + timeout <= config.deadline);
                        }
                        Action::Wait { floor, jitter } => prop_assert!(spent + floor + jitter <= config.deadline),
                        Action::Finish(Outcome::Held { unknown, .. }) => prop_assert_eq!(unknown, open),
                        _ => {}
                    }
                }
            }
            prop_assert!(submits <= config.retries_max + 1 && lookups <= config.retries_max + 1);
        }
    }
}
