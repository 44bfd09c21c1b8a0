//! The machine's table for docs/EMIT.md, made by asking the machine: every state that a history leads to, every event, what
//! [`step`] answers.

use super::machine::{Action, Delivery, Event, Outcome, step};
use crate::config::DeliveryConfig;
use crate::ledger::{Answer, LedgerError, Record, Verdict};
use rewarder_model::{Cid, Intent};
use std::fmt::Write;
use std::time::Duration;

/// What happened, in words, and as an event.
fn events(ours: Record) -> Vec<(&'static str, Event)> {
    let foreign = Record { commitment: Cid::of(b"another commitment"), ..ours };
    let rival = Record { run_key: Cid::of(b"another run"), commitment: Cid::of(b"another commitment") };
    let failed = |verdict| Event::Failed(LedgerError::new(verdict, "-"));
    let late =
        LedgerError { retry_after: Some(Duration::from_secs(3600)), ..LedgerError::new(Verdict::Retry, "-") };
    vec![
        ("begin", Event::Begin),
        ("accepted", Event::Answered(Answer::Accepted)),
        ("dup, our commitment", Event::Answered(Answer::Dup(ours))),
        ("dup, another commitment", Event::Answered(Answer::Dup(foreign))),
        ("conflict, another run", Event::Answered(Answer::Conflict(rival))),
        ("conflict, our run, another commitment", Event::Answered(Answer::Conflict(foreign))),
        ("conflict, our own run", Event::Answered(Answer::Conflict(ours))),
        ("refused for good", failed(Verdict::Refused)),
        ("nothing was settled, try again", failed(Verdict::Retry)),
        ("try again after the deadline", Event::Failed(late)),
        ("the outcome is not known", failed(Verdict::Unknown)),
        ("time-out", Event::TimedOut),
        ("found, our commitment", Event::Found(Some(ours))),
        ("found, another commitment", Event::Found(Some(foreign))),
        ("not found", Event::Found(None)),
        ("woke", Event::Woke),
        ("no retry budget", Event::NoBudget),
        ("the breaker is open", Event::Brownout),
        ("emission is latched off", Event::EmissionOff),
    ]
}

fn actions(actions: &[Action]) -> String {
    let words: Vec<_> = actions
        .iter()
        .map(|action| match action {
            Action::Submit(_) => "submit".to_owned(),
            Action::Lookup(_) => "ask".to_owned(),
            Action::Wait { .. } => "wait".to_owned(),
            Action::Latch(_) => "**latch**".to_owned(),
            Action::Finish(outcome) => format!(
                "finish: {}",
                match outcome {
                    Outcome::Accepted => "accepted",
                    Outcome::Dup => "dup-ours",
                    Outcome::Conflict(_) => "conflict",
                    Outcome::ForeignDup(_) => "foreign dup",
                    Outcome::Refused { .. } => "permanent",
                    Outcome::Held { unknown: true, .. } => "held, unknown",
                    Outcome::Held { unknown: false, .. } => "held",
                }
            ),
        })
        .collect();
    words.join(", ")
}

/// The table, in Markdown.
pub fn table(intent: &Intent) -> String {
    let ours = Record { run_key: intent.run_key, commitment: intent.commitment };
    let retry = || Event::Failed(LedgerError::new(Verdict::Retry, "-"));
    let states: [(bool, Vec<Event>); 7] = [
        (false, vec![]),
        (true, vec![]),
        (false, vec![Event::Begin]),
        (false, vec![Event::Begin, retry()]),
        (false, vec![Event::Begin, Event::TimedOut]),
        (false, vec![Event::Begin, Event::TimedOut, Event::Woke]),
        (false, vec![Event::Begin, Event::Answered(Answer::Accepted)]),
    ];
    let mut text = String::from("| state | event | actions | state |\n|---|---|---|---|\n");
    for (unknown, history) in states {
        let reach = || {
            let fresh = Delivery::new(intent, DeliveryConfig::default(), unknown);
            history.iter().fold(fresh, |state, event| step(state, event.clone(), Duration::ZERO).0)
        };
        let from = reach().name();
        let mut ignored = 0;
        for (words, event) in events(ours) {
            let before = reach();
            let (after, done) = step(before.clone(), event, Duration::ZERO);
            if done.is_empty() && after == before {
                ignored += 1;
                continue;
            }
            let _ = writeln!(text, "| {from} | {words} | {} | {} |", actions(&done), after.name());
        }
        let _ = writeln!(text, "| {from} | any of the other {ignored} | nothing | {from} |");
    }
    text
}

#[cfg(test)]
mod tests {
    use crate::tests::world::intent;

    const BEGIN: &str = "<!-- table: made from the code -->\n";
    const END: &str = "<!-- end of table -->\n";

    /// The docs show the machine as it is. `EMIT_DOCS=write` rewrites them (testing/emit-docs).
    #[test]
    fn the_docs_show_the_machine_as_it_is() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/EMIT.md");
        let text = std::fs::read_to_string(&path).unwrap();
        let (head, rest) = text.split_once(BEGIN).unwrap();
        let (table, tail) = rest.split_once(END).unwrap();
        let made = super::table(&intent(1));
        if std::env::var_os("EMIT_DOCS").is_some_and(|what| what == "write") {
            std::fs::write(&path, format!("{head}{BEGIN}{made}{END}{tail}")).unwrap();
            return;
        }
        assert_eq!(table, made, "docs/EMIT.md is stale: run testing/emit-docs");
    }
}
