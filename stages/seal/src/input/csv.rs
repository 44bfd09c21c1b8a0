//! CSV as RFC 4180 has it: a header line, commas, double quotes, lines that end in LF or CRLF.
//!
//! The law: the splitter and the parser walk a text by the same function, [`field`], so that they never
//! disagree about where a record ends, malformed ones included; only a row without quotes, which ends where its line does, is taken
//! by a shorter way. A blank line is no row. Rows have as many fields as the header, or are refused.
//!
//! Why not the `csv` crate (which the tests compare with): its reader copies every field and walks byte by
//! byte, and it takes `"a"b` without a word. Here a row of the usual form costs one search for a comma, a
//! comparison with the categories of the rows before, and its digits.

use crate::block::{Block, Labels, Name};
use crate::config::{CategorySource, Columns};
use crate::error::SealError;
use crate::units::{self, UnitsError};
use ahash::RandomState;
use memchr::{memchr, memchr2};
use std::borrow::Cow;

/// What a column of the file is to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Actor,
    Category,
    Units,
    Other,
}

/// The header's columns.
#[derive(Debug)]
pub(crate) struct Layout {
    names: Vec<String>,
    roles: Vec<Role>,
    columns: Columns,
}

/// What is wrong with the form of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Unclosed,
    AfterQuote,
    BareQuote,
}

impl Fault {
    fn why(self) -> &'static str {
        match self {
            Self::Unclosed => "the quote is never closed",
            Self::AfterQuote => "there is text after the closing quote",
            Self::BareQuote => "there is a quote in a field that does not begin with one",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Field,
    Record,
    Text,
}

/// A field: its bytes without quotes at `start..end`, the next one at `next`.
#[derive(Debug, Clone, Copy)]
struct Field {
    start: usize,
    end: usize,
    /// It holds doubled quotes.
    escaped: bool,
    fault: Option<Fault>,
    next: usize,
    ends: End,
}

/// The field that begins at `at`.
#[inline]
fn field(text: &[u8], at: usize) -> Field {
    if text.get(at) == Some(&b'"') { quoted(text, at) } else { bare(text, at, at) }
}

/// A field without quotes, or what follows a closing quote; up to the next comma or line feed from `from`.
#[inline]
fn bare(text: &[u8], at: usize, from: usize) -> Field {
    let (mut end, next, ends) = match memchr2(b',', b'\n', &text[from..]) {
        Some(length) if text[from + length] == b',' => (from + length, from + length + 1, End::Field),
        Some(length) => (from + length, from + length + 1, End::Record),
        None => (text.len(), text.len(), End::Text),
    };
    if ends != End::Field && end > from && text[end - 1] == b'\r' {
        end -= 1;
    }
    Field { start: at, end, escaped: false, fault: None, next, ends }
}

fn quoted(text: &[u8], at: usize) -> Field {
    let start = at + 1;
    let mut escaped = false;
    let mut from = start;
    loop {
        let Some(length) = memchr(b'"', &text[from..]) else {
            let (end, fault) = (text.len(), Some(Fault::Unclosed));
            return Field { start, end, escaped, fault, next: end, ends: End::Text };
        };
        let quote = from + length;
        if text.get(quote + 1) == Some(&b'"') {
            escaped = true;
            from = quote + 2;
            continue;
        }
        let after = bare(text, quote + 1, quote + 1);
        let fault = (after.start != after.end).then_some(Fault::AfterQuote);
        return Field { start, end: quote, escaped, fault, ..after };
    }
}

/// Length of the record at the start of `text`, its line feed included; `None` if its end is not in `text`.
pub(crate) fn record_end(text: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        let field = field(text, at);
        match field.ends {
            End::Field => at = field.next,
            End::Record => return Some(field.next),
            End::Text => return None,
        }
    }
}

fn unescaped(bytes: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some(quote) = memchr(b'"', rest) {
        plain.extend_from_slice(&rest[..=quote]);
        rest = &rest[(quote + 2).min(rest.len())..];
    }
    plain.extend_from_slice(rest);
    plain
}

