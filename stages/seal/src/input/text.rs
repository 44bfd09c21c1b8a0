//! Text in blocks that end where a record ends, so that each can be parsed by itself.
//!
//! The law: where a block ends depends on the bytes and the bounds alone, not on how the reader hands them
//! out. A line feed ends a record unless a CSV quote holds it, and whether one does is only known from the
//! start of the record; so a block with a quote in it is walked record by record, and one without (nearly
//! all) just cut at its last line feed.

use super::csv;
use crate::config::Bounds;
use std::io::{self, Read};

/// A run of whole records.
#[derive(Debug, Default)]
pub(crate) struct TextBlock {
    /// Longer than the text: what is beyond is left over from earlier use, so that nothing has to be zeroed
    /// again.
    buffer: Vec<u8>,
    end: usize,
}

impl TextBlock {
    /// The records.
    pub fn text(&self) -> &[u8] {
        &self.buffer[..self.end]
    }
}

/// Why there is no next block.
#[derive(Debug)]
pub(crate) enum TextError {
    Io(io::Error),
    /// The record that comes next is longer than the bound.
    RecordTooLong,
}

impl From<io::Error> for TextError {
    fn from(e: io::Error) -> Self {
        Self::Io(e)
    }
}

/// The input as blocks.
pub(crate) struct TextBlocks<'a> {
    reader: Box<dyn Read + Send + 'a>,
    carry: Vec<u8>,
    at_end: bool,
    quotes: bool,
    bounds: Bounds,
}

impl<'a> TextBlocks<'a> {
    /// `quotes`: a line feed between double quotes ends no record.
    pub fn new(reader: Box<dyn Read + Send + 'a>, quotes: bool, bounds: Bounds) -> io::Result<Self> {
        let mut blocks = Self { reader, carry: Vec::new(), at_end: false, quotes, bounds };
        // A byte order mark says nothing about UTF-8, but spreadsheets write one.
        let mark = b"\xef\xbb\xbf";
        let mut head = vec![0; mark.len()];
        let read = blocks.read_full(&mut head)?;
        head.truncate(read);
        if head != mark {
            blocks.carry = head;
        }
        Ok(blocks)
    }

    /// Takes the first record off: a CSV file's header. `None`: there is nothing but blank lines. With it
    /// comes the number of lines taken.
    pub fn header(&mut self) -> Result<Option<(Vec<u8>, u64)>, TextError> {
        let line_feeds = |text: &[u8]| memchr::memchr_iter(b'\n', text).count() as u64;
        let mut done = TextBlock::default();
        let mut blank = 0;
        let (block, start) = loop {
            let Some(block) = self.next(done)? else { return Ok(None) };
            let start = blank_lines(block.text());
            if start < block.end {
                break (block, start);
            }
            blank += line_feeds(block.text());
            done = block;
        };
        let text = block.text();
        let end = csv::record_end(&text[start..]).map_or(text.len(), |length| start + length);
        let lines = blank + line_feeds(&text[..end]);
        let header = text[start..end].to_vec();
        let mut rest = text[end..].to_vec();
        rest.extend_from_slice(&self.carry);
        self.carry = rest;
        Ok(Some((header, lines)))
    }

    /// The next block, in the memory of one that is done with.
    pub fn next(&mut self, done: TextBlock) -> Result<Option<TextBlock>, TextError> {
        let mut buffer = done.buffer;
        let wanted = self.bounds.block_bytes.max(self.carry.len() + 1);
        if buffer.len() < wanted {
            buffer.resize(wanted, 0);
        }
        buffer[..self.carry.len()].copy_from_slice(&self.carry);
        let mut used = self.carry.len();
        self.carry.clear();
        loop {
            if !self.at_end {
                used += self.read_full(&mut buffer[used..wanted.max(used)])?;
            }
            if used == 0 {
                return Ok(None);
            }
            let end = if self.at_end { used } else { self.last_record_end(&buffer[..used]) };
            if end > 0 {
                self.carry.extend_from_slice(&buffer[end..used]);
                return Ok(Some(TextBlock { buffer, end }));
            }
            if used >= self.bounds.record_bytes_max {
                return Err(TextError::RecordTooLong);
            }
            let more = (used * 2).min(self.bounds.record_bytes_max.max(used + 1));
            if buffer.len() < more {
                buffer.resize(more, 0);
            }
            used += self.read_full(&mut buffer[used..more])?;
        }
    }

