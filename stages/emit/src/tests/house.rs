//! Rules of the house that a compiler does not check.

use std::path::{Path, PathBuf};

fn sources(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] }).collect()
}

#[test]
fn time_and_chance_come_from_outside_and_no_float_is_near() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut seen = 0;
    for path in sources(&root).into_iter().filter(|path| !path.starts_with(root.join("tests"))) {
        let text = std::fs::read_to_string(&path).unwrap();
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        for line in code.lines().filter(|line| !line.trim_start().starts_with("//")) {
            for word in ["Instant", "SystemTime", "tokio::time", "rand::", "f32", "f64", "thread::sleep"] {
                assert!(!line.contains(word), "{}: {line}", path.display());
            }
        }
        seen += 1;
    }
    assert!(seen >= 18);
}

#[test]
fn metrics_have_a_help_each() {
    for rewarder_model::Metric { name, help, .. } in crate::metrics::METRICS {
        assert!(help.ends_with('.') && name.chars().all(|c| c.is_ascii_lowercase() || c == '_'));
    }
}
