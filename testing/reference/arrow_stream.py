"""Strict reader of an Arrow IPC stream that holds a sealed snapshot (contract, section 2).

    stream   := message* end
    message  := FF FF FF FF | int32 metadata_size | flatbuffer Message, padded to 8 | body, padded to 8
    end      := FF FF FF FF 00 00 00 00, the last 8 bytes of the stream

Why not simply pyarrow: a general reader is lenient on purpose. It takes old versions, deltas, replaced dictionaries,
compressed bodies, zeroed validity bits under a null count of 0, bytes behind the end. The contract refuses all of
these, so the framing, the flatbuffers and the buffers are walked here by hand; each length is checked against the bytes
that are there before it is used.

Every fault is a `StreamFault`. Names, amounts and identities are not judged here but in `reference.py`.
"""

import dataclasses
import struct

CONTINUATION = b"\xff\xff\xff\xff"
END_OF_STREAM = CONTINUATION + b"\0\0\0\0"
METADATA_BYTES_MAX = 64 * 1024
ALIGNMENT = 8

# Numbers of Arrow's Schema.fbs and Message.fbs.
METADATA_VERSION_V5 = 4
ENDIANNESS_LITTLE = 0
HEADER_SCHEMA, HEADER_DICTIONARY_BATCH, HEADER_RECORD_BATCH = 1, 2, 3
TYPE_INT, TYPE_UTF8 = 2, 5


class StreamFault(Exception):
    """The bytes are not a stream of the sealed form."""


def require(condition, message):
    if not condition:
        raise StreamFault(message)


# ---------------------------------------------------------------------------------------------------- flatbuffers


class Metadata:
    """The bytes of one flatbuffer; every read is checked against their end."""

    def __init__(self, data):
        self.data = data

    def read(self, form, position):
        size = struct.calcsize(form)
        require(0 <= position <= len(self.data) - size, "flatbuffer: an offset points outside the metadata")
        return struct.unpack_from(form, self.data, position)[0]

    def span(self, position, size):
        require(size >= 0 and 0 <= position <= len(self.data) - size, "flatbuffer: a value ends outside the metadata")
        return bytes(self.data[position : position + size])

    def follow(self, position):
        """The target of the forward offset stored at `position`."""
        return position + self.read("<I", position)

    def root(self):
        return Table(self, self.follow(0))


class Table:
    """One flatbuffer table: fields by number, absent ones have their default."""

    def __init__(self, metadata, position):
        self.metadata = metadata
        self.position = position
        self.vtable = position - metadata.read("<i", position)
        self.vtable_size = metadata.read("<H", self.vtable)
        table_size = metadata.read("<H", self.vtable + 2)
        require(self.vtable_size >= 4 and self.vtable_size % 2 == 0, "flatbuffer: a vtable has an impossible size")
        metadata.span(self.vtable, self.vtable_size)
        metadata.span(position, table_size)
        self.table_size = table_size

    def slot(self, number):
        entry = 4 + 2 * number
        if entry >= self.vtable_size:
            return None
        offset = self.metadata.read("<H", self.vtable + entry)
        if offset == 0:
            return None
        require(offset < self.table_size, "flatbuffer: a field lies outside its table")
        return self.position + offset

    def scalar(self, number, form, default=0):
        slot = self.slot(number)
        return default if slot is None else self.metadata.read("<" + form, slot)

    def table(self, number):
        slot = self.slot(number)
        return None if slot is None else Table(self.metadata, self.metadata.follow(slot))

    def text(self, number):
        slot = self.slot(number)
        if slot is None:
            return None
        start = self.metadata.follow(slot)
        size = self.metadata.read("<I", start)
        try:
            return self.metadata.span(start + 4, size).decode("utf-8")
        except UnicodeDecodeError:
            raise StreamFault("flatbuffer: a string is not UTF-8") from None

    def _vector(self, number, item_size):
        slot = self.slot(number)
        if slot is None:
            return 0, 0
        start = self.metadata.follow(slot)
        count = self.metadata.read("<I", start)
        # Before anything of `count` items is built: do they fit?
        self.metadata.span(start + 4, count * item_size)
        return start + 4, count

    def tables(self, number):
        start, count = self._vector(number, 4)
        return [Table(self.metadata, self.metadata.follow(start + 4 * i)) for i in range(count)]

    def pairs(self, number):
        """A vector of structs of two int64: field nodes (length, null_count) and buffers (offset, length)."""
        start, count = self._vector(number, 16)
        return [struct.unpack_from("<qq", self.metadata.data, start + 16 * i) for i in range(count)]


