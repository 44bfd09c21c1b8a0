//! Arrow IPC, streams and files (Arrow columnar format 1.5, "Serialization and Interprocess Communication").
//!
//! The law: memory is taken for what is there, not for what is claimed. Arrays are decoded by arrow-ipc; before it sees a message,
//! the lengths that it would believe have been looked at: it takes memory for what a compressed buffer says it becomes, and Rust ends
//! a program that asks for more than there is.

use arrow_array::RecordBatch;
use arrow_buffer::{Buffer, MutableBuffer};
use arrow_ipc::convert::try_fb_to_schema;
use arrow_ipc::reader::{FileDecoder, StreamReader, read_footer_length};
use arrow_ipc::{Block, Message, MessageHeader, root_as_footer, root_as_message};
use arrow_schema::{ArrowError, SchemaRef};
use std::cmp::Reverse;
use std::fs::File;
use std::hint::black_box;
use std::io::{self, BufReader, Read};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::vec;

/// Bytes that a stream is read by.
const READ_BUFFER_BYTES: usize = 256 << 10;
/// What begins a message; old ones begin with the metadata's length.
const CONTINUATION: [u8; 4] = [0xff; 4];
/// Bytes behind a file's footer: its length and a magic word.
const FILE_END_BYTES: usize = 10;
/// Bytes of a compressed buffer that say what it becomes.
const CLAIM_BYTES: usize = 8;
/// A program that cannot have so much more would not get far anyway.
const ALWAYS_THERE_BYTES: usize = 16 << 20;

fn broken(why: &str) -> ArrowError {
    ArrowError::IpcError(why.to_owned())
}

/// An Arrow stream that has to end where it says so. The format lets a writer just stop, and a reader stops at the first end: of a
/// writer that died, and of two streams one behind the other, rows would be missing without a word.
pub(crate) struct Stream<R: Read> {
    stream: StreamReader<BufReader<Watched<R>>>,
    ended: bool,
}

impl<R: Read> Stream<R> {
    /// Reads the schema.
    pub fn open(inner: R) -> Result<Self, ArrowError> {
        let reader = BufReader::with_capacity(READ_BUFFER_BYTES, Watched { inner, at: At::START });
        Ok(Self { stream: StreamReader::try_new(reader, None)?, ended: false })
    }

    pub fn schema(&self) -> SchemaRef {
        self.stream.schema()
    }
}

impl<R: Read> Iterator for Stream<R> {
    type Item = Result<RecordBatch, ArrowError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let next = self.stream.next();
        if next.is_some() {
            return next;
        }
        self.ended = true;
        let reader = self.stream.get_mut();
        match io::copy(&mut reader.by_ref().take(1), &mut io::sink()) {
            Err(e) => Some(Err(e.into())),
            Ok(0) if matches!(reader.get_ref().at, At::End) => None,
            Ok(0) => Some(Err(broken(
                "the stream breaks off without its end-of-stream marker, so that rows may be missing",
            ))),
            Ok(_) => Some(Err(broken(
                "the stream goes on after its end-of-stream marker; seal one stream at a time",
            ))),
        }
    }
}

/// The batches of an Arrow file.
pub(crate) struct Batches {
    file: File,
    file_bytes: u64,
    schema: SchemaRef,
    decoder: FileDecoder,
    blocks: vec::IntoIter<Block>,
}

impl Batches {
    /// Reads the footer and the dictionaries.
    pub fn open(file: File) -> Result<Self, ArrowError> {
        let file_bytes = file.metadata()?.len();
        let mut end = [0; FILE_END_BYTES];
        let before_end =
            file_bytes.checked_sub(end.len() as u64).ok_or_else(|| broken("the file has no end"))?;
        file.read_exact_at(&mut end, before_end)?;
        let footer_bytes = read_footer_length(end)?;
        let at = before_end
            .checked_sub(footer_bytes as u64)
            .ok_or_else(|| broken("the footer is longer than the file"))?;
        let mut footer = vec![0; footer_bytes];
        file.read_exact_at(&mut footer, at)?;
        let footer =
            root_as_footer(&footer).map_err(|e| broken(&format!("the footer cannot be read: {e}")))?;
        let schema = footer.schema().ok_or_else(|| broken("the footer has no schema"))?;
        if !schema.endianness().equals_to_target_endianness() {
            return Err(broken("the file is of another endianness"));
        }
        let schema = Arc::new(try_fb_to_schema(schema)?);
        let blocks = footer.recordBatches().ok_or_else(|| broken("the footer has no record batches"))?;
        let blocks: Vec<Block> = blocks.iter().copied().collect();
        let decoder = FileDecoder::new(schema.clone(), footer.version());
        let mut this = Self { file, file_bytes, schema, decoder, blocks: blocks.into_iter() };
        for block in footer.dictionaries().iter().flatten() {
            let bytes = this.read(block)?;
            this.decoder.read_dictionary(block, &bytes)?;
        }
        Ok(this)
    }

