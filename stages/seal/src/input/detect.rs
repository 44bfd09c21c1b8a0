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
    JsonArray,
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
        text => {
            let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
            match text.iter().find(|b| !b.is_ascii_whitespace()) {
                Some(b'{') => Form::Ndjson,
                Some(b'[') => Form::JsonArray,
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
            (b" [", Form::JsonArray),
            (b"actor,units", Form::Csv),
            (b"PAR", Form::Csv),
            (b"", Form::Csv),
        ] {
            assert_eq!(form(head), expected, "{head:?}");
        }
    }
}
