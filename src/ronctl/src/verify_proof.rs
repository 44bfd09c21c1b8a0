//! `ronctl verify-proof`: what a proof shows of one actor, with nothing but the root to trust. Slices are verified by the
//! `bao` crate, not by the code that made them.

use crate::failure::{Done, Failure};
use crate::say;
use clap::Args;
use rewarder_model::{Cid, name};
use serde_json::{Value, json};
use std::path::PathBuf;
use svc_rewarder::proof::Proof;
use svc_rewarder::run::exit;

/// Largest proof that is read. One shows two or three lines and a path of hashes: two kilobytes.
const PROOF_BYTES_MAX: u64 = 4 << 20;

/// Checks a proof.
#[derive(Args)]
pub struct VerifyProofArgs {
    /// The proof, or the whole answer of GET …/allocations/{actor}; `-` reads standard input
    proof: PathBuf,
    /// `allocations_root` of the manifest
    #[arg(long, value_name = "CID")]
    root: Cid,
    /// Whose payout
    #[arg(long, value_name = "NAME", allow_hyphen_values = true)]
    actor: String,
}

/// Prints the payout, or `none`; exit 1 if the proof shows neither.
pub fn verify_proof(args: &VerifyProofArgs, json: bool) -> Done {
    name::check_actor(args.actor.as_bytes()).map_err(|e| Failure::new(format!("--actor: {e}")))?;
    let path = if args.proof.as_os_str() == "-" { "/dev/stdin".into() } else { args.proof.clone() };
    let bytes = crate::offline::read_small(&path, PROOF_BYTES_MAX)
        .map_err(|e| Failure::new(format!("the proof {} cannot be read: {e}", args.proof.display())))?;
    let proof = read(&bytes)?;
    let payout = proof
        .verify(&args.root, args.actor.as_bytes())
        .map_err(|e| Failure::new(format!("the proof does not hold: {e}")))?;
    if json {
        let payout = payout.map(|payout| payout.to_string());
        say::json(
            &json!({ "actor": args.actor, "root": args.root, "proved": true, "payout_minor_units": payout }),
        );
    } else {
        say::line(payout.map_or_else(|| "none".to_owned(), |payout| payout.to_string()));
    }
    Ok(exit::OK)
}

/// The proof itself, bare or as a member of the service's answer.
pub fn read(bytes: &[u8]) -> Result<Proof, Failure> {
    let form = "the proof is not of the form {root, length, offset, len, slice}, nor an answer that holds one as `proof`";
    let mut value: Value = serde_json::from_slice(bytes).map_err(|_| Failure::new(form))?;
    if let Some(inner) = value.get_mut("proof") {
        value = inner.take();
    }
    serde_json::from_value(value).map_err(|_| Failure::new(form))
}