impl Layout {
    /// Reads the header's record.
    pub fn new(header: &[u8], columns: &Columns) -> Result<Self, SealError> {
        let mut names = Vec::new();
        let mut at = 0;
        loop {
            let field = field(header, at);
            if let Some(fault) = field.fault {
                return Err(SealError::Format(format!("line 1, the header: {}", fault.why())));
            }
            let name = &header[field.start..field.end];
            let name = if field.escaped { unescaped(name) } else { name.to_vec() };
            names.push(String::from_utf8_lossy(&name).into_owned());
            if field.ends != End::Field {
                break;
            }
            at = field.next;
        }
        let found = super::Found::new(&names, columns)?;
        let mut roles = vec![Role::Other; names.len()];
        roles[found.actor] = Role::Actor;
        if let Some(category) = found.category {
            roles[category] = Role::Category;
        }
        roles[found.units] = Role::Units;
        Ok(Self { names, roles, columns: columns.clone() })
    }

    /// Which columns were asked for.
    pub fn columns(&self) -> &Columns {
        &self.columns
    }

    /// Reads the rows of a text of whole records.
    pub fn parse(&self, text: &[u8], hasher: &RandomState, block: &mut Block) {
        self.parse_by::<true>(text, hasher, block);
    }

    /// By the shorter way where it can be taken, or not.
    fn parse_by<const SHORTER: bool>(&self, text: &[u8], hasher: &RandomState, block: &mut Block) {
        let quotes = memchr(b'"', text).is_some();
        block.begin(text, !quotes);
        let labels = super::labels(&self.columns);
        let constant = match &self.columns.category {
            CategorySource::Constant(category) => Some(category.as_str().as_bytes()),
            CategorySource::Column(_) => None,
        };
        let beyond = (self.names.len() + 1).to_string();
        let mut at = 0;
        while at < text.len() {
            let line = block.lines;
            let begin = at;
            if text[at] == b'\n' || text[at..].starts_with(b"\r\n") {
                at += if text[at] == b'\n' { 1 } else { 2 };
                block.lines += 1;
                continue;
            }
            if SHORTER && let Some(row) = self.usual(text, at, quotes, block) {
                at = row.next;
                block.lines += 1;
                let category = row.category.or(constant);
                if !block.row(&labels, hasher, line, Name::InText(row.actor), category, Ok(row.units)) {
                    return;
                }
                continue;
            }
            let mut row = Row::default();
            let mut fields = 0;
            let mut fault = None;
            loop {
                let role = self.roles.get(fields).copied().unwrap_or(Role::Other);
                let field = field(text, at);
                let bare = quotes && role != Role::Other && text[at..].first() != Some(&b'"');
                let bare = bare && memchr(b'"', &text[field.start..field.end]).is_some();
                if let Some(problem) = field.fault.or(bare.then_some(Fault::BareQuote)) {
                    fault = fault.or(Some((fields, problem)));
                }
                row.take(role, &field);
                fields += 1;
                at = field.next;
                if field.ends != End::Field {
                    break;
                }
            }
            let row_text = &text[begin..at];
            block.lines += memchr::memchr_iter(b'\n', row_text).count() as u64;
            // The text's last line may have no end.
            block.lines += u64::from(!row_text.ends_with(b"\n"));
            if let Some((column, fault)) = fault {
                block.refuse(line, self.names.get(column).map(String::as_str), || fault.why().to_owned());
            } else if fields != self.names.len() {
                // The first that is missing, or the place of the first that is too many.
                let column = self.names.get(fields).unwrap_or(&beyond);
                block.refuse(line, Some(column), || {
                    format!("{fields} fields, and the header has {}", self.names.len())
                });
            } else if !row.give(&labels, hasher, line, text, constant, block) {
                return;
            }
        }
    }
}

/// A row of the usual form.
struct Usual<'t> {
    actor: &'t [u8],
    /// None if the block knows it, or all rows have the same.
    category: Option<&'t [u8]>,
    units: u64,
    /// Where the next row begins.
    next: usize,
}

impl Layout {
    /// The row at `at` if it is of the usual form, whose fields are what they look like: no quotes in it (in the text there may be), as
    /// many fields as the header has, units of digits. Any other is walked by [`field`].
    #[inline]
    fn usual<'t>(&self, text: &'t [u8], mut at: usize, quotes: bool, block: &mut Block) -> Option<Usual<'t>> {
        let mut row = Usual { actor: b"", category: None, units: 0, next: 0 };
        let last = self.roles.len() - 1;
        let bare = |at: usize, column: usize| {
            let rest = &text[at..];
            let field = &rest[..memchr2(b',', b'\n', rest).unwrap_or(rest.len())];
            let field = if column == last { field.strip_suffix(b"\r").unwrap_or(field) } else { field };
            (!quotes || memchr(b'"', field).is_none()).then_some(field)
        };
        for (column, role) in self.roles.iter().enumerate() {
            at += match role {
                Role::Units => {
                    let digits;
                    (row.units, digits) = units::leading(&text[at..])?;
                    digits
                }
                Role::Category => match block.recent_category(&text[at..]) {
                    Some(length) => length,
                    None => row.category.insert(bare(at, column)?).len(),
                },
                Role::Actor => {
                    row.actor = bare(at, column)?;
                    row.actor.len()
                }
                Role::Other => bare(at, column)?.len(),
            };
            at += match text.get(at) {
                Some(b',') if column < last => 1,
                Some(b'\n') if column == last => 1,
                Some(b'\r') if column == last && text.get(at + 1) == Some(&b'\n') => 2,
                None if column == last => 0,
                _ => return None,
            };
        }
        row.next = at;
        Some(row)
    }
}

