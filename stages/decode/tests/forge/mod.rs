//! A forge of Arrow streams: takes a stream apart into an owned model in which every field can be set to anything, and
//! puts it together again.
//!
//! It goes by arrow-ipc's generated builders and shares nothing with the decode floor, not even its constants.

// Each test takes what it needs.
#![allow(dead_code)]

use arrow_ipc as ipc;
use flatbuffers::{FlatBufferBuilder, UnionWIPOffset, WIPOffset};

/// A whole stream.
#[derive(Debug, Clone)]
pub struct Stream {
    pub messages: Vec<Message>,
    /// What follows the last message: normally [`END`].
    pub tail: Vec<u8>,
}

/// The end-of-stream marker.
pub const END: [u8; 8] = [0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0];

/// One message. `None` stands for what follows from the rest.
#[derive(Debug, Clone)]
pub struct Message {
    pub marker: [u8; 4],
    pub declared_metadata: Option<i32>,
    pub version: i16,
    pub header: Header,
    pub declared_body: Option<i64>,
    /// Zeros behind the flatbuffer; the metadata is padded to a multiple of 8 all the same.
    pub metadata_padding: usize,
    pub body: Vec<u8>,
}

#[derive(Debug, Clone)]
pub enum Header {
    Schema(Schema),
    Dictionary {
        id: i64,
        is_delta: bool,
        batch: Option<Batch>,
    },
    Rows(Batch),
    /// A record batch that calls itself something else.
    Other(u8, Batch),
    None,
}

#[derive(Debug, Clone)]
pub struct Schema {
    pub big_endian: bool,
    pub fields: Option<Vec<Field>>,
    pub metadata: Vec<(Option<String>, Option<String>)>,
}

#[derive(Debug, Clone)]
pub struct Field {
    pub name: Option<String>,
    pub nullable: bool,
    pub kind: Kind,
    pub dictionary: Option<Encoding>,
    pub children: Vec<Field>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Int { bits: i32, signed: bool },
    Utf8,
    LargeUtf8,
    Binary,
    Bool,
    None,
}

#[derive(Debug, Clone)]
pub struct Encoding {
    pub id: i64,
    pub index: Option<(i32, bool)>,
    pub ordered: bool,
}

/// Lengths and places of a batch's nodes and buffers.
#[derive(Debug, Clone)]
pub struct Batch {
    pub length: i64,
    /// Length, null count.
    pub nodes: Option<Vec<(i64, i64)>>,
    /// Offset, length.
    pub buffers: Option<Vec<(i64, i64)>>,
    pub compression: Option<(i8, i8)>,
    pub variadic: Option<Vec<i64>>,
}

impl Stream {
    /// Takes a valid stream apart.
    pub fn parse(mut bytes: &[u8]) -> Self {
        let mut messages = Vec::new();
        loop {
            let (prefix, rest) = bytes.split_at(8);
            let len = i32::from_le_bytes(prefix[4..].try_into().unwrap()) as usize;
            if len == 0 {
                return Self { messages, tail: bytes.to_vec() };
            }
            let (metadata, rest) = rest.split_at(len);
            let message = ipc::root_as_message(metadata).unwrap();
            let (body, rest) = rest.split_at(message.bodyLength() as usize);
            messages.push(Message {
                marker: [0xff; 4],
                declared_metadata: None,
                version: message.version().0,
                header: Header::parse(&message),
                declared_body: None,
                metadata_padding: 0,
                body: body.to_vec(),
            });
            bytes = rest;
        }
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.messages.iter().for_each(|message| message.encode(&mut bytes));
        bytes.extend_from_slice(&self.tail);
        bytes
    }
}

impl Message {
    pub fn new(header: Header, body: Vec<u8>) -> Self {
        Self {
            marker: [0xff; 4],
            declared_metadata: None,
            version: ipc::MetadataVersion::V5.0,
            header,
            declared_body: None,
            metadata_padding: 0,
            body,
        }
    }

    pub fn batch(&self) -> Option<&Batch> {
        match &self.header {
            Header::Rows(batch) | Header::Other(_, batch) | Header::Dictionary { batch: Some(batch), .. } => {
                Some(batch)
            }
            _ => None,
        }
    }

