//! NDJSON: one JSON object a line, other members ignored.
//!
//! The law: a value is judged as it is written, not as a JSON library would read it: `2.0` and `1e3` are no
//! whole numbers, and `18446744073709551615` loses no digit, because serde_json only finds where a value
//! begins and ends. Units may also be a string of digits, since a program that has only doubles cannot write
//! larger ones otherwise.

use crate::block::{Block, Name};
use crate::config::{CategorySource, Columns};
use crate::error::shown;
use crate::units::{self, UnitsError};
use ahash::RandomState;
use serde::Deserializer;
use serde::de::{DeserializeSeed, Error, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;

/// Characters of what serde_json says of a line: each of its sentences, without the value that some of them quote.
const WHY_CHARS_MAX: usize = 200;

/// Reads the rows of a text of whole lines.
pub(crate) fn parse(text: &[u8], columns: &Columns, hasher: &RandomState, block: &mut Block) {
    block.begin(text, true);
    let labels = super::labels(columns);
    let mut at = 0;
    while at < text.len() {
        let end = memchr::memchr(b'\n', &text[at..]).map_or(text.len(), |length| at + length);
        let bytes = &text[at..end];
        at = end + 1;
        let line = block.lines;
        block.lines += 1;
        if bytes.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let mut deserializer = serde_json::Deserializer::from_slice(bytes);
        let read = Object(columns).deserialize(&mut deserializer).and_then(|cells| {
            deserializer.end()?;
            Ok(cells)
        });
        let cells = match read {
            Ok(cells) => cells,
            Err(e) if e.is_data() => {
                // serde_json appends a place within its input, which is one line here: the file's line is
                // said already.
                let why = e.to_string();
                let why = why.split(" at line 1 ").next().unwrap_or_default();
                // It quotes a value that may be megabytes long.
                let why: String = why.chars().take(WHY_CHARS_MAX).collect();
                block.refuse(line, None, || why);
                continue;
            }
            Err(e) => {
                block.refuse(line, None, || format!("broken JSON at byte {} of the line", e.column()));
                continue;
            }
        };
        if let Err((column, why)) = cells.check(columns) {
            block.refuse(line, Some(column), || why);
            continue;
        }
        let actor = match string(cells.actor) {
            Ok(actor) => actor,
            Err(why) => {
                block.refuse(line, Some(labels.actor), || why);
                continue;
            }
        };
        let category = match &columns.category {
            CategorySource::Constant(constant) => Cow::Borrowed(constant.as_str()),
            CategorySource::Column(column) => match string(cells.category) {
                Ok(category) => category,
                Err(why) => {
                    block.refuse(line, Some(column), || why);
                    continue;
                }
            },
        };
        let number = cells.units.map_or("", RawValue::get).as_bytes();
        let digits = match number {
            [b'"', digits @ .., b'"'] => digits,
            number => number,
        };
        let units = match number.first() {
            Some(b't' | b'f' | b'n' | b'[' | b'{') => Err((UnitsError::NotDigits, number)),
            _ => units::parse(digits).map_err(|error| (error, digits)),
        };
        let name = match &actor {
            // `string` borrowed it from the text.
            Cow::Borrowed(name) => Name::InText(name.as_bytes()),
            Cow::Owned(name) => Name::Other(name.as_bytes()),
        };
        if !block.row(&labels, hasher, line, name, Some(category.as_bytes()), units) {
            return;
        }
    }
}

/// The three values of a line, as they are written.
#[derive(Default)]
struct Cells<'t> {
    actor: Option<&'t RawValue>,
    category: Option<&'t RawValue>,
    units: Option<&'t RawValue>,
    /// Up to a few of the members that are there, for the message that one is not.
    found: Vec<String>,
    has_constant_too: bool,
}

impl<'t> Cells<'t> {
    fn check<'c>(&self, columns: &'c Columns) -> Result<(), (&'c str, String)> {
        let mut wanted = vec![(&columns.actor, self.actor), (&columns.units, self.units)];
        if let CategorySource::Column(category) = &columns.category {
            wanted.insert(1, (category, self.category));
        }
        for (column, value) in wanted {
            match value.map(RawValue::get) {
                None => {
                    let found: Vec<String> = self.found.iter().map(|name| shown(name.as_bytes())).collect();
                    return Err((column, format!("is missing; the line has {}", found.join(", "))));
                }
                Some("null") => return Err((column, "is null".to_owned())),
                Some(_) => {}
            }
        }
        if self.has_constant_too {
            return Err((super::CATEGORY, super::CATEGORY_TWICE.to_owned()));
        }
        Ok(())
    }
}

fn string<'t>(value: Option<&'t RawValue>) -> Result<Cow<'t, str>, String> {
    let text = value.map_or("", RawValue::get);
    match text.strip_prefix('"').and_then(|text| text.strip_suffix('"')) {
        None => Err(format!("{} is not a string", shown(text.as_bytes()))),
        Some(inner) if !inner.contains('\\') => Ok(Cow::Borrowed(inner)),
        Some(_) => {
            serde_json::from_str(text).map(Cow::Owned).map_err(|_| "is not a valid JSON string".to_owned())
        }
    }
}

/// Reads one object.
struct Object<'c>(&'c Columns);

impl<'t> DeserializeSeed<'t> for Object<'_> {
    type Value = Cells<'t>;

    fn deserialize<D: Deserializer<'t>>(self, deserializer: D) -> Result<Cells<'t>, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'t> Visitor<'t> for Object<'_> {
    type Value = Cells<'t>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'t>>(self, mut map: A) -> Result<Cells<'t>, A::Error> {
        let columns = self.0;
        let mut cells = Cells::default();
        while let Some(Key(key)) = map.next_key()? {
            let slot = match (&columns.category, &*key) {
                (_, key) if key == columns.actor => &mut cells.actor,
                (_, key) if key == columns.units => &mut cells.units,
                (CategorySource::Column(category), key) if key == category => &mut cells.category,
                (category, key) => {
                    cells.has_constant_too |=
                        matches!(category, CategorySource::Constant(_)) && key == super::CATEGORY;
                    if cells.found.len() < super::COLUMNS_LISTED_MAX {
                        cells.found.push(key.to_owned());
                    }
                    map.next_value::<IgnoredAny>()?;
                    continue;
                }
            };
            if slot.is_some() {
                return Err(A::Error::custom(format!("{} is there twice", shown(key.as_bytes()))));
            }
            *slot = Some(map.next_value()?);
            cells.found.push(key.into_owned());
        }
        Ok(cells)
    }
}

/// A member's name, borrowed unless it holds escapes.
#[derive(serde::Deserialize)]
struct Key<'t>(#[serde(borrow)] Cow<'t, str>);
