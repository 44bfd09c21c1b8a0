//! `svc-rewarder run`: one epoch as a batch job, through the same four stages as a request, without HTTP.
//!
//! Refused input leaves nothing behind. What is computed is written before it is emitted, each file under a temporary name
//! first, so that money never moves without its table; the same command again finds the ledger's `dup` and is done.

use crate::config::{self, ConfigArgs, Settings};
use crate::edge::Problem;
use crate::opened;
use crate::out::Out;
use crate::pipeline::{self, Answer, Done, Emission, Engine, Inputs, Opened, Opening, Request, Submitted};
use crate::refusal::Refusal;
use crate::source::SharedSource;
use crate::why::{decimal, grouped};
use crate::world::{SystemClock, SystemEntropy};
use crate::{bus::Bus, telemetry};
use futures::FutureExt;
use indicatif::{ProgressBar, ProgressStyle};
use rewarder_decode::{Dictionary, FileSource, Progress};
use rewarder_emit::{AttestKey, LedgerUrl};
use rewarder_flow::{Envelope, Pool, ticket};
use rewarder_model::world::{Clock, Entropy};
use rewarder_model::{LedgerResult, Reason};
use rewarder_reward::Outcome;
use rewarder_reward::rounding::Rule;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::runtime::Handle;

/// Recipients named in the summary.
const NAMED: usize = 10;
/// Actors looked through before it is asked again how much the last of them gets.
const RANKS_TOGETHER: usize = 16 * 1024;
/// How often the progress bar moves.
const TICK: Duration = Duration::from_millis(80);
/// Floors measured by `--profile-stages`.
const FLOOR_RUNS: usize = 5;

/// Exit codes of contract §9.
pub mod exit {
    /// Done.
    pub const OK: u8 = 0;
    /// A fault of ours, or of the machine.
    pub const FAILED: u8 = 1;
    /// The input is refused; nothing was written.
    pub const REFUSED: u8 = 2;
    /// Unpayable; all files were written.
    pub const UNPAYABLE: u8 = 3;
    /// The ledger has another run for this epoch.
    pub const CONFLICT: u8 = 4;
    /// Held for later delivery.
    pub const HELD: u8 = 5;

    /// The code for a refusal.
    pub const fn of(reason: rewarder_model::Reason) -> u8 {
        use rewarder_model::Reason as R;
        match reason {
            R::Overflow | R::OverBudget => UNPAYABLE,
            R::EpochConflict => CONFLICT,
            R::LedgerRefused => HELD,
            R::PolicyConflict => REFUSED,
            _ => match reason.status() {
                400..=404 | 413 | 415 | 422 => REFUSED,
                _ => FAILED,
            },
        }
    }
}

/// Computes one epoch from files and tells the ledger.
#[derive(Debug, Clone, clap::Args)]
pub struct RunArgs {
    /// Sealed snapshot (.arrows)
    #[arg(long, value_name = "FILE")]
    pub inputs: PathBuf,
    /// Policy (JSON)
    #[arg(long, value_name = "FILE")]
    pub policy: PathBuf,
    /// Where to write manifest.json, allocations.arrow and allocations.tsv
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Compute and write, but tell no ledger
    #[arg(long)]
    pub dry_run: bool,
    /// Which ledger, instead of LEDGER_URL
    #[arg(long, value_name = "URL")]
    pub ledger: Option<LedgerUrl>,
    /// Print what HTTP would answer
    #[arg(long)]
    pub json: bool,
    /// Show where the time went, against reading and hashing alone
    #[arg(long)]
    pub profile_stages: bool,
    /// Settings.
    #[command(flatten)]
    pub config: ConfigArgs,
}

/// Runs the command; the exit code says how it ended.
pub fn run(args: &RunArgs) -> u8 {
    match attempt(args) {
        Ok(code) => code,
        Err(refusal) => {
            report(&refusal, args.json);
            exit::of(refusal.reason)
        }
    }
}

fn report(refusal: &Refusal, json: bool) {
    if json {
        say(&format!("{}\n", String::from_utf8_lossy(&Problem::of(refusal, "run").to_json())));
    } else {
        complain(&format!("svc-rewarder: {}\n", refusal.in_words()));
    }
}

