//! The metrics of this floor, by the names of contract §7. No label ever holds a tenant, epoch, actor, CID or
//! run key.

use metrics::{Counter, Gauge, Histogram, Unit, counter, gauge, histogram};

/// Emissions by what became of them.
pub const LEDGER_INTENTS_TOTAL: &str = "ledger_intents_total";
/// Time of one attempt at the ledger.
pub const LEDGER_EMIT_LATENCY_SECONDS: &str = "ledger_emit_latency_seconds";
/// Attempts that failed.
pub const LEDGER_EGRESS_ERRORS_TOTAL: &str = "ledger_egress_errors_total";
/// Intents held back.
pub const QUARANTINE_DEPTH: &str = "quarantine_depth";

/// How a metric moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Only up.
    Counter,
    /// Up and down.
    Gauge,
    /// Many values.
    Histogram,
}

/// Name, shape, unit and HELP of every metric here.
pub const METRICS: &[(&str, Shape, Unit, &str)] = &[
    (
        LEDGER_INTENTS_TOTAL,
        Shape::Counter,
        Unit::Count,
        "Emissions by result: accepted, dup (ours), conflict, refused, error (held or a foreign dup).",
    ),
    (
        LEDGER_EMIT_LATENCY_SECONDS,
        Shape::Histogram,
        Unit::Seconds,
        "Time of one submission to the ledger, failed ones and time-outs included.",
    ),
    (
        LEDGER_EGRESS_ERRORS_TOTAL,
        Shape::Counter,
        Unit::Count,
        "Attempts at the ledger that failed or timed out.",
    ),
    (
        QUARANTINE_DEPTH,
        Shape::Gauge,
        Unit::Count,
        "Intents in the quarantine buffer, pending or held for an operator.",
    ),
];

/// Registers unit and HELP with the recorder.
pub fn describe() {
    for &(name, shape, unit, help) in METRICS {
        match shape {
            Shape::Counter => metrics::describe_counter!(name, unit, help),
            Shape::Gauge => metrics::describe_gauge!(name, unit, help),
            Shape::Histogram => metrics::describe_histogram!(name, unit, help),
        }
    }
}

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
        }
    }
}
