//! The framing of an Arrow IPC stream (Arrow columnar format 1.5, "IPC Streaming Format"), checked before anything is
//! read from it: marker, metadata length, flatbuffer, version, body length, then the nodes and buffers of a batch.
//!
//! arrow-ipc's generated flatbuffer readers are used behind the flatbuffer verifier; its array decoding is not, since it
//! panics on hostile buffer ranges and would copy.

use crate::error::{Broken, Fault};
use arrow_ipc::{Message, MessageHeader, MetadataVersion, RecordBatch};
use flatbuffers::VerifierOptions;
use rewarder_model::snapshot::MESSAGE_METADATA_BYTES_MAX;

/// Bytes before a message's metadata: the continuation marker and the metadata's length.
pub const PREFIX_BYTES: usize = 8;
/// Bytes of the marker that ends a stream: a prefix that announces no metadata.
pub const END_BYTES: usize = PREFIX_BYTES;

const CONTINUATION: [u8; 4] = [0xff; 4];

/// What the first 8 bytes of a message say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prefix {
    /// Metadata of this many bytes follows.
    Metadata(usize),
    /// The stream ends here.
    End,
}

pub fn prefix(bytes: [u8; PREFIX_BYTES]) -> Result<Prefix, Broken> {
    if bytes[..4] != CONTINUATION {
        let fault = if &bytes[..6] == b"ARROW1" { Fault::FileNotStream } else { Fault::NoContinuation };
        return Err(fault.here());
    }
    let len = i32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
    match usize::try_from(len) {
        Ok(0) => Ok(Prefix::End),
        Ok(len) if len > MESSAGE_METADATA_BYTES_MAX => Err(Fault::MetadataTooLarge.here()),
        Ok(len) if len % 8 != 0 => Err(Fault::MetadataUnaligned.here()),
        Ok(len) => Ok(Prefix::Metadata(len)),
        Err(_) => Err(Fault::MetadataInvalid.here()),
    }
}

/// Verifies and opens the metadata of a message; gives it with the length of its body, which is within `left` bytes.
pub fn message(metadata: &[u8], left: u64) -> Result<(Message<'_>, u64), Broken> {
    // 64 KiB hold at most a few thousand tables of metadata entries; the bound keeps tables that refer to each other
    // from costing more than their bytes.
    let options = VerifierOptions {
        max_depth: 16,
        max_tables: 8192,
        max_apparent_size: 4 * MESSAGE_METADATA_BYTES_MAX,
        ..VerifierOptions::default()
    };
    let message = arrow_ipc::root_as_message_with_opts(&options, metadata)
        .map_err(|_| Fault::MetadataInvalid.here())?;
    if message.version() != MetadataVersion::V5 {
        return Err(Fault::VersionNotV5.here());
    }
    let body = u64::try_from(message.bodyLength())
        .ok()
        .filter(|len| len % 8 == 0)
        .ok_or(Fault::BodyLengthInvalid.here())?;
    if body > left {
        return Err(Fault::BodyBeyondEnd.here());
    }
    Ok((message, body))
}

/// A buffer's place within the body of its message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Span {
    pub offset: u64,
    pub len: u64,
}

impl Span {
    /// The first `len` bytes, which have to be there.
    fn first(self, len: u64) -> Result<Self, Broken> {
        if self.len < len { Err(Fault::BufferTooShort.here()) } else { Ok(Self { len, ..self }) }
    }
}

/// A batch whose lengths and buffers are consistent: `rows`, and for each column its validity and its data buffers.
#[derive(Debug, Clone, Copy)]
pub struct Layout<const N: usize> {
    pub rows: u64,
    pub validity: [Span; N],
    pub data: [Span; N],
    /// Only of a dictionary batch: where the values' bytes are.
    pub values: Span,
}

