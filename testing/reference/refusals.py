"""Inputs that must be refused, each with a name and the reason, made by construction.

Every kind breaks one rule of the contract and keeps the others, so that an accepted one points at the missing check.
A kind is a function that returns the bytes; `@snapshot` and `@policy` enter it into `KINDS` under its own name.
"""

import dataclasses
import json
import struct

import pyarrow

import stream_forge as forge
from stream_forge import ACTOR_DICTIONARY, CATEGORY_DICTIONARY, END_OF_STREAM

ACTORS = [b"alice", b"bob", b"carol"]
CATEGORIES = [b"views", b"subs"]
ROWS = [(0, 0, 10), (1, 1, 20), (2, 0, 30), (0, 1, 0)]
METADATA = {
    "rewarder.schema": "snapshot.v1",
    "rewarder.tenant": "acme",
    "rewarder.epoch": "2026-w07",
    "rewarder.asset": "roc",
    "rewarder.pool_minor_units": "1000",
}
POLICY = {
    "schema": "rewarder.policy.v1",
    "id": "rev42",
    "mode": "share",
    "weights": {"views": "0.3", "subs": "0.7"},
    "rounding": "largest_remainder",
}


@dataclasses.dataclass
class Kind:
    name: str
    reason: str
    inputs: bytes
    policy: bytes


KINDS = {}


def seal(schema=None, actors=None, categories=None, dictionaries=None, batches=None, end=END_OF_STREAM, metadata=None):
    """A good stream, in which any part may be replaced."""
    if schema is None:
        schema = forge.schema((METADATA if metadata is None else metadata).items())
    if dictionaries is None:
        dictionaries = [
            forge.dictionary(ACTOR_DICTIONARY, ACTORS if actors is None else actors),
            forge.dictionary(CATEGORY_DICTIONARY, CATEGORIES if categories is None else categories),
        ]
    batches = [forge.record(ROWS)] if batches is None else batches
    return b"".join([schema, *dictionaries, *batches, end])


def policy_with(**changes):
    return json.dumps(POLICY | changes).encode()


def good_inputs():
    return seal()


def good_policy():
    return policy_with()


def enter(name, reason, inputs, policy):
    assert name not in KINDS, name
    KINDS[name] = Kind(name, reason, inputs, policy)


def snapshot(function):
    enter("snapshot_" + function.__name__, "snapshot_invalid", function(), good_policy())
    return function


def with_metadata(name, **changes):
    """A kind that differs in metadata values alone; the value None leaves a key out."""
    pairs = METADATA | {"rewarder." + key: value for key, value in changes.items()}
    inputs = seal(metadata={key: value for key, value in pairs.items() if value is not None})
    enter("snapshot_" + name, "snapshot_invalid", inputs, good_policy())


def with_columns(name, columns):
    enter("snapshot_" + name, "snapshot_invalid", seal(schema=forge.schema(METADATA.items(), columns)), good_policy())


def with_actor(name, actor):
    inputs = seal(actors=ACTORS + [actor])  # no row uses it: the rules hold for unused values too
    enter("snapshot_actor_" + name, "snapshot_invalid", inputs, good_policy())


def with_category(name, category):
    enter("snapshot_category_" + name, "snapshot_invalid", seal(categories=CATEGORIES + [category]), good_policy())


def with_rows(name, change):
    """A kind that differs in its one record batch."""
    batch = forge.row_batch(ROWS)
    change(batch)
    enter("snapshot_" + name, "snapshot_invalid", seal(batches=[forge.record(batch=batch)]), good_policy())


def with_actor_dictionary(name, change):
    batch = forge.text_batch(ACTORS)
    change(batch)
    dictionaries = [forge.dictionary(ACTOR_DICTIONARY, batch=batch), forge.dictionary(CATEGORY_DICTIONARY, CATEGORIES)]
    enter("snapshot_" + name, "snapshot_invalid", seal(dictionaries=dictionaries), good_policy())


def overwrite(batch, buffer, data):
    offset, _ = batch.buffers[buffer]
    batch.body = batch.body[:offset] + data + batch.body[offset + len(data) :]


# ------------------------------------------------------------------------------------------------ snapshot: framing


@snapshot
def empty():
    return b""


@snapshot
def end_marker_only():
    return END_OF_STREAM


@snapshot
def random_text():
    return b"actor,category,units\nalice,views,10\n"


@snapshot
def cut_by_one_byte():
    return good_inputs()[:-1]


@snapshot
def cut_in_prefix():
    return seal(end=END_OF_STREAM[:4])


@snapshot
def cut_in_schema():
    return good_inputs()[:100]


@snapshot
def cut_in_last_body():
    return seal(end=b"")[:-16]


@snapshot
def no_end_of_stream():
    return seal(end=b"")


@snapshot
def end_of_stream_in_old_form():
    return seal(end=bytes(4))


@snapshot
def end_of_stream_twice():
    return seal(end=END_OF_STREAM * 2)


@snapshot
def one_byte_after_end():
    return good_inputs() + b"\0"


