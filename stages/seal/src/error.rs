//! Why a seal was refused. The law: a message is a function of the input and the options alone, never of
//! thread timing, and whatever it quotes of the data is escaped and short, since it goes to a terminal.

use std::fmt;
use std::path::{Path, PathBuf};

/// Refused rows that are listed one by one. Enough to see the pattern; a file of a million bad rows has one
/// cause.
pub const BAD_ROWS_LISTED_MAX: usize = 20;

/// Characters of a refused value that are shown.
const SHOWN_CHARS_MAX: usize = 40;
/// Characters of a decoder's message that are shown.
const SAID_CHARS_MAX: usize = 300;

/// Why there is no snapshot. Nothing was left on disk.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The operating system refused.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb.
        doing: &'static str,
        /// On which file.
        path: PathBuf,
        /// What it said.
        source: std::io::Error,
    },
    /// Options that contradict each other.
    #[error("{0}")]
    Options(String),
    /// A column is missing, there twice, or of a type that holds no whole numbers or names.
    #[error("{problem}; the data has the columns {}", list(found))]
    Columns {
        /// What is wrong.
        problem: String,
        /// The columns that are there.
        found: Vec<String>,
    },
    /// The container cannot be read: broken compression, Parquet or Arrow.
    #[error("{0}")]
    Format(String),
    /// Rows that cannot be taken.
    #[error("{0}")]
    Rows(RefusedRows),
    /// More than the format can hold.
    #[error("{0}")]
    TooMuch(&'static str),
}

impl SealError {
    /// Whether the data was refused (as opposed to a disk that failed or options that make no sense).
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Columns { .. } | Self::Format(_) | Self::Rows(_) | Self::TooMuch(_))
    }

    pub(crate) fn io(doing: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { doing, path, source }
    }
}

fn list(found: &[String]) -> String {
    if found.is_empty() {
        return "(none)".to_owned();
    }
    found.iter().map(|name| shown(name.as_bytes())).collect::<Vec<_>>().join(", ")
}

/// What the number in front of a refused row counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Lines of a text file from 1, the header's included.
    Line,
    /// Rows of a file that has no lines, from 1.
    Row,
}

/// One row that was refused, for the first of its columns that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadRow {
    /// Line or row, from 1: where the record begins.
    pub at: u64,
    /// The column as the data names it, if it is about one.
    pub column: Option<String>,
    /// What is wrong with it.
    pub why: String,
}

/// The refused rows, the first of them one by one and in the order of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedRows {
    /// What [`BadRow::at`] counts.
    pub place: Place,
    /// The first [`BAD_ROWS_LISTED_MAX`].
    pub rows: Vec<BadRow>,
    /// How many were found.
    pub count: u64,
    /// Reading ended at the last row of that count, so that there may be more.
    pub and_more: bool,
}

impl fmt::Display for RefusedRows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = match self.place {
            Place::Line => "line",
            Place::Row => "row",
        };
        for row in &self.rows {
            match &row.column {
                Some(column) => {
                    writeln!(f, "{place} {}, column {}: {}", row.at, shown(column.as_bytes()), row.why)?
                }
                None => writeln!(f, "{place} {}: {}", row.at, row.why)?,
            }
        }
        let unlisted = self.count - self.rows.len() as u64;
        if unlisted > 0 {
            writeln!(f, "… and {unlisted} more")?;
        }
        let rows = if self.count == 1 { "row" } else { "rows" };
        write!(f, "{} {rows} refused", self.count)?;
        if self.and_more { f.write_str(", and the rest was not read") } else { Ok(()) }
    }
}

/// A value of the data as it may be shown: escaped, and cut if it is long.
pub(crate) fn shown(value: &[u8]) -> String {
    // Cut before decoding: a refused cell may be megabytes long. Four bytes are the most that a character
    // takes.
    let head = String::from_utf8_lossy(&value[..value.len().min(4 * (SHOWN_CHARS_MAX + 1))]);
    let text: String = head.chars().take(SHOWN_CHARS_MAX).flat_map(char::escape_debug).collect();
    if head.chars().nth(SHOWN_CHARS_MAX).is_some() { format!("`{text}…`") } else { format!("`{text}`") }
}

/// What code of others says of the data, as it may be shown: it quotes names and types of the file as they stand there, on many lines.
pub(crate) fn said(message: &impl fmt::Display) -> String {
    let message = message.to_string();
    let mut words = message.split_whitespace().flat_map(|word| [" ", word]).skip(1).flat_map(str::chars);
    let mut text = String::new();
    for c in words.by_ref().take(SAID_CHARS_MAX) {
        match c {
            '"' | '\'' | '\\' => text.push(c),
            _ => text.extend(c.escape_debug()),
        }
    }
    if words.next().is_some() {
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_no_raw_escape() {
        assert_eq!(shown(b"\x1b[31mred\x07"), "`\\u{1b}[31mred\\u{7}`");
        assert_eq!(shown("a\u{202e}b".as_bytes()), "`a\\u{202e}b`");
        assert_eq!(shown(&[b'x'; 5000]), format!("`{}…`", "x".repeat(40)));
    }

    #[test]
    fn what_others_say_is_one_short_line() {
        let message = "no field \"a\\b\":\n\twhile at 'x\u{1b}[2J'\n\n";
        assert_eq!(said(&message), "no field \"a\\b\": while at 'x\\u{1b}[2J'");
        assert_eq!(said(&"x".repeat(5000)), format!("{}…", "x".repeat(SAID_CHARS_MAX)));
        assert_eq!(said(&"x".repeat(SAID_CHARS_MAX)), "x".repeat(SAID_CHARS_MAX));
    }

    #[test]
    fn lists_and_counts() {
        let row = BadRow { at: 7, column: Some("units".into()), why: "it is empty".into() };
        let mut refused = RefusedRows { place: Place::Line, rows: vec![row], count: 1, and_more: false };
        assert_eq!(refused.to_string(), "line 7, column `units`: it is empty\n1 row refused");
        refused.count = 3;
        assert!(refused.to_string().ends_with("… and 2 more\n3 rows refused"));
    }
}
