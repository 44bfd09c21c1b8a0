//! `ronctl`: the tool of operators, tenants and auditors. One file a verb, but for what operators do, which is in `operate`.
//!
//! The laws: a verb's result stands alone on stdout, everything else goes to stderr; with `--json` stdout holds one JSON
//! value, also of a refusal (of `tail` one an event); no secret is printed but the token that was asked for; nothing is
//! computed here that the service computes in another way — `replay` and `why` call the same functions.
//!
//! A library, so that the fuzzing of `testing/fuzz` reaches what reads foreign files.

mod bar;
mod cap;
mod config;
mod diff;
#[doc(hidden)]
pub mod failure;
mod http;
mod offline;
mod operate;
#[doc(hidden)]
pub mod replay;
mod save;
mod say;
mod seal;
mod submit;
mod tail;
mod tls;
mod top;
mod verify_attestation;
#[doc(hidden)]
pub mod verify_proof;
mod why;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Seals, submits, replays, explains and verifies epochs; mints capabilities; watches the service.
#[derive(Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
    /// Print one JSON value on stdout
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum Verb {
    /// Make a sealed snapshot of CSV, NDJSON, Parquet or Arrow; prints its CID
    Seal(seal::SealArgs),
    /// Upload what is missing, compute an epoch over HTTP, save the result
    Submit(submit::SubmitArgs),
    /// Recompute a manifest from its snapshot and policy, offline
    Replay(replay::ReplayArgs),
    /// Explain what an actor got, or why it got nothing
    Why(why::WhyArgs),
    /// Check the proof of one actor's payout, or of its absence, against a root
    VerifyProof(verify_proof::VerifyProofArgs),
    /// Check the signatures that vouch for a commitment, Ed25519 and ML-DSA-65
    VerifyAttestation(verify_attestation::VerifyAttestationArgs),
    /// Compare two manifests, run directories or tables of allocations
    Diff(diff::DiffArgs),
    /// Look at settings as the service would load them
    #[command(subcommand)]
    Config(config::ConfigVerb),
    /// Follow the service's events
    Tail(tail::TailArgs),
    /// Keys and capabilities
    #[command(subcommand)]
    Cap(cap::CapVerb),
    /// Watch the stages of a running service
    Top(top::TopArgs),
    /// Look at the emission latch, or release it
    #[command(subcommand)]
    Latch(operate::LatchVerb),
    /// Look at intents that are held back, send them again, or give them up
    #[command(subcommand)]
    Quarantine(operate::QuarantineVerb),
    /// Look at the brownout breaker of a running service, or drill it
    #[command(subcommand)]
    Brownout(operate::BrownoutVerb),
    /// List or verify what operators did
    #[command(subcommand)]
    Audit(operate::AuditVerb),
}

/// Does what the command line says.
pub fn run() -> ExitCode {
    let Cli { verb, json } = Cli::try_parse().unwrap_or_else(|e| {
        if e.use_stderr() && std::env::args_os().any(|argument| argument == "--json") {
            let said = e.to_string();
            say::json(&serde_json::json!({ "error": said.trim().trim_start_matches("error: ") }));
            std::process::exit(e.exit_code());
        }
        e.exit()
    });
    let done = match verb {
        Verb::Seal(args) => seal::seal(args, json),
        Verb::Submit(args) => submit::submit(&args, json),
        Verb::Replay(args) => replay::replay(&args, json),
        Verb::Why(args) => why::why(&args, json),
        Verb::VerifyProof(args) => verify_proof::verify_proof(&args, json),
        Verb::VerifyAttestation(args) => verify_attestation::verify_attestation(&args, json),
        Verb::Diff(args) => diff::diff(&args, json),
        Verb::Config(verb) => config::config(verb, json),
        Verb::Tail(args) => tail::tail(&args, json),
        Verb::Cap(verb) => cap::cap(verb, json),
        Verb::Top(args) => top::top(&args, json),
        Verb::Latch(verb) => operate::latch(verb, json),
        Verb::Quarantine(verb) => operate::quarantine(verb, json),
        Verb::Brownout(verb) => operate::brownout(verb, json),
        Verb::Audit(verb) => operate::audit(verb, json),
    };
    ExitCode::from(done.unwrap_or_else(|failure| failure.report(json)))
}
