//! What a seal tells while it runs. It draws nothing: a terminal's bar, a log and a test each bring their
//! own.

/// What is being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Rows are read, checked, and their names collected.
    Read,
    /// The names are put in order.
    Sort,
    /// The snapshot is written and hashed.
    Write,
    /// The disk is asked to keep it.
    Sync,
}

/// Told from more than one thread, up to some thousand times a second: what draws should look at a clock
/// first.
pub trait Progress: Sync {
    /// A phase begins.
    fn phase(&self, _phase: Phase) {}
    /// So many bytes of the input file (compressed, if it is) have been read, of `total` if that is known.
    fn bytes_read(&self, _read: u64, _total: Option<u64>) {}
    /// So many rows have been taken (while reading), or written (while writing).
    fn rows(&self, _rows: u64) {}
}

/// Tells nobody.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {}
