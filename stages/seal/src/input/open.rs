//! Opens an input: magic, compression, container, columns.
//!
//! The law: reading is streaming wherever the format allows it. Parquet and Arrow files begin at their end;
//! from a pipe or out of gzip they go through a nameless temporary file first.
//!
//! The Arrow and Parquet decoders panic on some broken files. That is theirs; here it becomes an error like
//! any other.

use super::detect::{Form, HEAD_BYTES, form};
use super::text::{TextBlocks, TextError};
use super::{Input, Parser, Piece, TextBlock, arrow, columnar, csv, parquet};
use crate::config::{BLOCK_ROWS, Columns, SealOptions};
use crate::error::{SealError, said};
use crate::progress::Progress;
use arrow_array::RecordBatch;
use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufReader, Cursor, Read, Seek, Write};
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::path::{Path, PathBuf};
use std::sync::Once;

/// Bytes that a decoder is fed at a time.
const READ_BUFFER_BYTES: usize = 256 << 10;

/// Why reading stopped.
pub(crate) enum ReadError {
    Seal(SealError),
    /// The next record is longer than the bound.
    RecordTooLong,
}

impl From<SealError> for ReadError {
    fn from(e: SealError) -> Self {
        Self::Seal(e)
    }
}

/// An input whose columns are found.
pub(crate) struct Opened<'a> {
    pub parser: Parser,
    pub pieces: Pieces<'a>,
    /// Lines before the first row.
    pub lines: u64,
}

enum Container<'a> {
    Text(TextBlocks<'a>),
    Batches(Batches<'a>),
}

/// Batches of rows, as a decoder hands them out.
struct Batches<'a> {
    decoder: Decoder<'a>,
    /// What is left of a batch that is too large for one block.
    rest: Option<RecordBatch>,
    advance: Option<Advance<'a>>,
}

/// How far a decoder is that jumps about in its file: by batches, told as bytes.
struct Advance<'a> {
    batches: u64,
    of_batches: u64,
    bytes: u64,
    progress: &'a dyn Progress,
}

impl Advance<'_> {
    fn batch(&mut self) {
        self.batches += 1;
        let read = u128::from(self.bytes) * u128::from(self.batches) / u128::from(self.of_batches.max(1));
        self.progress.bytes_read(read.min(self.bytes.into()) as u64, Some(self.bytes));
    }
}

/// The input's pieces in order.
pub(crate) struct Pieces<'a> {
    form: Container<'a>,
    path: PathBuf,
    compressed: bool,
}

impl Pieces<'_> {
    /// The next piece; text in the memory of a block that is done with.
    pub fn next(&mut self, done: Option<TextBlock>) -> Result<Option<Piece>, ReadError> {
        match &mut self.form {
            Container::Text(blocks) => match blocks.next(done.unwrap_or_default()) {
                Ok(block) => Ok(block.map(Piece::Text)),
                Err(TextError::RecordTooLong) => Err(ReadError::RecordTooLong),
                Err(TextError::Io(e)) => Err(unreadable(e, self.compressed, &self.path).into()),
            },
            Container::Batches(Batches { decoder, rest, advance }) => {
                let batch = match rest.take() {
                    Some(batch) => batch,
                    None => match guarded(|| decoder.next().transpose())? {
                        Some(batch) => batch,
                        None => return Ok(None),
                    },
                };
                if rest.is_none() {
                    advance.iter_mut().for_each(Advance::batch);
                }
                if batch.num_rows() > BLOCK_ROWS {
                    *rest = Some(batch.slice(BLOCK_ROWS, batch.num_rows() - BLOCK_ROWS));
                    return Ok(Some(Piece::Batch(batch.slice(0, BLOCK_ROWS))));
                }
                Ok(Some(Piece::Batch(batch)))
            }
        }
    }
}