/// Checks a record batch of the three columns against its body: `width[i]` bytes a row.
pub fn rows_layout(
    batch: RecordBatch<'_>,
    body: u64,
    width: [u64; 3],
    names: [&'static str; 3],
) -> Result<Layout<3>, Broken> {
    let (rows, spans) = layout::<3, 6>(batch, body, names)?;
    let mut data = [Span::default(); 3];
    for column in 0..3 {
        // A row takes at least one byte of a buffer that lies within the body, so the product cannot overflow by more
        // than `first` refuses.
        let needed =
            rows.checked_mul(width[column]).ok_or(Fault::BufferTooShort.here().column(names[column]))?;
        data[column] = spans[2 * column + 1].first(needed).map_err(|b| b.column(names[column]))?;
    }
    Ok(Layout { rows, validity: [spans[0], spans[2], spans[4]], data, values: Span::default() })
}

/// Checks a dictionary batch against its body: 32-bit offsets and bytes.
pub fn dictionary_layout(batch: RecordBatch<'_>, body: u64, name: &'static str) -> Result<Layout<1>, Broken> {
    let (values, [validity, offsets, bytes]) = layout::<1, 3>(batch, body, [name])?;
    // An empty dictionary may have no offsets at all; otherwise there is one more than there are values.
    let needed = if values == 0 && offsets.len == 0 {
        0
    } else {
        values.checked_add(1).and_then(|n| n.checked_mul(4)).unwrap_or(u64::MAX)
    };
    let offsets = offsets.first(needed).map_err(|b| b.column(name))?;
    Ok(Layout { rows: values, validity: [validity], data: [offsets], values: bytes })
}

fn layout<const COLUMNS: usize, const BUFFERS: usize>(
    batch: RecordBatch<'_>,
    body: u64,
    names: [&'static str; COLUMNS],
) -> Result<(u64, [Span; BUFFERS]), Broken> {
    if batch.compression().is_some() {
        return Err(Fault::Compressed.here());
    }
    let rows = u64::try_from(batch.length()).map_err(|_| Fault::LengthNegative.here())?;
    let nodes = batch.nodes().filter(|nodes| nodes.len() == COLUMNS).ok_or(Fault::NodeCount.here())?;
    for (node, name) in nodes.iter().zip(names) {
        if u64::try_from(node.length()) != Ok(rows) {
            return Err(Fault::NodeLength.here().column(name));
        }
        if node.null_count() != 0 {
            return Err(Fault::NullCount.here().column(name));
        }
    }
    if batch.variadicBufferCounts().is_some_and(|counts| !counts.is_empty()) {
        return Err(Fault::BufferCount.here());
    }
    let buffers =
        batch.buffers().filter(|buffers| buffers.len() == BUFFERS).ok_or(Fault::BufferCount.here())?;
    let mut spans = [Span::default(); BUFFERS];
    let mut end = 0;
    for (index, (buffer, span)) in buffers.iter().zip(&mut spans).enumerate() {
        let name = names[index * COLUMNS / BUFFERS];
        let (Ok(offset), Ok(len)) = (u64::try_from(buffer.offset()), u64::try_from(buffer.length())) else {
            return Err(Fault::BufferNegative.here().column(name));
        };
        *span = Span { offset, len };
        if len == 0 {
            // Even of nothing the place has to exist: readers, this one too, slice by it.
            if offset > body {
                return Err(Fault::BufferBeyondBody.here().column(name));
            }
            continue;
        }
        if offset % 8 != 0 {
            return Err(Fault::BufferUnaligned.here().column(name));
        }
        if offset < end {
            return Err(Fault::BufferOverlap.here().column(name));
        }
        end = offset
            .checked_add(len)
            .filter(|end| *end <= body)
            .ok_or(Fault::BufferBeyondBody.here().column(name))?;
    }
    Ok((rows, spans))
}

/// Whether the first `rows` bits of a validity buffer are ones; `bytes` are at least as many as `rows` need.
pub fn all_valid(bytes: &[u8], rows: u64) -> bool {
    let (whole, rest) = ((rows / 8) as usize, rows % 8);
    let mask = (1u8 << rest) - 1;
    bytes[..whole].iter().all(|byte| *byte == 0xff) && (rest == 0 || bytes[whole] & mask == mask)
}

/// The record batch of a message that has one, or what kind of message it is instead.
pub fn batch_of<'a>(message: &Message<'a>) -> Result<RecordBatch<'a>, Broken> {
    match message.header_type() {
        MessageHeader::RecordBatch => message.header_as_record_batch().ok_or(Fault::MetadataInvalid.here()),
        MessageHeader::Schema => Err(Fault::SchemaTwice.here()),
        _ => Err(Fault::MessageKind.here()),
    }
}
