//! Seal: makes the sealed snapshot of contract §2 from what such data comes as. The inverse of decode.
//!
//! CSV and NDJSON (plain, gzip, zstd), Parquet, and Arrow files and streams go in; one Arrow IPC stream comes
//! out, always in the fast case: both dictionaries sorted and without unused values, batches of 64 Ki rows,
//! rows in the order of the input.
//!
//! The laws of this floor:
//! - the same rows give the same bytes, from every format, at every thread count, under every bound;
//! - a number is what its digits say: floats are refused by their form, not by their value;
//! - either a whole snapshot stands at the output's name, or what stood there before, and nothing else is
//!   left;
//! - refusals are in the order of the file, with line and column, the first twenty at once;
//! - memory follows the distinct names, not the rows.
//!
//! The walk: [`config`](SealOptions) says what is wanted; `input` opens and cuts the data into pieces;
//! `block` is a piece that was parsed; `intern` numbers the names; `rows` keeps the rows meanwhile; `order`
//! sorts the names; `ipc` knows the bytes of the messages; `target` is the file; `pipeline` is all of it on
//! one page. [`SnapshotWriter`] is the same output for rows that are already numbered.

mod block;
mod config;
mod error;
mod input;
mod intern;
mod ipc;
mod lookalike;
mod order;
mod pipeline;
mod progress;
mod rows;
mod target;
mod units;
mod writer;

pub use config::{
    BLOCK_BYTES, BLOCK_ROWS, Bounds, CategorySource, Columns, GROUP_BLOCKS, RECORD_BYTES_MAX,
    ROWS_HELD_BYTES_MAX, SealOptions,
};
pub use error::{BAD_ROWS_LISTED_MAX, BadRow, Place, RefusedRows, SealError};
pub use input::Input;
pub use ipc::BATCH_ROWS;
pub use lookalike::{NAMES_QUOTED_MAX, Warnings};
pub use pipeline::{Examined, Sealed, examine, seal};
pub use progress::{Phase, Progress, Silent};
pub use writer::{SnapshotWriter, Written, write_snapshot};