@snapshot
def two_streams_in_a_row():
    return good_inputs() * 2


@snapshot
def file_format():
    return b"ARROW1\0\0" + good_inputs() + b"ARROW1"


@snapshot
def continuation_missing():
    return good_inputs()[4:]


@snapshot
def continuation_wrong():
    return b"\xff\xff\xff\xfe" + good_inputs()[4:]


@snapshot
def metadata_size_negative():
    return good_inputs()[:4] + struct.pack("<i", -8) + good_inputs()[8:]


@snapshot
def metadata_size_huge():
    return good_inputs()[:4] + struct.pack("<i", 2**31 - 8) + good_inputs()[8:]


@snapshot
def metadata_beyond_the_bytes():
    return END_OF_STREAM[:4] + struct.pack("<i", 4096) + good_inputs()[8:400]


@snapshot
def metadata_over_64_kib():
    return seal(metadata=METADATA | {"foreign": "x" * 70_000})


@snapshot
def metadata_over_64_kib_in_a_batch():
    header = forge.row_batch(ROWS)
    table = forge.Table(
        {
            0: forge.Scalar("h", forge.V5),
            1: forge.Scalar("B", forge.HEADER_RECORD_BATCH),
            2: header.table(),
            3: forge.Scalar("q", len(header.body)),
            4: forge.Tables([forge.key_value("padding", "x" * 70_000)]),
        }
    )
    return seal(batches=[forge.frame(table, header.body)])


@snapshot
def schema_version_4():
    return seal(schema=forge.schema(METADATA.items(), version=forge.V4))


@snapshot
def batch_version_4():
    return seal(batches=[forge.record(ROWS, version=forge.V4)])


@snapshot
def dictionary_version_4():
    dictionaries = [
        forge.dictionary(ACTOR_DICTIONARY, ACTORS, version=forge.V4),
        forge.dictionary(CATEGORY_DICTIONARY, CATEGORIES),
    ]
    return seal(dictionaries=dictionaries)


@snapshot
def version_of_the_future():
    return seal(schema=forge.schema(METADATA.items(), version=5))


@snapshot
def body_length_negative():
    return seal(batches=[forge.record(ROWS, body_declared=-8)])


@snapshot
def body_length_huge():
    return seal(batches=[forge.record(ROWS, body_declared=2**62)])


@snapshot
def body_length_past_the_end():
    batch = forge.row_batch(ROWS)
    return seal(batches=[forge.record(batch=batch, body_declared=len(batch.body) + 64)])


@snapshot
def body_length_too_short():
    batch = forge.row_batch(ROWS)
    return seal(batches=[forge.record(batch=batch, body_declared=len(batch.body) - 16)])


@snapshot
def header_missing():
    table = forge.Table({0: forge.Scalar("h", forge.V5), 1: forge.Scalar("B", forge.HEADER_RECORD_BATCH)})
    return seal(batches=[forge.frame(table)])


@snapshot
def header_type_unknown():
    return seal(batches=[forge.message(9, forge.row_batch([]).table())])


@snapshot
def tensor_message():
    return seal(batches=[forge.message(forge.HEADER_TENSOR, forge.Table({}))])


# --------------------------------------------------------------------------------------------- snapshot: flatbuffers


def damaged_schema(position, replacement):
    """The good schema message with bytes of its flatbuffer overwritten."""
    message = bytearray(forge.schema(METADATA.items()))
    message[8 + position : 8 + position + len(replacement)] = replacement
    return seal(schema=bytes(message))


@snapshot
def flatbuffer_root_outside():
    return damaged_schema(0, struct.pack("<I", 2**31))


@snapshot
def flatbuffer_zeros():
    return damaged_schema(0, bytes(256))


@snapshot
def flatbuffer_ones():
    return damaged_schema(0, b"\xff" * 64)


@snapshot
def flatbuffer_vtable_outside():
    message = forge.schema(METADATA.items())
    (root,) = struct.unpack_from("<I", message, 8)
    return damaged_schema(root, struct.pack("<i", -(2**30)))


@snapshot
def flatbuffer_vtable_size_huge():
    message = forge.schema(METADATA.items())
    (root,) = struct.unpack_from("<I", message, 8)
    (distance,) = struct.unpack_from("<i", message, 8 + root)
    return damaged_schema(root - distance, b"\xfe\xff")


@snapshot
def flatbuffer_string_length_huge():
    position = forge.schema(METADATA.items()).index(b"category") - 4 - 8
    return damaged_schema(position, struct.pack("<I", 2**32 - 1))


# -------------------------------------------------------------------------------------------------- snapshot: order


@snapshot
def no_schema():
    return seal(schema=b"")


@snapshot
def schema_twice():
    return forge.schema(METADATA.items()) + good_inputs()


@snapshot
def schema_last():
    return seal(schema=b"", end=forge.schema(METADATA.items()) + END_OF_STREAM)


@snapshot
def actor_dictionary_missing():
    return seal(dictionaries=[forge.dictionary(CATEGORY_DICTIONARY, CATEGORIES)])