    pub fn batch_mut(&mut self) -> Option<&mut Batch> {
        match &mut self.header {
            Header::Rows(batch) | Header::Other(_, batch) | Header::Dictionary { batch: Some(batch), .. } => {
                Some(batch)
            }
            _ => None,
        }
    }

    pub fn encode(&self, bytes: &mut Vec<u8>) {
        self.encode_head(bytes);
        bytes.extend_from_slice(&self.body);
    }

    /// Everything but the body.
    pub fn encode_head(&self, bytes: &mut Vec<u8>) {
        let mut b = FlatBufferBuilder::new();
        let (kind, header) = self.header.encode(&mut b);
        let mut message = ipc::MessageBuilder::new(&mut b);
        message.add_version(ipc::MetadataVersion(self.version));
        message.add_header_type(kind);
        if let Some(header) = header {
            message.add_header(header);
        }
        message.add_bodyLength(self.declared_body.unwrap_or(self.body.len() as i64));
        let root = message.finish();
        b.finish(root, None);
        let mut metadata = b.finished_data().to_vec();
        metadata.resize((metadata.len() + self.metadata_padding).next_multiple_of(8), 0);
        bytes.extend_from_slice(&self.marker);
        bytes.extend_from_slice(&self.declared_metadata.unwrap_or(metadata.len() as i32).to_le_bytes());
        bytes.extend_from_slice(&metadata);
    }
}

type Builder<'b> = FlatBufferBuilder<'b>;
type Union = WIPOffset<UnionWIPOffset>;

impl Header {
    fn parse(message: &ipc::Message<'_>) -> Self {
        if let Some(schema) = message.header_as_schema() {
            return Self::Schema(Schema::parse(&schema));
        }
        if let Some(dictionary) = message.header_as_dictionary_batch() {
            let batch = dictionary.data().map(|batch| Batch::parse(&batch));
            return Self::Dictionary { id: dictionary.id(), is_delta: dictionary.isDelta(), batch };
        }
        Self::Rows(Batch::parse(&message.header_as_record_batch().unwrap()))
    }

    fn encode(&self, b: &mut Builder<'_>) -> (ipc::MessageHeader, Option<Union>) {
        match self {
            Self::Schema(schema) => (ipc::MessageHeader::Schema, Some(schema.encode(b))),
            Self::Dictionary { id, is_delta, batch } => {
                let data = batch.as_ref().map(|batch| batch.encode(b));
                let mut dictionary = ipc::DictionaryBatchBuilder::new(b);
                dictionary.add_id(*id);
                dictionary.add_isDelta(*is_delta);
                if let Some(data) = data {
                    dictionary.add_data(data);
                }
                (ipc::MessageHeader::DictionaryBatch, Some(dictionary.finish().as_union_value()))
            }
            Self::Rows(batch) => (ipc::MessageHeader::RecordBatch, Some(batch.encode(b).as_union_value())),
            Self::Other(kind, batch) => (ipc::MessageHeader(*kind), Some(batch.encode(b).as_union_value())),
            Self::None => (ipc::MessageHeader::NONE, None),
        }
    }
}

impl Batch {
    fn parse(batch: &ipc::RecordBatch<'_>) -> Self {
        Self {
            length: batch.length(),
            nodes: batch.nodes().map(|nodes| nodes.iter().map(|n| (n.length(), n.null_count())).collect()),
            buffers: batch
                .buffers()
                .map(|buffers| buffers.iter().map(|b| (b.offset(), b.length())).collect()),
            compression: None,
            variadic: None,
        }
    }

