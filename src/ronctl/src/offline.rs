//! What `replay` and `why` share: an epoch computed from its files, as the service computes it.

use crate::bar::{Bar, Sample};
use crate::failure::Failure;
use rewarder_decode::{Dictionary, Progress};
use rewarder_model::{Policy, Reason};
use rewarder_reward::Outcome;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use svc_rewarder::refusal::Refusal;
use svc_rewarder::source::SharedSource;
use svc_rewarder::{epoch, run};

/// Largest policy that is read: `REQ_BODY_MAX_BYTES` by default, beyond which the service takes none.
const POLICY_BYTES_MAX: u64 = 1 << 20;

/// A computed epoch.
pub struct Computed {
    /// The snapshot.
    pub source: SharedSource,
    /// The policy.
    pub policy: Policy,
    /// The result.
    pub outcome: Outcome,
    /// The recipients' names.
    pub names: Dictionary,
}

/// Reads a policy's bytes.
pub fn read_policy(path: &Path) -> Result<Vec<u8>, Refusal> {
    read_small(path, POLICY_BYTES_MAX).map_err(|e| {
        let reason = match e.kind() {
            ErrorKind::FileTooLarge => Reason::PolicyInvalid,
            _ => Reason::PolicyNotFound,
        };
        Refusal::new(reason, format!("the policy {} cannot be read: {e}", path.display()))
    })
}

/// Reads a file that has to be small.
pub fn read_small(path: &Path, bytes_max: u64) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path)?;
    std::io::Read::read_to_end(&mut std::io::Read::take(file, bytes_max + 1), &mut bytes)?;
    if bytes.len() as u64 > bytes_max {
        let said = format!("it is larger than {bytes_max} bytes");
        return Err(std::io::Error::new(ErrorKind::FileTooLarge, said));
    }
    Ok(bytes)
}

/// Parses a policy.
pub fn parse_policy(bytes: &[u8]) -> Result<Policy, Refusal> {
    Policy::parse(bytes).map_err(|e| Refusal::new(Reason::PolicyInvalid, e.to_string()))
}

/// Verifies, decodes, scores and allocates, on every core.
pub fn compute(inputs: &Path, policy: &[u8], json: bool) -> Result<Computed, Failure> {
    let source = run::open(inputs)?;
    let progress = Arc::new(Progress::default());
    let (drawn, total) = (progress.clone(), source.len());
    let bar = Bar::show(json, move || {
        let (done, rows) = (drawn.bytes.load(Relaxed), drawn.rows.load(Relaxed));
        let phase = if done < total { "decode" } else { "reward" };
        Sample { phase, done, total: Some(total), bytes: true, rows }
    });
    let scored = epoch::decode(&*source, None, &|_| Ok(()), parse_policy(policy), &progress)?;
    let policy = scored.policy.clone();
    let (outcome, names) = epoch::reward(scored)
        .map_err(|breach| Failure::new(format!("a check of our own failed, please report it: {breach}")))?;
    drop(bar);
    Ok(Computed { source, policy, outcome, names })
}
