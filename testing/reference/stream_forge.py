"""Writes Arrow IPC streams byte by byte, the valid ones and, on request, ones that no honest writer can produce.

A general writer such as pyarrow refuses to make most of what a hostile tenant can send. Here each part of a message is
a plain value that the caller may replace before it is written. Left at their defaults the parts make a stream that any
Arrow reader takes.

The flatbuffers are laid out parent before child, so every offset points forward, as the format wants; a vtable stands
directly before its table.
"""

import dataclasses
import struct

CONTINUATION = b"\xff\xff\xff\xff"
END_OF_STREAM = CONTINUATION + b"\0\0\0\0"

V4, V5 = 3, 4
LITTLE, BIG = 0, 1
HEADER_SCHEMA, HEADER_DICTIONARY_BATCH, HEADER_RECORD_BATCH, HEADER_TENSOR = 1, 2, 3, 4
TYPE_INT, TYPE_FLOATING_POINT, TYPE_BINARY, TYPE_UTF8, TYPE_LARGE_UTF8 = 2, 3, 4, 5, 20
CODEC_LZ4_FRAME = 0


# ---------------------------------------------------------------------------------------------------- flatbuffers


@dataclasses.dataclass
class Scalar:
    form: str
    value: int


@dataclasses.dataclass
class Text:
    data: bytes


@dataclasses.dataclass
class Tables:
    items: list


@dataclasses.dataclass
class Pairs:
    """A vector of structs of two int64."""

    items: list
    declared: int = None  # the count to write, when it should lie


@dataclasses.dataclass
class Table:
    fields: dict  # field number -> Scalar, Text, Tables, Pairs or Table


def flatbuffer(root):
    out = bytearray(4)
    struct.pack_into("<I", out, 0, _write(out, root))
    return bytes(out)


def _pad(out, alignment, ahead=0):
    """Zeros until the position `ahead` bytes further on is aligned."""
    while (len(out) + ahead) % alignment:
        out.append(0)


def _write(out, value):
    """Appends `value`; returns the position that an offset to it must name."""
    return {Text: _write_text, Pairs: _write_pairs, Tables: _write_tables, Table: _write_table}[type(value)](out, value)


def _write_text(out, text):
    _pad(out, 4)
    position = len(out)
    out += struct.pack("<I", len(text.data)) + text.data + b"\0"
    return position


def _write_pairs(out, pairs):
    _pad(out, 8, ahead=4)
    position = len(out)
    out += struct.pack("<I", len(pairs.items) if pairs.declared is None else pairs.declared)
    for pair in pairs.items:
        out += struct.pack("<qq", *pair)
    return position


def _write_tables(out, tables):
    _pad(out, 4)
    position = len(out)
    out += struct.pack("<I", len(tables.items)) + bytes(4 * len(tables.items))
    for index, item in enumerate(tables.items):
        slot = position + 4 + 4 * index
        struct.pack_into("<I", out, slot, _write(out, item) - slot)
    return position


def _write_table(out, table):
    fields = {number: value for number, value in table.fields.items() if value is not None}
    count = max(fields, default=-1) + 1
    vtable_size = 4 + 2 * count
    # The vtable ends where the table begins, and the table begins 4 bytes before a multiple of 8: behind its own
    # offset the widest fields then stand aligned.
    _pad(out, 8, ahead=vtable_size + 4)
    vtable = len(out)
    out += bytes(vtable_size)
    position = len(out)
    out += struct.pack("<i", position - vtable)
    slots = {}
    width = {number: struct.calcsize(v.form) if isinstance(v, Scalar) else 4 for number, v in fields.items()}
    for number in sorted(fields, key=lambda number: -width[number]):
        _pad(out, width[number])
        slots[number] = len(out)
        value = fields[number]
        out += struct.pack("<" + value.form, value.value) if isinstance(value, Scalar) else bytes(4)
    struct.pack_into("<HH", out, vtable, vtable_size, len(out) - position)
    for number, slot in slots.items():
        struct.pack_into("<H", out, vtable + 4 + 2 * number, slot - position)
    for number, slot in slots.items():
        if not isinstance(fields[number], Scalar):
            struct.pack_into("<I", out, slot, _write(out, fields[number]) - slot)
    return position


# -------------------------------------------------------------------------------------------------------- schema


def integer(bits, signed):
    return Table({0: Scalar("i", bits), 1: Scalar("B", int(signed))})


def field(name, type_number, type_table, dictionary=None, nullable=False):
    return Table(
        {
            0: None if name is None else Text(name.encode()),
            1: Scalar("B", int(nullable)),
            2: Scalar("B", type_number),
            3: type_table,
            4: dictionary,
            5: Tables([]),
        }
    )


