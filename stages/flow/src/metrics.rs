//! The metrics of queues and stages. Each is a handle that its owner keeps: 10 ns a change instead of 77 ns
//! for a macro.
//!
//! Handles bind to the recorder that is installed when a queue or stage is made: install it first.

use metrics::{Gauge, Histogram};
use rewarder_model::{Kind, Metric};

/// Jobs that wait before a stage.
pub const QUEUE_DEPTH: &str = "queue_depth";
/// Handlers that run.
pub const STAGE_INFLIGHT: &str = "stage_inflight";
/// Handlers that may run.
pub const STAGE_WIDTH: &str = "stage_width";
/// Time in the queue.
pub const STAGE_WAIT_SECONDS: &str = "stage_wait_seconds";
/// Time in the handler.
pub const STAGE_SERVICE_SECONDS: &str = "stage_service_seconds";

const STAGE: &[&str] = &["stage"];

/// Everything that this floor exports.
pub const METRICS: &[Metric] = &[
    Metric {
        name: QUEUE_DEPTH,
        kind: Kind::Gauge,
        unit: "jobs",
        labels: STAGE,
        help: "Jobs that wait before a stage.",
    },
    Metric {
        name: STAGE_INFLIGHT,
        kind: Kind::Gauge,
        unit: "jobs",
        labels: STAGE,
        help: "Jobs that a stage works on, those that wait for room in the next queue included.",
    },
    Metric {
        name: STAGE_WIDTH,
        kind: Kind::Gauge,
        unit: "jobs",
        labels: STAGE,
        help: "Jobs that a stage may work on at once.",
    },
    Metric {
        name: STAGE_WAIT_SECONDS,
        kind: Kind::Histogram,
        unit: "seconds",
        labels: STAGE,
        help: "Time that a job waited in the queue before a stage.",
    },
    Metric {
        name: STAGE_SERVICE_SECONDS,
        kind: Kind::Histogram,
        unit: "seconds",
        labels: STAGE,
        help: "Time that a stage's handler took over a job, without the wait for room in the next queue.",
    },
];

/// What a queue writes.
pub(crate) struct QueueMetrics {
    pub depth: Gauge,
    pub wait: Histogram,
}

impl QueueMetrics {
    pub fn of(stage: &'static str) -> Self {
        Self {
            depth: metrics::gauge!(QUEUE_DEPTH, "stage" => stage),
            wait: metrics::histogram!(STAGE_WAIT_SECONDS, "stage" => stage),
        }
    }
}

/// What a stage writes.
pub(crate) struct StageMetrics {
    pub inflight: Gauge,
    pub width: Gauge,
    pub service: Histogram,
}

impl StageMetrics {
    pub fn of(stage: &'static str) -> Self {
        Self {
            inflight: metrics::gauge!(STAGE_INFLIGHT, "stage" => stage),
            width: metrics::gauge!(STAGE_WIDTH, "stage" => stage),
            service: metrics::histogram!(STAGE_SERVICE_SECONDS, "stage" => stage),
        }
    }
}
