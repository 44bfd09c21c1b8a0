//! `ronctl submit`: an epoch over HTTP. What the service has already is not sent again: it is asked to compute first, and
//! says what it misses.

use crate::bar::{Bar, Sample};
use crate::failure::{Done, Failure};
use crate::http::{Answer, Body, Service, TokenArgs, full, runtime};
use crate::save::{Expected, Saved, save};
use crate::tls::TlsArgs;
use crate::{offline, say};
use bytes::Bytes;
use clap::Args;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, LOCATION, RETRY_AFTER};
use http::{Request, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use rewarder_decode::Progress;
use rewarder_model::memory::Block;
use rewarder_model::{Cid, Policy, Reason, SnapshotHeader, run_key};
use serde_json::{Value, json};
use std::fmt::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};
use svc_rewarder::epoch;
use svc_rewarder::out::Record;
use svc_rewarder::refusal::Refusal;
use svc_rewarder::run::{self, exit};
use svc_rewarder::source::SharedSource;
use svc_rewarder::why::grouped;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

/// Bytes read at once: as many as a block has that is kept for the next ones when they have been sent.
const READ_BYTES: usize = 2 << 20;
/// Bytes sent at once: on a slow line that is how often the bar moves.
const SENT_BYTES: usize = 256 << 10;
/// Parts of an upload that wait for the network.
const UPLOAD_PARTS: usize = 4;
/// When a job that runs on is asked after for the first time, if the service does not say when.
const FIRST_POLL: Duration = Duration::from_millis(200);
/// How long a running job is followed. The longest epochs that fit a snapshot take minutes.
const FOLLOW_MAX: Duration = Duration::from_secs(3600);

/// Submits an epoch.
#[derive(Args)]
pub struct SubmitArgs {
    /// The service's http_addr, such as https://rewarder.example:8080
    #[arg(long)]
    url: String,
    #[command(flatten)]
    token: TokenArgs,
    #[command(flatten)]
    tls: TlsArgs,
    /// Sealed snapshot (.arrows)
    #[arg(long, value_name = "FILE")]
    inputs: PathBuf,
    /// Policy (JSON)
    #[arg(long, value_name = "FILE")]
    policy: PathBuf,
    /// Where to save manifest, allocations, attestation and delivery
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Compute, but tell no ledger
    #[arg(long)]
    dry_run: bool,
    /// Do not wait for a job that runs longer than the service's request deadline
    #[arg(long)]
    no_wait: bool,
}

struct Job<'a> {
    args: &'a SubmitArgs,
    quiet: bool,
    service: Service,
    source: SharedSource,
    header: SnapshotHeader,
    policy_bytes: Bytes,
    policy: Policy,
    inputs_cid: Cid,
}

/// Submits; the exit codes are those of `run`.
pub fn submit(args: &SubmitArgs, json: bool) -> Done {
    // A runtime before the client: its connector needs one. Everything that can be refused here is, before the network.
    let runtime = runtime()?;
    let service = Service::new(&args.url, Some(&args.token.read()?), &args.tls)?;
    let source = run::open(&args.inputs)?;
    let header = rewarder_decode::header_of(&*source)
        .map_err(|e| Refusal::new(Reason::SnapshotInvalid, format!("{}: {e}", args.inputs.display())))?;
    let policy = offline::read_policy(&args.policy).and_then(|bytes| {
        let policy = offline::parse_policy(&bytes)?;
        Ok((policy, bytes))
    });
    let (policy, policy_bytes) = match policy {
        // What is wrong with the snapshot is told first (contract §6), wherever it is.
        Err(refusal) if refusal.reason == Reason::PolicyInvalid => {
            let decoded =
                epoch::decode(&*source, None, &|_| Ok(()), Err(refusal.clone()), &Progress::default());
            return Err(decoded.err().unwrap_or(refusal).into());
        }
        other => other?,
    };
    let inputs_cid = hash(&source, json)?;
    let policy_bytes = policy_bytes.into();
    let job = Job { args, quiet: json, service, source, header, policy_bytes, policy, inputs_cid };
    runtime.block_on(job.run(json))
}

fn hash(source: &SharedSource, quiet: bool) -> Result<Cid, Failure> {
    let progress = Arc::new(Progress::default());
    let (drawn, total) = (progress.clone(), source.len());
    let _bar = Bar::show(quiet, move || {
        let done = drawn.bytes.load(Relaxed);
        Sample { phase: "hash", done, total: Some(total), bytes: true, rows: 0 }
    });
    rewarder_decode::hash(&**source, &progress)
        .map_err(|e| Failure::new(format!("the snapshot cannot be read: {e}")))
}

