//! The messages of the fast case, byte by byte (contract §2; Arrow columnar format, "Encapsulated message
//! format").
//!
//! The law: the same header and the same lengths give the same bytes. Everything here is a function of
//! lengths alone, so that bodies can be made by many threads and streamed: a dictionary of any size never
//! stands in memory as one piece.
//!
//! Why not arrow-ipc's `StreamWriter`: it wants the dictionary as one array and copies it into one message,
//! and it sorts the schema's metadata by its own lights. Its generated flatbuffer code is used, so that no
//! table is laid out by hand.

use arrow_ipc::{
    Buffer, DictionaryBatch, DictionaryBatchArgs, DictionaryEncoding, DictionaryEncodingArgs, DictionaryKind,
    Endianness, Field, FieldArgs, FieldNode, Int, IntArgs, KeyValue, KeyValueArgs, Message, MessageArgs,
    MessageHeader, MetadataVersion, RecordBatch, RecordBatchArgs, Schema, SchemaArgs, Type, Utf8, Utf8Args,
};
use flatbuffers::{FlatBufferBuilder, UnionWIPOffset, WIPOffset};
use rewarder_model::SnapshotHeader;
use rewarder_model::snapshot::{COLUMNS, SCHEMA_V1, key};

/// Rows of a batch; only the last may have fewer (contract §2).
pub const BATCH_ROWS: usize = 1 << 16;

/// Alignment of messages and buffers. The format asks for 8; 64 is what it recommends and arrow-rs writes: a
/// cache line, and the widest vector register.
const ALIGNMENT: usize = 64;

/// What an encapsulated message begins with, and the whole of the stream's last one.
const CONTINUATION: [u8; 4] = [0xff; 4];

/// The end-of-stream marker.
pub(crate) const END_OF_STREAM: [u8; 8] = [0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0];

/// Id of the actors' dictionary.
pub(crate) const ACTORS: i64 = 0;
/// Id of the categories' dictionary.
pub(crate) const CATEGORIES: i64 = 1;

/// Zeros that fill a buffer of `length` bytes up to the alignment.
pub(crate) fn padding(length: usize) -> &'static [u8] {
    static ZEROS: [u8; ALIGNMENT] = [0; ALIGNMENT];
    &ZEROS[..length.next_multiple_of(ALIGNMENT) - length]
}

/// The schema message.
pub(crate) fn schema(header: &SnapshotHeader) -> Vec<u8> {
    let mut fbb = FlatBufferBuilder::new();
    let [actor, category, units] = COLUMNS;
    let fields = [
        dictionary_field(&mut fbb, actor, ACTORS, 32),
        dictionary_field(&mut fbb, category, CATEGORIES, 8),
        {
            let name = fbb.create_string(units);
            let uint64 = Int::create(&mut fbb, &IntArgs { bitWidth: 64, is_signed: false });
            let children = fbb.create_vector::<WIPOffset<Field<'_>>>(&[]);
            Field::create(
                &mut fbb,
                &FieldArgs {
                    name: Some(name),
                    nullable: false,
                    type_type: Type::Int,
                    type_: Some(uint64.as_union_value()),
                    dictionary: None,
                    children: Some(children),
                    custom_metadata: None,
                },
            )
        },
    ];
    let pool = header.pool.to_string();
    let metadata = [
        (key::SCHEMA, SCHEMA_V1),
        (key::TENANT, header.tenant.as_str()),
        (key::EPOCH, header.epoch.as_str()),
        (key::ASSET, header.asset.as_str()),
        (key::POOL, &pool),
    ]
    .map(|(name, value)| {
        let (name, value) = (fbb.create_string(name), fbb.create_string(value));
        KeyValue::create(&mut fbb, &KeyValueArgs { key: Some(name), value: Some(value) })
    });
    let (fields, metadata) = (fbb.create_vector(&fields), fbb.create_vector(&metadata));
    let schema = Schema::create(
        &mut fbb,
        &SchemaArgs {
            endianness: Endianness::Little,
            fields: Some(fields),
            custom_metadata: Some(metadata),
            features: None,
        },
    );
    message(fbb, MessageHeader::Schema, schema.as_union_value(), 0)
}

