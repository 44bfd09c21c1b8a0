//! `svc-rewarder`: serves, or runs one epoch.

use clap::{Args, Parser, Subcommand};
use rewarder_flow::Drained;
use std::process::ExitCode;
use svc_rewarder::config::{self, ConfigArgs};
use svc_rewarder::descriptors;
use svc_rewarder::dumps;
use svc_rewarder::edge::{self, Bound};
use svc_rewarder::opened::StartError;
use svc_rewarder::run::{self, RunArgs};
use svc_rewarder::service::Service;
use svc_rewarder::supervisor::Supervisor;
use svc_rewarder::telemetry;

/// Threads that wait for the disk. None of them waits for another. tokio's own bound, 512, is a stack each for as many peers
/// as ask at once, and they stay for ten seconds.
const BLOCKING_THREADS_MAX: usize = 64;

/// Takes an epoch's sealed inputs, pays out a pool exactly, proves it, and tells the ledger once.
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
    /// Compute one epoch from files, without HTTP
    Run(RunArgs),
}

#[derive(Args)]
struct ServeArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Pretend that the ledger does not answer, to drill a brownout (test only)
    #[arg(long)]
    brownout_allow: bool,
    /// Log at debug level
    #[arg(long)]
    trace_burst: bool,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match cli.command {
        Some(Command::Run(args)) => {
            telemetry::log_quietly();
            ExitCode::from(run::run(&args))
        }
        Some(Command::Serve(args)) => serve(args),
        None => serve(cli.serve),
    }
}

fn serve(args: ServeArgs) -> ExitCode {
    match serving(args) {
        // What was cut off was answered so; the exit code tells whoever stopped us.
        Ok(Drained::Clean) => ExitCode::SUCCESS,
        Ok(Drained::CutOff { .. }) => ExitCode::from(run::exit::FAILED),
        Err(error) => {
            eprintln!("svc-rewarder: {error}");
            ExitCode::from(if error.may_pass { run::exit::FAILED } else { run::exit::REFUSED })
        }
    }
}

fn serving(args: ServeArgs) -> Result<Drained, StartError> {
    let environment: config::Environment = std::env::vars().collect();
    let settings = config::load(&args.config, &environment).map_err(|e| StartError::of(e.to_string()))?;
    telemetry::log(settings.log_format, args.trace_burst);
    if !settings.core_dumps {
        dumps::forbid();
    }
    descriptors::raise(&settings);
    let supervisor = Supervisor::of(&environment);
    let metrics = telemetry::metrics().map_err(StartError::of)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .build()
        .map_err(|e| StartError::of(format!("the async runtime cannot be started: {e}")))?;
    runtime.block_on(async {
        let bound = Bound::bind(&settings).await?;
        let (service, pipeline) =
            Service::start(settings, (args.config, environment), args.brownout_allow).await?;
        Ok(edge::run(service, pipeline, bound, metrics, supervisor).await)
    })
}
