//! `ronctl quarantine`, `latch`, `brownout`, `audit`: what an operator does, on a running service over its control socket, on a
//! stopped one in its STATE_DIR. Every act that changes something needs `--reason`, which the audit log keeps.

use crate::failure::{Done, Failure};
use crate::http::runtime;
use crate::say;
use bytes::Bytes;
use clap::{Args, Subcommand};
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use std::io;
use std::path::PathBuf;
use std::time::Duration;
use svc_rewarder::config::{self, ConfigArgs, Settings};
use svc_rewarder::control::{self, Act};
use svc_rewarder::run::exit;
use tokio::net::UnixStream;

/// Time for an act: an fsync or two on a slow disk.
const ACT_MAX: Duration = Duration::from_secs(30);
/// Largest answer: a thousand entries of two kilobytes.
const ANSWER_BYTES_MAX: usize = 8 << 20;

/// The quarantine buffer.
#[derive(Subcommand)]
pub enum QuarantineVerb {
    /// List what is held, oldest first, and what the last start found in the spool
    List(Place),
    /// Show one entry
    Show {
        /// Its place, the first column of `list`
        seq: u64,
        #[command(flatten)]
        place: Place,
    },
    /// Send an entry again that waits for an operator; the ledger is asked about it first
    Release {
        /// Its place
        seq: u64,
        #[command(flatten)]
        place: Place,
        /// Why; the audit log keeps it
        #[arg(long)]
        reason: String,
    },
    /// Give an entry up: it is never sent again, and its epoch is free
    Drop {
        /// Its place
        seq: u64,
        #[command(flatten)]
        place: Place,
        /// Why; the audit log keeps it
        #[arg(long)]
        reason: String,
    },
}

/// The emission latch.
#[derive(Subcommand)]
pub enum LatchVerb {
    /// Say whether emission is off, and why; exit 1 if it is
    Show(Place),
    /// Turn emission on again
    Release {
        #[command(flatten)]
        place: Place,
        /// Why it may be; the audit log keeps it
        #[arg(long)]
        reason: String,
    },
}

/// The brownout breaker of a running service.
#[derive(Subcommand)]
pub enum BrownoutVerb {
    /// Show the breaker; exit 1 if it is not closed
    Show(Place),
    /// Begin a drill: payouts go to the quarantine, nothing is emitted
    Start {
        #[command(flatten)]
        place: Place,
        /// Why; the audit log keeps it
        #[arg(long)]
        reason: String,
    },
    /// End the drill: the service recovers as from any brownout
    Stop {
        #[command(flatten)]
        place: Place,
        /// Why; the audit log keeps it
        #[arg(long)]
        reason: String,
    },
}

/// The audit log.
#[derive(Subcommand)]
pub enum AuditVerb {
    /// List what operators and latches did, oldest first
    List(Place),
    /// Check that every line follows from the one before; exit 1 if not
    Verify(Place),
}

/// Whose.
#[derive(Args)]
pub struct Place {
    /// STATE_DIR of the service, instead of the settings'
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    #[command(flatten)]
    config: ConfigArgs,
}

impl Place {
    fn settings(&self) -> Result<Settings, Failure> {
        let mut settings =
            config::load(&self.config, &std::env::vars().collect()).map_err(Failure::refused)?;
        match &self.state_dir {
            Some(dir) => (settings.state_dir, settings.amnesia_mode) = (dir.clone(), false),
            None if settings.amnesia_mode => {
                return Err(Failure::refused(
                    "under amnesia everything is in memory only and there is no control socket: a restart clears it",
                ));
            }
            None => {}
        }
        // Opening makes what is not there; a mistyped name must not pass for a clean state.
        if settings.state_dir.is_dir() {
            Ok(settings)
        } else {
            Err(Failure::refused(format!("there is no state directory {}", settings.state_dir.display())))
        }
    }