/// Prints a result. The ledger may have been told by now, so that a stdout that takes nothing changes neither that nor the exit
/// code, which says how the run ended; a reader that went away (`| head`) is nothing to complain of.
fn say(text: &str) {
    let mut stdout = std::io::stdout().lock();
    if let Err(e) = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush())
        && e.kind() != std::io::ErrorKind::BrokenPipe
    {
        complain(&format!(
            "svc-rewarder: stdout cannot be written: {e}; the exit code says how the run ended\n"
        ));
    }
}

/// Prints to stderr, if it can be written.
fn complain(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}

fn attempt(args: &RunArgs) -> Result<u8, Refusal> {
    let environment = std::env::vars().collect();
    let unusable = |e: &dyn std::fmt::Display| Refusal::new(Reason::Schema, e.to_string());
    let mut settings = config::load_for_batch(&args.config, &environment).map_err(|e| unusable(&e))?;
    if let Some(ledger) = &args.ledger {
        settings.ledger_url = ledger.clone();
    }
    let source = open(&args.inputs)?;
    let policy = std::fs::read(&args.policy).map_err(|e| {
        Refusal::new(
            Reason::PolicyNotFound,
            format!("the policy {} cannot be read: {e}", args.policy.display()),
        )
    })?;
    // Told in its turn: what is wrong with the snapshot comes first (contract §6).
    let policy = if policy.len() as u64 > settings.req_body_max_bytes {
        let most = settings.req_body_max_bytes;
        Err(Refusal::new(Reason::PolicyInvalid, format!("the policy is larger than {most} bytes")))
    } else {
        Ok(policy)
    };
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| fault(&e))?;
    let (answer, floor) = runtime.block_on(compute(args, &settings, source.clone(), policy.clone()))?;
    let done = answer.map_err(|refusal| unpaid(refusal, &args.out))?;
    if let Some(refusal) = done.unpayable() {
        report(&refusal, args.json);
        return Ok(exit::UNPAYABLE);
    }
    if args.json {
        say(&format!("{}\n", serde_json::to_string(&done.body()).map_err(|e| fault(&e))?));
    } else {
        say(&summary(&done, args));
    }
    if let Some(floor) = floor {
        complain(&profile(&done, floor, source.len()));
    }
    Ok(if done.quarantine { exit::HELD } else { exit::OK })
}

/// A run that was written before the ledger told that another one is the epoch's: its files must not be taken for what was paid.
fn unpaid(refusal: Refusal, out: &Path) -> Refusal {
    if refusal.reason != Reason::EpochConflict {
        return refusal;
    }
    let detail = format!("{}; what {} holds now is the run that is not paid", refusal.detail, out.display());
    Refusal { detail: detail.into(), ..refusal }
}

fn fault(e: &dyn std::fmt::Display) -> Refusal {
    Refusal::new(Reason::Internal, e.to_string())
}

/// Opens a snapshot.
///
/// # Errors
/// `inputs_not_found`.
pub fn open(path: &Path) -> Result<SharedSource, Refusal> {
    let opened = std::fs::File::open(path).and_then(FileSource::new);
    let source = opened.map_err(|e| {
        Refusal::new(Reason::InputsNotFound, format!("the snapshot {} cannot be read: {e}", path.display()))
    })?;
    Ok(Arc::new(source))
}

