//! What `/metrics` shows. A handful of counters does not need a recorder.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};

/// What a submission came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Came {
    /// Settled now.
    Accepted,
    /// Settled before.
    Dup,
    /// Another run has the epoch.
    Conflict,
    /// Turned away for good.
    Refused,
    /// Not settled, or not known: to be sent again.
    Failed,
}

/// Counters of the process.
#[derive(Default)]
pub struct Counters {
    intents: [AtomicU64; 5],
    questions: AtomicU64,
}

const RESULTS: [(Came, &str); 5] = [
    (Came::Accepted, "accepted"),
    (Came::Dup, "dup"),
    (Came::Conflict, "conflict"),
    (Came::Refused, "refused"),
    (Came::Failed, "failed"),
];

impl Counters {
    /// A submission was answered.
    pub fn intent(&self, came: Came) {
        self.intents[came as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Somebody asked what became of a run.
    pub fn question(&self) {
        self.questions.fetch_add(1, Ordering::Relaxed);
    }

    /// The text form of Prometheus; `settlements` is what stands in the ledger.
    pub fn text(&self, settlements: u64) -> String {
        let mut text = String::from(
            "# HELP svc_ledger_intents_total Submissions answered, by result.\n# TYPE svc_ledger_intents_total counter\n",
        );
        for (came, result) in RESULTS {
            let count = self.intents[came as usize].load(Ordering::Relaxed);
            let _ = writeln!(text, "svc_ledger_intents_total{{result=\"{result}\"}} {count}");
        }
        let questions = self.questions.load(Ordering::Relaxed);
        let _ = write!(
            text,
            "# HELP svc_ledger_questions_total Questions what became of a run.\n# TYPE svc_ledger_questions_total counter\n\
             svc_ledger_questions_total {questions}\n\
             # HELP svc_ledger_settlements Settlements that stand in the ledger.\n# TYPE svc_ledger_settlements gauge\n\
             svc_ledger_settlements {settlements}\n"
        );
        text
    }
}