fn dictionary_field<'a>(
    fbb: &mut FlatBufferBuilder<'a>,
    name: &str,
    id: i64,
    bits: i32,
) -> WIPOffset<Field<'a>> {
    let name = fbb.create_string(name);
    let index = Int::create(fbb, &IntArgs { bitWidth: bits, is_signed: false });
    let dictionary = DictionaryEncoding::create(
        fbb,
        &DictionaryEncodingArgs {
            id,
            indexType: Some(index),
            // Sorted it is, but `ordered` would say that the order means something, and is part of the type.
            isOrdered: false,
            dictionaryKind: DictionaryKind::DenseArray,
        },
    );
    let utf8 = Utf8::create(fbb, &Utf8Args {});
    let children = fbb.create_vector::<WIPOffset<Field<'_>>>(&[]);
    Field::create(
        fbb,
        &FieldArgs {
            name: Some(name),
            nullable: false,
            type_type: Type::Utf8,
            type_: Some(utf8.as_union_value()),
            dictionary: Some(dictionary),
            children: Some(children),
            custom_metadata: None,
        },
    )
}

/// Buffers one after the other, each padded to the alignment, and the length of them all.
fn layout<const N: usize>(lengths: [usize; N]) -> ([Buffer; N], usize) {
    let mut end = 0;
    let buffers = lengths.map(|length| {
        let buffer = Buffer::new(end as i64, length as i64);
        end = (end + length).next_multiple_of(ALIGNMENT);
        buffer
    });
    (buffers, end)
}

/// What stands before a dictionary's body: `values` + 1 offsets of four bytes, padding, the values' bytes,
/// padding.
pub(crate) fn dictionary_head(id: i64, values: usize, value_bytes: usize) -> Vec<u8> {
    let mut fbb = FlatBufferBuilder::new();
    let (buffers, body) = layout([0, offsets_len(values), value_bytes]);
    let batch = record_batch(&mut fbb, values, &[FieldNode::new(values as i64, 0)], &buffers);
    let dictionary =
        DictionaryBatch::create(&mut fbb, &DictionaryBatchArgs { id, data: Some(batch), isDelta: false });
    message(fbb, MessageHeader::DictionaryBatch, dictionary.as_union_value(), body)
}

/// Bytes of the offsets of so many values.
pub(crate) fn offsets_len(values: usize) -> usize {
    (values + 1) * 4
}

/// A whole dictionary, of values that fit in 2 GiB.
pub(crate) fn dictionary(id: i64, values: &[impl AsRef<str>]) -> Vec<u8> {
    let length = values.iter().map(|value| value.as_ref().len()).sum();
    let mut message = dictionary_head(id, values.len(), length);
    let mut end = 0_u32;
    message.extend_from_slice(&end.to_le_bytes());
    for value in values {
        end += value.as_ref().len() as u32;
        message.extend_from_slice(&end.to_le_bytes());
    }
    message.extend_from_slice(padding(offsets_len(values.len())));
    for value in values {
        message.extend_from_slice(value.as_ref().as_bytes());
    }
    message.extend_from_slice(padding(length));
    message
}

/// A whole record batch, actors and categories by their places in the dictionaries, in the memory of
/// `message`.
pub(crate) fn batch(actors: &[u32], categories: &[u8], units: &[u64], message: Vec<u8>) -> Vec<u8> {
    let mut batch = Batch::new(actors.len(), message);
    let (to_actors, to_categories, to_units) = batch.columns();
    to_actors.iter_mut().zip(actors).for_each(|(to, actor)| *to = actor.to_le_bytes());
    to_categories.copy_from_slice(categories);
    to_units.iter_mut().zip(units).for_each(|(to, units)| *to = units.to_le_bytes());
    batch.message
}