async fn compute(
    args: &RunArgs,
    settings: &Settings,
    snapshot: SharedSource,
    policy: Result<Vec<u8>, Refusal>,
) -> Result<(Answer, Option<Duration>), Refusal> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::start());
    let entropy: Arc<dyn Entropy> = Arc::new(SystemEntropy);
    let threads = NonZeroUsize::new(settings.concurrency_compute_workers.0).unwrap_or(NonZeroUsize::MIN);
    let pool = Pool::of_one_lane(threads).map_err(|e| fault(&e))?;
    let floor = match args.profile_stages {
        true => Some(measure_floor(&pool, &snapshot).await?),
        false => None,
    };
    let opening = (!args.dry_run).then(|| open_emission(settings.clone(), clock.clone(), entropy));
    let engine = Engine {
        pool,
        store: None,
        out: Some(Out {
            dir: args.out.clone(),
            inputs: args.inputs.clone(),
            // Written beside a result, which without a policy there is none.
            policy: policy.clone().unwrap_or_default(),
        }),
        emission: opening.clone().map(Emission::Opening),
        bus: Bus::new(),
        clock: clock.clone(),
        moved: Box::new(|_, _| {}),
    };
    let (entry, stages) = pipeline::start(&Arc::new(engine), &settings.stages);
    let progress = Arc::new(Progress::default());
    let bar = bar(&progress, snapshot.len(), args.json);
    let request = Request { corr_id: "run".into(), dry_run: args.dry_run, progress };
    let (ticket, answer) = ticket("run".into(), clock.monotonic(), None);
    let submitted = Submitted { request, inputs: Inputs::Given { snapshot, policy } };
    entry
        .try_push(Envelope { ticket, payload: submitted })
        .map_err(|_| fault(&"the pipeline took no job"))?;
    let unopened = |opening: Option<Opening>| async {
        match opening {
            Some(opening) => opening.await.err(),
            None => None,
        }
    };
    // A state that cannot be opened is what is told, whatever else is wrong: at once, since what would fail in the end need not be
    // computed first; or behind a refusal, for which it is not left half open.
    let answer = tokio::select! {
        answer = answer => match unopened(opening.clone()).await {
            Some(refusal) => Err(refusal),
            None => answer.unwrap_or_else(|unanswered| Err(fault(&unanswered))),
        },
        Some(refusal) = unopened(opening.clone()) => Err(refusal),
    };
    if let Some(bar) = bar {
        bar.abort();
        let _ = bar.await;
    }
    drop(entry);
    stages.drain(Duration::from_secs(1)).await;
    Ok((answer, floor))
}

/// Opens what emits on a thread of its own: it waits for the disk while the job computes.
fn open_emission(settings: Settings, clock: Arc<dyn Clock>, entropy: Arc<dyn Entropy>) -> Opening {
    let open = move || {
        let opened = async {
            let deliverer = opened::deliverer(&settings, &clock, &entropy).await.map_err(|e| fault(&e))?;
            let dir = (!settings.amnesia_mode).then_some(settings.state_dir.as_path());
            let key = AttestKey::open(dir, &*entropy, settings.require_pq_on).map_err(|e| fault(&e))?;
            Ok(Arc::new(Opened { deliverer, key }))
        };
        Handle::current().block_on(opened)
    };
    let opened = tokio::task::spawn_blocking(open);
    async move { opened.await.map_err(|e| fault(&e)).flatten() }.boxed().shared()
}

async fn measure_floor(pool: &Pool, snapshot: &SharedSource) -> Result<Duration, Refusal> {
    let mut times = Vec::new();
    for _ in 0..FLOOR_RUNS {
        let source = snapshot.clone();
        let took = pool.run(move || {
            let begun = Instant::now();
            rewarder_decode::hash(&*source, &Progress::default()).map(|_| begun.elapsed())
        });
        times.push(took.await.map_err(|e| fault(&e))?.map_err(|e| fault(&e))?);
    }
    times.sort();
    Ok(times[FLOOR_RUNS / 2])
}

