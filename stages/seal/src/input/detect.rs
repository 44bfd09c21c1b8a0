//! What an input is, by its first bytes; its name says nothing. The law: whatever is not known by a magic is
//! text, and text is NDJSON exactly if its first character that is not blank is `{`.

/// Bytes that are looked at. Blanks before an NDJSON file's first `{` may be as many.
pub(crate) const HEAD_BYTES: usize = 4096;

/// A form of data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Gzip,
    Zstd,
    Parquet,
    ArrowFile,
    ArrowStream,
    Ndjson,
    /// Refused by name: it would make a strange CSV file.
    Foreign(&'static str),
    Csv,
}

/// What begins with `head`.
pub(crate) fn form(head: &[u8]) -> Form {
    match head {
        [0x1f, 0x8b, ..] => Form::Gzip,
        // A frame, or a skippable frame before it.
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Form::Zstd,
        [b'P', b'A', b'R', b'1', ..] => Form::Parquet,
        [b'A', b'R', b'R', b'O', b'W', b'1', ..] => Form::ArrowFile,
        [0xff, 0xff, 0xff, 0xff, ..] => Form::ArrowStream,
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => {
            Form::Foreign("compressed by xz; what is read is gzip and zstd")
        }
        [b'B', b'Z', b'h', b'1'..=b'9', b'1', b'A', b'Y', ..] => {
            Form::Foreign("compressed by bzip2; what is read is gzip and zstd")
        }
        [b'P', b'K', 3, 4, ..] => {
            Form::Foreign("a ZIP archive, which spreadsheets are too; take the table out of it as CSV")
        }
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => {
            Form::Foreign("text in UTF-16; what is read is UTF-8 (iconv -f UTF-16 -t UTF-8)")
        }
        text => {
            let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
            match text.iter().find(|b| !b.is_ascii_whitespace()) {
                Some(b'{') => Form::Ndjson,
                Some(b'[') => Form::Foreign("a JSON array; what is read is one object a line (jq -c '.[]')"),
                _ => Form::Csv,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_magic() {
        for (head, expected) in [
            (&b"\x1f\x8b\x08"[..], Form::Gzip),
            (b"\x28\xb5\x2f\xfd", Form::Zstd),
            (b"\x5a\x2a\x4d\x18", Form::Zstd),
            (b"PAR1", Form::Parquet),
            (b"ARROW1\0\0", Form::ArrowFile),
            (b"\xff\xff\xff\xff", Form::ArrowStream),
            (b"\xef\xbb\xbf \r\n{\"a\":1}", Form::Ndjson),
            (b"actor,units", Form::Csv),
            (b"BZh,units", Form::Csv),
            (b"PAR", Form::Csv),
            (b"", Form::Csv),
        ] {
            assert_eq!(form(head), expected, "{head:?}");
        }
        for (head, name) in [
            (&b" ["[..], "a JSON array"),
            (b"\xfd7zXZ\0\0", "xz"),
            (b"BZh91AY&SY", "bzip2"),
            (b"PK\x03\x04\x14", "a ZIP archive"),
            (b"\xff\xfea\0c\0", "UTF-16"),
            (b"\xfe\xff\0a\0c", "UTF-16"),
        ] {
            assert!(matches!(form(head), Form::Foreign(what) if what.contains(name)), "{head:?}");
        }
    }
}
