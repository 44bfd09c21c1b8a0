//! `ronctl diff`: two manifests, two run directories or two tables of allocations. Tables are read side by side, a line at
//! a time, so that their size does not matter.

use crate::failure::{Done, Failure};
use crate::replay::{Difference, MANIFEST_BYTES_MAX, differences, not_canonical, object, told};
use crate::{offline, say};
use clap::Args;
use rewarder_reward::{Line, lines};
use serde::Serialize;
use serde_json::Value;
use std::cmp::Ordering;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use svc_rewarder::out::part;
use svc_rewarder::run::exit;
use svc_rewarder::why::grouped;

/// Differing payouts that are named.
const NAMED: usize = 20;
/// Longest line of a table that is read: far above the 256 bytes of a name and the 38 digits of a payout.
const LINE_BYTES_MAX: u64 = 4096;

/// Compares two results.
#[derive(Args)]
pub struct DiffArgs {
    /// A manifest, a run directory or an allocations.tsv
    a: PathBuf,
    /// Another of the same kind
    b: PathBuf,
}

/// One payout that differs; `None` where there is no line.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Payout {
    actor: String,
    a: Option<String>,
    b: Option<String>,
}

/// How two tables differ.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
struct Tables {
    /// Payouts that differ.
    differing: u64,
    /// The first of them.
    named: Vec<Payout>,
    /// What each pays in all.
    sum_a: String,
    sum_b: String,
    /// `sum_b - sum_a`, with its sign.
    sum_of_differences: String,
}

#[derive(Default, Serialize)]
struct Answer {
    same: bool,
    /// Fields of the manifest that differ.
    manifest: Vec<Difference>,
    #[serde(skip_serializing_if = "Option::is_none")]
    allocations: Option<Tables>,
}

enum Kind {
    Manifest(Vec<u8>, Value),
    Directory,
    Table,
}

/// Compares: 0 the same, 1 different, 2 what cannot be compared.
pub fn diff(args: &DiffArgs, json: bool) -> Done {
    let (a, b) = (&args.a, &args.b);
    let mut answer = Answer::default();
    match (kind(a)?, kind(b)?) {
        (Kind::Manifest(a_bytes, a), Kind::Manifest(b_bytes, b)) => {
            answer.manifest = manifests(&(a_bytes, a), &(b_bytes, b));
        }
        (Kind::Table, Kind::Table) => answer.allocations = Some(tables(a, b)?),
        (Kind::Directory, Kind::Directory) => {
            answer.manifest =
                manifests(&manifest(&a.join("manifest.json"))?, &manifest(&b.join("manifest.json"))?);
            answer.allocations = Some(tables(&a.join(part::TEXT), &b.join(part::TEXT))?);
        }
        _ => {
            return Err(Failure::refused(format!(
                "{} and {} are of different kinds: give two manifests, two run directories or two allocations.tsv",
                a.display(),
                b.display()
            )));
        }
    }
    answer.same =
        answer.manifest.is_empty() && answer.allocations.as_ref().is_none_or(|tables| tables.differing == 0);
    if json {
        say::json(&answer);
    } else {
        say::text(words(&answer));
    }
    Ok(if answer.same { exit::OK } else { exit::FAILED })
}

fn unreadable(path: &Path, e: &dyn std::fmt::Display) -> Failure {
    Failure::refused(format!("{} cannot be read: {e}", path.display()))
}

fn kind(path: &Path) -> Result<Kind, Failure> {
    let metadata = std::fs::metadata(path).map_err(|e| unreadable(path, &e))?;
    if metadata.is_dir() {
        return Ok(Kind::Directory);
    }
    if metadata.len() <= MANIFEST_BYTES_MAX {
        let bytes = offline::read_small(path, MANIFEST_BYTES_MAX).map_err(|e| unreadable(path, &e))?;
        // No line of a table is JSON: there is a tab and a number behind whatever the name is.
        if let Some(value) = object(&bytes) {
            return Ok(Kind::Manifest(bytes, value));
        }
    }
    Ok(Kind::Table)
}

fn manifest(path: &Path) -> Result<(Vec<u8>, Value), Failure> {
    let bytes = offline::read_small(path, MANIFEST_BYTES_MAX).map_err(|e| unreadable(path, &e))?;
    let value = object(&bytes).ok_or_else(|| unreadable(path, &"it is no JSON object"))?;
    Ok((bytes, value))
}

