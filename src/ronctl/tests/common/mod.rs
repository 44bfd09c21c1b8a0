//! The built `ronctl` in a directory of its own.

#![allow(dead_code)] // each test program uses its part

use serde_json::Value;
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

pub const CSV: &str =
    "actor,category,units\nada,views,1000\nbob,views,20\nada,subs,3\ncleo,subs,10\ndora,views,1\n";

pub const POLICY: &str = r#"{ "schema": "rewarder.policy.v1", "id": "rev42", "mode": "share",
  "weights": { "views": "0.3", "subs": "0.7" }, "rounding": "largest_remainder", "min_payout_minor_units": "100",
  "caps": { "actor_minor_units": "6000", "excess": "redistribute" } }"#;

/// What a call came to.
#[derive(Debug)]
pub struct Told {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Told {
    #[track_caller]
    pub fn ends(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{self:?}");
        self
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        assert_eq!(self.out.lines().count(), 1, "one object: {self:?}");
        serde_json::from_str(&self.out).unwrap()
    }

    #[track_caller]
    pub fn says(&self, text: &str) {
        assert!(self.out.contains(text) || self.err.contains(text), "{text:?} in {self:?}");
    }
}

/// A directory with `work.csv` and `policy.json`.
pub struct Desk(TempDir);

impl Desk {
    pub fn new() -> Self {
        let desk = Self(tempfile::tempdir().unwrap());
        desk.write("work.csv", CSV);
        desk.write("policy.json", POLICY);
        desk
    }

    /// The same with `epoch.arrows`.
    pub fn sealed() -> Self {
        let desk = Self::new();
        desk.seal("work.csv", "epoch.arrows").ends(0);
        desk
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        std::fs::write(self.path().join(name), text).unwrap();
    }

    #[track_caller]
    pub fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path().join(name)).unwrap()
    }

    pub fn has(&self, name: &str) -> bool {
        self.path().join(name).exists()
    }

    /// Runs `ronctl` with words and whole arguments, without the caller's environment.
    pub fn ronctl(&self, args: &[&str]) -> Told {
        let output = Command::new(env!("CARGO_BIN_EXE_ronctl"))
            .args(args)
            .current_dir(self.path())
            .env_clear()
            .output()
            .unwrap();
        Told {
            code: output.status.code().unwrap(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    pub fn words(&self, line: &str) -> Told {
        self.ronctl(&line.split_whitespace().collect::<Vec<_>>())
    }

    pub fn seal(&self, input: &str, out: &str) -> Told {
        self.words(&format!(
            "seal {input} --tenant acme --epoch 2026-11 --asset roc --pool 10000 --out {out}"
        ))
    }

    /// `svc-rewarder run` in this process.
    pub fn run(&self, out: &str) {
        let args = svc_rewarder::run::RunArgs {
            inputs: self.path().join("epoch.arrows"),
            policy: self.path().join("policy.json"),
            out: self.path().join(out),
            dry_run: true,
            ledger: None,
            json: true,
            profile_stages: false,
            config: svc_rewarder::config::ConfigArgs::default(),
        };
        assert_eq!(svc_rewarder::run::run(&args), 0);
    }
}