impl Job<'_> {
    async fn run(&self, json: bool) -> Done {
        let (answer, followed) = self.follow().await?;
        let mut body = answer.json();
        let unpayable = matches!(answer.reason(), Some(Reason::Overflow | Reason::OverBudget));
        if !answer.status.is_success() && !unpayable {
            return Err(answer.failure());
        }
        let saved = match &self.args.out {
            Some(out) => Some(save(&self.service, &self.expected(&body), out).await),
            None => None,
        };
        if unpayable {
            // The verdict is the answer; that its files could not be had comes second.
            if let Some(Err(failure)) = saved {
                failure.note();
            }
            return Err(answer.failure());
        }
        if followed && body["ledger"]["result"] == "dup" {
            // The question that brought the answer was not the first; the delivery record has what the first one came to.
            if let Some(result) = self.delivered().await {
                body["ledger"]["result"] = result;
            }
        }
        let saved = match saved.transpose() {
            Ok(saved) => saved,
            // What the service did is done, whether its files could be had or not: it may have paid.
            Err(failure) if json => return Err(failure.beside(body)),
            Err(failure) => {
                say::text(self.summary(&body, None));
                return Err(failure);
            }
        };
        if json {
            say::json(&body);
        } else {
            say::text(self.summary(&body, saved.as_ref()));
        }
        let pending = answer.status == StatusCode::ACCEPTED;
        Ok(if pending { exit::HELD } else { exit::OK })
    }

    fn epoch_path(&self) -> String {
        format!("/rewarder/epochs/{}", self.header.epoch)
    }

    fn expected(&self, answer: &Value) -> Expected {
        Expected {
            path: self.epoch_path(),
            epoch: self.header.epoch.clone(),
            tenant: self.header.tenant.clone(),
            inputs_cid: self.inputs_cid,
            policy_hash: self.policy.hash(),
            commitment: answer["commitment"].as_str().and_then(|text| text.parse().ok()),
            require_pq: self.args.tls.require_pq,
            record: Record {
                inputs: self.args.inputs.canonicalize().unwrap_or_else(|_| self.args.inputs.clone()),
                inputs_bytes: self.source.len(),
                policy: String::from_utf8_lossy(&self.policy_bytes).into_owned(),
                kept: None,
            },
        }
    }

    /// Asks until the job is done; whether it had to be followed.
    async fn follow(&self) -> Result<(Answer, bool), Failure> {
        let begun = Instant::now();
        let mut followed = false;
        loop {
            let answer = self.compute().await?;
            let running = answer.status == StatusCode::ACCEPTED && answer.json()["quarantine"] != true;
            if !running || self.args.no_wait {
                return Ok((answer, followed));
            }
            followed = true;
            if !self.quiet {
                eprintln!("ronctl: the job runs on; following it");
            }
            let location = answer.headers.get(LOCATION).and_then(|value| value.to_str().ok());
            let path = location
                .filter(|path| path.starts_with('/'))
                .map_or_else(|| self.epoch_path(), str::to_owned);
            let mut after =
                if answer.headers.contains_key(RETRY_AFTER) { answer.retry_after() } else { FIRST_POLL };
            // Whatever is said there but 202: the compute route, asked again, knows how this very job ended.
            loop {
                if begun.elapsed() > FOLLOW_MAX {
                    let hour = FOLLOW_MAX.as_secs();
                    return Err(Failure::new(format!(
                        "the job still runs after {hour} s; the same command finds it again"
                    )));
                }
                tokio::time::sleep(after).await;
                let polled = self.service.get(&path, "application/json").await?;
                if polled.status != StatusCode::ACCEPTED {
                    break;
                }
                after = polled.retry_after();
            }
        }
    }

    /// Asks for the computation, and uploads what the service says it misses, each once.
    async fn compute(&self) -> Result<Answer, Failure> {
        let path = format!("{}/compute", self.epoch_path());
        let body = json!({
            "inputs_cid": self.inputs_cid,
            "policy_id": self.policy.id(),
            "policy_hash": self.policy.hash(),
            "dry_run": self.args.dry_run,
        });
        let body = Bytes::from(body.to_string());
        let (mut snapshot_sent, mut policy_sent) = (false, false);
        loop {
            let request = || {
                self.service
                    .request("POST", &path)
                    .header(CONTENT_TYPE, "application/json")
                    .body(full(body.clone()))
            };
            let answer = self.service.send(request).await?;
            match answer.reason() {
                Some(Reason::InputsNotFound) if !snapshot_sent => {
                    self.send_snapshot().await?;
                    snapshot_sent = true;
                }
                Some(Reason::PolicyNotFound) if !policy_sent => {
                    self.send_policy().await?;
                    policy_sent = true;
                }
                _ => return Ok(answer),
            }
        }
    }

    async fn send_policy(&self) -> Result<(), Failure> {
        let path = format!("/rewarder/policies/{}", self.policy.hash());
        let bytes = || full(self.policy_bytes.clone());
        let request =
            || self.service.request("PUT", &path).header(CONTENT_TYPE, "application/json").body(bytes());
        stored(self.service.send(request).await?)
    }

    async fn send_snapshot(&self) -> Result<(), Failure> {
        let path = format!("/rewarder/snapshots/{}", self.inputs_cid);
        let (sent, total) = (Arc::new(AtomicU64::new(0)), self.source.len());
        let drawn = sent.clone();
        let _bar = Bar::show(self.quiet, move || {
            let done = drawn.load(Relaxed);
            Sample {
                phase: if done < total { "upload" } else { "verify" },
                done,
                total: Some(total),
                bytes: true,
                rows: 0,
            }
        });
        let request = || -> http::Result<Request<Body>> {
            sent.store(0, Relaxed);
            self.service
                .request("PUT", &path)
                .header(CONTENT_TYPE, "application/vnd.apache.arrow.stream")
                .header(CONTENT_LENGTH, total)
                .body(streamed(self.source.clone(), sent.clone()))
        };
        stored(self.service.send(request).await?)
    }

    /// What the delivery record of this very run says.
    async fn delivered(&self) -> Option<Value> {
        let mut epoch = self.service.get(&self.epoch_path(), "application/json").await.ok()?.json();
        let ours = run_key(&self.header.epoch, &self.policy.hash(), &self.inputs_cid);
        let is_ours = epoch["manifest"]["run_key"] == ours.to_string();
        Some(epoch["delivery"]["result"].take()).filter(|result| is_ours && result.is_string())
    }

    /// What a person reads.
    fn summary(&self, answer: &Value, saved: Option<&Saved>) -> String {
        let mut text = String::new();
        let mut line = |name: &str, value: String| {
            let _ = writeln!(text, "  {name:<13} {value}");
        };
        let word = |value: &Value| value.as_str().unwrap_or("?").escape_debug().to_string();
        let totals = &answer["totals"];
        let money = |name: &str| grouped(&word(&totals[name]));
        line("epoch", format!("{} of {}", self.header.epoch, self.header.tenant));
        line("policy", format!("{} ({})", self.policy.id(), self.policy.hash()));
        if answer["status"] == "running" {
            line("status", "running; the same command finds it again".into());
            return text;
        }
        if let Some(Saved { manifest, .. }) = saved {
            let [rows, actors] =
                [manifest.inputs.rows, manifest.inputs.actors].map(|n| grouped(&n.to_string()));
            line("work", format!("{rows} rows of {actors} actors"));
        }
        line("budget", format!("{} minor units of {}", money("budget_minor_units"), word(&totals["asset"])));
        let recipients = grouped(&totals["recipients"].to_string());
        line("paid", format!("{} to {recipients} recipients", money("payout_minor_units")));
        line("left", money("residual_minor_units"));
        let said = match (answer["quarantine"] == true, answer["ledger"]["result"].as_str()) {
            (true, _) if answer["volatile"] == true => {
                "not delivered; held in the service's memory and sent again"
            }
            (true, _) => "not delivered; held in quarantine and sent again",
            (_, Some("accepted")) => "accepted: this epoch is settled",
            (_, Some("dup")) => "dup: this epoch was settled before, with this very run",
            _ if self.args.dry_run => "not told: a dry run",
            _ => "not told",
        };
        line("ledger", said.into());
        line("commitment", word(&answer["commitment"]));
        if let (Some(saved), Some(out)) = (saved, &self.args.out) {
            line("root", format!("{}  (b3sum allocations.tsv)", saved.manifest.allocations_root));
            line("files", format!("{}/{{{}}}", out.display(), saved.files.join(", ")));
            if !saved.top.is_empty() {
                let _ = writeln!(text, "\n  {:>4}  {:<44} {:>20}", "", "who gets most", "payout");
            }
            for (at, (name, payout)) in saved.top.iter().enumerate() {
                let _ = writeln!(text, "  {:>3}.  {name:<44} {:>20}", at + 1, grouped(&payout.to_string()));
            }
        }
        text
    }
}