    /// Has it done by the running service, or does it in the STATE_DIR of a stopped one.
    fn perform(&self, act: &Act) -> Result<Value, Failure> {
        let settings = self.settings()?;
        let path = control::socket(&settings.state_dir);
        runtime()?.block_on(async {
            match UnixStream::connect(&path).await {
                Ok(stream) => tokio::time::timeout(ACT_MAX, over(stream, act))
                    .await
                    .map_err(|_| Failure::new("the service did not answer its control socket in time"))?,
                Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
                    if matches!(
                        act,
                        Act::BrownoutShow {} | Act::BrownoutStart { .. } | Act::BrownoutStop { .. }
                    ) {
                        return Err(Failure::new(
                            "the service is not running: there is no breaker to look at or to drill",
                        ));
                    }
                    let (deliverer, store) = control::offline(&settings).await.map_err(Failure::new)?;
                    control::perform(&deliverer, Some(&store), act.clone()).await.map_err(not_done)
                }
                Err(e) => {
                    Err(Failure::new(format!("the control socket {} cannot be used: {e}", path.display())))
                }
            }
        })
    }
}

fn not_done(not_done: control::NotDone) -> Failure {
    let code = if not_done.status.is_client_error() { exit::REFUSED } else { exit::FAILED };
    Failure::with(code, not_done.detail)
}

async fn over(stream: UnixStream, act: &Act) -> Result<Value, Failure> {
    let broken = |e: &dyn std::fmt::Display| Failure::new(format!("the control socket broke: {e}"));
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| broken(&e))?;
    let connection = tokio::spawn(connection);
    let body = Full::new(Bytes::from(serde_json::to_vec(act).unwrap_or_default()));
    let request = Request::post("/").header("host", "localhost").body(body).map_err(|e| broken(&e))?;
    let response = sender.send_request(request).await.map_err(|e| broken(&e))?;
    let status = response.status();
    let body =
        Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await.map_err(|e| broken(&e))?;
    connection.abort();
    let value: Value = serde_json::from_slice(&body.to_bytes()).map_err(|e| broken(&e))?;
    if status == StatusCode::OK {
        return Ok(value);
    }
    Err(not_done(control::NotDone { status, detail: word(&value, "error").to_owned() }))
}

fn word<'v>(value: &'v Value, name: &str) -> &'v str {
    value[name].as_str().unwrap_or_default()
}

fn row(entry: &Value) -> String {
    let intent = &entry["intent"];
    format!(
        "{:>6}  {:<8}  {:<20}  {:<20}  {:>20} {}  {}{}",
        entry["seq"],
        word(entry, "state"),
        word(intent, "tenant"),
        word(intent, "epoch_id"),
        word(intent, "payout_minor_units"),
        word(intent, "asset"),
        if entry["unknown"] == true { "unknown: " } else { "" },
        word(entry, "cause").escape_debug(),
    )
}

/// Looks at the quarantine, or acts on it.
pub fn quarantine(verb: QuarantineVerb, json: bool) -> Done {
    let (place, act) = match verb {
        QuarantineVerb::List(place) => (place, Act::QuarantineList {}),
        QuarantineVerb::Show { seq, place } => (place, Act::QuarantineShow { seq }),
        QuarantineVerb::Release { seq, place, reason } => (place, Act::QuarantineRelease { seq, reason }),
        QuarantineVerb::Drop { seq, place, reason } => (place, Act::QuarantineDrop { seq, reason }),
    };
    let value = place.perform(&act)?;
    match act {
        _ if json => say::json(&value),
        Act::QuarantineList {} => {
            let entries = value["entries"].as_array().map_or(&[][..], Vec::as_slice);
            entries.iter().for_each(|entry| say::line(row(entry)));
            let found = &value["found_at_start"];
            eprintln!(
                "{} held; the last start found {} entries, {} torn bytes, {} damaged records{}",
                value["depth"],
                found["entries"],
                found["torn_bytes"],
                found["corrupt_records"],
                if found["corrupt_records"].as_u64() > Some(0) {
                    " (set aside in STATE_DIR/spool)"
                } else {
                    ""
                },
            );
        }
        Act::QuarantineShow { .. } => say::line(serde_json::to_string_pretty(&value).unwrap_or_default()),
        Act::QuarantineRelease { .. } => say::line(row(&value["released"])),
        _ => say::line(row(&value["dropped"])),
    }
    Ok(exit::OK)
}

