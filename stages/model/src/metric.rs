//! What a floor says about each metric it exports. Every floor's `metrics.rs` holds a `METRICS` list of
//! these, so that the assembly can describe them all to the exporter and a test can compare them with the
//! contract (§7).

/// How a metric moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// A distribution, with buckets.
    Histogram,
}

/// One metric: its name on the wire and what a person needs to read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metric {
    /// The name, unit last where it has one.
    pub name: &'static str,
    /// How it moves.
    pub kind: Kind,
    /// What is counted: `seconds`, `jobs`, `requests`.
    pub unit: &'static str,
    /// Its labels. None ever holds a tenant, epoch, actor, CID or run_key.
    pub labels: &'static [&'static str],
    /// The HELP text.
    pub help: &'static str,
}
