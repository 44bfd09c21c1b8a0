//! The committed corpora, each input through its target: what the fuzzer found stays found.

#[path = "src/targets.rs"]
mod targets;

use std::path::Path;
use targets::TARGETS;

fn corpus() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testing/fuzz/corpus")
}

#[test]
fn every_committed_input_holds() {
    for (name, target) in TARGETS {
        let folder = corpus().join(name);
        let mut paths: Vec<_> = std::fs::read_dir(&folder)
            .unwrap_or_else(|e| panic!("{} has no corpus: {e}", folder.display()))
            .map(|entry| entry.unwrap().path())
            .collect();
        paths.sort();
        assert!(paths.len() >= 5, "{} has hardly a corpus", folder.display());
        let bytes: u64 = paths.iter().map(|path| path.metadata().unwrap().len()).sum();
        assert!(
            bytes < 64 * 1024,
            "{} holds {bytes} bytes: a corpus is to be a few kilobytes",
            folder.display()
        );
        for path in paths {
            // The test's name is not the input's; the output of a failure is.
            eprintln!("{}", path.display());
            target(&std::fs::read(&path).unwrap());
        }
    }
}

/// Writes seeds that no hand can write. `FUZZ_SEEDS=write cargo test -p ronctl --test fuzz_corpora`.
#[test]
fn seeds_reach_what_they_are_for() {
    let write = std::env::var_os("FUZZ_SEEDS").is_some_and(|word| word == "write");
    let mut seeds: Vec<(&str, String, Vec<u8>)> = Vec::new();
    for (n, token) in targets::genuine_tokens().into_iter().enumerate() {
        seeds.push(("capability", format!("genuine-{n}"), token.into_bytes()));
    }
    let text = targets::proved_table();
    let root = rewarder_model::Cid::of(text);
    for actor in ["actor-0000", "actor-0100", "actor-0101", "actor-0318", "zzz", "a"] {
        let proof = svc_rewarder::proof::prove(
            text,
            &svc_rewarder::proof::Tree::of(text),
            root,
            &svc_rewarder::proof::find(text, actor.as_bytes()),
        );
        assert!(proof.verify(&root, actor.as_bytes()).is_ok(), "{actor}");
        let seed = format!("{actor}\n{}", serde_json::to_string(&proof).unwrap());
        seeds.push(("proof", actor.to_owned(), seed.into_bytes()));
    }
    for (target, name, bytes) in seeds {
        let path = corpus().join(target).join(name);
        if write {
            std::fs::write(&path, &bytes).unwrap();
        }
        assert_eq!(std::fs::read(&path).ok().as_deref(), Some(&bytes[..]), "{} is stale", path.display());
    }
}
