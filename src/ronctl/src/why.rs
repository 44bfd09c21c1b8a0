//! `ronctl why`: why an actor got what it got, or nothing. From a stored run in milliseconds, offline from snapshot and
//! policy, or from the service with a proof.

use crate::failure::{Done, Failure};
use crate::http::{Service, TokenArgs, runtime, segment};
use crate::offline::Computed;
use crate::tls::TlsArgs;
use crate::{offline, say};
use clap::Args;
use rewarder_decode::actor_rows;
use rewarder_model::{Cid, EpochId, Reason, name};
use serde::Deserialize;
use std::path::{Path, PathBuf};
use svc_rewarder::out::part;
use svc_rewarder::out::{RECORD, Record};
use svc_rewarder::proof::Proof;
use svc_rewarder::refusal::Refusal;
use svc_rewarder::run::{self, exit};
use svc_rewarder::why::{Kept, Why, explain};

/// Largest `run.json`: a policy of a megabyte, escaped, and a hundred rounds.
const RECORD_BYTES_MAX: u64 = 8 << 20;

/// Explains one actor's payout.
#[derive(Args)]
pub struct WhyArgs {
    /// Whose payout
    #[arg(allow_hyphen_values = true)]
    actor: String,
    /// A directory that `svc-rewarder run` or `ronctl submit` wrote
    #[arg(long, value_name = "DIR", conflicts_with_all = ["policy", "url"])]
    run: Option<PathBuf>,
    /// Sealed snapshot (.arrows): with --policy everything is computed again, with --run it is where the snapshot is now
    #[arg(long, value_name = "FILE", conflicts_with = "url")]
    inputs: Option<PathBuf>,
    /// Policy (JSON)
    #[arg(long, value_name = "FILE", requires = "inputs")]
    policy: Option<PathBuf>,
    /// Ask the service
    #[arg(long, requires = "epoch")]
    url: Option<String>,
    /// Which epoch
    #[arg(long, requires = "url", allow_hyphen_values = true)]
    epoch: Option<EpochId>,
    /// The root that the service's proof has to lead to; without it, the one that the service names
    #[arg(long, value_name = "CID", requires = "url")]
    root: Option<Cid>,
    #[command(flatten)]
    token: TokenArgs,
    #[command(flatten)]
    tls: TlsArgs,
}

/// Explains, in words or as JSON.
pub fn why(args: &WhyArgs, json: bool) -> Done {
    name::check_actor(args.actor.as_bytes()).map_err(|e| Failure::refused(format!("ACTOR: {e}")))?;
    let (why, footing) = match (&args.run, &args.inputs, &args.policy, &args.url, &args.epoch) {
        (Some(dir), inputs, ..) => from_run(&args.actor, dir, inputs.as_deref(), json)?,
        (_, Some(inputs), Some(policy), ..) => {
            let computed = offline::compute(inputs, &offline::read_policy(policy)?, json)?;
            let footing = format!("recomputed: commitment {}", computed.outcome.commitment);
            (explained(&args.actor, &computed)?, footing)
        }
        (.., Some(url), Some(epoch)) => return from_service(args, url, epoch, json),
        _ => {
            let ways = "--run DIR, --inputs F.arrows --policy P.json, or --url U --epoch E";
            return Err(Failure::refused(format!("from where? Give {ways}")));
        }
    };
    if json {
        say::json(&why);
    } else {
        say::text(format!("{why}({footing})\n"));
    }
    Ok(exit::OK)
}