    fn encode<'b>(&self, b: &mut Builder<'b>) -> WIPOffset<ipc::RecordBatch<'b>> {
        let nodes = self.nodes.as_ref().map(|nodes| {
            let nodes: Vec<_> = nodes.iter().map(|(len, nulls)| ipc::FieldNode::new(*len, *nulls)).collect();
            b.create_vector(&nodes)
        });
        let buffers = self.buffers.as_ref().map(|buffers| {
            let buffers: Vec<_> =
                buffers.iter().map(|(offset, len)| ipc::Buffer::new(*offset, *len)).collect();
            b.create_vector(&buffers)
        });
        let variadic = self.variadic.as_ref().map(|counts| b.create_vector(counts));
        let compression = self.compression.map(|(codec, method)| {
            let mut compression = ipc::BodyCompressionBuilder::new(b);
            compression.add_codec(ipc::CompressionType(codec));
            compression.add_method(ipc::BodyCompressionMethod(method));
            compression.finish()
        });
        let mut batch = ipc::RecordBatchBuilder::new(b);
        batch.add_length(self.length);
        if let Some(nodes) = nodes {
            batch.add_nodes(nodes);
        }
        if let Some(buffers) = buffers {
            batch.add_buffers(buffers);
        }
        if let Some(compression) = compression {
            batch.add_compression(compression);
        }
        if let Some(variadic) = variadic {
            batch.add_variadicBufferCounts(variadic);
        }
        batch.finish()
    }

    /// The body of a batch and the batch that describes it: each buffer at a multiple of 8.
    pub fn of(length: usize, columns: usize, buffers: &[&[u8]]) -> (Self, Vec<u8>) {
        let (mut body, mut places) = (Vec::new(), Vec::new());
        for buffer in buffers {
            places.push((body.len() as i64, buffer.len() as i64));
            body.extend_from_slice(buffer);
            body.resize(body.len().next_multiple_of(8), 0);
        }
        let nodes = Some(vec![(length as i64, 0); columns]);
        (
            Self { length: length as i64, nodes, buffers: Some(places), compression: None, variadic: None },
            body,
        )
    }
}

/// A dictionary message with these values.
pub fn dictionary(id: i64, values: &[impl AsRef<[u8]>]) -> Message {
    let (mut offsets, mut text) = (vec![0; 4], Vec::new());
    for value in values {
        text.extend_from_slice(value.as_ref());
        offsets.extend_from_slice(&(text.len() as u32).to_le_bytes());
    }
    let (batch, body) = Batch::of(values.len(), 1, &[&[], &offsets, &text]);
    Message::new(Header::Dictionary { id, is_delta: false, batch: Some(batch) }, body)
}

/// A record batch message of these rows.
pub fn rows(rows: &[(u32, u8, u64)]) -> Message {
    let actors: Vec<u8> = rows.iter().flat_map(|row| row.0.to_le_bytes()).collect();
    let categories: Vec<u8> = rows.iter().map(|row| row.1).collect();
    let units: Vec<u8> = rows.iter().flat_map(|row| row.2.to_le_bytes()).collect();
    let (batch, body) = Batch::of(rows.len(), 3, &[&[], &actors, &[], &categories, &[], &units]);
    Message::new(Header::Rows(batch), body)
}

/// The schema message of a snapshot whose dictionaries have the ids 0 (actor) and 1 (category).
pub fn schema() -> Message {
    let dictionary = |name: &str, id, bits| Field {
        name: Some(name.into()),
        nullable: false,
        kind: Kind::Utf8,
        dictionary: Some(Encoding { id, index: Some((bits, false)), ordered: false }),
        children: Vec::new(),
    };
    let units = Field {
        name: Some("units".into()),
        nullable: false,
        kind: Kind::Int { bits: 64, signed: false },
        dictionary: None,
        children: Vec::new(),
    };
    let metadata = METADATA.iter().map(|(key, value)| (Some((*key).into()), Some((*value).into()))).collect();
    let fields = Some(vec![dictionary("actor", 0, 32), dictionary("category", 1, 8), units]);
    Message::new(Header::Schema(Schema { big_endian: false, fields, metadata }), Vec::new())
}

/// Schema metadata as it should be.
pub const METADATA: [(&str, &str); 5] = [
    ("rewarder.schema", "snapshot.v1"),
    ("rewarder.tenant", "acme"),
    ("rewarder.epoch", "2026-11"),
    ("rewarder.asset", "roc"),
    ("rewarder.pool_minor_units", "1000000"),
];

impl Schema {
    fn parse(schema: &ipc::Schema<'_>) -> Self {
        Self {
            big_endian: schema.endianness() == ipc::Endianness::Big,
            fields: schema.fields().map(|fields| fields.iter().map(|field| Field::parse(&field)).collect()),
            metadata: (schema.custom_metadata().into_iter().flatten())
                .map(|entry| (entry.key().map(str::to_owned), entry.value().map(str::to_owned)))
                .collect(),
        }
    }

