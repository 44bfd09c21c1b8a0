//! `svc-ledger`: a small ledger over HTTP that settles each (tenant, epoch) at most once, durably (contract §6, ledger
//! protocol). docs/LEDGER.md shows its use.
//!
//! The law is the embedded ledger's (`rewarder_emit::EmbeddedLedger`): this program puts the protocol before it and adds
//! no rule of its own. It answers only for what it has made durable. It knows no tenants' secrets and checks none: it
//! belongs behind a private address.

mod counters;
mod problem;
mod protocol;
mod serve;

use clap::{Args, Parser, Subcommand};
use rewarder_emit::EmbeddedLedger;
use rewarder_emit::ledger::PAGE_MAX;
use rewarder_model::TenantId;
use serve::Limits;
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use svc_rewarder::config::LogFormat;
use svc_rewarder::telemetry;
use svc_rewarder::world::SystemClock;

/// A small ledger over HTTP: settles each tenant's epoch at most once, durably.
#[derive(Parser)]
#[command(version, about, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: ServeArgs,
}

#[derive(Subcommand)]
enum Command {
    /// Serve HTTP until SIGTERM or SIGINT (the default)
    Serve(ServeArgs),
    /// Print every settlement of a ledger that is not running, a JSON object a line
    Dump(DumpArgs),
}

#[derive(Args)]
struct ServeArgs {
    /// Where to listen; port 0 takes a free one, and the first line on stdout says which
    #[arg(long, default_value = "127.0.0.1:9470", env = "LEDGER_LISTEN")]
    listen: SocketAddr,
    /// Directory of the settlements; made if missing
    #[arg(long, env = "LEDGER_STATE_DIR", default_value = "ledger-state")]
    state_dir: PathBuf,
    /// Keep everything in memory, for tests: a restart forgets what was settled
    #[arg(long, conflicts_with = "state_dir")]
    in_memory: bool,
    #[command(flatten)]
    limits: Limits,
    /// Log a JSON object a line
    #[arg(long)]
    log_json: bool,
}

#[derive(Args)]
struct DumpArgs {
    /// Directory of the settlements
    #[arg(long, env = "LEDGER_STATE_DIR", default_value = "ledger-state")]
    state_dir: PathBuf,
    /// Only those of one tenant
    #[arg(long)]
    tenant: Option<TenantId>,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match cli.command {
        Some(Command::Dump(args)) => dump(&args),
        Some(Command::Serve(args)) => run(args),
        None => run(cli.serve),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("svc-ledger: {error}");
            ExitCode::FAILURE
        }
    }
}

fn runtime() -> Result<tokio::runtime::Runtime, String> {
    tokio::runtime::Runtime::new().map_err(|e| format!("the async runtime cannot be started: {e}"))
}

fn run(args: ServeArgs) -> Result<(), String> {
    telemetry::log(if args.log_json { LogFormat::Json } else { LogFormat::Text }, false);
    runtime()?.block_on(async {
        let dir = (!args.in_memory).then_some(args.state_dir.as_path());
        let ledger = EmbeddedLedger::open(dir, &SystemClock::start()).await.map_err(|e| e.to_string())?;
        serve::run(ledger, args.listen, args.limits).await
    })
}

fn dump(args: &DumpArgs) -> Result<(), String> {
    let file = args.state_dir.join(rewarder_emit::ledger::LEDGER_FILE);
    if !file.is_file() {
        // Opening would make an empty one, and an auditor would believe that nothing was settled.
        return Err(format!("there is no ledger at {}; name its --state-dir", file.display()));
    }
    let ledger = runtime()?
        .block_on(EmbeddedLedger::open(Some(&args.state_dir), &SystemClock::start()))
        .map_err(|e| format!("{e}; GET /settlements asks a running one"))?;
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let mut last: Option<rewarder_model::Intent> = None;
    loop {
        let after = last.as_ref().map(|intent| (&intent.tenant, &intent.epoch_id));
        let page = ledger.page(args.tenant.as_ref(), after, PAGE_MAX).map_err(|e| e.to_string())?;
        for intent in &page {
            serde_json::to_writer(&mut out, intent).map_err(|e| e.to_string())?;
            out.write_all(b"\n").map_err(|e| e.to_string())?;
        }
        if page.len() < PAGE_MAX {
            return out.flush().map_err(|e| e.to_string());
        }
        last = page.into_iter().next_back();
    }
}
