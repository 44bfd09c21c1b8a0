//! The metrics of the door, kept as handles. They bind to the recorder that is installed when their owner is
//! made.

use rewarder_model::{Kind, Metric};

/// Requests under way.
pub const INFLIGHT: &str = "inflight";
/// Capabilities that were refused.
pub const AUTH_FAILURES_TOTAL: &str = "auth_failures_total";

/// Everything that this floor exports.
pub const METRICS: &[Metric] = &[
    Metric {
        name: INFLIGHT,
        kind: Kind::Gauge,
        unit: "requests",
        labels: &[],
        help: "Requests that hold one of the MAX_INFLIGHT places.",
    },
    Metric {
        name: AUTH_FAILURES_TOTAL,
        kind: Kind::Counter,
        unit: "requests",
        labels: &["scope"],
        help: "Requests whose capability was missing, forged, not enough or not checked in time, by the scope they needed.",
    },
];
