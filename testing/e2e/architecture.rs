//! The house rules that no compiler checks: which floor may depend on which, no float near money, no clock of one's own,
//! and that the contract's words are the program's words.

use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A file of Cargo's, by its path from the root.
fn cargo(path: &str) -> toml::Table {
    toml::from_str(&std::fs::read_to_string(root().join(path)).unwrap()).unwrap()
}

fn floors() -> Vec<String> {
    let mut floors: Vec<String> = std::fs::read_dir(root().join("stages"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    floors.sort();
    floors
}

fn sources(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

/// The code of a file, without comments and without its tests, which stand at the foot.
fn code(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap();
    let text = text.split("#[cfg(test)]").next().unwrap_or_default();
    text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

#[test]
fn floors_know_the_model_only() {
    let floors = floors();
    assert_eq!(floors.len(), 8, "{floors:?}");
    for floor in &floors {
        let manifest = cargo(&format!("stages/{floor}/Cargo.toml"));
        assert!(!manifest.contains_key("target"), "{floor} depends on the same things everywhere");
        // Its tests and build do not know more.
        for kind in ["dependencies", "dev-dependencies", "build-dependencies"] {
            for (name, how) in manifest.get(kind).and_then(toml::Value::as_table).into_iter().flatten() {
                let real = how.get("package").and_then(toml::Value::as_str).unwrap_or(name);
                if let Some(known) = real.strip_prefix("rewarder-") {
                    assert!(floor != "model" && known == "model", "{floor} may not depend on {known}");
                }
                assert!(floor != "reward" || real != "tokio", "the kernel is pure");
            }
        }
    }
}

#[test]
fn no_float_on_the_money_floors() {
    for floor in ["model", "reward", "decode", "seal"] {
        for path in sources(&root().join("stages").join(floor).join("src")) {
            for word in code(&path).split(|c: char| !c.is_alphanumeric() && c != '_') {
                assert!(!matches!(word, "f32" | "f64"), "{} uses {word}", path.display());
            }
        }
    }
}

#[test]
fn time_is_passed_in() {
    for floor in ["flow", "admit", "emit", "reward", "decode", "store"] {
        for path in sources(&root().join("stages").join(floor).join("src")) {
            let code = code(&path);
            for forbidden in ["Instant::now", "SystemTime", "tokio::time"] {
                let is_test = path.components().any(|part| part.as_os_str() == "tests");
                assert!(is_test || !code.contains(forbidden), "{} uses {forbidden}", path.display());
            }
        }
    }
}

fn contract() -> String {
    let path = root().join("../shared/CONTRACT.md");
    std::fs::read_to_string(&path)
        .unwrap_or_else(|e| panic!("the contract belongs at {}: {e}", path.display()))
}

/// The words in back quotes of a text, braces and bars taken apart.
fn quoted(text: &str) -> Vec<String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn reasons_of_the_contract_exist_with_their_status() {
    let contract = contract();
    let table = contract.split("| compute answers").nth(1).unwrap().split("\n\n").next().unwrap();
    let mut seen = 0;
    for row in table
        .lines()
        .filter(|line| line.starts_with("| ") && line[2..].starts_with(|c: char| c.is_ascii_digit()))
    {
        let cell = row.split(" | ").next().unwrap();
        let mut status = 0;
        for part in cell.split('`').enumerate() {
            match part {
                (at, text) if at % 2 == 0 => {
                    let digits: Vec<u16> =
                        text.split(|c: char| !c.is_ascii_digit()).filter_map(|d| d.parse().ok()).collect();
                    status = digits.last().copied().filter(|d| *d >= 100).unwrap_or(status);
                }
                (_, word)
                    if word.bytes().all(|c| c.is_ascii_lowercase() || c == b'_') && word != "policy_id" =>
                {
                    let reason = rewarder_model::Reason::ALL.iter().find(|reason| reason.as_str() == word);
                    assert_eq!(reason.map(|reason| reason.status()), Some(status), "{word}");
                    seen += 1;
                }
                _ => {}
            }
        }
    }
    assert!(seen >= 26, "only {seen} reasons were found in the contract's table");
}

#[test]
fn metrics_of_the_contract_exist() {
    let contract = contract();
    let section = contract.split("## 7. Metrics").nth(1).unwrap().split("## 8.").next().unwrap();
    let known: Vec<&str> = svc_rewarder::telemetry::all().map(|metric| metric.name).collect();
    for name in quoted(section) {
        let bare = name.split('{').next().unwrap();
        if bare.contains('_') || bare == "inflight" {
            let metric = svc_rewarder::telemetry::all().find(|metric| metric.name == bare);
            let metric = metric.unwrap_or_else(|| panic!("{bare} is missing; there are {known:?}"));
            if let Some((_, label)) = name.trim_end_matches('}').split_once('{') {
                assert_eq!(metric.labels, [label], "{bare}");
            }
        }
    }
    for metric in svc_rewarder::telemetry::all() {
        assert!(!metric.help.is_empty());
        for label in metric.labels {
            assert!(!matches!(*label, "tenant" | "epoch" | "actor" | "cid" | "run_key"), "{}", metric.name);
        }
    }
}

#[test]
fn settings_and_routes_of_the_contract_exist() {
    let contract = contract();
    let section = contract.split("## 8. Settings").nth(1).unwrap().split("## 9.").next().unwrap();
    let known: Vec<String> =
        svc_rewarder::config::Settings::table().iter().map(|row| row.0.to_uppercase()).collect();
    for name in
        quoted(section).iter().flat_map(|text| text.split(|c: char| !c.is_ascii_uppercase() && c != '_'))
    {
        if name.len() > 3 && name != "RON_CONFIG" {
            assert!(known.iter().any(|k| k == name), "{name} is no setting");
        }
    }
    let routes = contract.split("| route | what |").nth(1).unwrap().split("\n\n").next().unwrap();
    let documented: Vec<String> = quoted(routes)
        .into_iter()
        .flat_map(|q| q.split(' ').map(str::to_owned).collect::<Vec<_>>())
        .filter(|t| t.starts_with('/'))
        .collect();
    for (_, path, _) in svc_rewarder::edge::ROUTES {
        assert!(documented.iter().any(|d| d == path), "{path} is not in the contract");
    }
    for path in documented {
        assert!(svc_rewarder::edge::ROUTES.iter().any(|(_, known, _)| *known == path), "{path} is no route");
    }
}

/// Each row of docs/FAILURES.md names a test that exists, and there are enough of them.
#[test]
fn every_failure_names_a_test_that_exists() {
    let text = std::fs::read_to_string(root().join("docs/FAILURES.md")).unwrap();
    let mut code = String::new();
    for dir in ["stages", "src", "testing/simulation"] {
        for path in sources(&root().join(dir)) {
            code += &std::fs::read_to_string(path).unwrap();
        }
    }
    for script in ["amnesia", "answers", "brownout", "chaos", "crash", "kill", "overload"] {
        code += &std::fs::read_to_string(root().join("testing/e2e").join(script)).unwrap();
    }
    let mut rows = 0;
    for row in text.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| what fails")) {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").collect();
        assert_eq!(cells.len(), 5, "{row}");
        let tests = quoted(cells[4]);
        assert!(!tests.is_empty(), "no test: {row}");
        for test in tests {
            let found = code.contains(&format!("fn {test}(")) || code.contains(&format!("def {test}("));
            assert!(found, "docs/FAILURES.md names {test}, which does not exist");
        }
        rows += 1;
    }
    assert!(rows >= 25, "{rows} rows");
}

/// The fuzzer is a workspace of its own, which nobody builds every day, and its builds are `--locked`: its lock has to know what
/// the floors depend on, in the house's versions. `cargo update -w --manifest-path testing/fuzz/Cargo.toml` mends it.
#[test]
fn the_fuzzer_is_locked_to_what_the_house_uses() {
    let packages = |path: &str| cargo(path)["package"].as_array().unwrap().clone();
    let key = |package: &toml::Value| format!("{} {}", package["name"], package["version"]);
    let house: std::collections::HashSet<String> = packages("Cargo.lock").iter().map(key).collect();
    let mut manifests = vec![String::from("Cargo.toml"), String::from("src/ronctl/Cargo.toml")];
    manifests.extend(floors().iter().map(|floor| format!("stages/{floor}/Cargo.toml")));
    let mut members = 0;
    for package in packages("testing/fuzz/Cargo.lock") {
        let name = package["name"].as_str().unwrap();
        // Its own, and what only it uses.
        if !matches!(name, "rewarder-fuzz" | "libfuzzer-sys" | "arbitrary") {
            assert!(house.contains(&key(&package)), "{} is locked for the fuzzer alone", key(&package));
        }
        let manifest =
            manifests.iter().map(|path| cargo(path)).find(|m| m["package"]["name"].as_str() == Some(name));
        let Some(manifest) = manifest else { continue };
        members += 1;
        let locked: Vec<&str> = package["dependencies"]
            .as_array()
            .unwrap()
            .iter()
            .map(|dependency| dependency.as_str().unwrap().split(' ').next().unwrap())
            .collect();
        for (dependency, how) in manifest["dependencies"].as_table().unwrap() {
            let optional = how.get("optional").and_then(toml::Value::as_bool).unwrap_or_default();
            let real = how.get("package").and_then(toml::Value::as_str).unwrap_or(dependency);
            assert!(
                optional || locked.contains(&real),
                "testing/fuzz/Cargo.lock: {name} does not know {real}"
            );
        }
    }
    assert!(members >= 6, "only {members} packages of the house are in the fuzzer's lock");
}

/// What is missing there is tested without assertions and overflow checks, and nobody sees it.
#[test]
fn the_checked_build_knows_every_package() {
    let members = cargo("Cargo.toml")["workspace"]["members"].as_array().unwrap().clone();
    let members = members.iter().map(|member| member.as_str().unwrap()).flat_map(|member| match member {
        "stages/*" => floors().iter().map(|floor| format!("stages/{floor}")).collect(),
        member => vec![member.to_owned()],
    });
    let mut packages: Vec<String> = members
        .chain([".".to_owned()])
        .map(|member| cargo(&format!("{member}/Cargo.toml"))["package"]["name"].as_str().unwrap().to_owned())
        .collect();
    packages.sort();
    let checked = cargo("testing/checked.toml")["profile"]["release"]["package"].as_table().unwrap().clone();
    assert_eq!(checked.keys().cloned().collect::<Vec<_>>(), packages);
    for (package, profile) in checked {
        for check in ["debug-assertions", "overflow-checks"] {
            assert_eq!(profile.get(check), Some(&toml::Value::Boolean(true)), "{check} of {package}");
        }
    }
}
