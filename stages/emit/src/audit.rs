//! The record of what operators and latches did: JSON lines, each holding the hash of the one before.
//!
//! ```text
//! {"seq":1,"unix_ms":…,"act":"latch","subject":"emission","reason":"…","prev":"b3:…"}
//! ```
//!
//! The law: appended and fsynced before the act takes effect, never rewritten. `prev` is the CID of the line
//! before without its line feed (of the empty text for the first), so that a line changed, taken out or moved
//! breaks the chain; `b3sum` checks it. A last line without its line feed was being written when the machine
//! died, and so was one that holds zero bytes, which the disk had no time to write: its act had not taken effect, and it
//! is cut off. Any other break stops the start, since someone has been here.

use crate::plant;
use rewarder_model::Cid;
use rewarder_model::world::disk::{Disk, WriteFile, read_whole};
use serde::{Deserialize, Serialize};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Name of the file in `STATE_DIR`.
pub const AUDIT_FILE: &str = "audit.jsonl";
/// Longest reason that is kept; what an operator types, not a document.
const REASON_BYTES_MAX: usize = 1024;
/// Longest log that is read: some hundred thousand acts.
const LOG_BYTES_MAX: u64 = 1 << 28;
/// Lines kept under amnesia: acts are rare, and a loop that latches must not eat the memory.
const MEMORY_LINES_MAX: usize = 1000;

/// One act.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Line {
    /// 1, 2, 3, …
    pub seq: u64,
    /// When.
    pub unix_ms: u64,
    /// `latch`, `release`, `drop`, …
    pub act: String,
    /// On what: `emission`, or a run key.
    pub subject: String,
    /// Why.
    pub reason: String,
    /// CID of the line before.
    pub prev: Cid,
}

/// Why the audit log cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The disk failed.
    #[error("cannot read or write the audit log {AUDIT_FILE} in STATE_DIR: {0}")]
    Io(io::Error),
    /// The chain is broken.
    #[error(
        "line {line} of the audit log {AUDIT_FILE} in STATE_DIR does not follow from the one before, keep the file and move it aside"
    )]
    Broken {
        /// Counted from 1.
        line: usize,
    },
}

/// The audit log.
pub struct Audit {
    disk: Option<Arc<dyn Disk>>,
    state: Mutex<Chain>,
}

struct Chain {
    file: Option<Box<dyn WriteFile>>,
    seq: u64,
    head: Cid,
    /// Only under amnesia.
    memory: Vec<Line>,
    /// Bytes that are known to be whole lines; a failed append is cut back to here.
    len: u64,
    /// A failed append could not be cut back yet; nothing may be written behind it.
    ragged: bool,
}

fn whole(disk: &dyn Disk) -> Result<Vec<u8>, AuditError> {
    Ok(read_whole(disk, Path::new(AUDIT_FILE), LOG_BYTES_MAX).map_err(AuditError::Io)?.unwrap_or_default())
}

impl Audit {
    /// Opens the log on the disk of STATE_DIR and checks its chain; `None` keeps it in memory.
    ///
    /// # Errors
    /// When the disk fails or the chain is broken.
    pub fn open(disk: Option<Arc<dyn Disk>>) -> Result<Self, AuditError> {
        let mut chain =
            Chain { file: None, seq: 0, head: Cid::of(b""), memory: Vec::new(), len: 0, ragged: false };
        let Some(disk) = disk else { return Ok(Self { disk: None, state: chain.into() }) };
        let path = Path::new(AUDIT_FILE);
        match disk.create_new(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(AuditError::Io(error)),
            _ => {}
        }
        let bytes = whole(&*disk)?;
        let (lines, head, len) = check(&bytes).map_err(|line| AuditError::Broken { line })?;
        if len < bytes.len() as u64 && !plant::is("torn_audit_line_kept") {
            tracing::warn!(bytes = bytes.len() as u64 - len, "a torn last line of the audit log was cut off");
            disk.truncate(path, len).map_err(AuditError::Io)?;
        }
        disk.sync_dir(Path::new("")).map_err(AuditError::Io)?;
        let file = disk.append(path).map_err(AuditError::Io)?;
        (chain.file, chain.seq, chain.head, chain.len) = (Some(file), lines.len() as u64, head, len);
        if plant::is("audit_chain_begins_anew") {
            chain.head = Cid::of(b"");
        }
        Ok(Self { disk: Some(disk), state: chain.into() })
    }