    pub fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.blocks.len()
    }

    /// The same, of these columns alone.
    pub fn projected(self, columns: Vec<usize>) -> Self {
        Self { decoder: self.decoder.with_projection(columns), ..self }
    }

    fn read(&self, block: &Block) -> Result<Buffer, ArrowError> {
        let place = || {
            let at = u64::try_from(block.offset()).ok()?;
            let metadata = usize::try_from(block.metaDataLength()).ok()?;
            let bytes = usize::try_from(block.bodyLength()).ok()?.checked_add(metadata)?;
            let end = at.checked_add(bytes as u64)?;
            (end <= self.file_bytes).then_some((at, metadata, bytes))
        };
        let (at, metadata, bytes) =
            place().ok_or_else(|| broken("a block of the footer is not within the file"))?;
        let mut read =
            MutableBuffer::try_from_len_zeroed(bytes).map_err(|e| ArrowError::MemoryError(e.to_string()))?;
        self.file.read_exact_at(&mut read, at)?;
        let prefix =
            if read.starts_with(&CONTINUATION) { 2 * CONTINUATION.len() } else { CONTINUATION.len() };
        // What is no message is for the decoder to refuse.
        if let Some(Ok(message)) = read.get(prefix..).map(root_as_message) {
            for claim in claims(&message) {
                if let Some(claim) = read[metadata..].get(claim..).and_then(<[u8]>::first_chunk) {
                    check(*claim)?;
                }
            }
        }
        Ok(read.into())
    }
}

impl Iterator for Batches {
    type Item = Result<RecordBatch, ArrowError>;

    fn next(&mut self) -> Option<Self::Item> {
        let block = self.blocks.next()?;
        self.read(&block).and_then(|bytes| self.decoder.read_record_batch(&block, &bytes)).transpose()
    }
}

/// Where in a message's body it is said what a compressed buffer becomes, the last one first.
fn claims(message: &Message<'_>) -> Vec<usize> {
    let batch = match message.header_type() {
        MessageHeader::DictionaryBatch => message.header_as_dictionary_batch().and_then(|batch| batch.data()),
        _ => message.header_as_record_batch(),
    };
    let buffers = batch.filter(|batch| batch.compression().is_some()).and_then(|batch| batch.buffers());
    // A shorter one says nothing, and may lie anywhere.
    let speaking = buffers.iter().flatten().filter(|buffer| buffer.length() >= CLAIM_BYTES as i64);
    let mut claims: Vec<usize> =
        speaking.filter_map(|buffer| usize::try_from(buffer.offset()).ok()).collect();
    claims.sort_unstable_by_key(|at| Reverse(*at));
    claims.dedup();
    claims
}

/// Whether there is memory for what a compressed buffer says it becomes. Less than zero is for the decoder: one below, and the buffer
/// is not compressed.
fn check(claim: [u8; CLAIM_BYTES]) -> io::Result<()> {
    let bytes = usize::try_from(i64::from_le_bytes(claim)).unwrap_or(0);
    let mut memory = Vec::<u8>::new();
    if bytes > ALWAYS_THERE_BYTES && memory.try_reserve_exact(bytes).is_err() {
        let why =
            format!("a compressed buffer says that it becomes {bytes} bytes, for which there is no memory");
        return Err(io::Error::new(io::ErrorKind::InvalidData, why));
    }
    // Without use the compiler may leave it out, and say that it was there.
    black_box(&memory);
    Ok(())
}

/// Follows the messages of a stream as they are read, and fails at a claim for which there is no memory.
struct Watched<R> {
    inner: R,
    at: At,
}