@snapshot
def category_dictionary_missing():
    return seal(dictionaries=[forge.dictionary(ACTOR_DICTIONARY, ACTORS)])


@snapshot
def dictionaries_missing_for_an_empty_batch():
    return seal(dictionaries=[], batches=[forge.record([])])


@snapshot
def dictionary_after_the_first_batch():
    late = forge.dictionary(CATEGORY_DICTIONARY, CATEGORIES)
    return seal(dictionaries=[forge.dictionary(ACTOR_DICTIONARY, ACTORS)], batches=[forge.record(ROWS), late])


@snapshot
def dictionaries_after_an_empty_batch():
    late = [forge.dictionary(ACTOR_DICTIONARY, ACTORS), forge.dictionary(CATEGORY_DICTIONARY, CATEGORIES)]
    return seal(dictionaries=[], batches=[forge.record([]), *late, forge.record(ROWS)])


@snapshot
def dictionary_replaced_between_batches():
    again = forge.dictionary(ACTOR_DICTIONARY, [b"dave", b"erin", b"frank"])
    return seal(batches=[forge.record(ROWS), again, forge.record(ROWS)])


@snapshot
def dictionary_twice_with_the_same_values():
    once = forge.dictionary(ACTOR_DICTIONARY, ACTORS)
    return seal(dictionaries=[once, once, forge.dictionary(CATEGORY_DICTIONARY, CATEGORIES)])


@snapshot
def dictionary_delta_first():
    delta = forge.dictionary(ACTOR_DICTIONARY, ACTORS, delta=True)
    return seal(dictionaries=[delta, forge.dictionary(CATEGORY_DICTIONARY, CATEGORIES)])


@snapshot
def dictionary_delta_before_the_first_batch():
    delta = forge.dictionary(ACTOR_DICTIONARY, [b"dave"], delta=True)
    whole = [forge.dictionary(ACTOR_DICTIONARY, ACTORS), forge.dictionary(CATEGORY_DICTIONARY, CATEGORIES)]
    return seal(dictionaries=[*whole, delta])


@snapshot
def dictionary_delta_between_batches():
    delta = forge.dictionary(ACTOR_DICTIONARY, [b"dave"], delta=True)
    return seal(batches=[forge.record(ROWS), delta, forge.record([(3, 0, 1)])])


@snapshot
def dictionary_of_no_column():
    extra = forge.dictionary(7, [b"x"])
    whole = [forge.dictionary(ACTOR_DICTIONARY, ACTORS), forge.dictionary(CATEGORY_DICTIONARY, CATEGORIES)]
    return seal(dictionaries=[*whole, extra])


@snapshot
def dictionary_without_data():
    header = forge.Table({0: forge.Scalar("q", ACTOR_DICTIONARY)})
    empty = forge.message(forge.HEADER_DICTIONARY_BATCH, header)
    return seal(dictionaries=[empty, forge.dictionary(CATEGORY_DICTIONARY, CATEGORIES)])


# ------------------------------------------------------------------------------------------------- snapshot: schema


@snapshot
def big_endian():
    return seal(schema=forge.schema(METADATA.items(), endianness=forge.BIG))


ACTOR, CATEGORY, UNITS = forge.fields()
with_columns("no_columns", [])
with_columns("column_missing", [ACTOR, CATEGORY])
with_columns("column_extra", [ACTOR, CATEGORY, UNITS, forge.field("note", forge.TYPE_UTF8, forge.Table({}))])
with_columns("columns_in_another_order", [CATEGORY, ACTOR, UNITS])
with_columns("column_in_capitals", [ACTOR, CATEGORY, forge.field("Units", forge.TYPE_INT, forge.integer(64, False))])
with_columns("column_without_name", [ACTOR, CATEGORY, forge.field(None, forge.TYPE_INT, forge.integer(64, False))])
with_columns("column_twice", [ACTOR, ACTOR, CATEGORY, UNITS])
with_columns("actor_plain", [forge.field("actor", forge.TYPE_UTF8, forge.Table({})), CATEGORY, UNITS])


def recoded(name, type_number, identifier, bits, signed=False):
    return forge.field(name, type_number, forge.Table({}), forge.encoded_by(identifier, bits, signed))


with_columns("actor_large_utf8", [recoded("actor", forge.TYPE_LARGE_UTF8, ACTOR_DICTIONARY, 32), CATEGORY, UNITS])
with_columns("actor_binary", [recoded("actor", forge.TYPE_BINARY, ACTOR_DICTIONARY, 32), CATEGORY, UNITS])
with_columns("actor_key_signed", [recoded("actor", forge.TYPE_UTF8, ACTOR_DICTIONARY, 32, True), CATEGORY, UNITS])
with_columns("actor_key_64_bits", [recoded("actor", forge.TYPE_UTF8, ACTOR_DICTIONARY, 64), CATEGORY, UNITS])
with_columns("category_key_16_bits", [ACTOR, recoded("category", forge.TYPE_UTF8, CATEGORY_DICTIONARY, 16), UNITS])
with_columns("category_key_signed", [ACTOR, recoded("category", forge.TYPE_UTF8, CATEGORY_DICTIONARY, 8, True), UNITS])


