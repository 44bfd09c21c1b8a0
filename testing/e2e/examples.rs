//! The contract's examples: exact manifests, identities and payouts; and what has to be refused, with which reason.

use rewarder_decode::Progress;
use rewarder_model::{Policy, Reason};
use std::path::Path;
use svc_rewarder::epoch;
use svc_rewarder::refusal::Refusal;

fn run(dir: &Path) -> Result<(Vec<u8>, Vec<u8>), Refusal> {
    let snapshot = std::fs::read(dir.join("inputs.arrows")).unwrap();
    let policy = Policy::parse(&std::fs::read(dir.join("policy.json")).unwrap())
        .map_err(|e| Refusal::new(Reason::PolicyInvalid, e.to_string()));
    let scored = epoch::decode(&snapshot[..], None, &|_| Ok(()), policy, &Progress::default())?;
    let (outcome, _) = epoch::reward(scored).expect("no input breaches an invariant");
    Ok((outcome.manifest_bytes, outcome.table.pieces().collect::<Vec<_>>().concat()))
}

#[test]
fn examples_agree_to_the_byte() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/examples");
    let mut dirs: Vec<_> = std::fs::read_dir(&root)
        .unwrap_or_else(|e| {
            panic!("the contract's examples belong beside the repository, at {}: {e}", root.display())
        })
        .map(|entry| entry.unwrap().path())
        .collect();
    dirs.sort();
    assert!(dirs.len() > 80, "only {} examples", dirs.len());
    for dir in dirs {
        let expected: serde_json::Value =
            serde_json::from_slice(&std::fs::read(dir.join("expected.json")).unwrap()).unwrap();
        let name = dir.file_name().unwrap().to_string_lossy().into_owned();
        match (run(&dir), expected.get("exit").and(expected.get("reason"))) {
            (Ok((manifest, table)), None) => {
                assert_eq!(
                    String::from_utf8(manifest).unwrap(),
                    std::fs::read_to_string(dir.join("manifest.json")).unwrap(),
                    "{name}"
                );
                let lines: Vec<_> = rewarder_reward::lines(&table).map(Option::unwrap).collect();
                let payouts = expected["allocations"].as_object().unwrap();
                assert_eq!(lines.len(), payouts.len(), "{name}");
                for line in lines {
                    let actor = std::str::from_utf8(line.name).unwrap();
                    assert_eq!(payouts[actor].as_str().unwrap(), line.payout.to_string(), "{name}");
                }
            }
            (Err(refusal), Some(reason)) => {
                assert_eq!(refusal.reason.as_str(), reason.as_str().unwrap(), "{name}: {refusal}");
                println!("{name}: {refusal}");
            }
            (found, expected) => panic!("{name}: {:?} but {expected:?} was expected", found.map(|_| "taken")),
        }
    }
}
