//! The metrics of the door, kept as handles. They bind to the recorder that is installed when their owner is
//! made.

use rewarder_model::{Kind, Metric};

/// Requests under way.
pub const INFLIGHT: &str = "inflight";
/// Capabilities that were refused.
pub const AUTH_FAILURES_TOTAL: &str = "auth_failures_total";

/// Questions to the verifier of capabilities.
pub const CAP_VERIFIER_QUESTIONS_TOTAL: &str = "cap_verifier_questions_total";
/// Lookups among its verdicts.
pub const CAP_CACHE_LOOKUPS_TOTAL: &str = "cap_cache_lookups_total";
/// Verdicts that are kept.
pub const CAP_CACHE_ENTRIES: &str = "cap_cache_entries";

/// Everything that this floor exports.
pub const METRICS: &[Metric] = &[
    Metric {
        name: INFLIGHT,
        kind: Kind::Gauge,
        unit: "requests",
        labels: &[],
        help: "Requests with new work that hold one of the MAX_INFLIGHT places.",
    },
    Metric {
        name: AUTH_FAILURES_TOTAL,
        kind: Kind::Counter,
        unit: "requests",
        labels: &["scope"],
        help: "Requests whose capability was missing, forged, not enough or not checked in time, by the scope they needed.",
    },
    Metric {
        name: CAP_VERIFIER_QUESTIONS_TOTAL,
        kind: Kind::Counter,
        unit: "questions",
        labels: &["result"],
        help: "Questions to the verifier of CAP_VERIFIER_URL, by how they ended: active, inactive, failed, garbled, late.",
    },
    Metric {
        name: CAP_CACHE_LOOKUPS_TOTAL,
        kind: Kind::Counter,
        unit: "requests",
        labels: &["result"],
        help: "Requests whose capability was looked up among the verifier's verdicts: hit, miss, or joined to a question under way.",
    },
    Metric {
        name: CAP_CACHE_ENTRIES,
        kind: Kind::Gauge,
        unit: "verdicts",
        labels: &[],
        help: "Verdicts of the verifier that are kept.",
    },
];