    /// Appends an act; durable when this returns.
    ///
    /// # Errors
    /// When the disk fails; the act must not take effect then.
    pub fn append(&self, act: &str, subject: &str, reason: &str, unix: Duration) -> Result<(), AuditError> {
        let mut chain = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let chain = &mut *chain;
        let line = Line {
            seq: chain.seq + 1,
            unix_ms: millis(unix),
            act: act.into(),
            subject: subject.into(),
            reason: clip(reason, REASON_BYTES_MAX).into(),
            prev: chain.head,
        };
        let mut bytes = serde_json::to_vec(&line).unwrap_or_default();
        let head = Cid::of(&bytes);
        bytes.push(b'\n');
        if let Some(disk) = &self.disk {
            let path = Path::new(AUDIT_FILE);
            if chain.ragged || chain.file.is_none() {
                disk.truncate(path, chain.len).map_err(AuditError::Io)?;
                chain.file = Some(disk.append(path).map_err(AuditError::Io)?);
                chain.ragged = false;
            }
            let written = match &mut chain.file {
                Some(file) => file
                    .write_all(&bytes)
                    .and_then(|()| if plant::is("audit_not_synced") { Ok(()) } else { file.sync() }),
                None => Err(io::ErrorKind::NotFound.into()),
            };
            if let Err(error) = written {
                // Half a line would break the chain for the next one.
                chain.ragged = disk.truncate(path, chain.len).is_err();
                chain.file = None;
                return Err(AuditError::Io(error));
            }
        } else {
            if chain.memory.len() >= MEMORY_LINES_MAX {
                chain.memory.remove(0);
            }
            chain.memory.push(line);
        }
        chain.seq += 1;
        chain.head = head;
        chain.len += bytes.len() as u64;
        Ok(())
    }

    /// All lines, oldest first (under amnesia, the last 1,000).
    ///
    /// # Errors
    /// When the disk fails or the chain is broken.
    pub fn lines(&self) -> Result<Vec<Line>, AuditError> {
        let chain = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(disk) = &self.disk else { return Ok(chain.memory.clone()) };
        verify(&whole(&**disk)?).map_err(|line| AuditError::Broken { line })
    }
}

/// The lines of a log, without a last one that is not whole.
///
/// # Errors
/// The number of the first line, counted from 1, that does not follow from the one before.
pub fn verify(bytes: &[u8]) -> Result<Vec<Line>, usize> {
    check(bytes).map(|(lines, ..)| lines)
}

/// The lines of a log, the CID of the last, and the bytes that whole lines take; or the number of the first
/// wrong line.
fn check(bytes: &[u8]) -> Result<(Vec<Line>, Cid, u64), usize> {
    let end_before = |end: usize| bytes[..end].iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let mut whole = end_before(bytes.len());
    let last = end_before(whole.saturating_sub(1));
    if bytes[last..whole].contains(&0) {
        // Its end has reached the disk and something before it has not: no line of ours holds a zero byte.
        whole = last;
    }
    let mut head = Cid::of(b"");
    let mut lines = Vec::new();
    for (n, text) in bytes[..whole].split_inclusive(|byte| *byte == b'\n').enumerate() {
        let text = &text[..text.len() - 1];
        let line: Line = serde_json::from_slice(text).map_err(|_| n + 1)?;
        if line.prev != head || line.seq != n as u64 + 1 {
            return Err(n + 1);
        }
        head = Cid::of(text);
        lines.push(line);
    }
    Ok((lines, head, whole as u64))
}

/// Milliseconds since 1970; a clock beyond the year 500,000,000 shows the last one.
pub(crate) fn millis(unix: Duration) -> u64 {
    u64::try_from(unix.as_millis()).unwrap_or(u64::MAX)
}