/// The cells of one row while it is walked.
#[derive(Default)]
struct Row {
    actor: Option<Field>,
    category: Option<Field>,
    units: Option<Field>,
}

impl Row {
    fn take(&mut self, role: Role, field: &Field) {
        match role {
            Role::Actor => self.actor = Some(*field),
            Role::Category => self.category = Some(*field),
            Role::Units => self.units = Some(*field),
            Role::Other => {}
        }
    }

    /// Hands the row to the block. `false`: stop.
    fn give(
        &self,
        labels: &Labels<'_>,
        hasher: &RandomState,
        line: u64,
        text: &[u8],
        constant: Option<&[u8]>,
        block: &mut Block,
    ) -> bool {
        let cell = |field: Option<Field>| match field {
            Some(field) if field.escaped => Cow::Owned(unescaped(&text[field.start..field.end])),
            Some(field) => Cow::Borrowed(&text[field.start..field.end]),
            None => Cow::Borrowed(&b""[..]),
        };
        let units = cell(self.units);
        let units = units::parse(&units).map_err(|error: UnitsError| (error, &units[..]));
        let category = cell(self.category);
        let actor = cell(self.actor);
        let name = match &actor {
            Cow::Borrowed(actor) => Name::InText(actor),
            Cow::Owned(actor) => Name::Other(actor),
        };
        block.row(labels, hasher, line, name, constant.or(Some(&category)), units)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// All that a block says of its rows.
    fn said(block: &Block) -> String {
        let mut runs: Vec<_> = block.deals.iter().flat_map(|deal| deal.names()).collect();
        runs.sort_by_key(|(run, _)| run.row);
        let names: Vec<_> = runs
            .iter()
            .flat_map(|(run, name)| std::iter::repeat_n(String::from_utf8_lossy(name), run.rows.into()))
            .collect();
        format!(
            "{names:?} {:?} {:?} {:?} {} {:?} {:?} {:?}",
            block.categories,
            block.category_names,
            block.units,
            block.lines,
            block.bad,
            block.bad_lines,
            block.categories_overflow
        )
    }

    proptest! {
        #[test]
        fn both_ways_read_the_same(
            header in proptest::sample::select(vec![
                "actor,category,units",
                "units,x,category,actor",
                "category,units,actor,x",
                "units,actor",
            ]),
            cells in proptest::collection::vec(
                "a|bb|views|view|v|\"v,1\"|\"a\"\"b\"|1|0{0,9}[1-9]{0,12}|18446744073709551616|1.5|é|a\"|\r| |\u{7f}|\"|",
                0..60,
            ),
            ends in proptest::collection::vec("\n|\r\n|,{6}|,", 61),
        ) {
            let category = header == "units,actor";
            let columns = Columns::new(&[] as &[&str], category.then(|| "all".parse().unwrap())).unwrap();
            let layout = Layout::new(header.as_bytes(), &columns).unwrap();
            let width = header.split(',').count();
            let mut text = String::new();
            for (index, (cell, end)) in cells.iter().zip(&ends).enumerate() {
                text.push_str(cell);
                // Most rows have as many fields as they should.
                let last = (index + 1) % width == 0;
                text.push_str(if end.len() == 6 { "\n" } else if last { end.trim_matches(',') } else { "," });
                if last && end == "," {
                    text.push('\n');
                }
            }
            let hasher = RandomState::new();
            let (mut shorter, mut walked) = (Block::default(), Block::default());
            layout.parse_by::<true>(text.as_bytes(), &hasher, &mut shorter);
            layout.parse_by::<false>(text.as_bytes(), &hasher, &mut walked);
            prop_assert_eq!(said(&shorter), said(&walked));
        }
    }
}