/// Where in a message a stream is.
enum At {
    /// In its first word, the continuation or the metadata's length, of which so many bytes are there.
    Start([u8; 4], usize),
    /// In metadata of so many bytes.
    Metadata(Vec<u8>, usize),
    /// So far into a body of so many bytes.
    Body { at: usize, bytes: usize, claims: Vec<Claim> },
    /// Behind the end-of-stream marker, which is metadata of no bytes.
    End,
    /// In what is no message: that is for the decoder to refuse.
    Lost,
}

struct Claim {
    place: Range<usize>,
    bytes: [u8; CLAIM_BYTES],
}

impl At {
    const START: Self = Self::Start([0; _], 0);

    /// Behind the metadata.
    fn behind(metadata: &[u8]) -> Self {
        let Ok(message) = root_as_message(metadata) else { return Self::Lost };
        let claim = |at: usize| Claim { place: at..at.saturating_add(CLAIM_BYTES), bytes: [0; _] };
        match usize::try_from(message.bodyLength()) {
            Ok(0) => Self::START,
            Ok(bytes) => {
                Self::Body { at: 0, bytes, claims: claims(&message).into_iter().map(claim).collect() }
            }
            Err(_) => Self::Lost,
        }
    }

    /// Goes on by some bytes.
    fn pass(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let passed = match self {
                Self::Start(word, have) => {
                    let passed = bytes.len().min(word.len() - *have);
                    word[*have..*have + passed].copy_from_slice(&bytes[..passed]);
                    *have += passed;
                    if *have == word.len() {
                        *self = match (*word, u32::from_le_bytes(*word)) {
                            (CONTINUATION, _) => Self::START,
                            (_, 0) => Self::End,
                            (_, len) => Self::Metadata(Vec::new(), len as usize),
                        };
                    }
                    passed
                }
                Self::Metadata(metadata, len) => {
                    let passed = bytes.len().min(*len - metadata.len());
                    metadata.extend_from_slice(&bytes[..passed]);
                    if metadata.len() == *len {
                        *self = Self::behind(metadata);
                    }
                    passed
                }
                Self::Body { at, bytes: len, claims } => {
                    let passed = bytes.len().min(*len - *at);
                    let end = *at + passed;
                    for claim in claims.iter_mut().rev().take_while(|claim| claim.place.start < end) {
                        let (from, to) = (claim.place.start.max(*at), claim.place.end.min(end));
                        let into = from - claim.place.start..to - claim.place.start;
                        claim.bytes[into].copy_from_slice(&bytes[from - *at..to - *at]);
                    }
                    while let Some(claim) = claims.pop_if(|claim| claim.place.end <= end) {
                        check(claim.bytes)?;
                    }
                    *at = end;
                    if end == *len {
                        *self = Self::START;
                    }
                    passed
                }
                Self::End | Self::Lost => return Ok(()),
            };
            bytes = &bytes[passed..];
        }
        Ok(())
    }
}