/// At most `limit` bytes of a text, whole characters.
pub(crate) fn clip(text: &str, limit: usize) -> &str {
    let end = (0..=limit.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(dir: &Path) -> Result<Audit, AuditError> {
        Audit::open(Some(Arc::new(rewarder_model::world::disk::RealDisk::new(dir).unwrap())))
    }

    fn three(dir: &Path) -> Vec<u8> {
        let audit = open(dir).unwrap();
        for (n, act) in ["latch", "release", "latch"].into_iter().enumerate() {
            audit.append(act, "emission", "because\nof \"this\"", Duration::from_millis(n as u64)).unwrap();
        }
        std::fs::read(dir.join(AUDIT_FILE)).unwrap()
    }

    #[test]
    fn the_chain_goes_on_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        three(dir.path());
        three(dir.path());
        let lines = open(dir.path()).unwrap().lines().unwrap();
        assert_eq!(lines.iter().map(|line| line.seq).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6]);
        let text = std::fs::read_to_string(dir.path().join(AUDIT_FILE)).unwrap();
        let first = text.lines().next().unwrap();
        assert_eq!(lines[1].prev, Cid::of(first.as_bytes()), "b3sum of the line before");
    }

    #[test]
    fn a_torn_last_line_is_cut_off_at_every_byte() {
        let dir = tempfile::tempdir().unwrap();
        let bytes = three(dir.path());
        let two = bytes[..bytes.len() - 1].iter().rposition(|b| *b == b'\n').unwrap() + 1;
        for torn in two..bytes.len() {
            std::fs::write(dir.path().join(AUDIT_FILE), &bytes[..torn]).unwrap();
            let audit = open(dir.path()).unwrap();
            assert_eq!(audit.lines().unwrap().len(), 2);
            audit.append("release", "emission", "x", Duration::ZERO).unwrap();
            assert_eq!(audit.lines().unwrap().len(), 3);
        }
    }

    #[test]
    fn a_last_line_with_a_hole_is_cut_off() {
        let dir = tempfile::tempdir().unwrap();
        let bytes = three(dir.path());
        let two = bytes[..bytes.len() - 1].iter().rposition(|b| *b == b'\n').unwrap() + 1;
        for hole in two..bytes.len() - 1 {
            let mut torn = bytes.clone();
            torn[hole] = 0;
            std::fs::write(dir.path().join(AUDIT_FILE), &torn).unwrap();
            assert_eq!(open(dir.path()).unwrap().lines().unwrap().len(), 2);
        }
        let mut earlier = bytes.clone();
        earlier[two - 2] = 0;
        std::fs::write(dir.path().join(AUDIT_FILE), &earlier).unwrap();
        assert!(matches!(open(dir.path()), Err(AuditError::Broken { line: 2 })), "that one was durable");
    }

    #[test]
    fn any_other_change_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let text = String::from_utf8(three(dir.path())).unwrap();
        let lines: Vec<_> = text.lines().collect();
        for bad in [
            format!("{}\n{}\n", lines[0], lines[2]),
            format!("{}\n{}\n", lines[1], lines[2]),
            text.replacen("because", "whatever", 1),
            format!("\n{text}"),
        ] {
            std::fs::write(dir.path().join(AUDIT_FILE), bad).unwrap();
            assert!(matches!(open(dir.path()), Err(AuditError::Broken { .. })));
        }
    }

    #[test]
    fn clipped_to_whole_characters() {
        for (limit, expect) in [(0, ""), (1, "a"), (2, "a"), (3, "aé"), (9, "aéb")] {
            assert_eq!(clip("aéb", limit), expect);
        }
    }

    #[test]
    fn memory_keeps_the_last_ones() {
        let audit = Audit::open(None).unwrap();
        for _ in 0..MEMORY_LINES_MAX + 5 {
            audit.append("latch", "emission", "x", Duration::ZERO).unwrap();
        }
        let lines = audit.lines().unwrap();
        assert_eq!((lines.len(), lines[0].seq), (MEMORY_LINES_MAX, 6));
    }
}