thread_local! {
    /// Whether this thread runs a decoder of someone else's, whose panics are told as errors and not on standard error.
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Runs a decoder of someone else's.
fn guarded<T, E: std::fmt::Display>(decode: impl FnOnce() -> Result<T, E>) -> Result<T, SealError> {
    static QUIET: Once = Once::new();
    QUIET.call_once(|| {
        let before = take_hook();
        set_hook(Box::new(move |panic| {
            if !GUARDED.get() {
                before(panic);
            }
        }));
    });
    GUARDED.set(true);
    let decoded = catch_unwind(AssertUnwindSafe(decode));
    GUARDED.set(false);
    match decoded {
        Ok(Ok(decoded)) => Ok(decoded),
        Ok(Err(e)) => Err(SealError::Format(format!("the columnar data cannot be read: {}", said(&e)))),
        Err(_) => {
            Err(SealError::Format("the columnar data is broken beyond what its decoder can name".to_owned()))
        }
    }
}

fn unreadable(e: io::Error, compressed: bool, path: &Path) -> SealError {
    if compressed {
        SealError::Format(format!("the compressed data cannot be read: {e}"))
    } else {
        SealError::io("read", path)(e)
    }
}

/// Tells how much of the file has been read.
struct Counting<'a, R> {
    inner: R,
    read: u64,
    total: Option<u64>,
    progress: &'a dyn Progress,
}

impl<R: Read> Read for Counting<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.read += read as u64;
        self.progress.bytes_read(self.read, self.total);
        Ok(read)
    }
}

/// Opens `input`; temporary files go to `dir`.
pub(crate) fn open<'a>(
    input: Input<'a>,
    options: &SealOptions,
    dir: &Path,
    progress: &'a dyn Progress,
) -> Result<Opened<'a>, SealError> {
    let (reader, path, seekable): (Box<dyn Read + Send + 'a>, PathBuf, Option<File>) = match input {
        Input::Reader(inner) => {
            let reader = Counting { inner, read: 0, total: None, progress };
            (Box::new(reader), "standard input".into(), None)
        }
        Input::Path(path) => {
            let file = File::open(&path).map_err(SealError::io("open", &path))?;
            let about = file.metadata().map_err(SealError::io("open", &path))?;
            if about.is_dir() {
                let source = io::Error::from(io::ErrorKind::IsADirectory);
                return Err(SealError::Io { doing: "read", path, source });
            }
            let total = about.is_file().then_some(about.len());
            let seekable = match total {
                Some(_) => Some(file.try_clone().map_err(SealError::io("open", &path))?),
                None => None,
            };
            (Box::new(Counting { inner: file, read: 0, total, progress }), path, seekable)
        }
    };
    let (head, reader) = peek(reader).map_err(SealError::io("read", &path))?;
    let compressed = matches!(form(&head), Form::Gzip | Form::Zstd);
    let (head, reader) = match form(&head) {
        Form::Gzip => {
            let buffered = BufReader::with_capacity(READ_BUFFER_BYTES, reader);
            peek(Box::new(flate2::bufread::MultiGzDecoder::new(buffered)))
        }
        Form::Zstd => zstd::Decoder::new(reader).and_then(|decoder| peek(Box::new(decoder))),
        _ => Ok((head, reader)),
    }
    .map_err(|e| unreadable(e, true, &path))?;
    let text = |reader, quotes| {
        TextBlocks::new(reader, quotes, options.bounds).map_err(|e| unreadable(e, compressed, &path))
    };
    let columns = &options.columns;
    let (parser, form, lines) = match form(&head) {
        Form::Gzip | Form::Zstd => {
            return Err(SealError::Format(
                "the data is compressed twice: take off the outer layer".to_owned(),
            ));
        }
        Form::Foreign(what) => return Err(SealError::Format(format!("the data is {what}"))),
        Form::Csv => {
            let mut blocks = text(reader, true)?;
            let (header, lines) = match blocks.header() {
                Ok(header) => header.unwrap_or_default(),
                Err(TextError::Io(e)) => return Err(unreadable(e, compressed, &path)),
                Err(TextError::RecordTooLong) => {
                    return Err(SealError::Format("line 1, the header, does not end".to_owned()));
                }
            };
            if header.is_empty() {
                return Err(SealError::Format(
                    "the data is empty: there is not even a header line".to_owned(),
                ));
            }
            (Parser::Csv(csv::Layout::new(&header, columns)?), Container::Text(blocks), lines)
        }
        Form::Ndjson => (Parser::Ndjson(columns.clone()), Container::Text(text(reader, false)?), 0),
        Form::ArrowStream => {
            let stream = guarded(|| arrow::Stream::open(reader))?;
            let layout = columnar::Layout::new(&stream.schema(), columns)?;
            let (read, layout) = layout.projected();
            // The stream cannot be begun again with a projection, so each batch is projected.
            let decoder =
                decoder(&layout, stream.map(move |batch| batch.and_then(|batch| batch.project(&read))));
            let batches = Batches { decoder, rest: None, advance: None };
            (Parser::Columnar(layout), Container::Batches(batches), 0)
        }
        Form::Parquet | Form::ArrowFile => {
            let file = match seekable {
                Some(mut file) if !compressed => {
                    file.rewind().map_err(SealError::io("read", &path))?;
                    file
                }
                _ => spool(reader, dir).map_err(|e| unreadable(e, compressed, &path))?,
            };
            let bytes = file.metadata().map_err(SealError::io("read", &path))?.len();
            let (layout, decoder, of_batches) = match form(&head) {
                Form::Parquet => parquet_file(file, columns)?,
                _ => arrow_file(file, columns)?,
            };
            let advance = Some(Advance { batches: 0, of_batches, bytes, progress });
            (Parser::Columnar(layout), Container::Batches(Batches { decoder, rest: None, advance }), 0)
        }
    };
    Ok(Opened { parser, pieces: Pieces { form, path, compressed }, lines })
}