# -------------------------------------------------------------------------------------------------------- framing


@dataclasses.dataclass
class Message:
    header_type: int
    header: Table
    body: memoryview


def messages(stream):
    """The messages of the stream in order; returns only if the end-of-stream marker closes it exactly."""
    view = memoryview(stream)
    position = 0
    while True:
        prefix = bytes(view[position : position + 8])
        require(len(prefix) == 8, "the stream ends without an end-of-stream marker")
        require(prefix[:4] == CONTINUATION, "a message does not begin with the continuation marker")
        (metadata_size,) = struct.unpack("<i", prefix[4:])
        position += 8
        if metadata_size == 0:
            require(position == len(view), "bytes follow the end-of-stream marker")
            return
        require(0 < metadata_size <= METADATA_BYTES_MAX, f"a message declares {metadata_size} bytes of metadata")
        require(metadata_size % ALIGNMENT == 0, "a message's metadata is not padded to 8 bytes")
        require(metadata_size <= len(view) - position, "the stream ends inside a message's metadata")
        message = Metadata(view[position : position + metadata_size]).root()
        position += metadata_size
        require(message.scalar(0, "h") == METADATA_VERSION_V5, "a message is not of format V5")
        header_type = message.scalar(1, "B")
        header = message.table(2)
        require(header is not None, "a message has no header")
        body_size = message.scalar(3, "q")
        require(0 <= body_size <= len(view) - position, "a message's body lies outside the stream")
        require(body_size % ALIGNMENT == 0, "a message's body is not padded to 8 bytes")
        yield Message(header_type, header, view[position : position + body_size])
        position += body_size


# --------------------------------------------------------------------------------------------------------- schema


@dataclasses.dataclass
class Schema:
    metadata: list  # pairs (key, value), in the stream's order, duplicates included
    actor_dictionary: int
    category_dictionary: int


def _require_int(type_table, bits, what):
    require(type_table is not None, f"{what} has no type")
    require(type_table.scalar(0, "i") == bits, f"{what} is not {bits} bits wide")
    require(type_table.scalar(1, "B") == 0, f"{what} is signed")


def _dictionary_field(field, name, index_bits):
    require(field.scalar(2, "B") == TYPE_UTF8, f"the values of column {name} are not utf8")
    encoding = field.table(4)
    require(encoding is not None, f"column {name} is not dictionary encoded")
    _require_int(encoding.table(1), index_bits, f"the dictionary index of column {name}")
    require(encoding.scalar(3, "h") == 0, f"column {name} has an unknown kind of dictionary")
    return encoding.scalar(0, "q")


def read_schema(message):
    require(message.header_type == HEADER_SCHEMA, "the first message is not a schema")
    require(len(message.body) == 0, "the schema message has a body")
    schema = message.header
    require(schema.scalar(0, "h") == ENDIANNESS_LITTLE, "the stream is not little-endian")
    fields = schema.tables(1)
    names = [field.text(0) for field in fields]
    require(names == ["actor", "category", "units"], f"the columns are {names}")
    for field in fields:
        require(not field.tables(5), "a column has children")
    actor, category, units = fields
    actor_dictionary = _dictionary_field(actor, "actor", 32)
    category_dictionary = _dictionary_field(category, "category", 8)
    require(actor_dictionary != category_dictionary, "both columns name the same dictionary")
    require(units.table(4) is None, "column units is dictionary encoded")
    require(units.scalar(2, "B") == TYPE_INT, "column units is not an integer")
    _require_int(units.table(3), 64, "column units")
    metadata = [(entry.text(0), entry.text(1)) for entry in schema.tables(2)]
    require(all(key is not None and value is not None for key, value in metadata), "a metadata key or value is missing")
    return Schema(metadata, actor_dictionary, category_dictionary)


# -------------------------------------------------------------------------------------------------------- batches