impl<R: Read> Read for Watched<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.at.pass(&buffer[..read])?;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::types::Int32Type;
    use arrow_array::{ArrayRef, DictionaryArray, UInt64Array};
    use arrow_ipc::CompressionType;
    use arrow_ipc::writer::{FileWriter, IpcWriteOptions, StreamWriter};
    use std::io::Write;

    const ROWS: usize = 1000;
    /// More than an address can say.
    const CLAIMED: u64 = 1 << 62;

    fn batch() -> RecordBatch {
        let names: Vec<String> = (0..ROWS).map(|row| format!("actor-{:04}", row / 2)).collect();
        let actors: DictionaryArray<Int32Type> = names.iter().map(String::as_str).collect();
        let units = UInt64Array::from_iter_values(0..ROWS as u64);
        let columns: [(&str, ArrayRef); 2] = [("actor", Arc::new(actors)), ("units", Arc::new(units))];
        RecordBatch::try_from_iter(columns).unwrap()
    }

    fn compressed(by: CompressionType) -> IpcWriteOptions {
        IpcWriteOptions::default().try_with_compression(Some(by)).unwrap()
    }

    fn stream(options: IpcWriteOptions) -> Vec<u8> {
        let batch = batch();
        let mut writer = StreamWriter::try_new_with_options(Vec::new(), &batch.schema(), options).unwrap();
        writer.write(&batch).unwrap();
        writer.write(&batch).unwrap();
        writer.into_inner().unwrap()
    }

    fn file(options: IpcWriteOptions) -> Vec<u8> {
        let batch = batch();
        let mut writer = FileWriter::try_new_with_options(Vec::new(), &batch.schema(), options).unwrap();
        writer.write(&batch).unwrap();
        writer.into_inner().unwrap()
    }

    /// The same with a lie before each compressed buffer, which begins with this word.
    fn lies(bytes: &[u8], magic: [u8; 4]) -> Vec<Vec<u8>> {
        let places = (CLAIM_BYTES..bytes.len()).filter(|at| bytes[*at..].starts_with(&magic));
        let lie = |at: usize| [&bytes[..at - CLAIM_BYTES], &CLAIMED.to_le_bytes(), &bytes[at..]].concat();
        places.map(lie).collect()
    }

    /// Gives its bytes in pieces of a few.
    struct Crumbs<'a>(&'a [u8], usize);

    impl Read for Crumbs<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let len = buffer.len().min(self.1);
            self.0.read(&mut buffer[..len])
        }
    }

    fn read_stream(bytes: &[u8], by: usize) -> Result<usize, String> {
        let stream = Stream::open(Crumbs(bytes, by)).map_err(|e| e.to_string())?;
        stream.map(|batch| batch.map(|batch| batch.num_rows()).map_err(|e| e.to_string())).sum()
    }

    fn read_file(bytes: &[u8]) -> Result<usize, String> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        let batches = Batches::open(file).map_err(|e| e.to_string())?.projected(vec![0, 1]);
        batches.map(|batch| batch.map(|batch| batch.num_rows()).map_err(|e| e.to_string())).sum()
    }

    const WAYS: [(CompressionType, [u8; 4]); 2] = [
        (CompressionType::LZ4_FRAME, 0x184d_2204u32.to_le_bytes()),
        (CompressionType::ZSTD, 0xfd2f_b528u32.to_le_bytes()),
    ];

    #[test]
    fn no_memory_is_taken_for_a_claim() {
        for (way, magic) in WAYS {
            let (stream, file) = (stream(compressed(way)), file(compressed(way)));
            for by in [1, 7, 64, 1 << 20] {
                assert_eq!(read_stream(&stream, by), Ok(2 * ROWS));
            }
            assert_eq!(read_file(&file), Ok(ROWS));
            let refused = |read: Result<usize, String>| {
                assert!(read.as_ref().is_err_and(|e| e.contains("there is no memory")), "{read:?}");
            };
            // Of the dictionary at least the bytes, if offsets do not compress; keys and units of each batch.
            let (in_stream, in_file) = (lies(&stream, magic), lies(&file, magic));
            assert!(in_stream.len() >= 5 && in_file.len() >= 3, "{} and {}", in_stream.len(), in_file.len());
            in_file.iter().for_each(|lie| refused(read_file(lie)));
            for lie in in_stream {
                [1, 7, 64, 1 << 20].into_iter().for_each(|by| refused(read_stream(&lie, by)));
            }
        }
    }

    #[test]
    fn a_stream_has_to_end_where_it_says_so() {
        let bytes = stream(IpcWriteOptions::default());
        for by in [1, 7, 1 << 20] {
            assert_eq!(read_stream(&bytes, by), Ok(2 * ROWS));
            for missing in [8, 7, 4, 1] {
                let read = read_stream(&bytes[..bytes.len() - missing], by);
                assert!(read.is_err(), "{missing} missing: {read:?}");
            }
            let more = read_stream(&[&bytes[..], b"x"].concat(), by).unwrap_err();
            assert!(more.contains("goes on after"), "{more}");
        }
    }

    #[test]
    fn a_file_that_is_not_whole_is_refused() {
        let file = file(IpcWriteOptions::default());
        assert_eq!(read_file(&file), Ok(ROWS));
        for cut in [0, FILE_END_BYTES - 1, file.len() / 2, file.len() - 1] {
            let read = read_file(&file[..cut]);
            assert!(read.is_err(), "{cut}: {read:?}");
        }
        // Without its beginning the footer's blocks are elsewhere.
        let read = read_file(&file[file.len() / 2..]);
        assert!(read.is_err(), "{read:?}");
    }
}