type Reader<'a> = Box<dyn Read + Send + 'a>;
type Decoder<'a> = Box<dyn Iterator<Item = Result<RecordBatch, String>> + Send + 'a>;
/// A decoder, where its columns are, and how many batches it will make.
type Decoding = (columnar::Layout, Decoder<'static>, u64);

/// The first bytes, and a reader that still begins with them.
fn peek(mut reader: Reader<'_>) -> io::Result<(Vec<u8>, Reader<'_>)> {
    let mut head = Vec::with_capacity(HEAD_BYTES);
    (&mut reader).take(HEAD_BYTES as u64).read_to_end(&mut head)?;
    Ok((head.clone(), Box::new(Cursor::new(head).chain(reader))))
}

fn spool(mut reader: Reader<'_>, dir: &Path) -> io::Result<File> {
    let mut file = tempfile::tempfile_in(dir)?;
    io::copy(&mut reader, &mut file)?;
    file.flush()?;
    file.rewind()?;
    Ok(file)
}

fn parquet_file(file: File, columns: &Columns) -> Result<Decoding, SealError> {
    let pages = guarded(|| parquet::Pages::open(file))?;
    let (read, layout) = columnar::Layout::new(pages.schema(), columns)?.projected();
    let of_batches = pages.rows().div_ceil(BLOCK_ROWS as u64);
    let decoder = decoder(&layout, guarded(|| pages.batches(read, BLOCK_ROWS))?);
    Ok((layout, decoder, of_batches))
}

/// The batches of a decoder of someone else's, each found to hold what the layout says.
fn decoder<'a, E: std::fmt::Display>(
    layout: &columnar::Layout,
    batches: impl Iterator<Item = Result<RecordBatch, E>> + Send + 'a,
) -> Decoder<'a> {
    let layout = layout.clone();
    Box::new(batches.map(move |batch| {
        let batch = batch.map_err(|e| e.to_string())?;
        layout.check(&batch)?;
        Ok(batch)
    }))
}

fn arrow_file(file: File, columns: &Columns) -> Result<Decoding, SealError> {
    let batches = guarded(|| arrow::Batches::open(file))?;
    let (read, layout) = columnar::Layout::new(&batches.schema(), columns)?.projected();
    let of_batches = batches.len() as u64;
    let decoder = decoder(&layout, batches.projected(read));
    Ok((layout, decoder, of_batches))
}