class Body:
    """The field nodes and buffers of one record batch, handed out in the order of the schema."""

    def __init__(self, batch, body, columns, buffers_per_column):
        require(batch.slot(3) is None, "a body is compressed")
        self.rows = batch.scalar(0, "q")
        require(self.rows >= 0, "a batch declares a negative row count")
        nodes = batch.pairs(1)
        self.buffers = batch.pairs(2)
        require(len(nodes) == columns, f"a batch has {len(nodes)} field nodes, not {columns}")
        expected = columns * buffers_per_column
        require(len(self.buffers) == expected, f"a batch has {len(self.buffers)} buffers, not {expected}")
        for length, null_count in nodes:
            require(length == self.rows, "a column and its batch differ in length")
            require(null_count == 0, "a column holds nulls")
        self.body = body

    def _next(self):
        offset, length = self.buffers.pop(0)
        require(offset >= 0 and length >= 0, "a buffer has a negative offset or length")
        require(offset % ALIGNMENT == 0, "a buffer is not aligned to 8 bytes")
        require(offset <= len(self.body) and length <= len(self.body) - offset, "a buffer lies outside the body")
        return self.body[offset : offset + length]

    def validity(self):
        """A validity buffer may be there, but of ones only: the null count alone is not believed."""
        bits = self._next()
        if len(bits) == 0:
            return
        whole, rest = divmod(self.rows, 8)
        require(len(bits) >= whole + (rest > 0), "a validity buffer is too short")
        ones = all(byte == 0xFF for byte in bits[:whole])
        if rest:
            mask = (1 << rest) - 1
            ones = ones and bits[whole] & mask == mask
        require(ones, "a validity buffer marks a null")

    def numbers(self, letter, count=None):
        count = self.rows if count is None else count
        buffer = self._next()
        require(struct.calcsize("<" + letter) * count <= len(buffer), "a buffer is shorter than its rows")
        return struct.unpack_from(f"<{count}{letter}", buffer)

    def raw(self):
        return self._next()


def read_dictionary(message):
    """(dictionary id, its values as bytes)."""
    batch = message.header
    require(batch.scalar(2, "B") == 0, "a dictionary batch is a delta")
    data = batch.table(1)
    require(data is not None, "a dictionary batch has no data")
    body = Body(data, message.body, columns=1, buffers_per_column=3)
    body.validity()
    if body.rows == 0:
        # Writers differ: an empty column has either one offset or no offsets buffer at all.
        body.raw()
        offsets = (0,)
    else:
        offsets = body.numbers("i", body.rows + 1)
    text = body.raw()
    require(offsets[0] >= 0, "a string offset is negative")
    require(all(a <= b for a, b in zip(offsets, offsets[1:])), "string offsets descend")
    require(offsets[-1] <= len(text), "a string ends outside its buffer")
    return batch.scalar(0, "q"), [bytes(text[a:b]) for a, b in zip(offsets, offsets[1:])]


def read_rows(message, actors, categories):
    """Three tuples: actor keys, category keys, units."""
    body = Body(message.header, message.body, columns=3, buffers_per_column=2)
    body.validity()
    actor_keys = body.numbers("I")
    body.validity()
    category_keys = body.numbers("B")
    body.validity()
    units = body.numbers("Q")
    require(max(actor_keys, default=-1) < len(actors), "an actor key lies outside its dictionary")
    require(max(category_keys, default=-1) < len(categories), "a category key lies outside its dictionary")
    return actor_keys, category_keys, units


@dataclasses.dataclass
class Stream:
    metadata: list
    actors: list  # dictionary values as bytes
    categories: list
    batches: list  # of (actor keys, category keys, units)


def read_stream(stream):
    sequence = messages(stream)
    first = next(sequence, None)
    require(first is not None, "the stream holds no schema")
    schema = read_schema(first)
    wanted = {schema.actor_dictionary, schema.category_dictionary}
    dictionaries = {}
    batches = []
    for message in sequence:
        if message.header_type == HEADER_DICTIONARY_BATCH:
            require(not batches, "a dictionary follows a record batch")
            identifier, values = read_dictionary(message)
            require(identifier in wanted, "a dictionary belongs to no column")
            require(identifier not in dictionaries, "a dictionary comes twice")
            dictionaries[identifier] = values
        elif message.header_type == HEADER_RECORD_BATCH:
            require(len(dictionaries) == 2, "a record batch comes before its dictionaries")
            actors = dictionaries[schema.actor_dictionary]
            categories = dictionaries[schema.category_dictionary]
            batches.append(read_rows(message, actors, categories))
        else:
            raise StreamFault(f"a message has the header type {message.header_type}")
    return Stream(
        schema.metadata,
        dictionaries.get(schema.actor_dictionary, []),
        dictionaries.get(schema.category_dictionary, []),
        batches,
    )