@snapshot
def actor_key_type_absent():
    # The format's default for an absent index type is a signed 32-bit integer.
    encoding = forge.Table({0: forge.Scalar("q", ACTOR_DICTIONARY)})
    columns = [forge.field("actor", forge.TYPE_UTF8, forge.Table({}), encoding), CATEGORY, UNITS]
    return seal(schema=forge.schema(METADATA.items(), columns))


with_columns("units_signed", [ACTOR, CATEGORY, forge.field("units", forge.TYPE_INT, forge.integer(64, True))])
with_columns("units_32_bits", [ACTOR, CATEGORY, forge.field("units", forge.TYPE_INT, forge.integer(32, False))])
DOUBLE = forge.Table({0: forge.Scalar("h", 2)})
with_columns("units_float", [ACTOR, CATEGORY, forge.field("units", forge.TYPE_FLOATING_POINT, DOUBLE)])
UNITS_ENCODED = forge.field("units", forge.TYPE_INT, forge.integer(64, False), forge.encoded_by(2, 8))
with_columns("units_dictionary_encoded", [ACTOR, CATEGORY, UNITS_ENCODED])
with_columns("units_without_type", [ACTOR, CATEGORY, forge.field("units", 0, None)])


# ----------------------------------------------------------------------------------------------- snapshot: metadata

with_metadata("schema_key_missing", schema=None)
with_metadata("schema_v2", schema="snapshot.v2")
with_metadata("schema_long_form", schema="rewarder.snapshot.v1")
with_metadata("tenant_missing", tenant=None)
with_metadata("tenant_empty", tenant="")
with_metadata("tenant_in_capitals", tenant="Acme")
with_metadata("tenant_with_underscore", tenant="ac_me")
with_metadata("tenant_65_characters", tenant="t" * 65)
with_metadata("tenant_with_newline", tenant="acme\n")
with_metadata("epoch_missing", epoch=None)
with_metadata("epoch_empty", epoch="")
with_metadata("epoch_begins_with_dot", epoch=".2026")
with_metadata("epoch_with_slash", epoch="2026/07")
with_metadata("epoch_with_bar", epoch="2026|07")
with_metadata("epoch_with_space", epoch="2026 07")
with_metadata("epoch_129_characters", epoch="e" * 129)
with_metadata("epoch_with_foreign_digit", epoch="e\u0661")
with_metadata("asset_missing", asset=None)
with_metadata("asset_empty", asset="")
with_metadata("asset_with_quote", asset="r'oc")
with_metadata("asset_with_double_quote", asset='r"oc')
with_metadata("asset_with_backslash", asset="r\\oc")
with_metadata("asset_not_ascii", asset="r\u00f6c")
with_metadata("asset_with_tab", asset="r\toc")
with_metadata("asset_with_delete", asset="roc\x7f")
with_metadata("asset_65_characters", asset="r" * 65)
with_metadata("pool_missing", pool_minor_units=None)
with_metadata("pool_empty", pool_minor_units="")
with_metadata("pool_negative", pool_minor_units="-1")
with_metadata("pool_with_plus", pool_minor_units="+1")
with_metadata("pool_with_leading_zero", pool_minor_units="01")
with_metadata("pool_double_zero", pool_minor_units="00")
with_metadata("pool_with_fraction", pool_minor_units="1.0")
with_metadata("pool_with_exponent", pool_minor_units="1e3")
with_metadata("pool_with_space", pool_minor_units=" 1")
with_metadata("pool_with_newline", pool_minor_units="1\n")
with_metadata("pool_with_separator", pool_minor_units="1_000")
with_metadata("pool_in_foreign_digits", pool_minor_units="\u0661\u0662")
with_metadata("pool_39_digits", pool_minor_units="1" + "0" * 38)
with_metadata("key_unknown", note="x")
with_metadata("key_unknown_and_empty", **{"": "x"})


@snapshot
def key_twice():
    return seal(schema=forge.schema([*METADATA.items(), ("rewarder.tenant", "other")]))


@snapshot
def key_twice_with_the_same_value():
    return seal(schema=forge.schema([*METADATA.items(), ("rewarder.pool_minor_units", "1000")]))


@snapshot
def metadata_absent():
    return seal(metadata={})


@snapshot
def metadata_value_absent():
    columns = forge.Tables(forge.fields())
    pairs = [forge.key_value(key, None if key == "rewarder.asset" else value) for key, value in METADATA.items()]
    header = forge.Table({0: forge.Scalar("h", 0), 1: columns, 2: forge.Tables(pairs)})
    return seal(schema=forge.message(forge.HEADER_SCHEMA, header))


@snapshot
def metadata_value_not_utf8():
    return seal(metadata=METADATA | {"rewarder.asset": b"ro\xff"})