/// From a stored run: reads the actor's rows and nothing else, so that it takes milliseconds, and nothing is hashed. A run that the
/// service has computed is computed again, and has to come to the manifest that stands there. `moved`: where the snapshot is now.
fn from_run(actor: &str, dir: &Path, moved: Option<&Path>, json: bool) -> Result<(Why, String), Failure> {
    let path = dir.join(RECORD);
    let unusable = |e: &dyn std::fmt::Display| {
        Failure::refused(format!(
            "{} cannot be read: {e}; `svc-rewarder run --out` and `ronctl submit --out` write it. Without it: --url U --epoch E, \
             or offline --inputs F.arrows --policy P.json",
            path.display()
        ))
    };
    let bytes = offline::read_small(&path, RECORD_BYTES_MAX).map_err(|e| unusable(&e))?;
    let record: Record = serde_json::from_slice(&bytes).map_err(|e| unusable(&e))?;
    let inputs = moved.unwrap_or(&record.inputs);
    let source = run::open(inputs).map_err(|e| match moved {
        Some(_) => Failure::from(e),
        None => Failure::refused(format!("{}; say with --inputs where it is now", e.detail)),
    })?;
    if source.len() != record.inputs_bytes {
        return Err(Failure::refused(format!(
            "the snapshot {} is not the one of this run: it has {} bytes and had {}; say with --inputs where that one is",
            inputs.display(),
            source.len(),
            record.inputs_bytes
        )));
    }
    let Some(kept) = &record.kept else {
        let computed = offline::compute(inputs, record.policy.as_bytes(), json)?;
        let path = dir.join(part::MANIFEST);
        let manifest = offline::read_small(&path, RECORD_BYTES_MAX);
        let manifest =
            manifest.map_err(|e| Failure::refused(format!("{} cannot be read: {e}", path.display())))?;
        if manifest != computed.outcome.manifest_bytes {
            let (path, inputs) = (path.display(), inputs.display());
            return Err(Failure::refused(format!(
                "{path} is not what {inputs} and the policy in {RECORD} come to"
            )));
        }
        let footing = format!("recomputed, and it comes to {}", path.display());
        return Ok((explained(actor, &computed)?, footing));
    };
    let policy = offline::parse_policy(record.policy.as_bytes())?;
    let rows = actor_rows(&*source, actor.as_bytes(), kept.sorted).map_err(|e| broken(&e))?;
    let footing = format!(
        "from {}; the snapshot {} has its length still and was not verified again",
        path.display(),
        inputs.display()
    );
    Ok((explain(actor, rows.as_ref(), &policy, kept), footing))
}

/// From an epoch that has just been computed.
fn explained(actor: &str, computed: &Computed) -> Result<Why, Failure> {
    let kept = Kept::of(&computed.outcome, &computed.names);
    let rows = actor_rows(&*computed.source, actor.as_bytes(), kept.sorted).map_err(|e| broken(&e))?;
    Ok(explain(actor, rows.as_ref(), &computed.policy, &kept))
}

fn broken(e: &dyn std::fmt::Display) -> Failure {
    Refusal::new(Reason::SnapshotInvalid, e.to_string()).into()
}

/// The service's answer: the explanation, and what proves its payout.
#[derive(Deserialize)]
struct ActorAnswer {
    #[serde(flatten)]
    why: Why,
    proof: Proof,
}

fn from_service(args: &WhyArgs, url: &str, epoch: &EpochId, json: bool) -> Done {
    let runtime = runtime()?;
    let service = Service::new(url, Some(&args.token.read()?), &args.tls)?;
    let path = format!("/rewarder/epochs/{epoch}/allocations/{}", segment(&args.actor));
    let answer = runtime.block_on(service.get(&path, "application/json"))?;
    if answer.status != http::StatusCode::OK {
        return Err(answer.failure());
    }
    let ActorAnswer { why, proof } = serde_json::from_slice(&answer.body)
        .map_err(|e| Failure::new(format!("the service's answer is not of the contract's form: {e}")))?;
    let root = args.root.unwrap_or(proof.root);
    let proved = proof.verify(&root, args.actor.as_bytes());
    let proved = proved.map_err(|e| Failure::new(format!("the service's proof does not hold: {e}")))?;
    if why.actor != args.actor || proved.unwrap_or(0).to_string() != why.payout_minor_units {
        return Err(Failure::new("the service's proof shows another payout than its explanation"));
    }
    if json {
        say::json(&answer.json());
    } else {
        let whose = if args.root.is_some() { "as given" } else { "as the service names it" };
        say::text(format!("{why}(proved against the root {root}, {whose})\n"));
    }
    Ok(exit::OK)
}
