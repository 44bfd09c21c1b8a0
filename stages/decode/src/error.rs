//! What can be wrong with a snapshot: every refusal of contract §2 has its own sentence, and says where it happened.

use std::fmt;

macro_rules! faults {
    ($($variant:ident $text:literal;)*) => {
        /// The rule that a snapshot breaks. Sentences name the rule and what to do, never the bytes that broke it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Fault { $(#[doc = $text] $variant,)* }

        impl Fault {
            /// Every fault there is.
            pub const ALL: &[Fault] = &[$(Fault::$variant,)*];

            /// The sentence.
            pub const fn text(self) -> &'static str {
                match self { $(Fault::$variant => $text,)* }
            }
        }
    };
}

faults! {
    FileNotStream "this is an Arrow file; a snapshot is an Arrow stream (`ronctl seal` makes one of it)";
    NoContinuation "a message does not begin with the continuation marker 0xFFFFFFFF";
    Truncated "the stream ends inside a message";
    NoEndOfStream "the stream does not end with the end-of-stream marker";
    TrailingBytes "there are bytes after the end-of-stream marker";
    MetadataTooLarge "a message has more than 64 KiB of metadata";
    MetadataUnaligned "a message's metadata does not end at a multiple of 8 bytes";
    MetadataInvalid "a message's metadata is not a valid flatbuffer";
    VersionNotV5 "a message is not of metadata version V5";
    BodyLengthInvalid "a message's body length is negative or no multiple of 8";
    BodyBeyondEnd "a message declares a body that is longer than what is left of the stream";
    FirstNotSchema "the first message is not a schema";
    SchemaTwice "there is a second schema message";
    SchemaWithBody "the schema message has a body";
    MessageKind "a message is neither schema, dictionary batch nor record batch";
    BigEndian "the stream is big-endian";
    ColumnCount "the schema does not have exactly the columns actor, category and units";
    ColumnName "a column does not have the name that belongs in its place (actor, category, units)";
    ActorType "the actor column is not dictionary<uint32, utf8>";
    CategoryType "the category column is not dictionary<uint8, utf8>";
    UnitsType "the units column is not uint64";
    DictionaryOrdered "a dictionary is declared as ordered, which is another type";
    DictionaryIdShared "both dictionaries have the same id";
    KeyMissing "a key of the schema metadata that has to be there is missing (rewarder.schema, .tenant, .epoch, .asset, .pool_minor_units)";
    KeyTwice "a rewarder.* key stands twice in the schema metadata";
    KeyUnknown "the schema metadata has a rewarder.* key that is not known";
    KeyNull "an entry of the schema metadata has no key or no value";
    SchemaVersion "rewarder.schema is not snapshot.v1";
    TenantInvalid "rewarder.tenant is no tenant: 1 to 64 of a-z, 0-9 and -";
    EpochInvalid "rewarder.epoch is no epoch id: 1 to 128 of A-Z, a-z, 0-9, '.', '_', ':' and '-', the first a letter or digit";
    AssetInvalid "rewarder.asset is no asset: 1 to 64 of printable ASCII without quotes and backslash";
    PoolInvalid "rewarder.pool_minor_units is no amount: 1 to 38 decimal digits without sign, point or leading zero";
    Compressed "a message's buffers are compressed";
    DictionaryUnknown "a dictionary batch has an id that no column names";
    DictionaryTwice "a dictionary is sent a second time";
    DictionaryDelta "a dictionary batch is a delta";
    DictionaryMissing "a record batch comes before the dictionaries of both columns";
    DictionaryEmptyBatch "a dictionary batch holds no data";
    NodeCount "a batch does not have one field node for each column";
    NodeLength "a field node's length is not that of its batch";
    LengthNegative "a batch has a negative length";
    NullCount "a column declares nulls";
    ValidityTooShort "a validity buffer is too short for its rows";
    ValidityZero "a validity buffer marks a row as null";
    BufferCount "a batch does not have the buffers that its columns need";
    BufferNegative "a buffer has a negative offset or length";
    BufferUnaligned "a buffer does not begin at a multiple of 8 bytes";
    BufferOverlap "a buffer begins before the end of the one that is listed before it";
    BufferBeyondBody "a buffer reaches beyond the body of its message";
    BufferTooShort "a buffer is too short for its rows";
    OffsetsInvalid "a dictionary's offsets decrease or reach beyond its bytes";
    DictionaryTooLong "a dictionary has more values than its keys can name";
    NotUtf8 "a dictionary value is not UTF-8";
    ActorEmpty "an actor's name is empty";
    ActorTooLong "an actor's name is longer than 256 bytes";
    ActorControl "an actor's name holds a control character";
    CategoryInvalid "a category is not 1 to 64 of printable ASCII without quotes and backslash";
    ValueTwice "a dictionary holds one value twice";
    KeyOutOfRange "a row's dictionary key names no value";
}

/// Where in the stream: message index from 0, column name, row (from 0, within the stream) or dictionary index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Place {
    /// Index of the message, the schema being 0.
    pub message: Option<u64>,
    /// Which column.
    pub column: Option<&'static str>,
    /// Which row of the whole stream.
    pub row: Option<u64>,
    /// Which value of a dictionary.
    pub value: Option<u64>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = " (";
        let mut part = |f: &mut fmt::Formatter<'_>, text: fmt::Arguments<'_>| {
            f.write_str(separator)?;
            separator = ", ";
            f.write_fmt(text)
        };
        if let Some(message) = self.message {
            part(f, format_args!("message {message}"))?;
        }
        if let Some(column) = self.column {
            part(f, format_args!("column {column}"))?;
        }
        if let Some(row) = self.row {
            part(f, format_args!("row {row}"))?;
        }
        if let Some(value) = self.value {
            part(f, format_args!("dictionary value {value}"))?;
        }
        if *self != Self::default() { f.write_str(")") } else { Ok(()) }
    }
}

/// Why no epoch came out of the bytes.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// The bytes are not those of the CID. Nothing else about them has been said to anyone.
    #[error("the bytes hash to another CID than the one they are stored under")]
    CidMismatch,
    /// The bytes break a rule of the format.
    #[error("{}{place}", .fault.text())]
    Invalid {
        /// The rule.
        fault: Fault,
        /// Where it was broken.
        place: Place,
    },
    /// The bytes could not be read.
    #[error("the snapshot cannot be read: {0}")]
    Io(#[from] std::io::Error),
}

/// A fault at a place: what the floor's functions fail with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Broken {
    pub fault: Fault,
    pub place: Place,
}

impl Fault {
    pub(crate) fn at(self, place: Place) -> Broken {
        Broken { fault: self, place }
    }

    /// For faults whose place the caller fills in.
    pub(crate) fn here(self) -> Broken {
        self.at(Place::default())
    }
}

impl Broken {
    pub(crate) fn column(mut self, column: &'static str) -> Self {
        self.place.column.get_or_insert(column);
        self
    }

    pub(crate) fn message(mut self, message: u64) -> Self {
        self.place.message.get_or_insert(message);
        self
    }
}

impl From<Broken> for DecodeError {
    fn from(Broken { fault, place }: Broken) -> Self {
        Self::Invalid { fault, place }
    }
}
