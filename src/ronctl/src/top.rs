//! `ronctl top`: the stages of a running service, from its `/metrics`. On a terminal drawn anew every second; in a pipe, or
//! with `--once` or `--json`, told once.

use crate::failure::{Done, Failure};
use crate::http::{Service, runtime};
use crate::say;
use crate::tls::TlsArgs;
use clap::Args;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::io::IsTerminal;
use std::time::Duration;
use svc_rewarder::config::Stages;
use svc_rewarder::run::exit;

/// Time between two looks.
const EVERY: Duration = Duration::from_secs(1);

/// Watches the stages.
#[derive(Args)]
pub struct TopArgs {
    /// The service's metrics_addr
    #[arg(long, default_value = "http://127.0.0.1:9909")]
    url: String,
    #[command(flatten)]
    tls: TlsArgs,
    /// Print once and end
    #[arg(long)]
    once: bool,
}

/// Samples of the text format by name and labels: `queue_depth{stage="admit"}`.
#[derive(Default)]
struct Samples(BTreeMap<String, f64>);

#[derive(Serialize)]
struct Stage {
    stage: &'static str,
    depth: f64,
    inflight: f64,
    width: f64,
    /// Milliseconds in the queue, of the jobs since the last look; none if there were none.
    wait_ms_mean: Option<f64>,
    /// Milliseconds in the handler.
    service_ms_mean: Option<f64>,
}

#[derive(Serialize)]
struct View {
    stages: Vec<Stage>,
    inflight: f64,
    quarantine: f64,
    degraded: BTreeMap<String, f64>,
    rejected: BTreeMap<String, f64>,
    runs: BTreeMap<String, f64>,
}

/// Watches.
pub fn top(args: &TopArgs, json: bool) -> Done {
    let runtime = runtime()?;
    let service = Service::new(&args.url, None, &args.tls)?;
    let live = !args.once && !json && std::io::stdout().is_terminal();
    let mut before = Samples::default();
    loop {
        let answer = runtime.block_on(service.get("/metrics", "text/plain"))?;
        if answer.status != http::StatusCode::OK {
            return Err(Failure::new(format!(
                "{} answered {}: is it the metrics_addr?",
                args.url, answer.status
            )));
        }
        let now = Samples::parse(&String::from_utf8_lossy(&answer.body));
        let view = View::of(&now, &before);
        if json {
            say::json(&view);
        } else if live {
            // Clear the screen and go home.
            say::text(format!(
                "\x1b[2J\x1b[H{}  {}\n\n{view}",
                args.url,
                if before.0.is_empty() { "since its start" } else { "the last second" }
            ));
        } else {
            say::text(&view);
        }
        if !live {
            return Ok(exit::OK);
        }
        before = now;
        std::thread::sleep(EVERY);
    }
}

impl Samples {
    fn parse(text: &str) -> Self {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        Self(
            lines
                .filter_map(|line| line.rsplit_once(' '))
                .filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?)))
                .collect(),
        )
    }

    fn get(&self, name: &str) -> f64 {
        self.0.get(name).copied().unwrap_or(0.0)
    }

    /// The series of a metric that has one label, by its value; zeros are left out.
    fn by_label(&self, metric: &str) -> BTreeMap<String, f64> {
        let series = self.0.iter().filter(|(_, value)| **value != 0.0).filter_map(|(name, value)| {
            let (_, label) = name.strip_prefix(metric)?.strip_prefix('{')?.split_once("=\"")?;
            Some((label.strip_suffix("\"}")?.escape_debug().to_string(), *value))
        });
        series.collect()
    }
}

impl View {
    fn of(now: &Samples, before: &Samples) -> Self {
        let stages = Stages::NAMES.map(|stage| {
            let gauge = |metric: &str| now.get(&format!("{metric}{{stage=\"{stage}\"}}"));
            let mean = |metric: &str| {
                let grown = |what: &str| {
                    let name = format!("{metric}_{what}{{stage=\"{stage}\"}}");
                    now.get(&name) - before.get(&name)
                };
                let count = grown("count");
                (count > 0.0).then(|| 1e3 * grown("sum") / count)
            };
            Stage {
                stage,
                depth: gauge("queue_depth"),
                inflight: gauge("stage_inflight"),
                width: gauge("stage_width"),
                wait_ms_mean: mean("stage_wait_seconds"),
                service_ms_mean: mean("stage_service_seconds"),
            }
        });
        Self {
            stages: stages.into(),
            inflight: now.get("inflight"),
            quarantine: now.get("quarantine_depth"),
            degraded: now.by_label("readyz_degraded"),
            rejected: now.by_label("rejected_total"),
            runs: now.by_label("reward_runs_total"),
        }
    }
}

impl std::fmt::Display for View {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ms = |mean: Option<f64>| mean.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.2}"));
        let list = |series: &BTreeMap<String, f64>| {
            let text = series.iter().fold(String::new(), |mut text, (name, value)| {
                let _ = write!(text, "{}{name} {value}", if text.is_empty() { "" } else { ", " });
                text
            });
            if text.is_empty() { "none".to_owned() } else { text }
        };
        writeln!(
            f,
            "{:<8} {:>7} {:>9} {:>6} {:>12} {:>12}",
            "stage", "depth", "inflight", "width", "wait ms", "service ms"
        )?;
        for stage in &self.stages {
            let (wait, service) = (ms(stage.wait_ms_mean), ms(stage.service_ms_mean));
            let Stage { stage, depth, inflight, width, .. } = stage;
            writeln!(f, "{stage:<8} {depth:>7} {inflight:>9} {width:>6} {wait:>12} {service:>12}")?;
        }
        writeln!(f, "\n{:<11} {}", "inflight", self.inflight)?;
        writeln!(f, "{:<11} {}", "quarantine", self.quarantine)?;
        writeln!(f, "{:<11} {}", "degraded", list(&self.degraded))?;
        writeln!(f, "{:<11} {}", "runs", list(&self.runs))?;
        writeln!(f, "{:<11} {}", "rejected", list(&self.rejected))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_text_format() {
        let text = "# HELP x\nqueue_depth{stage=\"admit\"} 3\nstage_wait_seconds_sum{stage=\"admit\"} 0.5\n\
                    stage_wait_seconds_count{stage=\"admit\"} 10\nrejected_total{reason=\"schema\"} 2\nrejected_total{reason=\"tenant\"} 0\n";
        let view = View::of(&Samples::parse(text), &Samples::default());
        assert_eq!((view.stages[0].depth, view.stages[0].wait_ms_mean), (3.0, Some(50.0)));
        assert_eq!(view.stages[1].wait_ms_mean, None);
        assert_eq!(view.rejected, BTreeMap::from([("schema".to_owned(), 2.0)]));
    }
}
