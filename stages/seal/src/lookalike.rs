//! Names that look like others: with format characters (Unicode Cf: zero width joiners, direction marks), or
//! not in normal form C. They are sealed as they are (contract §1: compared as bytes, never normalised), with
//! a warning, because two names that a person cannot tell apart are two accounts that are paid apart.

use unicode_normalization::is_nfc;

/// Names that a warning quotes.
pub const NAMES_QUOTED_MAX: usize = 5;

/// Unicode's general category Cf, as of Unicode 16, first and last of each range. A table of 21 rows, against
/// a crate for one property; `unicodedata` of Python gives the same.
const FORMAT_CHARACTERS: [(u32, u32); 21] = [
    (0x00ad, 0x00ad),
    (0x0600, 0x0605),
    (0x061c, 0x061c),
    (0x06dd, 0x06dd),
    (0x070f, 0x070f),
    (0x0890, 0x0891),
    (0x08e2, 0x08e2),
    (0x180e, 0x180e),
    (0x200b, 0x200f),
    (0x202a, 0x202e),
    (0x2060, 0x2064),
    (0x2066, 0x206f),
    (0xfeff, 0xfeff),
    (0xfff9, 0xfffb),
    (0x110bd, 0x110bd),
    (0x110cd, 0x110cd),
    (0x13430, 0x1343f),
    (0x1bca0, 0x1bca3),
    (0x1d173, 0x1d17a),
    (0xe0001, 0xe0001),
    (0xe0020, 0xe007f),
];

fn is_format(c: char) -> bool {
    let c = u32::from(c);
    c >= 0xad && FORMAT_CHARACTERS.iter().any(|(first, last)| (*first..=*last).contains(&c))
}

/// Distinct actors whose names look like others, and the first of them in byte order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Warnings {
    /// Names with a format character.
    pub format_characters: u64,
    /// Names that are not in normal form C.
    pub not_nfc: u64,
    /// The first [`NAMES_QUOTED_MAX`] of either kind, everything but printable ASCII escaped.
    pub names: Vec<String>,
}

impl Warnings {
    /// Whether there is nothing to warn of.
    pub fn is_empty(&self) -> bool {
        self.format_characters == 0 && self.not_nfc == 0
    }

    /// What there is to say of names one after the other, of these lengths.
    pub(crate) fn of(mut names: &[u8], lengths: impl Iterator<Item = usize>) -> Self {
        let mut warnings = Self::default();
        // Nearly all are ASCII, which many are seen to be faster than one by one.
        if !names.is_ascii() {
            for length in lengths {
                let name;
                (name, names) = names.split_at(length);
                warnings.look(name);
            }
        }
        warnings
    }

    fn look(&mut self, name: &[u8]) {
        if name.is_ascii() {
            return;
        }
        let Ok(name) = std::str::from_utf8(name) else { return };
        let (format, nfc) = (name.chars().any(is_format), is_nfc(name));
        self.format_characters += u64::from(format);
        self.not_nfc += u64::from(!nfc);
        if (format || !nfc) && self.names.len() < NAMES_QUOTED_MAX {
            self.names.push(name.escape_default().to_string());
        }
    }

    /// Adds what was seen among later names.
    pub(crate) fn add(&mut self, later: Self) {
        self.format_characters += later.format_characters;
        self.not_nfc += later.not_nfc;
        let room = NAMES_QUOTED_MAX - self.names.len();
        self.names.extend(later.names.into_iter().take(room));
    }
}

impl std::fmt::Display for Warnings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} actors' names hold invisible format characters, {} are not in normal form C; each \
             is paid as it is written. First: {}",
            self.format_characters,
            self.not_nfc,
            self.names.join(", ")
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sees_what_a_person_does_not() {
        let names = ["plain", "é", "日本", "e\u{301}", "a\u{200d}b", "\u{202e}x", "\u{e0041}e\u{301}"];
        let warnings = Warnings::of(names.concat().as_bytes(), names.iter().map(|name| name.len()));
        assert_eq!((warnings.format_characters, warnings.not_nfc), (3, 2));
        assert_eq!(warnings.names[..2], ["e\\u{301}", "a\\u{200d}b"]);
        let mut sum = Warnings::default();
        sum.add(warnings.clone());
        sum.add(warnings);
        assert_eq!((sum.format_characters, sum.names.len()), (6, NAMES_QUOTED_MAX));
    }
}