/// A record batch whose columns are still to be filled in.
pub(crate) struct Batch {
    rows: usize,
    /// Bytes before the body.
    head: usize,
    /// The encapsulated message, body included; 0 wherever nothing was filled in.
    pub message: Vec<u8>,
}

impl Batch {
    /// A batch of so many rows in the memory of `message`.
    pub fn new(rows: usize, mut message: Vec<u8>) -> Self {
        let head = batch_head(rows);
        message.clear();
        message.extend_from_slice(&head);
        message.resize(head.len() + layout([rows * 4, rows, rows * 8]).1, 0);
        Self { rows, head: head.len(), message }
    }

    /// Where the actors, categories and units go, little endian.
    pub fn columns(&mut self) -> (&mut [[u8; 4]], &mut [u8], &mut [[u8; 8]]) {
        let rows = self.rows;
        let (actors, rest) = self.message[self.head..].split_at_mut((rows * 4).next_multiple_of(ALIGNMENT));
        let (categories, units) = rest.split_at_mut(rows.next_multiple_of(ALIGNMENT));
        (actors[..rows * 4].as_chunks_mut().0, &mut categories[..rows], units[..rows * 8].as_chunks_mut().0)
    }
}

fn batch_head(rows: usize) -> Vec<u8> {
    let mut fbb = FlatBufferBuilder::new();
    // A validity buffer of length 0 says that there is none.
    let (buffers, body) = layout([0, rows * 4, 0, rows, 0, rows * 8]);
    let nodes = [FieldNode::new(rows as i64, 0); 3];
    let batch = record_batch(&mut fbb, rows, &nodes, &buffers);
    message(fbb, MessageHeader::RecordBatch, batch.as_union_value(), body)
}

fn record_batch<'a>(
    fbb: &mut FlatBufferBuilder<'a>,
    rows: usize,
    nodes: &[FieldNode],
    buffers: &[Buffer],
) -> WIPOffset<RecordBatch<'a>> {
    let (nodes, buffers) = (fbb.create_vector(nodes), fbb.create_vector(buffers));
    RecordBatch::create(
        fbb,
        &RecordBatchArgs {
            length: rows as i64,
            nodes: Some(nodes),
            buffers: Some(buffers),
            compression: None,
            variadicBufferCounts: None,
        },
    )
}

/// The encapsulated message without its body: continuation, length, metadata, padding.
fn message(
    mut fbb: FlatBufferBuilder<'_>,
    header_type: MessageHeader,
    header: WIPOffset<UnionWIPOffset>,
    body: usize,
) -> Vec<u8> {
    let root = Message::create(
        &mut fbb,
        &MessageArgs {
            version: MetadataVersion::V5,
            header_type,
            header: Some(header),
            bodyLength: body as i64,
            custom_metadata: None,
        },
    );
    fbb.finish(root, None);
    let metadata = fbb.finished_data();
    let prefix = CONTINUATION.len() + size_of::<i32>();
    let padded = (prefix + metadata.len()).next_multiple_of(ALIGNMENT) - prefix;
    let mut message = Vec::with_capacity(prefix + padded);
    message.extend_from_slice(&CONTINUATION);
    message.extend_from_slice(&(padded as i32).to_le_bytes());
    message.extend_from_slice(metadata);
    message.resize(prefix + padded, 0);
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_piece_is_a_multiple_of_the_alignment() {
        for rows in [0, 1, 7, 63, 64, 65, BATCH_ROWS] {
            let (actors, categories, units) = (vec![0; rows], vec![0; rows], vec![0; rows]);
            assert_eq!(batch(&actors, &categories, &units, Vec::new()).len() % ALIGNMENT, 0);
            assert_eq!(dictionary_head(ACTORS, rows, 3 * rows).len() % ALIGNMENT, 0);
        }
        assert_eq!((padding(0).len(), padding(1).len(), padding(64).len()), (0, 63, 0));
    }
}
