//! The ways in: what the input is, where its three columns are, and how it comes apart into pieces that any
//! thread can parse.
//!
//! The law: a piece can be understood without the others, and pieces come in the order of the file.
//! Everything before that (decompression, Parquet pages, Arrow messages) happens on the one reading thread.

mod arrow;
mod columnar;
mod csv;
mod detect;
mod ndjson;
mod open;
mod parquet;
mod text;

use crate::block::{Block, Labels};
use crate::config::{CategorySource, Columns};
use crate::error::{Place, SealError};
use ahash::RandomState;
use arrow_array::RecordBatch;
use rewarder_model::snapshot::COLUMNS;
use std::io::Read;
use std::path::{Path, PathBuf};

pub(crate) use open::{Opened, ReadError, open};
pub(crate) use text::TextBlock;

/// The name that a category's column has in a snapshot.
pub(crate) const CATEGORY: &str = COLUMNS[1];
/// Why a constant category is not taken with data that has such a column: one of them would be ignored.
pub(crate) const CATEGORY_TWICE: &str =
    "a category for every row was given, and the data has a column `category`";
/// Columns that a message lists.
pub(crate) const COLUMNS_LISTED_MAX: usize = 50;

/// Where the data comes from.
pub enum Input<'a> {
    /// A file.
    Path(PathBuf),
    /// A stream, such as standard input. Formats that are read from their end go through a temporary file.
    Reader(Box<dyn Read + Send + 'a>),
}

impl From<&Path> for Input<'_> {
    fn from(path: &Path) -> Self {
        Self::Path(path.to_owned())
    }
}

impl From<PathBuf> for Input<'_> {
    fn from(path: PathBuf) -> Self {
        Self::Path(path)
    }
}

/// A piece of the input.
pub(crate) enum Piece {
    Text(TextBlock),
    Batch(RecordBatch),
}

/// How pieces are understood.
#[derive(Debug)]
pub(crate) enum Parser {
    Csv(csv::Layout),
    Ndjson(Columns),
    Columnar(columnar::Layout),
}

impl Parser {
    /// Reads the rows of a piece into a block.
    pub fn parse(&self, piece: &Piece, hasher: &RandomState, block: &mut Block) {
        match (self, piece) {
            (Self::Csv(layout), Piece::Text(text)) => layout.parse(text.text(), hasher, block),
            (Self::Ndjson(columns), Piece::Text(text)) => ndjson::parse(text.text(), columns, hasher, block),
            (Self::Columnar(layout), Piece::Batch(batch)) => layout.parse(batch, hasher, block),
            // `open` makes a parser and its pieces together.
            _ => block.begin(b"", false),
        }
    }

    /// The columns' names in messages.
    pub fn labels(&self) -> Labels<'_> {
        match self {
            Self::Csv(layout) => labels(layout.columns()),
            Self::Ndjson(columns) => labels(columns),
            Self::Columnar(layout) => labels(layout.columns()),
        }
    }

    /// What a refused row is counted in.
    pub fn place(&self) -> Place {
        match self {
            Self::Csv(_) | Self::Ndjson(_) => Place::Line,
            Self::Columnar(_) => Place::Row,
        }
    }
}

/// Where the three columns are among the data's.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Found {
    pub actor: usize,
    pub category: Option<usize>,
    pub units: usize,
}

impl Found {
    fn new(names: &[String], columns: &Columns) -> Result<Self, SealError> {
        let wrong = |problem: String| {
            let found = names.iter().take(COLUMNS_LISTED_MAX).cloned().collect();
            SealError::Columns { problem, found }
        };
        let find = |column: &str| {
            let mut places = names.iter().enumerate().filter(|(_, name)| *name == column);
            match (places.next(), places.next()) {
                (None, _) => Err(wrong(format!("there is no column `{}`", column.escape_debug()))),
                (_, Some(_)) => Err(wrong(format!("the column `{}` is there twice", column.escape_debug()))),
                (Some((place, _)), None) => Ok(place),
            }
        };
        let category = match &columns.category {
            CategorySource::Column(column) => Some(find(column)?),
            CategorySource::Constant(_) if columns.actor != CATEGORY && columns.units != CATEGORY => {
                if names.iter().any(|name| name == CATEGORY) {
                    return Err(wrong(CATEGORY_TWICE.to_owned()));
                }
                None
            }
            CategorySource::Constant(_) => None,
        };
        Ok(Self { actor: find(&columns.actor)?, category, units: find(&columns.units)? })
    }
}

/// The columns' names in messages.
pub(crate) fn labels(columns: &Columns) -> Labels<'_> {
    let category = match &columns.category {
        CategorySource::Column(column) => column,
        CategorySource::Constant(_) => CATEGORY,
    };
    Labels { actor: &columns.actor, category, units: &columns.units }
}
