//! The pages that people act on tell the truth: every metric, setting, cause, reason, event, alert and test that the runbook, the
//! security page, the alert rules and the dashboard name exists, with the values that they give.

use rewarder_model::Reason;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use svc_rewarder::config::Settings;
use svc_rewarder::health::Cause;
use svc_rewarder::telemetry;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn page(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// What stands in backquotes, outside of fenced blocks.
fn quoted(text: &str) -> Vec<String> {
    let prose: Vec<&str> = text.split("```").step_by(2).collect();
    prose.iter().flat_map(|part| part.split('`').skip(1).step_by(2).map(str::to_owned)).collect()
}

fn metrics() -> BTreeSet<&'static str> {
    telemetry::all().map(|metric| metric.name).collect()
}

fn causes() -> BTreeSet<&'static str> {
    Cause::ALL.iter().map(|cause| cause.as_str()).collect()
}

fn reasons() -> BTreeSet<&'static str> {
    Reason::ALL.iter().map(|reason| reason.as_str()).collect()
}

fn settings() -> BTreeSet<&'static str> {
    Settings::table().iter().map(|row| row.0).collect()
}

fn alerts() -> BTreeSet<String> {
    let rules = page("configs/alerts.yml");
    rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).map(str::to_owned).collect()
}

/// The variants of the bus's events, as their source has them.
fn events() -> BTreeSet<String> {
    let code = page("src/bus.rs");
    let body =
        code.split("pub enum Event {").nth(1).and_then(|rest| rest.split("\n}").next()).unwrap_or_default();
    let variants = body.lines().filter_map(|line| line.strip_prefix("    ")?.strip_suffix('{'));
    variants
        .map(|name| name.trim().to_owned())
        .filter(|name| name.chars().all(char::is_alphanumeric))
        .collect()
}

/// Words of answers and of files that are no names of the tables above.
const OTHER_WORDS: &[&str] =
    &["retry_after", "cap_timeout", "corr_id", "run_key", "spool_full", "latched_dry_runs", "client_cert"];

#[test]
fn the_runbook_names_what_exists() {
    let (metrics, causes, reasons, settings) = (metrics(), causes(), reasons(), settings());
    let (alerts, events) = (alerts(), events());
    assert!(events.len() > 8 && alerts.len() > 12, "{events:?} {alerts:?}");
    let (mut named_alerts, mut checked) = (BTreeSet::new(), 0);
    for word in quoted(&page("docs/RUNBOOK.md")) {
        let bare = word.split(['{', '=']).next().unwrap_or_default();
        let is = |set: fn(char) -> bool| !bare.is_empty() && bare.chars().all(set);
        if is(|c| c.is_ascii_uppercase() || c == '_') && bare.contains('_') {
            let known = settings.contains(&*bare.to_lowercase()) || bare == "RON_CONFIG";
            assert!(known, "`{word}` is no setting");
        } else if is(|c| c.is_ascii_lowercase() || c == '_') && bare.contains('_') {
            let known = metrics.contains(bare) || causes.contains(bare) || reasons.contains(bare);
            assert!(
                known || settings.contains(bare) || OTHER_WORDS.contains(&bare),
                "`{word}` is nothing that exists"
            );
            if let Some((_, label)) = word.split_once('{') {
                let metric = telemetry::all().find(|metric| metric.name == bare);
                let labels = metric.map(|metric| metric.labels).unwrap_or_default();
                assert!(labels.contains(&label.trim_end_matches('}')), "`{word}`: there are {labels:?}");
            }
        } else if bare.starts_with(|c: char| c.is_ascii_uppercase())
            && is(char::is_alphanumeric)
            && bare.chars().filter(|c| c.is_uppercase()).count() >= 2
            && is(|c| !c.is_ascii_digit())
            && bare.chars().any(char::is_lowercase)
        {
            assert!(alerts.contains(bare) || events.contains(bare), "`{word}` is no alert and no event");
            named_alerts.insert(bare.to_owned());
        } else {
            continue;
        }
        checked += 1;
    }
    assert!(checked > 80, "only {checked} names were found");
    let missing: Vec<_> = alerts.difference(&named_alerts).collect();
    assert!(missing.is_empty(), "the runbook does not say what to do about {missing:?}");
}