    fn encode(&self, b: &mut Builder<'_>) -> Union {
        let fields = self.fields.as_ref().map(|fields| {
            let fields: Vec<_> = fields.iter().map(|field| field.encode(b)).collect();
            b.create_vector(&fields)
        });
        let entries: Vec<_> = (self.metadata.iter())
            .map(|(key, value)| {
                let key = key.as_ref().map(|key| b.create_string(key));
                let value = value.as_ref().map(|value| b.create_string(value));
                let mut entry = ipc::KeyValueBuilder::new(b);
                if let Some(key) = key {
                    entry.add_key(key);
                }
                if let Some(value) = value {
                    entry.add_value(value);
                }
                entry.finish()
            })
            .collect();
        let entries = b.create_vector(&entries);
        let mut schema = ipc::SchemaBuilder::new(b);
        schema.add_endianness(if self.big_endian { ipc::Endianness::Big } else { ipc::Endianness::Little });
        if let Some(fields) = fields {
            schema.add_fields(fields);
        }
        schema.add_custom_metadata(entries);
        schema.finish().as_union_value()
    }
}

impl Field {
    fn parse(field: &ipc::Field<'_>) -> Self {
        Self {
            name: field.name().map(str::to_owned),
            nullable: field.nullable(),
            kind: match field.type_type() {
                ipc::Type::Utf8 => Kind::Utf8,
                _ => field
                    .type_as_int()
                    .map(|int| Kind::Int { bits: int.bitWidth(), signed: int.is_signed() })
                    .unwrap(),
            },
            dictionary: field.dictionary().map(|dictionary| Encoding {
                id: dictionary.id(),
                index: dictionary.indexType().map(|int| (int.bitWidth(), int.is_signed())),
                ordered: dictionary.isOrdered(),
            }),
            children: Vec::new(),
        }
    }

    fn encode<'b>(&self, b: &mut Builder<'b>) -> WIPOffset<ipc::Field<'b>> {
        let name = self.name.as_ref().map(|name| b.create_string(name));
        let children: Vec<_> = self.children.iter().map(|child| child.encode(b)).collect();
        let children = b.create_vector(&children);
        let dictionary = self.dictionary.as_ref().map(|encoding| {
            let index = encoding.index.map(|(bits, signed)| int(b, bits, signed));
            let mut dictionary = ipc::DictionaryEncodingBuilder::new(b);
            dictionary.add_id(encoding.id);
            if let Some(index) = index {
                dictionary.add_indexType(index);
            }
            dictionary.add_isOrdered(encoding.ordered);
            dictionary.finish()
        });
        let (kind, type_) = match self.kind {
            Kind::Int { bits, signed } => (ipc::Type::Int, Some(int(b, bits, signed).as_union_value())),
            Kind::Utf8 => (ipc::Type::Utf8, Some(ipc::Utf8Builder::new(b).finish().as_union_value())),
            Kind::LargeUtf8 => {
                (ipc::Type::LargeUtf8, Some(ipc::LargeUtf8Builder::new(b).finish().as_union_value()))
            }
            Kind::Binary => (ipc::Type::Binary, Some(ipc::BinaryBuilder::new(b).finish().as_union_value())),
            Kind::Bool => (ipc::Type::Bool, Some(ipc::BoolBuilder::new(b).finish().as_union_value())),
            Kind::None => (ipc::Type::NONE, None),
        };
        let mut field = ipc::FieldBuilder::new(b);
        if let Some(name) = name {
            field.add_name(name);
        }
        field.add_nullable(self.nullable);
        field.add_type_type(kind);
        if let Some(type_) = type_ {
            field.add_type_(type_);
        }
        if let Some(dictionary) = dictionary {
            field.add_dictionary(dictionary);
        }
        field.add_children(children);
        field.finish()
    }
}

fn int<'b>(b: &mut Builder<'b>, bits: i32, signed: bool) -> WIPOffset<ipc::Int<'b>> {
    let mut int = ipc::IntBuilder::new(b);
    int.add_bitWidth(bits);
    int.add_is_signed(signed);
    int.finish()
}

/// Random numbers from a seed (SplitMix64): each mutation has its own, so that one can be replayed alone.
#[derive(Debug, Clone)]
pub struct Dice(pub u64);

impl Dice {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `limit`; 0 if that is 0.
    pub fn below(&mut self, limit: usize) -> usize {
        self.next().checked_rem(limit as u64).unwrap_or(0) as usize
    }

    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub fn pick<'t, T>(&mut self, of: &'t [T]) -> &'t T {
        &of[self.below(of.len())]
    }
}
