//! `schemas/` holds what the types say. `testing/schemas` rewrites it.

use std::path::Path;
use svc_rewarder::edge::contract;

#[test]
fn the_committed_files_are_what_the_types_say() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas");
    let write = std::env::var_os("SCHEMAS").is_some_and(|word| word == "write");
    let mut known = Vec::new();
    for (name, value) in contract::files() {
        let expected = format!("{}\n", serde_json::to_string_pretty(&value).unwrap());
        let path = folder.join(name);
        if write {
            std::fs::write(&path, &expected).unwrap();
        }
        let found = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            found == expected,
            "schemas/{name} is not what the types say; run testing/schemas and look at the difference"
        );
        known.push(name.to_owned());
    }
    known.sort();
    let mut there: Vec<String> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    there.sort();
    assert_eq!(there, known, "a file of schemas/ is made from nothing");
}