#[test]
fn the_runbooks_tables_are_the_programs() {
    let text = page("docs/RUNBOOK.md");
    let rows = |head: &str| -> Vec<Vec<String>> {
        let table = text.split(head).nth(1).unwrap_or_else(|| panic!("there is no table {head}"));
        let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
        rows.map(|row| row.trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned()).collect())
            .collect()
    };
    let first = |row: &Vec<String>| row[0].trim_matches('`').to_owned();
    let told: Vec<String> = rows("| cause | means | then |").iter().map(first).collect();
    assert_eq!(told, Cause::ALL.map(|cause| cause.as_str().to_owned()));
    let table = Settings::table();
    let mut seen = 0;
    for row in rows("| setting | default | changed while running |") {
        let name = first(&row).to_lowercase();
        let Some((_, default, micro, reload, _)) = table.iter().find(|known| known.0 == name) else {
            assert_eq!(name, "ron_config");
            continue;
        };
        // The number of cores is the machine's.
        if name != "concurrency_compute_workers" {
            assert!(row[1].starts_with(&format!("`{default}`")), "{name}: {} and not {}", default, row[1]);
            assert!(
                default == micro
                    || row[1].contains(&format!("`{micro}` under"))
                    || *reload
                    || name.contains("max"),
                "{name}"
            );
        }
        assert_eq!(row[2].starts_with("yes"), *reload, "{name}: {}", row[2]);
        seen += 1;
    }
    assert!(seen >= 18, "{seen} settings");
}

/// Metrics and the values of labels in a PromQL expression.
fn check_expression(expression: &str) {
    let metrics = metrics();
    let mut found = 0;
    for word in
        expression.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).filter(|word| word.contains('_'))
    {
        let functions = ["histogram_quantile", "max_over_time", "min_over_time", "label_values"];
        if functions.contains(&word) || reasons().contains(word) || causes().contains(word) {
            continue;
        }
        let histogram = word.strip_suffix("_bucket").filter(|name| metrics.contains(name));
        assert!(metrics.contains(word) || histogram.is_some(), "{word} is no metric: {expression}");
        found += 1;
    }
    let bare = ["up", "inflight"].iter().any(|name| expression.contains(name));
    assert!(found > 0 || bare, "no metric in {expression}");
    for (label, known) in [("reason", reasons()), ("cause", causes())] {
        for matcher in ["=\"", "=~\"", "!~\"", "!=\""] {
            for part in expression.split(&format!("{label}{matcher}")).skip(1) {
                for value in part.split('"').next().unwrap_or_default().split('|') {
                    assert!(known.contains(value), "{label} has no value {value}: {expression}");
                }
            }
        }
    }
}

#[test]
fn alert_rules_and_dashboard_ask_for_what_is_exported() {
    let rules = page("configs/alerts.yml");
    let mut expressions: Vec<String> = Vec::new();
    let mut lines = rules.lines().peekable();
    while let Some(line) = lines.next() {
        if let Some(text) = line.trim().strip_prefix("expr: ") {
            let mut text = text.trim_start_matches(">-").to_owned();
            while let Some(more) = lines.next_if(|line| line.starts_with("          ")) {
                text += more;
            }
            expressions.push(text);
        }
    }
    assert_eq!(expressions.len(), alerts().len());
    let dashboard: serde_json::Value = serde_json::from_str(&page("configs/dashboard.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    for target in panels.iter().flat_map(|panel| panel["targets"].as_array().unwrap()) {
        expressions.push(target["expr"].as_str().unwrap().to_owned());
    }
    expressions.iter().for_each(|expression| check_expression(expression));
    let asked = expressions.join(" ");
    for metric in telemetry::all() {
        assert!(asked.contains(metric.name), "nothing looks at {}", metric.name);
    }
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true if !path.ends_with("corpus") && !path.ends_with("__pycache__") => found.extend(files(&path)),
            true => {}
            false => found.push(path),
        }
    }
    found
}

