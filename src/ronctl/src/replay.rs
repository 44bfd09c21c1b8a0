//! `ronctl replay`: recomputes a manifest from its snapshot and policy, offline, and names what differs.

use crate::failure::{Done, Failure};
use crate::{offline, say};
use clap::Args;
use rewarder_model::Cid;
use serde::Serialize;
use serde_json::Value;
use std::path::PathBuf;
use svc_rewarder::run::exit;

/// Largest manifest that is read; ours have about a kilobyte.
pub const MANIFEST_BYTES_MAX: u64 = 256 * 1024;

/// Recomputes a manifest.
#[derive(Args)]
pub struct ReplayArgs {
    /// Sealed snapshot (.arrows)
    #[arg(long, value_name = "FILE")]
    inputs: PathBuf,
    /// Policy (JSON)
    #[arg(long, value_name = "FILE")]
    policy: PathBuf,
    /// The manifest to be checked
    #[arg(long, value_name = "FILE")]
    manifest: PathBuf,
}

/// A field that two manifests do not share.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Its path, such as `totals.payout_minor_units`.
    pub field: String,
    /// What the first has there.
    pub ours: Option<Value>,
    /// What the second has there.
    pub theirs: Option<Value>,
}

#[derive(Serialize)]
struct Answer {
    same: bool,
    /// CID of the manifest as recomputed.
    commitment: Cid,
    /// The first difference.
    #[serde(flatten)]
    first: Option<Difference>,
    /// The others.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    further: Vec<Difference>,
}

/// Replays: 0 the same, 1 different, 2 refused input.
pub fn replay(args: &ReplayArgs, json: bool) -> Done {
    // Nothing but a difference may end with 1.
    let refused = |failure: Failure| failure.code(exit::REFUSED);
    let theirs_bytes = offline::read_small(&args.manifest, MANIFEST_BYTES_MAX).map_err(|e| {
        Failure::refused(format!("the manifest {} cannot be read: {e}", args.manifest.display()))
    })?;
    let theirs = object(&theirs_bytes).ok_or_else(|| {
        Failure::refused(format!("{} is no manifest: it is not a JSON object", args.manifest.display()))
    })?;
    let policy = offline::read_policy(&args.policy).map_err(|refusal| refused(refusal.into()))?;
    let computed = offline::compute(&args.inputs, &policy, json).map_err(refused)?;
    let (ours_bytes, commitment) = (&computed.outcome.manifest_bytes, computed.outcome.commitment);
    let ours = object(ours_bytes).unwrap_or_default();
    let mut differences = differences(&ours, &theirs);
    if differences.is_empty() && *ours_bytes != theirs_bytes {
        differences.push(not_canonical(ours_bytes, &theirs_bytes));
    }
    let same = differences.is_empty();
    let mut differences = differences.into_iter();
    let answer = Answer { same, commitment, first: differences.next(), further: differences.collect() };
    if json {
        say::json(&answer);
    } else if same {
        say::line(format!("the same: commitment {commitment}"));
    } else {
        for (at, difference) in answer.first.iter().chain(&answer.further).enumerate() {
            say::line(told(difference, if at == 0 { "different" } else { "also" }, ["ours", "theirs"]));
        }
    }
    Ok(if same { exit::OK } else { exit::FAILED })
}

/// A JSON object.
pub fn object(bytes: &[u8]) -> Option<Value> {
    serde_json::from_slice::<Value>(bytes).ok().filter(Value::is_object)
}

/// The same fields in other bytes: they have another commitment all the same.
pub fn not_canonical(ours: &[u8], theirs: &[u8]) -> Difference {
    let at = ours.iter().zip(theirs).position(|(a, b)| a != b).unwrap_or(ours.len().min(theirs.len()));
    let says = |bytes: &[u8]| Some(Value::from(format!("{} bytes, {}", bytes.len(), Cid::of(bytes))));
    Difference { field: format!("(bytes from {at} on)"), ours: says(ours), theirs: says(theirs) }
}

/// A difference in words.
pub fn told(difference: &Difference, how: &str, sides: [&str; 2]) -> String {
    let show = |value: &Option<Value>| match value {
        None => "(not there)".to_owned(),
        // Whatever stands in a foreign file must not move the cursor.
        Some(Value::String(text)) => text.escape_debug().to_string(),
        Some(value) => value.to_string().escape_debug().to_string(),
    };
    let (field, [a, b]) = (difference.field.escape_debug(), sides);
    format!("{how}: {field}\n  {a:<7} {}\n  {b:<7} {}", show(&difference.ours), show(&difference.theirs))
}

/// All leaves in which two documents differ, in the order of their paths.
pub fn differences(ours: &Value, theirs: &Value) -> Vec<Difference> {
    let mut found = Vec::new();
    walk("", Some(ours), Some(theirs), &mut found);
    found
}

fn walk(path: &str, ours: Option<&Value>, theirs: Option<&Value>, found: &mut Vec<Difference>) {
    if ours == theirs {
        return;
    }
    if let (Some(Value::Object(a)), Some(Value::Object(b))) = (ours, theirs) {
        let mut names: Vec<&String> = a.keys().chain(b.keys()).collect();
        names.sort_unstable();
        names.dedup();
        for name in names {
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            walk(&path, a.get(name), b.get(name), found);
        }
        return;
    }
    found.push(Difference { field: path.to_owned(), ours: ours.cloned(), theirs: theirs.cloned() });
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(ours: Value, theirs: Value, expected: &[&str]) {
        let found: Vec<String> = differences(&ours, &theirs).into_iter().map(|d| d.field).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn names_the_path_of_each_leaf() {
        check(json!({"a": 1, "t": {"x": "1"}}), json!({"a": 1, "t": {"x": "1"}}), &[]);
        check(json!({"a": 1, "t": {"x": "1", "y": 2}}), json!({"a": 1, "t": {"x": "2"}}), &["t.x", "t.y"]);
        check(json!({"a": {}}), json!({"a": 1, "b": null}), &["a", "b"]);
    }
}