/// A bar on a terminal; nothing in a pipe.
fn bar(progress: &Arc<Progress>, len: u64, quiet: bool) -> Option<tokio::task::JoinHandle<()>> {
    if quiet || !std::io::stderr().is_terminal() {
        return None;
    }
    let bar = ProgressBar::new(len);
    let style = ProgressStyle::with_template("{msg:8} {wide_bar} {bytes}/{total_bytes} {prefix} ETA {eta}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let progress = progress.clone();
    /// Takes the bar away however the task ends.
    struct Clear(ProgressBar);
    impl Drop for Clear {
        fn drop(&mut self) {
            self.0.finish_and_clear();
        }
    }
    Some(tokio::spawn(async move {
        let bar = Clear(bar);
        loop {
            let bytes = progress.bytes.load(Ordering::Relaxed);
            bar.0.set_position(bytes);
            bar.0.set_prefix(format!("{} rows", grouped(&progress.rows.load(Ordering::Relaxed).to_string())));
            bar.0.set_message(if bytes < len { "decode" } else { "reward" });
            tokio::time::sleep(TICK).await;
        }
    }))
}

/// `part / whole` in percent with two digits, cut.
pub fn percent(part: u128, whole: u128) -> String {
    // Both below 10^38: make room for the factor.
    let shrink = if whole >= 10u128.pow(33) { 10u128.pow(6) } else { 1 };
    let hundredths = (part / shrink * 10_000).checked_div(whole / shrink).unwrap_or(0);
    format!("{}.{:02} %", hundredths / 100, hundredths % 100)
}

/// What a person reads: who gets most, who is capped, what is left and why, and where everything is.
pub fn summary(done: &Done, args: &RunArgs) -> String {
    let mut text = String::new();
    let manifest = &done.manifest;
    let totals = &manifest.totals;
    let money = |amount: u128| grouped(&amount.to_string());
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "  {name:<13} {value}");
    };
    line("epoch", format!("{} of {}", manifest.epoch_id, manifest.tenant));
    line("policy", format!("{} ({})", manifest.policy.id, manifest.policy.hash));
    line(
        "work",
        format!(
            "{} rows of {} actors",
            grouped(&manifest.inputs.rows.to_string()),
            grouped(&manifest.inputs.actors.to_string())
        ),
    );
    let asset = &totals.asset;
    let cut = if totals.budget_minor_units < totals.pool_minor_units {
        format!(" (the epoch's cap; the pool is {})", money(totals.pool_minor_units.get()))
    } else {
        String::new()
    };
    line("budget", format!("{} minor units of {asset}{cut}", money(totals.budget_minor_units.get())));
    let paid = totals.payout_minor_units.get();
    line("paid", format!("{} to {} recipients", money(paid), grouped(&totals.recipients.to_string())));
    if let Some((outcome, names)) = &done.computed {
        text.push_str(&details(outcome, names, paid));
    }
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "  {name:<13} {value}");
    };
    line(
        "ledger",
        match (done.ledger, done.quarantine, args.dry_run) {
            (LedgerResult::Accepted, ..) => "accepted: this epoch is settled".into(),
            (LedgerResult::Dup, ..) => "dup: this epoch was settled before, with this very run".into(),
            (_, true, _) => "not delivered; held in quarantine and sent again when the service runs".into(),
            (_, _, true) => "not told: a dry run".into(),
            _ => "not told".into(),
        },
    );
    line("commitment", done.commitment.to_string());
    line("root", format!("{}  (b3sum allocations.tsv)", manifest.allocations_root));
    line("files", format!("{}/{{manifest.json, allocations.tsv, allocations.arrow}}", args.out.display()));
    line("time", format!("{:.1} ms", done.timings.total));
    text
}

/// Payout, name and score, in the order in which they are shown.
type Paid = (u128, Reverse<Vec<u8>>, u128);

