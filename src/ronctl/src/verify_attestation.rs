//! `ronctl verify-attestation`: who vouches for a commitment. Each signature has to hold; *whose* keys they are is for the
//! auditor to say, by naming those that they trust.

use crate::failure::{Done, Failure};
use crate::offline::read_small;
use crate::say;
use clap::Args;
use rewarder_emit::{Algorithm, Holds};
use rewarder_model::{Attestation, Cid};
use serde_json::{Value, json};
use std::path::PathBuf;
use svc_rewarder::run::exit;

/// Largest file that is read: an attestation has 8 kB with ML-DSA-65, an epoch's document a few more.
const BYTES_MAX: u64 = 16 << 20;

/// Checks an attestation.
#[derive(Args)]
pub struct VerifyAttestationArgs {
    /// The attestation, or the whole answer of GET …/epochs/{epoch_id}; `-` reads standard input
    attestation: PathBuf,
    /// The manifest (its CID is the commitment)
    #[arg(long, value_name = "FILE", required_unless_present = "commitment", conflicts_with = "commitment")]
    manifest: Option<PathBuf>,
    /// The commitment itself
    #[arg(long, value_name = "CID")]
    commitment: Option<Cid>,
    /// A key that is trusted; each that is given has to have signed
    #[arg(long, value_name = "CID")]
    key_id: Vec<Cid>,
    /// Take nothing without ML-DSA-65
    #[arg(long)]
    require_pq: bool,
}

/// The signatures of an attestation, if all hold for this commitment, and one by ML-DSA-65 is there if it has to be.
pub fn check(attestation: &Attestation, commitment: &Cid, require_pq: bool) -> Result<Vec<Holds>, String> {
    if attestation.commitment != *commitment {
        return Err("is for another commitment".into());
    }
    let held = rewarder_emit::verify(attestation).map_err(|e| format!("does not hold: {e}"))?;
    if require_pq && !held.iter().any(|held| held.algorithm == Algorithm::MlDsa65) {
        return Err("carries no ML-DSA-65, and --require-pq wants one".into());
    }
    Ok(held)
}

/// Prints algorithm and key id of each signature; exit 1 if one does not hold, or one that is wanted is not there.
pub fn verify_attestation(args: &VerifyAttestationArgs, json: bool) -> Done {
    let path =
        if args.attestation.as_os_str() == "-" { "/dev/stdin".into() } else { args.attestation.clone() };
    let file = |path: &PathBuf| {
        read_small(path, BYTES_MAX)
            .map_err(|e| Failure::new(format!("{} cannot be read: {e}", path.display())))
    };
    let attestation = read(&file(&path)?)?;
    let commitment = match (&args.manifest, args.commitment) {
        (Some(manifest), _) => Cid::of(&file(manifest)?),
        (None, Some(commitment)) => commitment,
        (None, None) => {
            return Err(Failure::refused("which commitment? Give --manifest FILE or --commitment CID"));
        }
    };
    let wrong = |what: &str| Failure::new(format!("the attestation {what}"));
    let held = check(&attestation, &commitment, args.require_pq).map_err(|e| wrong(&e))?;
    for wanted in &args.key_id {
        if !held.iter().any(|held| held.key_id == *wanted) {
            return Err(wrong(&format!("is not by {wanted}")));
        }
    }
    if json {
        let signatures: Vec<_> = held
            .iter()
            .map(|held| json!({ "algorithm": held.algorithm.as_str(), "key_id": held.key_id }))
            .collect();
        say::json(&json!({ "commitment": commitment, "holds": true, "signatures": signatures }));
    } else {
        for held in held {
            say::line(format!("{:9}  {}", held.algorithm.as_str(), held.key_id));
        }
    }
    Ok(exit::OK)
}

/// The attestation itself, bare or as a member of an epoch's document.
fn read(bytes: &[u8]) -> Result<Attestation, Failure> {
    let form =
        "this is no attestation {commitment, signatures}, nor an answer that holds one as `attestation`";
    let mut value: Value = serde_json::from_slice(bytes).map_err(|_| Failure::new(form))?;
    if let Some(inner) = value.get_mut("attestation") {
        value = inner.take();
    }
    serde_json::from_value(value).map_err(|_| Failure::new(form))
}
