"""Inputs at the very edge of the rules that must still be accepted, each with a name.

The counterpart of `refusals.py`: a service that refuses too much passes all refusals and fails here. `KINDS` maps a
name to (inputs, policy); what the result must be is for the reference to say.
"""

import stream_forge as forge
from refusals import ACTORS, CATEGORIES, METADATA, POLICY, ROWS, good_inputs, good_policy, policy_with, seal
from stream_forge import ACTOR_DICTIONARY, CATEGORY_DICTIONARY

KINDS = {"good": (good_inputs(), good_policy())}


def accept_snapshot(name, **parts):
    KINDS["snapshot_" + name] = (seal(**parts), good_policy())


def accept_metadata(name, **changes):
    accept_snapshot(name, metadata=METADATA | {"rewarder." + key: value for key, value in changes.items()})


def accept_policy(name, **changes):
    KINDS["policy_" + name] = (good_inputs(), policy_with(**changes))


accept_metadata("tenant_64_characters", tenant="t" * 64)
accept_metadata("epoch_128_characters", epoch="e" * 128)
accept_metadata("asset_64_characters", asset="~" * 64)
accept_metadata("asset_a_space", asset=" ")
accept_metadata("pool_zero", pool_minor_units="0")
accept_metadata("pool_38_digits", pool_minor_units="9" * 38)
accept_snapshot("foreign_metadata_of_60_000_bytes", metadata=METADATA | {"foreign": "x" * 60_000})
accept_snapshot("metadata_in_another_order", metadata=dict(reversed(METADATA.items())))
accept_snapshot("key_without_the_dot_is_foreign", metadata=METADATA | {"rewarder": "x"})
accept_snapshot("key_in_capitals_is_foreign", metadata=METADATA | {"Rewarder.tenant": "x"})
accept_snapshot("actor_256_bytes", actors=[b"n" * 256, "\u00e9".encode() * 128, "\U0001f980".encode() * 64])
accept_snapshot("actor_one_byte", actors=[b"a", b"~", b" "])
accept_snapshot("actor_u00a0", actors=["\u00a0".encode(), "\u00ad".encode(), "\u2028".encode()])
accept_snapshot("actor_nfc_and_nfd", actors=["caf\u00e9".encode(), "cafe\u0301".encode(), b"cafe"])
accept_snapshot("actor_noncharacters", actors=["\uffff".encode(), "\U0010ffff".encode(), "\ufdd0".encode()])
accept_snapshot("actor_byte_order_mark", actors=["\ufeffa".encode(), b"a", "\ufeff".encode()])
accept_snapshot("category_64_bytes_unused", categories=CATEGORIES + [b"c" * 64])
accept_snapshot("validity_of_ones", batches=[forge.record(batch=forge.row_batch(ROWS, forge.ones))])
accept_snapshot(
    "validity_of_ones_with_padding_bits", batches=[forge.record(batch=forge.row_batch(ROWS, lambda count: b"\xff" * 8))]
)
accept_snapshot("nullable_fields", schema=forge.schema(METADATA.items(), forge.fields(nullable=True)))
accept_snapshot("no_batches", batches=[])
accept_snapshot("no_batches_no_dictionaries", batches=[], dictionaries=[])
accept_snapshot("no_batches_empty_dictionaries", batches=[], actors=[], categories=[])
accept_snapshot("empty_batches_around_rows", batches=[forge.record([]), forge.record(ROWS), forge.record([])])
accept_snapshot("empty_batch_with_empty_dictionaries", batches=[forge.record([])], actors=[], categories=[])
accept_snapshot("batches_of_one_row", batches=[forge.record([row]) for row in ROWS])
accept_snapshot("units_u64_max", batches=[forge.record([(0, 0, 2**64 - 1), (1, 1, 2**64 - 1)])])
accept_snapshot(
    "category_dictionary_first",
    dictionaries=[forge.dictionary(CATEGORY_DICTIONARY, CATEGORIES), forge.dictionary(ACTOR_DICTIONARY, ACTORS)],
)
accept_snapshot(
    "dictionary_delta_flag_written_as_false",
    dictionaries=[
        forge.dictionary(ACTOR_DICTIONARY, ACTORS, delta=False),
        forge.dictionary(CATEGORY_DICTIONARY, CATEGORIES, delta=False),
    ],
)
accept_snapshot(
    "256_categories",
    categories=CATEGORIES + [b"c%d" % index for index in range(254)],
)


def with_large_dictionary_ids():
    columns = [
        forge.field("actor", forge.TYPE_UTF8, forge.Table({}), forge.encoded_by(2**40, 32)),
        forge.field("category", forge.TYPE_UTF8, forge.Table({}), forge.encoded_by(7, 8)),
        forge.units_field(),
    ]
    dictionaries = [forge.dictionary(2**40, ACTORS), forge.dictionary(7, CATEGORIES)]
    return seal(schema=forge.schema(METADATA.items(), columns), dictionaries=dictionaries)


KINDS["snapshot_large_dictionary_ids"] = (with_large_dictionary_ids(), good_policy())

accept_policy("id_128_characters", id="r" * 128)
accept_policy("id_of_all_marks", id="0._:-")
accept_policy("weight_2_to_64_less_one", weights={"views": "18.446744073709551615", "subs": "0"})
accept_policy("weight_ten_digits", weights={"views": "9999999999", "subs": "0000000000"})
accept_policy("weight_zeros_beyond_the_scale", weights={"views": "9999999999.000000000000000000", "subs": "1.0"})
accept_policy("weight_leading_zeros", weights={"views": "007.50", "subs": "0000000001"})
accept_policy("weights_all_zero", weights={"views": "0", "subs": "0.000"})
accept_policy("weight_of_an_absent_category", weights=POLICY["weights"] | {"absent": "1"})
accept_policy("caps_empty", caps={})
accept_policy("excess_without_a_cap", caps={"excess": "residual"})
accept_policy("caps_zero", caps={"epoch_minor_units": "0", "actor_minor_units": "0"})
accept_policy("cap_38_digits", caps={"actor_minor_units": "9" * 38, "epoch_minor_units": "9" * 38})
accept_policy("min_payout_zero", min_payout_minor_units="0")
accept_policy("min_payout_38_digits", min_payout_minor_units="9" * 38)
KINDS["policy_white_space_around"] = (good_inputs(), b" \t\r\n" + good_policy() + b"\r\n\t ")
ESCAPED = good_policy().replace(b"views", b"\\u0076iews").replace(b"mode", b"mo\\u0064e")
KINDS["policy_escapes"] = (good_inputs(), ESCAPED)
