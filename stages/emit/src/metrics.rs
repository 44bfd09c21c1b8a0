//! The metrics of this floor, by the names of contract §7. No label ever holds a tenant, epoch, actor, CID or
//! run key.

use crate::breaker::Mode;
use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};
use rewarder_model::{Kind, Metric};

/// Emissions by what became of them.
pub const LEDGER_INTENTS_TOTAL: &str = "ledger_intents_total";
/// Time of one attempt at the ledger.
pub const LEDGER_EMIT_LATENCY_SECONDS: &str = "ledger_emit_latency_seconds";
/// Attempts that failed.
pub const LEDGER_EGRESS_ERRORS_TOTAL: &str = "ledger_egress_errors_total";
/// Intents held back.
pub const QUARANTINE_DEPTH: &str = "quarantine_depth";

/// Mode of the brownout breaker.
pub const BROWNOUT_MODE: &str = "brownout_mode";

/// Everything that this floor exports.
pub const METRICS: &[Metric] = &[
    Metric {
        name: LEDGER_INTENTS_TOTAL,
        kind: Kind::Counter,
        unit: "emissions",
        labels: &["result"],
        help: "Emissions by result: accepted, dup (ours, also where a settled run is asked for again), conflict, refused, \
               error (held or a foreign dup).",
    },
    Metric {
        name: LEDGER_EMIT_LATENCY_SECONDS,
        kind: Kind::Histogram,
        unit: "seconds",
        labels: &[],
        help: "Time of one submission to the ledger, failed ones and time-outs included.",
    },
    Metric {
        name: LEDGER_EGRESS_ERRORS_TOTAL,
        kind: Kind::Counter,
        unit: "attempts",
        labels: &[],
        help: "Attempts at the ledger that failed or timed out.",
    },
    Metric {
        name: QUARANTINE_DEPTH,
        kind: Kind::Gauge,
        unit: "intents",
        labels: &[],
        help: "Intents in the quarantine buffer, pending or held for an operator.",
    },
    Metric {
        name: BROWNOUT_MODE,
        kind: Kind::Gauge,
        unit: "",
        labels: &[],
        help: "Brownout breaker: 0 closed, 1 half-open (the quarantine drains), 2 open (probes only).",
    },
];

/// Handles, taken once: a macro at each use would look the name up each time.
pub(crate) struct Meters {
    pub(crate) accepted: Counter,
    pub(crate) dup: Counter,
    pub(crate) conflict: Counter,
    pub(crate) refused: Counter,
    pub(crate) error: Counter,
    pub(crate) latency: Histogram,
    pub(crate) egress_errors: Counter,
    pub(crate) depth: Gauge,
    mode: Gauge,
}

impl Meters {
    pub(crate) fn new() -> Self {
        let intents = |result: &'static str| counter!(LEDGER_INTENTS_TOTAL, "result" => result);
        Self {
            accepted: intents("accepted"),
            dup: intents("dup"),
            conflict: intents("conflict"),
            refused: intents("refused"),
            error: intents("error"),
            latency: histogram!(LEDGER_EMIT_LATENCY_SECONDS),
            egress_errors: counter!(LEDGER_EGRESS_ERRORS_TOTAL),
            depth: gauge!(QUARANTINE_DEPTH),
            mode: gauge!(BROWNOUT_MODE),
        }
    }

    pub(crate) fn show(&self, mode: Mode) {
        self.mode.set(match mode {
            Mode::Closed => 0u32,
            Mode::HalfOpen => 1,
            Mode::Open => 2,
        });
    }
}