fn stored(answer: Answer) -> Result<(), Failure> {
    if !answer.status.is_success() {
        return Err(answer.failure());
    }
    if let Some(warning) = answer.json()["warning"].as_str() {
        eprintln!("ronctl: warning: {}", warning.escape_debug());
    }
    Ok(())
}

/// What is read of an upload at once: the beginning of a block.
struct Piece {
    block: Block<u8>,
    len: usize,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.block[..self.len]
    }
}

/// The snapshot from disk in large parts, read by a thread that may block, no faster than the network takes them.
fn streamed(source: SharedSource, sent: Arc<AtomicU64>) -> Body {
    let (sender, receiver) = tokio::sync::mpsc::channel::<std::io::Result<Bytes>>(UPLOAD_PARTS);
    tokio::task::spawn_blocking(move || {
        let len = source.len();
        let mut at = 0;
        while at < len {
            let block = Block::scratch(READ_BYTES);
            let mut piece = Piece { block, len: (len - at).min(READ_BYTES as u64) as usize };
            let read = source.read_at(at, &mut piece.block[..piece.len]);
            let piece = match read {
                Ok(()) => Bytes::from_owner(piece),
                Err(e) => {
                    let _ = sender.blocking_send(Err(e));
                    return;
                }
            };
            for from in (0..piece.len()).step_by(SENT_BYTES) {
                let part = piece.slice(from..(from + SENT_BYTES).min(piece.len()));
                at += part.len() as u64;
                // A service that has seen enough closes its side; its answer says why.
                if sender.blocking_send(Ok(part)).is_err() {
                    return;
                }
                sent.store(at, Relaxed);
            }
        }
    });
    BodyExt::boxed(StreamBody::new(ReceiverStream::new(receiver).map(|part| part.map(Frame::data))))
}