def encoded_by(identifier, bits, signed=False):
    return Table({0: Scalar("q", identifier), 1: integer(bits, signed), 2: Scalar("B", 0)})


ACTOR_DICTIONARY, CATEGORY_DICTIONARY = 0, 1


def actor_field(**options):
    return field("actor", TYPE_UTF8, Table({}), encoded_by(ACTOR_DICTIONARY, 32), **options)


def category_field(**options):
    return field("category", TYPE_UTF8, Table({}), encoded_by(CATEGORY_DICTIONARY, 8), **options)


def units_field(**options):
    return field("units", TYPE_INT, integer(64, False), **options)


def fields(**options):
    return [actor_field(**options), category_field(**options), units_field(**options)]


def key_value(key, value):
    """A metadata entry; a side that is None is left out."""
    as_text = lambda side: None if side is None else Text(side if isinstance(side, bytes) else side.encode())
    return Table({0: as_text(key), 1: as_text(value)})


# ------------------------------------------------------------------------------------------------------- messages


def frame(message, body=b"", declared=None):
    """Prefix, metadata padded to 8 bytes, body; `declared` replaces the metadata's size when it should lie."""
    metadata = flatbuffer(message)
    metadata += bytes(-len(metadata) % 8)
    size = len(metadata) if declared is None else declared
    return CONTINUATION + struct.pack("<i", size) + metadata + body


def message(header_type, header, body=b"", version=V5, body_declared=None, declared=None):
    table = Table(
        {
            0: Scalar("h", version),
            1: Scalar("B", header_type),
            2: header,
            3: Scalar("q", len(body) if body_declared is None else body_declared),
        }
    )
    return frame(table, body, declared)


def schema(pairs, columns=None, endianness=LITTLE, **options):
    header = Table(
        {
            0: Scalar("h", endianness),
            1: Tables(fields() if columns is None else columns),
            2: Tables([key_value(key, value) for key, value in pairs]),
        }
    )
    return message(HEADER_SCHEMA, header, **options)


@dataclasses.dataclass
class Batch:
    """A record batch in the making: each number may be changed before `table` and `body` are taken."""

    length: int
    nodes: list  # of (length, null_count)
    chunks: list  # buffers' bytes
    buffers: list = None  # of (offset, length); computed from the chunks
    body: bytes = b""
    compression: int = None
    nodes_declared: int = None
    buffers_declared: int = None

    def __post_init__(self):
        self.buffers = []
        for chunk in self.chunks:
            self.buffers.append((len(self.body), len(chunk)))
            self.body += chunk + bytes(-len(chunk) % 8)

    def set_buffer(self, index, offset=None, length=None):
        old_offset, old_length = self.buffers[index]
        self.buffers[index] = (old_offset if offset is None else offset, old_length if length is None else length)
        return self

    def table(self):
        compression = None if self.compression is None else Table({0: Scalar("b", self.compression)})
        return Table(
            {
                0: Scalar("q", self.length),
                1: Pairs(self.nodes, self.nodes_declared),
                2: Pairs(self.buffers, self.buffers_declared),
                3: compression,
            }
        )


def text_batch(values, validity=b""):
    offsets, end = [0], 0
    for value in values:
        end += len(value)
        offsets.append(end)
    packed = struct.pack(f"<{len(offsets)}i", *offsets)
    return Batch(len(values), [(len(values), 0)], [validity, packed, b"".join(values)])


def dictionary(identifier, values=None, batch=None, delta=None, **options):
    batch = text_batch(values) if batch is None else batch
    header = Table(
        {
            0: Scalar("q", identifier),
            1: batch.table(),
            2: None if delta is None else Scalar("B", int(delta)),
        }
    )
    return message(HEADER_DICTIONARY_BATCH, header, batch.body, **options)


def row_batch(rows, validity=lambda count: b""):
    """`rows` are (actor key, category key, units); `validity` gives each column's validity buffer."""
    count = len(rows)
    actors, categories, units = zip(*rows) if rows else ((), (), ())
    chunks = [
        validity(count),
        struct.pack(f"<{count}I", *actors),
        validity(count),
        struct.pack(f"<{count}B", *categories),
        validity(count),
        struct.pack(f"<{count}Q", *units),
    ]
    return Batch(count, [(count, 0)] * 3, chunks)


def ones(count):
    """A validity buffer that marks every row as present; the bits behind the last row stay zero."""
    bits = (1 << count) - 1
    return bits.to_bytes((count + 7) // 8, "little")


def record(rows=None, batch=None, **options):
    batch = row_batch(rows) if batch is None else batch
    return message(HEADER_RECORD_BATCH, batch.table(), batch.body, **options)