/// Looks at the latch, or releases it.
pub fn latch(verb: LatchVerb, json: bool) -> Done {
    match verb {
        LatchVerb::Show(place) => {
            let value = place.perform(&Act::LatchShow {})?;
            let latched = value["latched"] == true;
            match (latched, json) {
                (_, true) => say::json(&value),
                (true, _) => say::line(format!("emission is off: {}", word(&value, "reason").escape_debug())),
                (false, _) => say::line("emission is on"),
            }
            Ok(if latched { exit::FAILED } else { exit::OK })
        }
        LatchVerb::Release { place, reason } => {
            let value = place.perform(&Act::LatchRelease { reason })?;
            match (value["released"] == true, json) {
                (_, true) => say::json(&value),
                (true, _) => say::line("emission is on again; the audit log keeps the reason"),
                (false, _) => say::line("emission was on; nothing to release"),
            }
            Ok(exit::OK)
        }
    }
}

/// Looks at the breaker, or drills it.
pub fn brownout(verb: BrownoutVerb, json: bool) -> Done {
    let (place, act) = match verb {
        BrownoutVerb::Show(place) => (place, Act::BrownoutShow {}),
        BrownoutVerb::Start { place, reason } => (place, Act::BrownoutStart { reason }),
        BrownoutVerb::Stop { place, reason } => (place, Act::BrownoutStop { reason }),
    };
    let value = place.perform(&act)?;
    let closed = value["mode"] == "closed";
    if json {
        say::json(&value);
    } else {
        let why = if closed { String::new() } else { format!(": {}", word(&value, "why")) };
        // A drill on top of a brownout, or one that has ended while it recovers: the reason alone does not tell.
        let drill = if value["drill"] == true && word(&value, "why") != "a drill" { ", a drill" } else { "" };
        say::line(format!(
            "{}{why}{drill}; {} attempts, p95 {} us, p99 {} us",
            word(&value, "mode"),
            value["attempts"],
            value["p95_us"],
            value["p99_us"]
        ));
    }
    Ok(if matches!(act, Act::BrownoutShow {}) && !closed { exit::FAILED } else { exit::OK })
}

/// Lists the audit log, or checks its chain. Reads the file only, so that a running service is not disturbed.
pub fn audit(verb: AuditVerb, json: bool) -> Done {
    let (place, list) = match verb {
        AuditVerb::List(place) => (place, true),
        AuditVerb::Verify(place) => (place, false),
    };
    let path = place.settings()?.state_dir.join(rewarder_emit::audit::AUDIT_FILE);
    let bytes = match std::fs::read(&path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
        other => other.map_err(|e| Failure::new(format!("{} cannot be read: {e}", path.display())))?,
    };
    let lines = rewarder_emit::audit::verify(&bytes).map_err(|line| {
        Failure::new(format!("line {line} of {} does not follow from the one before", path.display()))
    })?;
    match (list, json) {
        (true, true) => say::json(&lines),
        (true, false) => {
            for line in &lines {
                let (act, subject) = (&line.act, &line.subject);
                say::line(format!(
                    "{:>6}  {}  {act:<14}  {subject}  {}",
                    line.seq,
                    line.unix_ms,
                    line.reason.escape_debug()
                ));
            }
        }
        (false, true) => say::json(&serde_json::json!({ "whole": true, "lines": lines.len() })),
        (false, false) => say::line(format!("{} lines, each follows from the one before", lines.len())),
    }
    Ok(exit::OK)
}