@snapshot
def foreign_metadata_not_utf8():
    return seal(metadata=METADATA | {"foreign": b"\xc3\x28"})


# -------------------------------------------------------------------------------------------------- snapshot: names

with_actor("empty", b"")
with_actor("257_bytes", b"n" * 257)
with_actor("257_bytes_in_129_characters", "\u00e9".encode() * 128 + b"n")
with_actor("with_nul", b"a\0b")
with_actor("with_newline", b"a\nb")
with_actor("with_tab", b"a\tb")
with_actor("with_delete", b"a\x7f")
with_actor("with_u0080", "a\u0080".encode())
with_actor("with_u0085", "a\u0085".encode())
with_actor("with_u009f", "a\u009f".encode())
with_actor("not_utf8", b"a\xff")
with_actor("utf8_cut_short", b"a\xf0\x9f\x98")
with_actor("utf8_surrogate", b"\xed\xa0\x80")
with_actor("utf8_overlong", b"\xc1\xa1")
with_actor("utf8_beyond_unicode", b"\xf4\x90\x80\x80")
with_actor("latin1_byte", b"caf\xe9")
with_category("empty", b"")
with_category("65_bytes", b"c" * 65)
with_category("with_quote", b"it's")
with_category("with_double_quote", b'a"b')
with_category("with_backslash", b"a\\b")
with_category("with_tab", b"a\tb")
with_category("with_delete", b"a\x7f")
with_category("not_ascii", "caf\u00e9".encode())
with_category("not_utf8", b"a\xff")


@snapshot
def actor_twice_in_dictionary():
    return seal(actors=[b"alice", b"bob", b"carol", b"bob"])


@snapshot
def actor_twice_both_used():
    return seal(actors=[b"alice", b"alice", b"carol"])


@snapshot
def category_twice_in_dictionary():
    return seal(categories=[b"views", b"subs", b"views"])


@snapshot
def utf8_split_between_values():
    # The whole buffer is UTF-8 (U+00E9), yet an offset cuts the character in two.
    batch = forge.text_batch([b"al\xc3", b"\xa9bob", b"carol"])
    return seal(
        dictionaries=[
            forge.dictionary(ACTOR_DICTIONARY, batch=batch),
            forge.dictionary(CATEGORY_DICTIONARY, CATEGORIES),
        ]
    )


# ------------------------------------------------------------------------------------------------ snapshot: buffers

# Buffers of a row batch: validity and values of actor (0, 1), category (2, 3) and units (4, 5).
with_rows("actor_key_outside", lambda b: overwrite(b, 1, struct.pack("<I", 3)))
with_rows("actor_key_all_ones", lambda b: overwrite(b, 1, b"\xff" * 4))
with_rows("category_key_outside", lambda b: overwrite(b, 3, b"\x02"))
with_rows("category_key_all_ones", lambda b: overwrite(b, 3, b"\xff"))
with_rows("row_count_negative", lambda b: setattr(b, "length", -1))
with_rows("row_count_huge", lambda b: (setattr(b, "length", 2**62), setattr(b, "nodes", [(2**62, 0)] * 3)))
with_rows("row_count_above_columns", lambda b: setattr(b, "length", len(ROWS) + 1))
with_rows("row_count_below_columns", lambda b: setattr(b, "length", len(ROWS) - 1))
with_rows("columns_of_unequal_length", lambda b: b.nodes.__setitem__(2, (len(ROWS) - 1, 0)))
with_rows("column_length_negative", lambda b: b.nodes.__setitem__(0, (-4, 0)))
with_rows("null_count_one", lambda b: b.nodes.__setitem__(2, (len(ROWS), 1)))
with_rows("nodes_missing", lambda b: b.nodes.pop())
with_rows("nodes_absent", lambda b: b.nodes.clear())
with_rows("buffers_missing", lambda b: b.buffers.pop())
with_rows("buffers_absent", lambda b: b.buffers.clear())
with_rows("nodes_declared_huge", lambda b: setattr(b, "nodes_declared", 2**28))
with_rows("buffers_declared_huge", lambda b: setattr(b, "buffers_declared", 2**32 - 1))
with_rows("buffer_offset_negative", lambda b: b.set_buffer(1, offset=-8))
with_rows("buffer_offset_huge", lambda b: b.set_buffer(1, offset=2**63 - 8))
with_rows("buffer_offset_past_body", lambda b: b.set_buffer(5, offset=len(b.body)))
with_rows("buffer_length_negative", lambda b: b.set_buffer(5, length=-1))
with_rows("buffer_length_huge", lambda b: b.set_buffer(5, length=2**62))
with_rows("buffer_end_past_body", lambda b: b.set_buffer(5, length=len(b.body)))
with_rows("buffer_end_overflows", lambda b: b.set_buffer(5, offset=2**63 - 8, length=2**63 - 8))
with_rows("actor_buffer_too_short", lambda b: b.set_buffer(1, length=4 * len(ROWS) - 1))
with_rows("category_buffer_too_short", lambda b: b.set_buffer(3, length=len(ROWS) - 1))
with_rows("units_buffer_too_short", lambda b: b.set_buffer(5, length=8 * len(ROWS) - 8))
with_rows("units_buffer_empty", lambda b: b.set_buffer(5, length=0))
with_rows("compressed_lz4", lambda b: setattr(b, "compression", forge.CODEC_LZ4_FRAME))