#[test]
fn each_row_of_the_security_page_names_tests_that_exist() {
    let text = page("SECURITY.md");
    let code: String = ["src", "stages", "testing"]
        .iter()
        .flat_map(|dir| files(&root().join(dir)))
        .filter_map(|path| std::fs::read_to_string(path).ok())
        .collect();
    let table = text.split("| which test |").nth(1).unwrap();
    let mut rows = 0;
    for row in table.lines().skip(2).take_while(|line| line.starts_with('|')) {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        if cells[0].starts_with("**") {
            continue;
        }
        assert_eq!(cells.len(), 4, "{row}");
        let tests = quoted(cells[3]);
        assert!(!tests.is_empty(), "no test: {row}");
        for test in tests {
            let exists = if test.contains('/') {
                root().join(&test).is_file()
            } else {
                code.contains(&format!("fn {test}(")) || code.contains(&format!("def {test}("))
            };
            assert!(exists, "SECURITY.md names {test}, which does not exist");
        }
        rows += 1;
    }
    assert!(rows >= 25, "{rows} rows");
}

/// The settings as docs/CONFIG.md has them: all, and those whose default a profile changes.
fn settings_tables() -> [String; 2] {
    let cell = |name: &str, value: String| match name {
        // The machine's.
        "concurrency_compute_workers" => "`cores - 1`".to_owned(),
        _ => format!("`{value}`"),
    };
    let mut all =
        String::from("| setting | macronode | micronode | reload | what |\n|---|---|---|---|---|\n");
    let mut changed = String::from("| setting | macronode | micronode |\n|---|---|---|\n");
    for (name, large, small, reload, what) in Settings::table() {
        let (large, small) = (cell(name, large), cell(name, small));
        if large != small {
            changed += &format!("| `{name}` | {large} | {small} |\n");
        }
        let reload = if reload { "yes" } else { "no" };
        all += &format!("| `{name}` | {large} | {small} | {reload} | {what} |\n");
    }
    [all, changed]
}

/// `CONFIG_DOCS=write` rewrites the page (testing/config-docs).
#[test]
fn the_settings_page_is_made_from_the_code() {
    let mut text = page("docs/CONFIG.md");
    for (mark, made) in ["settings", "profiles"].iter().zip(settings_tables()) {
        let (begin, end) =
            (format!("<!-- {mark}: made from the code -->\n"), format!("<!-- end of {mark} -->"));
        let (head, rest) = text.split_once(&begin).unwrap_or_else(|| panic!("docs/CONFIG.md has no {begin}"));
        let (table, tail) = rest.split_once(&end).unwrap();
        let write = std::env::var_os("CONFIG_DOCS").is_some_and(|what| what == "write");
        assert!(write || table == made, "docs/CONFIG.md is stale: run testing/config-docs");
        text = format!("{head}{begin}{made}{end}{tail}");
    }
    if std::env::var_os("CONFIG_DOCS").is_some() {
        std::fs::write(root().join("docs/CONFIG.md"), text).unwrap();
    }
}

#[test]
fn the_shipped_file_shows_every_setting_with_its_default() {
    let text = page("configs/svc-rewarder.toml");
    let told: std::collections::BTreeMap<&str, &str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# ")?.split_once(" = "))
        .map(|(name, value)| (name, value.split('#').next().unwrap_or_default().trim().trim_matches('"')))
        .collect();
    for (name, default, ..) in Settings::table() {
        let Some(value) = told.get(name) else { panic!("configs/svc-rewarder.toml does not show {name}") };
        // The number of cores is the machine's, and what is off has no default to show.
        if name != "concurrency_compute_workers" && default != "none" {
            assert_eq!(*value, default, "{name} in configs/svc-rewarder.toml");
        }
    }
}