fn details(outcome: &Outcome, names: &Dictionary, paid: u128) -> String {
    let mut text = String::new();
    let Some(derivation) = &outcome.derivation else { return text };
    let totals = &outcome.manifest.totals;
    let money = |amount: u128| grouped(&amount.to_string());
    let cap = derivation.actor_cap.unwrap_or(u128::MAX);
    let mut top = BinaryHeap::<Reverse<Paid>>::new();
    // Who comes to the cap by a share or a unit of rounding is not capped.
    let some_capped = derivation.capped > 0 || outcome.table.cut > 0;
    let mut at_cap = 0u64;
    if some_capped {
        outcome.recipients(0..outcome.scores.len(), cap, names, |_, _, _| at_cap += 1);
    }
    for start in (0..outcome.scores.len()).step_by(RANKS_TOGETHER) {
        let end = (start + RANKS_TOGETHER).min(outcome.scores.len());
        // The largest payouts; among equals the smaller name, which came before.
        let least = top.peek().filter(|_| top.len() == NAMED).map_or(0, |Reverse((least, ..))| least + 1);
        outcome.recipients(start..end, least, names, |name, score, payout| {
            if top.len() == NAMED {
                if top.peek().is_some_and(|Reverse((least, ..))| payout <= *least) {
                    return;
                }
                top.pop();
            }
            top.push(Reverse((payout, Reverse(name.to_vec()), score)));
        });
    }
    if !top.is_empty() {
        let _ = writeln!(
            text,
            "\n  {:>4}  {:<44} {:>20} {:>9} {:>22}",
            "", "who gets most", "payout", "of paid", "score"
        );
        for (at, Reverse((payout, Reverse(name), score))) in top.into_sorted_vec().into_iter().enumerate() {
            let name = String::from_utf8_lossy(&name).into_owned();
            let shown: String =
                if name.chars().count() > 44 { name.chars().take(43).chain(['…']).collect() } else { name };
            let mark = if some_capped && payout == cap { "*" } else { " " };
            let _ = writeln!(
                text,
                "  {:>3}.  {shown:<44} {:>19}{mark} {:>9} {:>22}",
                at + 1,
                money(payout),
                percent(payout, paid),
                grouped(&decimal(score, derivation.scale))
            );
        }
        text.push('\n');
    }
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "  {name:<13} {value}");
    };
    if at_cap > 0 {
        let rounds = match derivation.rounds.len() {
            0 => String::new(),
            1 => ", in one round".into(),
            n => format!(", in {n} rounds"),
        };
        let fate = match (derivation.capped, derivation.base) {
            (0, _) | (_, 0) => "",
            _ => "; what is over went to the others",
        };
        line("capped", format!("{} at {} each (*){rounds}{fate}", grouped(&at_cap.to_string()), money(cap)));
    }
    let residual = totals.residual_minor_units.get();
    line("left", format!("{} ({})", money(residual), percent(residual, totals.budget_minor_units.get())));
    let mut because = |amount: u128, why: &str| {
        if amount > 0 {
            let _ = writeln!(text, "  {:<13} {:>15}  {why}", "", money(amount));
        }
    };
    if derivation.tariff {
        because(
            residual,
            "nobody earned it: the price list demands no more, or less than the smallest payout",
        );
    } else {
        // Everybody with a score who is not paid fell below the smallest payout.
        let unpaid = outcome.scores.positive.saturating_sub(totals.recipients);
        let handed_out = cap.checked_mul(derivation.capped.into()).unwrap_or(0) + derivation.shared;
        let dust = handed_out.saturating_sub(outcome.table.cut).saturating_sub(paid);
        let left = derivation.pot.saturating_sub(derivation.shared);
        because(
            dust,
            &format!(
                "dust: {} actors with a score came below the smallest payout of {}",
                grouped(&unpaid.to_string()),
                money(derivation.min_payout)
            ),
        );
        because(outcome.table.cut, "above the cap of one actor, left unpaid by the policy");
        let why = match (derivation.base, derivation.rounding) {
            (0, _) if outcome.scores.positive == 0 => "nobody has a score",
            (0, _) => "nobody is left to share it: everyone who scored is at the cap",
            (_, Rule::Floor) => "fractions of a minor unit, rounded down",
            _ => "not handed out",
        };
        because(left, why);
    }
    text
}

fn profile(done: &Done, floor: Duration, bytes: u64) -> String {
    let floor = floor.as_micros() as f64 / 1e3;
    let mut text = format!("\n  {:<28} {:>10} {:>9}\n", "stage", "ms", "x floor");
    let timings = &done.timings;
    let rows = [
        ("read + BLAKE3 only (floor)", floor),
        ("decode: verify, score", timings.decode),
        ("reward: allocate, seal, write", timings.reward),
        ("emit", timings.emit),
        ("all, waits included", timings.total),
    ];
    for (name, ms) in rows {
        let _ = writeln!(text, "  {name:<28} {ms:>10.2} {:>9.2}", ms / floor);
    }
    let peak = telemetry::peak_resident_bytes().unwrap_or(0);
    let _ = writeln!(
        text,
        "  {:<28} {:>10} MiB of {} MiB snapshot",
        "peak resident memory",
        peak >> 20,
        bytes >> 20
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percents() {
        assert_eq!(percent(1, 3), "33.33 %");
        assert_eq!(percent(10u128.pow(37), 10u128.pow(38) - 1), "10.00 %");
        assert_eq!(percent(0, 0), "0.00 %");
    }
}