def with_validity(name, column, bits, null_count):
    chunks = forge.row_batch(ROWS).chunks
    chunks[2 * column] = bits
    nodes = [(len(ROWS), 0)] * 3
    nodes[column] = (len(ROWS), null_count)
    inputs = seal(batches=[forge.record(batch=forge.Batch(len(ROWS), nodes, chunks))])
    enter("snapshot_" + name, "snapshot_invalid", inputs, good_policy())


with_validity("null_actor", 0, b"\x0e", 1)
with_validity("null_category", 1, b"\x07", 1)
with_validity("null_units", 2, b"\x0d", 1)
with_validity("null_bit_under_null_count_zero", 2, b"\x0d", 0)
with_validity("all_null_bits_under_null_count_zero", 0, b"\x00", 0)


@snapshot
def null_in_the_second_byte_of_validity():
    batch = forge.row_batch([(0, 0, 1)] * 12, forge.ones)
    overwrite(batch, 4, b"\xff\x07")
    return seal(batches=[forge.record(batch=batch)])


@snapshot
def null_in_the_first_byte_of_validity():
    batch = forge.row_batch([(0, 0, 1)] * 12, forge.ones)
    overwrite(batch, 4, b"\xfe\x0f")
    return seal(batches=[forge.record(batch=batch)])


@snapshot
def validity_too_short():
    batch = forge.row_batch([(0, 0, 1)] * 12, forge.ones)
    batch.set_buffer(4, length=1)
    return seal(batches=[forge.record(batch=batch)])


@snapshot
def second_batch_is_bad():
    batch = forge.row_batch(ROWS)
    overwrite(batch, 1, struct.pack("<I", 3))
    return seal(batches=[forge.record(ROWS), forge.record(batch=batch)])


# Buffers of a dictionary: validity, offsets, text.
# The good offsets are 0, 5, 8, 13.


def declared_length(length):
    return lambda batch: (setattr(batch, "length", length), setattr(batch, "nodes", [(length, 0)]))


def offsets(*values):
    return lambda batch: overwrite(batch, 1, struct.pack(f"<{len(values)}i", *values))


with_actor_dictionary("dictionary_offsets_descend", offsets(0, 8, 5, 13))
with_actor_dictionary("dictionary_offset_negative", offsets(-5, 5, 8, 13))
with_actor_dictionary("dictionary_offset_past_text", offsets(0, 5, 8, 14))
with_actor_dictionary("dictionary_offset_huge", offsets(0, 5, 8, 2**31 - 1))
with_actor_dictionary("dictionary_middle_offset_huge", offsets(0, 5, 2**31 - 1, 13))
with_actor_dictionary("dictionary_offsets_too_short", lambda b: b.set_buffer(1, length=12))
with_actor_dictionary("dictionary_offsets_empty", lambda b: b.set_buffer(1, length=0))
with_actor_dictionary("dictionary_text_outside", lambda b: b.set_buffer(2, offset=2**40))
with_actor_dictionary("dictionary_length_negative", declared_length(-3))
with_actor_dictionary("dictionary_length_huge", declared_length(2**61))
with_actor_dictionary("dictionary_length_unlike_its_node", lambda b: setattr(b, "length", 2))
with_actor_dictionary("dictionary_null_count", lambda b: setattr(b, "nodes", [(3, 1)]))
with_actor_dictionary("dictionary_compressed", lambda b: setattr(b, "compression", forge.CODEC_LZ4_FRAME))
with_actor_dictionary("dictionary_without_nodes", lambda b: b.nodes.clear())
with_actor_dictionary("dictionary_without_text_buffer", lambda b: b.buffers.pop())


@snapshot
def dictionary_null_value():
    batch = forge.text_batch(ACTORS, b"\x05")
    batch.nodes = [(3, 1)]
    return seal(
        dictionaries=[
            forge.dictionary(ACTOR_DICTIONARY, batch=batch),
            forge.dictionary(CATEGORY_DICTIONARY, CATEGORIES),
        ]
    )


@snapshot
def dictionary_empty_under_rows():
    return seal(actors=[])


# ---------------------------------------------------------------------- snapshot: what an honest but other tool writes


