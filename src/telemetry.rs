//! Logs, metrics, and what the process itself costs.

use crate::bus;
use crate::config::LogFormat;
use metrics::{Gauge, Unit, describe_counter, describe_gauge, describe_histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use rewarder_model::{Kind, Metric};
use tracing_subscriber::EnvFilter;

/// Time from a job's entry to its answer, failures included.
pub const COMPUTE_LATENCY: &str = "reward_compute_latency_seconds";
/// Runs by `status`: `ok`, `unpayable`, `refused`, `quarantined`, `failed`.
pub const RUNS_TOTAL: &str = "reward_runs_total";
/// Breaches by `kind`.
pub const INVARIANT_FAIL_TOTAL: &str = "reward_invariant_fail_total";
/// Refusals by `reason`.
pub const REJECTED_TOTAL: &str = "rejected_total";
/// 1 for each `cause` of a readiness that is not there.
pub const READYZ_DEGRADED: &str = "readyz_degraded";

/// Bytes in the sealed store.
pub const STORE_BYTES: &str = "store_bytes";
/// `STORE_MAX_BYTES`.
pub const STORE_BYTES_MAX: &str = "store_bytes_max";

const CPU: Metric = metric(
    "process_cpu_seconds_total",
    Kind::Counter,
    "seconds",
    &[],
    "Processor time used by the process, user and system.",
);

/// Metrics of the assembly itself. The floors list their own.
const METRICS: &[Metric] = &[
    metric(COMPUTE_LATENCY, Kind::Histogram, "seconds", &[], "Time from a job's entry to its answer."),
    metric(RUNS_TOTAL, Kind::Counter, "jobs", &["status"], "Jobs answered."),
    metric(
        INVARIANT_FAIL_TOTAL,
        Kind::Counter,
        "results",
        &["kind"],
        "Results that failed the check by another route.",
    ),
    metric(REJECTED_TOTAL, Kind::Counter, "requests", &["reason"], "Requests refused."),
    metric(
        READYZ_DEGRADED,
        Kind::Gauge,
        "0 or 1",
        &["cause"],
        "1 while this cause keeps the service from being ready.",
    ),
    metric(
        crate::edge::CLOSED_TOTAL,
        Kind::Counter,
        "connections",
        &["why"],
        "Connections that were closed before their peer was done with them.",
    ),
    metric(bus::DROPPED_TOTAL, Kind::Counter, "events", &[], "Events lost by slow listeners of the bus."),
    metric(
        crate::edge::RESPONSES_TOTAL,
        Kind::Counter,
        "answers",
        &["status"],
        "Requests answered on http_addr.",
    ),
    metric(STORE_BYTES, Kind::Gauge, "bytes", &[], "Bytes in the sealed store, uploads under way included."),
    metric(STORE_BYTES_MAX, Kind::Gauge, "bytes", &[], "Bytes that the sealed store takes at most."),
    CPU,
    metric("process_resident_memory_bytes", Kind::Gauge, "bytes", &[], "Resident memory of the process."),
    metric("process_open_fds", Kind::Gauge, "descriptors", &[], "Open file descriptors of the process."),
];

const fn metric(
    name: &'static str,
    kind: Kind,
    unit: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
) -> Metric {
    Metric { name, kind, unit, labels, help }
}

/// Every metric of the program: what `/metrics` may show, compared with the contract by a test.
pub fn all() -> impl Iterator<Item = &'static Metric> {
    [
        METRICS,
        rewarder_flow::metrics::METRICS,
        rewarder_admit::metrics::METRICS,
        rewarder_emit::metrics::METRICS,
    ]
    .into_iter()
    .flatten()
}

/// Buckets of all histograms of seconds: from a cached answer to the longest deadline, around the runbook's thresholds
/// (100 ms, 250 ms, 500 ms, 1 s).
const SECONDS: &[f64] =
    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// Installs the log: to standard error, filtered by `RUST_LOG` (default `info`).
