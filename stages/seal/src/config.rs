//! What a seal needs to be told: whose epoch it is, which columns to read, how much to hold at once.
//!
//! The law: options that exist make sense (no column feeds two roles), and none of the bounds changes the
//! result, which the tests show by sealing the same rows under many of them.

use crate::error::SealError;
use rewarder_model::Category;
use rewarder_model::snapshot::{COLUMNS, SnapshotHeader};

/// Bytes of text that one block holds. A block is parsed by one thread, and fits in a core's second-level
/// cache with what is made of it. Twice or half of it is as fast; twice of it takes 50 MB more.
pub const BLOCK_BYTES: usize = 512 << 10;

/// Blocks that are parsed and interned together. A constant, not a multiple of the threads: where a group
/// ends decides which of two refusals is seen first, and that must not depend on the machine.
pub const GROUP_BLOCKS: usize = 16;

/// Longest record. It bounds what one unclosed quote can make the reader collect.
pub const RECORD_BYTES_MAX: usize = 16 << 20;

/// Bytes of packed rows (13 each) held in memory before they go to a temporary file: five million rows. With
/// the names in memory anyway, holding more would save little and make memory follow the rows.
pub const ROWS_HELD_BYTES_MAX: usize = 64 << 20;

/// Rows of an Arrow or Parquet batch that one block takes: as many as a batch of the output has.
pub const BLOCK_ROWS: usize = 1 << 16;

/// Where a row's category comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CategorySource {
    /// A column of the data.
    Column(String),
    /// The data has no such column: every row is of this category.
    Constant(Category),
}

/// Which columns of the data feed the three columns of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Columns {
    pub(crate) actor: String,
    pub(crate) category: CategorySource,
    pub(crate) units: String,
}

impl Default for Columns {
    fn default() -> Self {
        let [actor, category, units] = COLUMNS.map(String::from);
        Self { actor, category: CategorySource::Column(category), units }
    }
}

impl Columns {
    /// Columns from renames, each `actor=COLUMN`, `category=COLUMN` or `units=COLUMN`, and a category for
    /// data that has none.
    pub fn new(renames: &[impl AsRef<str>], category: Option<Category>) -> Result<Self, SealError> {
        let option = |problem: String| Err(SealError::Options(problem));
        let mut renamed: [Option<String>; 3] = [None, None, None];
        for rename in renames {
            let rename = rename.as_ref();
            let Some((role, column)) = rename.split_once('=') else {
                return option(format!("`{}` is not of the form actor=COLUMN", rename.escape_debug()));
            };
            let Some(at) = COLUMNS.iter().position(|name| *name == role) else {
                return option(format!(
                    "there is no column `{}` in a snapshot; it has actor, category and units",
                    role.escape_debug()
                ));
            };
            if column.is_empty() || renamed[at].is_some() {
                return option(format!("the column for {role} is empty or named twice"));
            }
            renamed[at] = Some(column.to_owned());
        }
        if category.is_some() && renamed[1].is_some() {
            return option("the category is either a column or one name for every row, not both".to_owned());
        }
        let [actor, category_column, units] = renamed;
        let name = |column: Option<String>, role: usize| column.unwrap_or_else(|| COLUMNS[role].to_owned());
        let columns = Self {
            actor: name(actor, 0),
            category: match category {
                Some(constant) => CategorySource::Constant(constant),
                None => CategorySource::Column(name(category_column, 1)),
            },
            units: name(units, 2),
        };
        let twice = match &columns.category {
            CategorySource::Column(category) => {
                columns.actor == columns.units || [&columns.actor, &columns.units].contains(&category)
            }
            CategorySource::Constant(_) => columns.actor == columns.units,
        };
        if twice {
            return option("one column cannot be two of actor, category and units".to_owned());
        }
        Ok(columns)
    }
}

/// How much is held at once. The defaults are right; the tests make them small.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// See [`BLOCK_BYTES`].
    pub block_bytes: usize,
    /// See [`ROWS_HELD_BYTES_MAX`].
    pub rows_held_bytes_max: usize,
    /// See [`RECORD_BYTES_MAX`].
    pub record_bytes_max: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            block_bytes: BLOCK_BYTES,
            rows_held_bytes_max: ROWS_HELD_BYTES_MAX,
            record_bytes_max: RECORD_BYTES_MAX,
        }
    }
}

/// Everything that [`crate::seal`] is told beside the data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealOptions {
    /// Tenant, epoch, asset and pool.
    pub header: SnapshotHeader,
    /// Which columns to read.
    pub columns: Columns,
    /// Threads that parse, intern and sort; 0 takes one a core. The result does not depend on it.
    pub threads: usize,
    /// How much is held at once.
    pub bounds: Bounds,
}

impl SealOptions {
    /// The usual: columns by their own names, a thread a core.
    pub fn new(header: SnapshotHeader) -> Self {
        Self { header, columns: Columns::default(), threads: 0, bounds: Bounds::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renames() {
        let columns = Columns::new(&["actor=owner", "units=a=b"], Some("views".parse().unwrap())).unwrap();
        assert_eq!((&*columns.actor, &*columns.units), ("owner", "a=b"));
        for bad in [&["actor"][..], &["who=x"], &["actor="], &["actor=x", "actor=y"], &["actor=units"]] {
            assert!(Columns::new(bad, None).is_err(), "{bad:?}");
        }
        assert!(Columns::new(&["category=kind"], Some("views".parse().unwrap())).is_err());
    }
}
