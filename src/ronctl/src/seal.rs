//! `ronctl seal`: rows of any common form become a sealed snapshot. The CID stands alone on stdout.

use crate::bar::{Bar, Sample};
use crate::failure::{Done, Failure};
use crate::say;
use clap::Args;
use rewarder_model::{Amount, Asset, Category, Cid, EpochId, SnapshotHeader, TenantId};
use rewarder_seal::{Columns, Input, Phase, Progress, SealError, SealOptions, Warnings};
use serde::Serialize;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};
use svc_rewarder::run::exit;

/// Makes a sealed snapshot.
#[derive(Args)]
pub struct SealArgs {
    /// CSV, NDJSON (both also gzip or zstd), Parquet, Arrow file or stream; `-` reads standard input
    input: PathBuf,
    /// Whose epoch it is
    #[arg(long, allow_hyphen_values = true)]
    tenant: TenantId,
    /// Which epoch
    #[arg(long, allow_hyphen_values = true)]
    epoch: EpochId,
    /// What is paid, such as roc
    #[arg(long, allow_hyphen_values = true)]
    asset: Asset,
    /// The pool in minor units of the asset
    #[arg(long)]
    pool: Amount,
    /// Where the snapshot goes (.arrows)
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Which column is the actor, category or units, where it has another name: actor=COLUMN
    #[arg(long, value_name = "actor=COLUMN")]
    map: Vec<String>,
    /// The category of every row, for data that has no such column
    #[arg(long, value_name = "NAME", allow_hyphen_values = true)]
    category: Option<Category>,
}

/// What the seal tells while it runs, for the bar to read.
#[derive(Default)]
struct Told {
    phase: AtomicU8,
    bytes: AtomicU64,
    total: AtomicU64,
    rows_read: AtomicU64,
    rows: AtomicU64,
}

struct Telling(Arc<Told>);

impl Progress for Telling {
    fn phase(&self, phase: Phase) {
        if phase == Phase::Write {
            self.0.rows_read.store(self.0.rows.swap(0, Relaxed), Relaxed);
        }
        self.0.phase.store(phase as u8, Relaxed);
    }

    fn bytes_read(&self, read: u64, total: Option<u64>) {
        self.0.bytes.store(read, Relaxed);
        self.0.total.store(total.unwrap_or(0), Relaxed);
    }

    fn rows(&self, rows: u64) {
        self.0.rows.store(rows, Relaxed);
    }
}

impl Told {
    fn sample(&self) -> Sample {
        let rows = self.rows.load(Relaxed);
        let phase = self.phase.load(Relaxed);
        if phase == Phase::Read as u8 {
            let total = Some(self.total.load(Relaxed)).filter(|total| *total > 0);
            return Sample { phase: "read", done: self.bytes.load(Relaxed), total, bytes: true, rows };
        }
        let phase = [(Phase::Sort, "sort"), (Phase::Write, "write")].iter().find(|(p, _)| *p as u8 == phase);
        let total = Some(self.rows_read.load(Relaxed).max(rows));
        Sample { phase: phase.map_or("sync", |(_, name)| name), done: rows, total, bytes: false, rows }
    }
}

#[derive(Serialize)]
struct Answer<'a> {
    cid: Cid,
    bytes: u64,
    rows: u64,
    actors: u64,
    categories: u64,
    out: &'a PathBuf,
    warnings: Vec<String>,
}

/// Seals; exit 2 if the data is refused, with no file left.
pub fn seal(args: SealArgs, json: bool) -> Done {
    let SealArgs { input, tenant, epoch, asset, pool, out, map, category } = args;
    let mut options = SealOptions::new(SnapshotHeader { tenant, epoch, asset, pool });
    options.columns = Columns::new(&map, category).map_err(failed)?;
    let input =
        if input.as_os_str() == "-" { Input::Reader(Box::new(std::io::stdin())) } else { Input::Path(input) };
    let told = Arc::new(Told::default());
    let drawn = told.clone();
    let bar = Bar::show(json, move || drawn.sample());
    let telling = Telling(told);
    let sealed = rewarder_seal::seal(input, &options, &out, &telling);
    drop(bar);
    let sealed = sealed.map_err(failed)?;
    if !json {
        if !sealed.warnings.is_empty() {
            eprintln!("ronctl: warning: {}", sealed.warnings);
        }
        say::line(sealed.cid);
        return Ok(exit::OK);
    }
    say::json(&Answer {
        cid: sealed.cid,
        bytes: sealed.bytes,
        rows: sealed.rows,
        actors: sealed.actors,
        categories: sealed.categories,
        out: &out,
        warnings: Some(&sealed.warnings)
            .filter(|w| !w.is_empty())
            .map(Warnings::to_string)
            .into_iter()
            .collect(),
    });
    Ok(exit::OK)
}

fn failed(error: SealError) -> Failure {
    // A disk that failed may be better tomorrow; data and options stay what they are.
    match error {
        SealError::Io { .. } => Failure::new(error),
        _ => Failure::refused(error),
    }
}