pub fn log(format: LogFormat, burst: bool) {
    let default = if burst { "debug" } else { "info" };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A second installation, as in tests, is no reason to stop.
    let _ = match format {
        LogFormat::Text => builder.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
}

/// Installs the log of a command: warnings only, unless `RUST_LOG` says otherwise.
pub fn log_quietly() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("error"));
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .without_time()
        .try_init();
}

/// Installs the recorder of metrics and describes them all.
///
/// # Errors
/// When the process has a recorder already.
pub fn metrics() -> Result<PrometheusHandle, String> {
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), SECONDS)
        .map_err(|e| e.to_string())?
        .install_recorder()
        .map_err(|e| e.to_string())?;
    for Metric { name, kind, help, .. } in all() {
        match kind {
            Kind::Counter => describe_counter!(*name, *help),
            Kind::Histogram => describe_histogram!(*name, Unit::Seconds, *help),
            Kind::Gauge => describe_gauge!(*name, *help),
        }
    }
    // Shown from the start, so that an alert on them is never without data.
    for reason in rewarder_model::Reason::ALL {
        metrics::counter!(REJECTED_TOTAL, "reason" => reason.as_str()).absolute(0);
    }
    for status in ["ok", "unpayable", "refused", "quarantined", "failed"] {
        metrics::counter!(RUNS_TOTAL, "status" => status).absolute(0);
    }
    for breach in rewarder_reward::Breach::ALL {
        metrics::counter!(INVARIANT_FAIL_TOTAL, "kind" => breach.kind()).absolute(0);
    }
    metrics::counter!(bus::DROPPED_TOTAL).absolute(0);
    crate::edge::count_nothing_closed();
    crate::edge::count_nothing_answered();
    Ok(handle)
}

/// What the process costs, read from `/proc/self` when somebody asks.
#[derive(Clone)]
pub struct Process {
    memory: Gauge,
    files: Gauge,
}

impl Process {
    /// The gauges.
    pub fn new() -> Self {
        Self {
            memory: metrics::gauge!("process_resident_memory_bytes"),
            files: metrics::gauge!("process_open_fds"),
        }
    }

    /// All metrics in the text that Prometheus reads, the process's own read anew. Processor time is written here: the recorder's
    /// counters are whole numbers, and a second of it is much.
    pub fn render(&self, metrics: &PrometheusHandle) -> String {
        self.sample();
        let mut text = metrics.render();
        if let Some(ticks) = cpu_ticks() {
            let (name, seconds, hundredths) = (CPU.name, ticks / 100, ticks % 100);
            let help = CPU.help;
            text.push_str(&format!(
                "# HELP {name} {help}\n# TYPE {name} counter\n{name} {seconds}.{hundredths:02}\n\n"
            ));
        }
        text
    }

    fn sample(&self) {
        if let Some(bytes) = resident_bytes() {
            self.memory.set(bytes as f64);
        }
        if let Ok(entries) = std::fs::read_dir("/proc/self/fd") {
            self.files.set(entries.count() as f64);
        }
    }
}

impl Default for Process {
    fn default() -> Self {
        Self::new()
    }
}

/// Processor time of the process, user and system, in hundredths of a second (USER_HZ).
fn cpu_ticks() -> Option<u64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let (_, rest) = stat.rsplit_once(") ")?;
    // Fields 14 and 15 of proc(5), the first two after the name being 3 and 4.
    Some(rest.split(' ').skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum())
}

fn status_kib(field: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    line.trim_start_matches(':').split_whitespace().next()?.parse().ok()
}

/// Resident memory now.
pub fn resident_bytes() -> Option<u64> {
    status_kib("VmRSS").map(|kib| kib * 1024)
}

/// The most resident memory there ever was.
pub fn peak_resident_bytes() -> Option<u64> {
    status_kib("VmHWM").map(|kib| kib * 1024)
}