fn manifests(a: &(Vec<u8>, Value), b: &(Vec<u8>, Value)) -> Vec<Difference> {
    let mut found = differences(&a.1, &b.1);
    if found.is_empty() && a.0 != b.0 {
        found.push(not_canonical(&a.0, &b.0));
    }
    found
}

/// A table, line by line, in its order.
struct Table<'a> {
    path: &'a Path,
    reader: BufReader<File>,
    number: u64,
    name: Vec<u8>,
    payout: u128,
    sum: u128,
}

impl<'a> Table<'a> {
    fn open(path: &'a Path) -> Result<Self, Failure> {
        let file = File::open(path).map_err(|e| unreadable(path, &e))?;
        let reader = BufReader::with_capacity(1 << 20, file);
        Ok(Self { path, reader, number: 0, name: Vec::new(), payout: 0, sum: 0 })
    }

    /// Moves to the next line; false at the end.
    fn next(&mut self) -> Result<bool, Failure> {
        let mut line = Vec::new();
        let mut limited = std::io::Read::take(&mut self.reader, LINE_BYTES_MAX);
        if limited.read_until(b'\n', &mut line).map_err(|e| unreadable(self.path, &e))? == 0 {
            return Ok(false);
        }
        self.number += 1;
        let wrong = |what: &str| {
            let line = self.number;
            Failure::refused(format!(
                "{} is no table of allocations: line {line} {what}",
                self.path.display()
            ))
        };
        let Line { name, payout, .. } =
            lines(&line).next().flatten().ok_or_else(|| wrong("is not NAME TAB PAYOUT LF"))?;
        if self.number > 1 && name <= self.name.as_slice() {
            return Err(wrong("does not come after the one before it, in byte order"));
        }
        self.sum = self.sum.checked_add(payout).ok_or_else(|| wrong("takes the sum beyond 2^128"))?;
        (self.name, self.payout) = (name.to_vec(), payout);
        Ok(true)
    }
}

fn tables(a: &Path, b: &Path) -> Result<Tables, Failure> {
    let (mut a, mut b) = (Table::open(a)?, Table::open(b)?);
    let (mut in_a, mut in_b) = (a.next()?, b.next()?);
    let mut found = Tables::default();
    while in_a || in_b {
        let order = match (in_a, in_b) {
            (true, true) => a.name.cmp(&b.name),
            (true, false) => Ordering::Less,
            _ => Ordering::Greater,
        };
        if order != Ordering::Equal || a.payout != b.payout {
            found.differing += 1;
            if found.named.len() < NAMED {
                let name = if order == Ordering::Greater { &b.name } else { &a.name };
                found.named.push(Payout {
                    actor: String::from_utf8_lossy(name).into_owned(),
                    a: (order != Ordering::Greater).then(|| a.payout.to_string()),
                    b: (order != Ordering::Less).then(|| b.payout.to_string()),
                });
            }
        }
        if order != Ordering::Greater {
            in_a = a.next()?;
        }
        if order != Ordering::Less {
            in_b = b.next()?;
        }
    }
    let sign = if b.sum < a.sum { "-" } else { "" };
    found.sum_of_differences = format!("{sign}{}", a.sum.abs_diff(b.sum));
    (found.sum_a, found.sum_b) = (a.sum.to_string(), b.sum.to_string());
    Ok(found)
}

fn words(answer: &Answer) -> String {
    if answer.same {
        return "the same\n".into();
    }
    let mut text = String::new();
    for difference in &answer.manifest {
        text.push_str(&told(difference, "manifest", ["a", "b"]));
        text.push('\n');
    }
    let Some(tables) = answer.allocations.as_ref().filter(|tables| tables.differing > 0) else { return text };
    let money = |amount: &Option<String>| amount.as_deref().map_or_else(|| "nothing".to_owned(), grouped);
    let more = tables.differing - tables.named.len() as u64;
    let differ = if tables.differing == 1 { "payout differs" } else { "payouts differ" };
    text.push_str(&format!("allocations: {} {differ}\n", grouped(&tables.differing.to_string())));
    for Payout { actor, a, b } in &tables.named {
        text.push_str(&format!(
            "  {:<44} a {:>20}  b {:>20}\n",
            actor.escape_debug().to_string(),
            money(a),
            money(b)
        ));
    }
    if more > 0 {
        text.push_str(&format!("  … and {} more\n", grouped(&more.to_string())));
    }
    let [a, b] = [&tables.sum_a, &tables.sum_b].map(|sum| grouped(sum));
    text.push_str(&format!("  sum: a {a}, b {b}, difference {}\n", tables.sum_of_differences));
    text
}