    fn last_record_end(&self, text: &[u8]) -> usize {
        if !self.quotes || memchr::memchr(b'"', text).is_none() {
            return memchr::memrchr(b'\n', text).map_or(0, |at| at + 1);
        }
        let mut end = 0;
        while let Some(length) = csv::record_end(&text[end..]) {
            end += length;
        }
        end
    }

    /// Reads until `buffer` is full or the input ends.
    fn read_full(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut used = 0;
        while used < buffer.len() {
            match self.reader.read(&mut buffer[used..]) {
                Ok(0) => {
                    self.at_end = true;
                    break;
                }
                Ok(read) => used += read,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(used)
    }
}

/// Bytes of the blank lines that `text` begins with. A carriage return that no line feed follows is content: were it skipped, a
/// quote behind it would begin a field here and none where blocks are cut.
fn blank_lines(text: &[u8]) -> usize {
    let mut blank = 0;
    loop {
        blank += match &text[blank..] {
            [b'\n', ..] | [b'\r'] => 1,
            [b'\r', b'\n', ..] => 2,
            _ => return blank,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A reader that hands out one to three bytes at a time.
    struct Dribble(Vec<u8>, usize);

    impl Read for Dribble {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let take = (1 + self.1 % 3).min(buffer.len()).min(self.0.len() - self.1);
            buffer[..take].copy_from_slice(&self.0[self.1..self.1 + take]);
            self.1 += take;
            Ok(take)
        }
    }

    fn blocks(text: &str, block_bytes: usize, quotes: bool, dribble: bool) -> Vec<String> {
        let reader: Box<dyn Read + Send> = match dribble {
            true => Box::new(Dribble(text.as_bytes().to_vec(), 0)),
            false => Box::new(io::Cursor::new(text.as_bytes().to_vec())),
        };
        let mut blocks =
            TextBlocks::new(reader, quotes, Bounds { block_bytes, ..Bounds::default() }).unwrap();
        let mut all = Vec::new();
        let mut done = TextBlock::default();
        while let Some(block) = blocks.next(done).unwrap() {
            all.push(String::from_utf8(block.text().to_vec()).unwrap());
            done = block;
        }
        all
    }

    #[test]
    fn ends_where_records_end() {
        let text = "a,b\n\"x\ny\",\"\"\"\n\"\nlast,\"row\n\n\"\nno line feed";
        for quotes in [false, true] {
            for size in 1..text.len() + 3 {
                let cut = blocks(text, size, quotes, false);
                assert_eq!(cut, blocks(text, size, quotes, true));
                assert_eq!(cut.concat(), text);
                if quotes {
                    for block in &cut {
                        assert!(block.matches('"').count() % 2 == 0, "{size}: {block:?}");
                    }
                }
                assert!(cut[..cut.len() - 1].iter().all(|block| block.ends_with('\n')));
            }
        }
        assert_eq!(blocks("", 9, true, true), [""; 0]);
        assert_eq!(blocks("\u{feff}a\n", 2, true, true), ["a\n"]);
    }

    #[test]
    fn a_header_is_the_same_however_blocks_are_cut() {
        for text in [
            "a,b\n1,2\n",
            "\n\r\na,b\n1",
            "\r\"a\n\"\n\"b\"",
            "\"a\nb\",c\n1",
            "\r",
            "\n\n",
            "\n\"a\"\n\r\"\nx\"",
        ] {
            let header = |block_bytes| {
                let bounds = Bounds { block_bytes, ..Bounds::default() };
                let reader = Box::new(io::Cursor::new(text.as_bytes().to_vec()));
                TextBlocks::new(reader, true, bounds).unwrap().header().unwrap()
            };
            for size in 1..text.len() {
                assert_eq!(header(size), header(1000), "{text:?} in blocks of {size}");
            }
        }
    }

    #[test]
    fn a_record_without_end_is_given_up() {
        let text = format!("\"{}", "x\n".repeat(500)).into_bytes();
        let bounds = Bounds { block_bytes: 16, record_bytes_max: 256, ..Bounds::default() };
        let mut blocks = TextBlocks::new(Box::new(io::Cursor::new(text)), true, bounds).unwrap();
        assert!(matches!(blocks.next(TextBlock::default()), Err(TextError::RecordTooLong)));
    }
}
