//! A directory with one run in it: what `run --out` and `submit --out` leave behind.
//!
//! The laws: no half of a file is seen under its name; where a manifest stands, the rest of its run stands too, and nothing that
//! speaks of another one.

use crate::table;
use crate::why::Kept;
use rewarder_decode::Dictionary;
use rewarder_flow::Lane;
use rewarder_model::{Manifest, Policy};
use rewarder_reward::Outcome;
use serde::{Deserialize, Serialize};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Files of a run, here and in the store.
pub mod part {
    pub use rewarder_store::{DELIVERY, MANIFEST};

    /// The attestation, JSON.
    pub const ATTESTATION: &str = "attestation.json";
    /// The canonical text.
    pub const TEXT: &str = "allocations.tsv";
    /// Allocations for people.
    pub const ARROW: &str = "allocations.arrow";
    /// The derivation and where to look for rows, JSON.
    pub const DERIVATION: &str = "derivation.json";
}

/// What is left beside the contract's three files: enough to answer `ronctl why`.
pub const RECORD: &str = "run.json";
/// Bytes that are written to a file together: the more, the larger the pieces in which the system keeps them.
const WRITTEN_TOGETHER: usize = 1 << 20;

/// `run.json`: what became of a run, and what is needed to explain it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Record {
    /// The snapshot's path as it was given, made absolute.
    pub inputs: PathBuf,
    /// Bytes of the snapshot, to notice another file under its name.
    pub inputs_bytes: u64,
    /// The policy's text.
    pub policy: String,
    /// From what every payout follows, if it was computed here.
    #[serde(flatten)]
    pub kept: Option<Kept>,
}

/// Where a batch job leaves its result, and what it leaves there about its inputs.
pub struct Out {
    /// The directory.
    pub dir: PathBuf,
    /// The snapshot's path.
    pub inputs: PathBuf,
    /// The policy's bytes.
    pub policy: Vec<u8>,
}

impl Out {
    /// Writes a batch job's files.
    ///
    /// # Errors
    /// The file system's.
    pub fn write(
        &self,
        lane: &Lane,
        outcome: &Outcome,
        names: &Dictionary,
        policy: &Policy,
    ) -> io::Result<()> {
        std::fs::create_dir_all(&self.dir)?;
        let inputs = std::fs::canonicalize(&self.inputs)?;
        let record = Record {
            inputs_bytes: std::fs::metadata(&inputs)?.len(),
            inputs,
            policy: String::from_utf8_lossy(&self.policy).into_owned(),
            kept: Some(Kept::of(outcome, names)),
        };
        for name in clear_another(&self.dir, &outcome.manifest_bytes)? {
            tracing::warn!(file = name, "belonged to another run and is removed");
        }
        // Beside each other: the text is as it will be, the other has to be made.
        std::thread::scope(|scope| {
            let text = scope.spawn(|| {
                write_file(&self.dir, part::TEXT, |to| {
                    outcome.table.pieces().try_for_each(|piece| to.write_all(piece))
                })
            });
            write_file(&self.dir, part::ARROW, |to| {
                table::write_arrow(lane, outcome, names, policy.scale(), to)
            })?;
            text.join().unwrap_or_else(|_| Err(io::Error::other("the text could not be written")))
        })?;
        write_file(&self.dir, RECORD, |to| Ok(serde_json::to_writer(to, &record)?))?;
        // Last: where a manifest stands, the rest stands too.
        write_file(&self.dir, part::MANIFEST, |to| to.write_all(&outcome.manifest_bytes))
    }
}

/// What of a result speaks of one run, whatever stands beside it; the manifest last, since the others are told apart by it.
const OF_ONE_RUN: [&str; 4] = [RECORD, part::ATTESTATION, part::DELIVERY, part::MANIFEST];

/// Takes away what another run than that of this manifest has left in a directory, so that no reader finds one run's delivery
/// beside another's table. Where no manifest of ours stands, nothing is ours to take. What went, but the manifest.
///
/// # Errors
/// The file system's.
pub fn clear_another(dir: &Path, manifest: &[u8]) -> std::io::Result<Vec<&'static str>> {
    let there = std::fs::read(dir.join(part::MANIFEST)).unwrap_or_default();
    if there == manifest || serde_json::from_slice::<Manifest>(&there).is_err() {
        return Ok(Vec::new());
    }
    let mut removed = Vec::new();
    for name in OF_ONE_RUN {
        match std::fs::remove_file(dir.join(name)) {
            Ok(()) => removed.push(name),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
    }
    removed.retain(|name| *name != part::MANIFEST);
    Ok(removed)
}

/// Writes a file under a temporary name and renames it, so that no half of it is ever seen under its own.
///
/// # Errors
/// The file system's.
pub fn write_file(
    dir: &Path,
    name: &str,
    write: impl FnOnce(&mut (dyn std::io::Write + Send)) -> std::io::Result<()>,
) -> std::io::Result<()> {
    let temporary = dir.join(format!(".{name}.{}", std::process::id()));
    let result = (|| {
        let mut file =
            std::io::BufWriter::with_capacity(WRITTEN_TOGETHER, std::fs::File::create(&temporary)?);
        write(&mut file)?;
        file.flush()?;
        drop(file);
        std::fs::rename(&temporary, dir.join(name))
    })();
    if result.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    result
}
