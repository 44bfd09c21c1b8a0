//! CSV as RFC 4180 has it: a header line, commas, double quotes, lines that end in LF or CRLF.
//!
//! The law: the splitter and the parser walk a text by the same function, [`field`], so that they never
//! disagree about where a record ends, malformed ones included. A blank line is no row. Rows have as many
//! fields as the header, or are refused.
//!
//! Why not the `csv` crate (which the tests compare with): its reader copies every field and walks byte by
//! byte, and it takes `"a"b` without a word. Here a row of the usual form costs one search for a comma, one
//! comparison with the category of the row before, and its digits.

use crate::block::{Block, Labels, Name};
use crate::config::{CategorySource, Columns};
use crate::error::SealError;
use crate::units::{self, UnitsError};
use ahash::RandomState;
use memchr::{memchr, memchr2};

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
        let quotes = memchr(b'"', text).is_some();
        block.begin(text, !quotes);
        let labels = super::labels(&self.columns);
        let constant = match &self.columns.category {
            CategorySource::Constant(category) => category.as_str().as_bytes(),
            CategorySource::Column(_) => b"",
        };
        let mut at = 0;
        while at < text.len() {
            let line = block.lines;
            let begin = at;
            if text[at] == b'\n' || text[at..].starts_with(b"\r\n") {
                at += if text[at] == b'\n' { 1 } else { 2 };
                block.lines += 1;
                continue;
            }
            let mut row = Row::new(constant);
            let mut fields = 0;
            let mut fault = None;
            loop {
                let role = self.roles.get(fields).copied().unwrap_or(Role::Other);
                let (next, ends) = match row.quick(role, text, at, block) {
                    Some(quick) => quick,
                    None => {
                        let field = field(text, at);
                        let bare = quotes && role != Role::Other && text[at..].first() != Some(&b'"');
                        let bare = bare && memchr(b'"', &text[field.start..field.end]).is_some();
                        if let Some(problem) = field.fault.or(bare.then_some(Fault::BareQuote)) {
                            fault = fault.or(Some((fields, problem)));
                        }
                        row.take(role, &field);
                        (field.next, field.ends)
                    }
                };
                fields += 1;
                at = next;
                if ends != End::Field {
                    break;
                }
            }
            block.lines +=
                if quotes { memchr::memchr_iter(b'\n', &text[begin..at]).count() as u64 } else { 1 };
            if let Some((column, fault)) = fault {
                block.refuse(line, self.names.get(column).map(String::as_str), || fault.why().to_owned());
            } else if fields != self.names.len() {
                let missing = self.names.get(fields).map(String::as_str);
                block.refuse(line, missing, || {
                    format!("{fields} fields, and the header has {}", self.names.len())
                });
            } else if !row.give(&labels, hasher, line, text, block) {
                return;
            }
        }
    }
}

/// The cells of one row while it is walked.
struct Row<'a> {
    actor: Option<Field>,
    category: Option<Field>,
    /// The block has found it.
    category_known: bool,
    constant: &'a [u8],
    units: Option<Field>,
    units_known: Option<u64>,
}

impl<'a> Row<'a> {
    fn new(constant: &'a [u8]) -> Self {
        Self { actor: None, category: None, category_known: false, constant, units: None, units_known: None }
    }

    /// The usual cases of a category and of units: where the next field begins, and what ended this one.
    #[inline]
    fn quick(&mut self, role: Role, text: &[u8], at: usize, block: &mut Block) -> Option<(usize, End)> {
        let length = match role {
            Role::Units => {
                let (units, digits) = units::leading(&text[at..])?;
                self.units_known = Some(units);
                digits
            }
            Role::Category => {
                let length = block.recent_category(&text[at..])?;
                self.category_known = true;
                length
            }
            Role::Actor | Role::Other => return None,
        };
        let end = at + length;
        let found = match text.get(end) {
            Some(b',') => Some((end + 1, End::Field)),
            Some(b'\n') => Some((end + 1, End::Record)),
            Some(b'\r') if text.get(end + 1) == Some(&b'\n') => Some((end + 2, End::Record)),
            None => Some((end, End::Text)),
            Some(_) => None,
        };
        if found.is_none() {
            match role {
                Role::Units => self.units_known = None,
                _ => self.category_known = false,
            }
        }
        found
    }

    fn take(&mut self, role: Role, field: &Field) {
        match role {
            Role::Actor => self.actor = Some(*field),
            Role::Category => self.category = Some(*field),
            Role::Units => self.units = Some(*field),
            Role::Other => {}
        }
    }

    /// Hands the row to the block. `false`: stop.
    #[inline]
    fn give(
        &self,
        labels: &Labels<'_>,
        hasher: &RandomState,
        line: u64,
        text: &[u8],
        block: &mut Block,
    ) -> bool {
        let cell = |field: Option<Field>| field.map_or(&b""[..], |field| &text[field.start..field.end]);
        let owned = |field: Option<Field>| {
            field.filter(|field| field.escaped).map(|field| unescaped(&text[field.start..field.end]))
        };
        let units_owned;
        let units = match self.units_known {
            Some(units) => Ok(units),
            None => {
                units_owned = owned(self.units);
                let bytes = units_owned.as_deref().unwrap_or(cell(self.units));
                units::parse(bytes).map_err(|error: UnitsError| (error, bytes))
            }
        };
        let category_owned = owned(self.category);
        let category = match self.category {
            _ if self.category_known => None,
            Some(field) => Some(category_owned.as_deref().unwrap_or(cell(Some(field)))),
            None => Some(self.constant),
        };
        let actor_owned = owned(self.actor);
        let name = match &actor_owned {
            None => Name::InText(cell(self.actor)),
            Some(actor) => Name::Other(actor),
        };
        block.row(labels, hasher, line, name, category, units)
    }
}