def by_pyarrow(table, **options):
    sink = pyarrow.BufferOutputStream()
    with pyarrow.ipc.new_stream(sink, table.schema, options=pyarrow.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def pyarrow_table():
    actors = pyarrow.array([value.decode() for value in ACTORS])
    categories = pyarrow.array([value.decode() for value in CATEGORIES])
    keys, kinds, units = zip(*ROWS)
    columns = [
        pyarrow.DictionaryArray.from_arrays(pyarrow.array(keys, pyarrow.uint32()), actors),
        pyarrow.DictionaryArray.from_arrays(pyarrow.array(kinds, pyarrow.uint8()), categories),
        pyarrow.array(units, pyarrow.uint64()),
    ]
    return pyarrow.table(columns, names=["actor", "category", "units"]).replace_schema_metadata(METADATA)


@snapshot
def pyarrow_zstd():
    return by_pyarrow(pyarrow_table(), compression="zstd")


@snapshot
def pyarrow_lz4():
    return by_pyarrow(pyarrow_table(), compression="lz4")


@snapshot
def pyarrow_version_4():
    return by_pyarrow(pyarrow_table(), metadata_version=pyarrow.ipc.MetadataVersion.V4)


@snapshot
def pyarrow_legacy_framing():
    return by_pyarrow(pyarrow_table(), use_legacy_format=True)


@snapshot
def pyarrow_file():
    sink = pyarrow.BufferOutputStream()
    table = pyarrow_table()
    with pyarrow.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


@snapshot
def pyarrow_nulls():
    units = pyarrow.array([1, None, 3, 4], pyarrow.uint64())
    return by_pyarrow(pyarrow_table().set_column(2, "units", units))


# ---------------------------------------------------------------------------------------------------- policy: syntax


def with_policy_text(name, text):
    data = text if isinstance(text, bytes) else text.encode("utf-8")
    enter("policy_" + name, "policy_invalid", good_inputs(), data)


def with_policy(name, **changes):
    with_policy_text(name, policy_with(**changes))


def without(name, member):
    document = {key: value for key, value in POLICY.items() if key != member}
    with_policy_text(name, json.dumps(document))


GOOD = good_policy().decode()
with_policy_text("empty", "")
with_policy_text("white_space", " \n")
with_policy_text("byte_order_mark", "\ufeff" + GOOD)
with_policy_text("utf16", GOOD.encode("utf-16"))
with_policy_text("not_utf8", GOOD.replace("rev42", "rev\u00e9").encode("latin-1"))
with_policy_text("utf8_surrogate", GOOD.encode().replace(b"rev42", b"rev\xed\xa0\x80"))
with_policy_text("not_json", "schema: rewarder.policy.v1")
with_policy_text("cut_short", GOOD[:-1])
with_policy_text("trailing_comma", GOOD[:-1] + ",}")
with_policy_text("trailing_brace", GOOD + "}")
with_policy_text("trailing_value", GOOD + " 0")
with_policy_text("trailing_nul", GOOD + "\0")
with_policy_text("trailing_form_feed", GOOD + "\f")
with_policy_text("trailing_no_break_space", GOOD + "\u00a0")
with_policy_text("leading_form_feed", "\f" + GOOD)
with_policy_text("two_documents", GOOD + "\n" + GOOD)
with_policy_text("comment", "/* rev42 */" + GOOD)
with_policy_text("single_quotes", GOOD.replace('"', "'"))
with_policy_text("raw_newline_in_string", GOOD.replace("rev42", "rev\n42"))
with_policy_text("bad_escape", GOOD.replace("rev42", "rev\\x42"))
with_policy_text("lone_surrogate_escape", GOOD.replace("rev42", "rev\\ud800"))
with_policy_text("array", f"[{GOOD}]")
with_policy_text("string", '"rewarder.policy.v1"')
with_policy_text("null", "null")
with_policy_text("nesting_deep", GOOD[:-1] + ', "caps": ' + "[" * 5000 + "]" * 5000 + "}")
with_policy_text("duplicate_key", GOOD[:-1] + ', "id": "rev42"}')
with_policy_text("duplicate_key_escaped", GOOD[:-1] + ', "\\u0069d": "rev42"}')
with_policy_text("duplicate_weight", GOOD.replace('"views": "0.3"', '"views": "0.3", "views": "0.3"'))
with_policy_text("duplicate_cap", GOOD[:-1] + ', "caps": {"actor_minor_units": "1", "actor_minor_units": "1"}}')
with_policy_text("duplicate_caps", GOOD[:-1] + ', "caps": {}, "caps": {}}')
with_policy_text("weight_nan", GOOD.replace('"0.3"', "NaN"))

# ------------------------------------------------------------------------------------------------- policy: semantics

for member in POLICY:
    without(f"without_{member}", member)
with_policy("unknown_field", note="x")
with_policy("field_in_capitals", Mode="share")
with_policy("unknown_caps_field", caps={"tenant_minor_units": "1"})
with_policy("schema_v2", schema="rewarder.policy.v2")
with_policy("schema_of_the_snapshot", schema="snapshot.v1")
with_policy("id_empty", id="")
with_policy("id_begins_with_dash", id="-rev42")
with_policy("id_129_characters", id="r" * 129)
with_policy("id_with_slash", id="rev/42")
with_policy("id_with_newline", id="rev42\n")
with_policy("id_not_ascii", id="rev\u0664")
with_policy("id_a_number", id=42)
with_policy("mode_unknown", mode="lottery")
with_policy("mode_in_capitals", mode="Share")
with_policy("mode_null", mode=None)
with_policy("rounding_unknown", rounding="ceil")
with_policy("rounding_null", rounding=None)
with_policy("half_even_in_share", rounding="half_even")
with_policy("largest_remainder_in_tariff", mode="tariff", rounding="largest_remainder")
with_policy("weights_an_array", weights=["0.3"])
with_policy("weights_null", weights=None)
with_policy("min_payout_null", min_payout_minor_units=None)
with_policy("min_payout_a_number", min_payout_minor_units=1)
with_policy("min_payout_negative", min_payout_minor_units="-1")
with_policy("min_payout_with_fraction", min_payout_minor_units="1.0")
with_policy("min_payout_39_digits", min_payout_minor_units="1" + "0" * 38)
with_policy("min_payout_empty", min_payout_minor_units="")
with_policy("caps_null", caps=None)
with_policy("caps_an_array", caps=[])
with_policy("epoch_cap_null", caps={"epoch_minor_units": None})
with_policy("epoch_cap_with_leading_zero", caps={"epoch_minor_units": "01"})
with_policy("actor_cap_a_number", caps={"actor_minor_units": 5})
with_policy("actor_cap_with_plus", caps={"actor_minor_units": "+5"})
with_policy("actor_cap_39_digits", caps={"actor_minor_units": "1" + "0" * 38})
with_policy("actor_cap_with_newline", caps={"actor_minor_units": "5\n"})
with_policy("actor_cap_in_foreign_digits", caps={"actor_minor_units": "\u0665"})
with_policy("excess_unknown", caps={"actor_minor_units": "5", "excess": "burn"})
with_policy("excess_null", caps={"actor_minor_units": "5", "excess": None})
with_policy("excess_in_tariff", mode="tariff", rounding="floor", caps={"actor_minor_units": "5", "excess": "residual"})
with_policy("default_excess_in_tariff", mode="tariff", rounding="floor", caps={"excess": "redistribute"})

BAD_WEIGHTS = {
    "empty": "",
    "without_whole": ".5",
    "without_fraction": "1.",
    "negative": "-1",
    "with_plus": "+1",
    "with_exponent": "1e3",
    "with_space": " 1",
    "with_newline": "1\n",
    "with_comma": "0,3",
    "with_two_points": "0.3.1",
    "with_underscore": "1_0",
    "hexadecimal": "0x1",
    "infinite": "Infinity",
    "in_foreign_digits": "\u0663",
    "11_whole_digits": "00000000001",
    "19_fraction_digits": "0.0000000000000000001",
    "19_fraction_digits_of_zeros": "0.0000000000000000000",
    "a_number": 0.3,
    "null": None,
    "a_list": ["0.3"],
    "2_to_64": "18.446744073709551616",
}
for name, weight in BAD_WEIGHTS.items():
    with_policy(f"weight_{name}", weights={"views": weight, "subs": "0.7"})
# Each alone is in range, the shared scale lifts the unused one to 2^64.
with_policy("weight_too_wide_by_another_scale", weights={"views": "1.0000000001", "subs": "1", "unused": "9999999999"})
with_policy("weight_for_an_empty_name", weights=POLICY["weights"] | {"": "1"})
with_policy("weight_for_a_name_with_quote", weights=POLICY["weights"] | {"it's": "1"})
with_policy("weight_for_a_name_of_65_bytes", weights=POLICY["weights"] | {"c" * 65: "1"})
with_policy("weight_for_a_name_not_ascii", weights=POLICY["weights"] | {"caf\u00e9": "1"})

# -------------------------------------------------------------------------------------- unknown category, and the order


def with_unknown_category(name, rows, weights, pool="1000"):
    inputs = seal(batches=[forge.record(rows)], metadata=METADATA | {"rewarder.pool_minor_units": pool})
    enter("category_" + name, "unknown_category", inputs, policy_with(weights=weights))


with_unknown_category("unknown", ROWS, {"views": "1"})
with_unknown_category("unknown_with_zero_units", [(0, 0, 1), (1, 1, 0)], {"views": "1"})
with_unknown_category("unknown_in_capitals", ROWS, {"views": "1", "Subs": "1"})
with_unknown_category("unknown_without_a_pool", ROWS, {"views": "1"}, pool="0")
with_unknown_category(
    "unknown_before_overflow", [(0, 0, 2**64 - 1)] * 20 + [(1, 1, 1)], {"views": "1", "x": "0.000000000000000001"}
)


enter("order_bad_snapshot_and_bad_policy", "snapshot_invalid", good_inputs()[:-8], policy_with(mode="lottery"))
enter(
    "order_bad_policy_and_unknown_category",
    "policy_invalid",
    good_inputs(),
    policy_with(weights={"views": "1"}, rounding="half_even"),
)
enter(
    "order_bad_key_in_a_later_batch_and_unknown_category",
    "snapshot_invalid",
    seal(batches=[forge.record(ROWS), forge.record([(3, 0, 1)])]),
    policy_with(weights={"views": "1"}),
)
