#!/usr/bin/env python3
"""Tests of the reference itself: small cases computed by hand, readers against pyarrow, the proof verifier.

    test_reference.py [--examples DIR | --no-examples]

One function a rule; ends with `N passed, N failed`. The Bao encoder that the verifier is tested with stands here, and
every root comes from the `blake3` package, so that a fault of our own BLAKE3 cannot prove itself.
"""

import argparse
import base64
import functools
import json
import pathlib
import struct
import subprocess
import sys
import tempfile

sys.dont_write_bytecode = True

import environment

environment.ensure()

import blake3
import pyarrow

import acceptances
import arrow_stream
import epochs
import reference
import refusals
import stream_forge as forge
import verify_proof

HERE = pathlib.Path(__file__).resolve().parent
EXAMPLES_DEFAULT = HERE.parent.parent.parent / "shared" / "examples"


# ---------------------------------------------------------------------------------------------------------- checks


def policy(mode="share", rounding="floor", weights=None, minimum="1", **caps):
    document = {
        "schema": "rewarder.policy.v1",
        "id": "p",
        "mode": mode,
        "weights": {"views": "1"} if weights is None else weights,
        "rounding": rounding,
        "min_payout_minor_units": minimum,
    }
    if caps:
        document["caps"] = caps
    return reference.read_policy(json.dumps(document).encode())


def expect_payouts(expected, scores, budget, **options):
    """`scores` and `expected` by one-letter names."""
    scores = {name.encode(): score for name, score in scores.items()}
    found = reference.payouts_of(scores, budget, policy(**options))
    found = {name.decode(): payout for name, payout in found.items()}
    assert found == expected, f"{found}, expected {expected}"


def expect_unpayable(reason, demanded, scores, budget, **options):
    scores = {name.encode(): score for name, score in scores.items()}
    try:
        reference.payouts_of(scores, budget, policy(**options))
    except reference.Unpayable as unpayable:
        assert (unpayable.reason, unpayable.demanded) == (reason, demanded), vars(unpayable)
    else:
        raise AssertionError("paid")


def expect_refused(reason, function, *arguments):
    try:
        function(*arguments)
    except reference.Refused as refused:
        assert refused.reason == reason, refused
    else:
        raise AssertionError("accepted")


def expect_fault(function, *arguments):
    try:
        result = function(*arguments)
    except verify_proof.ProofFault:
        return
    raise AssertionError(f"accepted: {result!r}")


# ---------------------------------------------------------------------------------------------------------- share


def test_share_floor():
    # 100/3 = 33 each, one unit stays in the residual.
    expect_payouts({"a": 33, "b": 33, "c": 33}, {"a": 1, "b": 1, "c": 1}, 100)


def test_share_largest_remainder():
    # 10 over 1:2:4 -> 10/7 = 1 r 3, 20/7 = 2 r 6, 40/7 = 5 r 5; two units are missing: b, then c.
    expect_payouts({"a": 1, "b": 3, "c": 6}, {"a": 1, "b": 2, "c": 4}, 10, rounding="largest_remainder")


def test_share_remainder_ties_go_to_the_smaller_name():
    expect_payouts({"a": 2, "b": 2, "c": 1}, {"c": 1, "b": 1, "a": 1}, 5, rounding="largest_remainder")


def test_share_remainder_ties_compare_bytes():
    # U+FFFD is EF BF BD, U+10000 is F0 90 80 80: by bytes the first is smaller, by UTF-16 the second would be.
    expect_payouts({"\ufffd": 1}, {"\U00010000": 1, "\ufffd": 1}, 1, rounding="largest_remainder")


def test_share_zero_score_gets_nothing():
    expect_payouts({"b": 10}, {"a": 0, "b": 1}, 10, rounding="largest_remainder")
    expect_payouts({}, {"a": 0}, 10)
    expect_payouts({}, {}, 10)


def test_share_zero_budget():
    expect_payouts({}, {"a": 1}, 0, rounding="largest_remainder", actor_minor_units="0")


def test_cap_redistribute_in_two_rounds():
    # B 100, C 40, scores 60:30:10. Round 1: a (60 > 40). B' 60, S' 40: b 45 > 40, capped next. c gets the rest, 20.
    expect_payouts({"a": 40, "b": 40, "c": 20}, {"a": 60, "b": 30, "c": 10}, 100, actor_minor_units="40")


def test_cap_exactly_reached_is_not_passed():
    expect_payouts({"a": 50, "b": 50}, {"a": 1, "b": 1}, 100, actor_minor_units="50")


def test_cap_everyone():
    expect_payouts({"a": 7, "b": 7}, {"a": 1, "b": 2}, 100, actor_minor_units="7", rounding="largest_remainder")


def test_cap_zero():
    expect_payouts({}, {"a": 1, "b": 2}, 100, actor_minor_units="0")


def test_cap_residual_cuts_after_the_remainder():
    # 101 over 1:1 = 50 r 1 each; the missing unit makes a 51, the cap of 50 takes it away again and nobody gets it.
    options = {"rounding": "largest_remainder", "actor_minor_units": "50", "excess": "residual"}
    expect_payouts({"a": 50, "b": 50}, {"a": 1, "b": 1}, 101, **options)
    expect_payouts({"a": 50, "b": 20}, {"a": 4, "b": 1}, 100, actor_minor_units="50", excess="residual")


def test_dust_is_never_handed_on():
    expect_payouts({"b": 90}, {"a": 1, "b": 9}, 100, minimum="11")
    expect_payouts({"a": 10, "b": 90}, {"a": 1, "b": 9}, 100, minimum="10")
    # A minimum of zero keeps zero payouts out all the same.
    expect_payouts({"b": 9}, {"a": 1, "b": 99}, 10, minimum="0")


# --------------------------------------------------------------------------------------------------------- tariff


def test_tariff_floor():
    # "0.7" x 10 = 7 exactly; 9 x 0.7 = 6.3.
    options = {"mode": "tariff", "weights": {"views": "0.7"}}
    expect_payouts({"a": 7, "b": 6}, {"a": 70, "b": 63}, 100, **options)


def test_tariff_half_even():
    options = {"mode": "tariff", "rounding": "half_even", "weights": {"views": "0.5"}}
    # 0.5 -> 0, 1.5 -> 2, 2.5 -> 2, 3.5 -> 4
    expect_payouts({"b": 2, "c": 2, "d": 4}, {"a": 5, "b": 15, "c": 25, "d": 35}, 100, **options)
    expect_payouts({"a": 1, "b": 2}, {"a": 6, "b": 24}, 100, **options)


def test_half_even_at_scale_zero():
    assert [reference.divide_half_even(n, 1) for n in range(4)] == [0, 1, 2, 3]
    assert [reference.divide_half_even(n, 2) for n in range(8)] == [0, 0, 1, 2, 2, 2, 3, 4]


def test_tariff_cap():
    expect_payouts({"a": 5, "b": 3}, {"a": 9, "b": 3}, 100, mode="tariff", actor_minor_units="5")


def test_tariff_budget():
    expect_payouts({"a": 6, "b": 4}, {"a": 6, "b": 4}, 10, mode="tariff")
    expect_unpayable("over_budget", 10, {"a": 6, "b": 4}, 9, mode="tariff")


def test_tariff_dust_and_cap_come_before_the_budget():
    expect_payouts({"a": 6}, {"a": 6, "b": 4}, 6, mode="tariff", minimum="5")
    expect_payouts({"a": 5, "b": 4}, {"a": 60, "b": 4}, 9, mode="tariff", actor_minor_units="5")


def test_overflow():
    expect_unpayable("overflow", None, {"a": 10**38 - 1, "b": 1}, 1)
    expect_payouts({"a": 1}, {"a": 10**38 - 1}, 1)
    # The limit holds for the scaled integer, and comes before the budget.
    expect_unpayable("overflow", None, {"a": 10**38}, 0, mode="tariff", weights={"views": "0.5"})


def test_budget_is_the_smaller_of_pool_and_cap():
    assert reference.budget_of(10, policy()) == 10
    assert reference.budget_of(10, policy(epoch_minor_units="7")) == 7
    assert reference.budget_of(10, policy(epoch_minor_units="70")) == 10


def test_score_sums_rows():
    rows = [(b"a", "x", 10), (b"b", "y", 1), (b"a", "y", 2), (b"c", "x", 0)]
    found = reference.scores_of(rows, policy(weights={"x": "0.3", "y": "2"}))
    assert found == {b"a": 70, b"b": 20, b"c": 0}, found


# --------------------------------------------------------------------------------------------------------- policy


def test_weights_share_one_scale():
    assert reference.parse_weights({"a": "0.30", "b": "1.5000", "c": "2", "d": "0.0000"}) == (
        1,
        {"a": 3, "b": 15, "c": 20, "d": 0},
    )
    assert reference.parse_weights({"a": "10.000"}) == (0, {"a": 10})
    assert reference.parse_weights({"a": "0.000000000000000001"}) == (18, {"a": 1})
    assert reference.parse_weights({"a": "18.446744073709551615"}) == (18, {"a": 2**64 - 1})


def test_policy_defaults():
    plain = reference.read_policy(refusals.good_policy())
    assert (plain.min_payout, plain.epoch_cap, plain.actor_cap, plain.excess) == (1, None, None, "redistribute")


# -------------------------------------------------------------------------------------------------------- snapshot


def test_every_refused_kind():
    for kind in refusals.KINDS.values():
        expect_refused(kind.reason, reference.compute, kind.inputs, kind.policy)
    assert len(refusals.KINDS) >= 60


def test_every_accepted_kind():
    for inputs, policy_bytes in acceptances.KINDS.values():
        reference.compute(inputs, policy_bytes)


def test_every_cut_is_refused():
    inputs = refusals.good_inputs()
    for size in range(len(inputs)):
        expect_refused("snapshot_invalid", reference.read_snapshot, inputs[:size])


def test_damage_never_escapes():
    """A flipped bit gives a snapshot or a refusal, never another exception."""
    inputs = refusals.good_inputs()
    for bit in range(8 * len(inputs)):
        damaged = bytearray(inputs)
        damaged[bit // 8] ^= 1 << bit % 8
        try:
            reference.read_snapshot(bytes(damaged))
        except reference.Refused:
            pass


def test_reader_agrees_with_pyarrow():
    streams = [epochs.make_case(seed).inputs for seed in range(60)]
    streams += [inputs for inputs, _ in acceptances.KINDS.values()]
    for stream in streams:
        table = pyarrow.ipc.open_stream(stream).read_all()
        columns = [table.column(index).to_pylist() for index in range(3)]
        expected = [(actor.encode(), category, units) for actor, category, units in zip(*columns)]
        assert reference.read_snapshot(stream).rows == expected


def test_epochs_are_reproducible_and_varied():
    cases = [epochs.make_case(seed) for seed in range(60)]
    assert cases == [epochs.make_case(seed) for seed in range(60)]
    assert {case.family for case in cases} >= set(epochs.FAMILIES) - {"large"}


# -------------------------------------------------------------------------------------------------------- the run


def test_identities():
    assert reference.cid(b"") == "b3:af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
    assert reference.run_key("e", "b3:00", "b3:11") == reference.cid(b"svc-rewarder|v1|e|b3:00|b3:11")


def test_manifest_by_hand():
    # 0.3 x (10, 30) and 0.7 x 20: alice 3, bob 14, carol 9 of 26; 1000 x 3/26 = 115 r 10, 538 r 12, 346 r 4.
    run = reference.compute(refusals.good_inputs(), refusals.good_policy())
    assert run.canonical_text == b"alice\t115\nbob\t539\ncarol\t346\n", run.canonical_text
    assert [score for _, score, _ in run.allocations] == [30, 140, 90]
    totals = run.manifest["totals"]
    assert (totals["payout_minor_units"], totals["residual_minor_units"], totals["recipients"]) == ("1000", "0", 3)
    assert run.manifest["inputs"]["actors"] == 3 and run.manifest["inputs"]["rows"] == 4
    assert run.manifest_bytes.startswith(b'{"allocations_root":"b3:') and b'"status":"ok"' in run.manifest_bytes
    assert b"\n" not in run.manifest_bytes and b" " not in run.manifest_bytes


def test_unpayable_manifest():
    text = refusals.policy_with(mode="tariff", rounding="floor", caps={"epoch_minor_units": "5"})
    manifest = reference.compute(refusals.good_inputs(), text).manifest
    assert (manifest["status"], manifest["reason"]) == ("unpayable", "over_budget")
    assert manifest["allocations_root"] == reference.cid(b"")
    assert manifest["totals"] == {
        "asset": "roc",
        "pool_minor_units": "1000",
        "budget_minor_units": "5",
        "payout_minor_units": "0",
        "residual_minor_units": "5",
        "recipients": 0,
        "demanded_minor_units": "26",
    }


def test_actors_are_counted_among_rows():
    batches = [forge.record([(1, 0, 0), (1, 0, 0)])]
    manifest = reference.compute(refusals.seal(batches=batches), refusals.good_policy()).manifest
    assert manifest["inputs"]["actors"] == 1 and manifest["inputs"]["rows"] == 2
    assert manifest["totals"]["recipients"] == 0


def test_order_of_rows_and_batches_does_not_matter():
    rows = [(key % 3, key % 2, key * key) for key in range(50)]
    layouts = [[rows], [rows[::-1]], [rows[:7], rows[7:8], [], rows[8:]]]
    texts = set()
    for layout in layouts:
        inputs = refusals.seal(batches=[forge.record(batch) for batch in layout])
        texts.add(reference.compute(inputs, refusals.good_policy()).canonical_text)
    assert len(texts) == 1


def test_command_line():
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch)
        (folder / "i").write_bytes(refusals.good_inputs())
        texts = {
            0: refusals.good_policy(),
            2: b"{}",
            3: refusals.policy_with(mode="tariff", rounding="floor", caps={"epoch_minor_units": "5"}),
        }
        for code, text in texts.items():
            (folder / "p").write_bytes(text)
            out = folder / f"out{code}"
            arguments = ["run", "--inputs", folder / "i", "--policy", folder / "p", "--out", out]
            done = subprocess.run([sys.executable, HERE / "reference.py", *arguments], capture_output=True)
            assert done.returncode == code, done
            answer = json.loads(done.stdout)
            assert out.exists() == (code != 2)
            assert answer.get("reason") == {0: None, 2: "policy_invalid", 3: "over_budget"}[code]


# ---------------------------------------------------------------------------------------------------------- proofs


def bao_slice(content, offset, size):
    """The Bao slice of a range, straight from the format's description; chaining values by the pure functions."""
    end = offset + max(size, 1)
    start = min(offset, max(len(content) - 1, 0))

    def value(begin, stop, is_root):
        if stop - begin <= 1024:
            return cached_chunk_value(bytes(content[begin:stop]), begin // 1024, is_root)
        middle = begin + 1024
        while (middle - begin) * 2 < stop - begin:
            middle = begin + (middle - begin) * 2
        return cached_parent_value(value(begin, middle, False) + value(middle, stop, False), is_root)

    out = bytearray(struct.pack("<Q", len(content)))

    def emit(begin, stop, is_root):
        if not is_root and (stop <= start or end <= begin):
            return
        if stop - begin <= 1024:
            out.extend(content[begin:stop])
            return
        middle = begin + 1024
        while (middle - begin) * 2 < stop - begin:
            middle = begin + (middle - begin) * 2
        out.extend(value(begin, middle, False) + value(middle, stop, False))
        emit(begin, middle, False)
        emit(middle, stop, False)

    emit(0, len(content), True)
    return bytes(out)


# The same chunks are hashed thousands of times below; the functions are pure, so remembering them changes nothing.
pure_chunk_value, pure_parent_value = verify_proof.chunk_value, verify_proof.parent_value
cached_chunk_value = verify_proof.chunk_value = functools.lru_cache(100_000)(pure_chunk_value)
cached_parent_value = verify_proof.parent_value = functools.lru_cache(100_000)(pure_parent_value)

SIZES = (0, 1, 1023, 1024, 1025, 5000)


def content_of(size):
    return bytes((7 * index + index // 251) % 251 for index in range(size))


def root_of(content):
    return blake3.blake3(content).digest()


def test_blake3():
    for size in [*SIZES, 63, 64, 65, 2048, 2049, 3072, 4096, 4097, 8193]:
        content = content_of(size)
        slice_bytes = bao_slice(content, 0, size)
        assert verify_proof.verified_range(slice_bytes, root_of(content), size, 0, size) == content


def test_left_size():
    expected = {1025: 1024, 2048: 1024, 2049: 2048, 4096: 2048, 4097: 4096, 5000: 4096}
    assert {size: verify_proof.left_size(size) for size in expected} == expected


def test_slice_size_from_the_documentation_of_bao():
    # The crate's own example: 1 000 000 zeros, a slice of 8192 bytes at 65536 takes 9096 bytes.
    content = bytes(1_000_000)
    slice_bytes = bao_slice(content, 65536, 8192)
    assert len(slice_bytes) == 9096, len(slice_bytes)
    assert verify_proof.verified_range(slice_bytes, root_of(content), len(content), 65536, 8192) == bytes(8192)


def test_slices_at_every_position():
    for size in SIZES:
        content, root = content_of(size), root_of(content_of(size))
        for offset in range(size + 1):
            for length in {0, min(1, size - offset), min(1500, size - offset), size - offset}:
                slice_bytes = bao_slice(content, offset, length)
                found = verify_proof.verified_range(slice_bytes, root, size, offset, length)
                assert found == content[offset : offset + length], (size, offset, length)


def test_any_flipped_byte_fails():
    for size in SIZES:
        content, root = content_of(size), root_of(content_of(size))
        tail = min(size, 10)
        for offset, length in {(0, 0), (0, size), (size, 0), (size // 2, size // 4), (size - tail, tail)}:
            slice_bytes = bao_slice(content, offset, length)
            for position in range(len(slice_bytes)):
                damaged = bytearray(slice_bytes)
                damaged[position] ^= 0x40
                expect_fault(verify_proof.verified_range, bytes(damaged), root, size, offset, length)
            expect_fault(verify_proof.verified_range, slice_bytes + b"\0", root, size, offset, length)
            expect_fault(verify_proof.verified_range, slice_bytes[:-1], root, size, offset, length)


def test_false_length_fails_at_the_end():
    content, root = content_of(5000), root_of(content_of(5000))
    for claimed in (4096, 4999, 5001, 5120, 6000):
        for text in (content[:claimed], content.ljust(claimed, b"x")[:claimed]):
            forged = bao_slice(text, claimed - 1, 1)
            honest = struct.pack("<Q", claimed) + bao_slice(content, 4999, 1)[8:]
            expect_fault(verify_proof.verified_range, forged, root, claimed, claimed - 1, 1)
            expect_fault(verify_proof.verified_range, honest, root, claimed, claimed - 1, 1)


def test_range_outside_fails():
    content, root = content_of(100), root_of(content_of(100))
    expect_fault(verify_proof.verified_range, bao_slice(content, 99, 2), root, 100, 99, 2)
    expect_fault(verify_proof.verified_range, bao_slice(content, 101, 0), root, 100, 101, 0)


ACTORS = [b"actor-%04d" % (2 * index) for index in range(400)]
TABLE = b"".join(b"%s\t%d\n" % (actor, 1000 + index) for index, actor in enumerate(ACTORS))


def proof(offset, size, table=TABLE, changes=None):
    document = {
        "root": "b3:" + root_of(table).hex(),
        "length": len(table),
        "offset": offset,
        "len": size,
        "slice": base64.b64encode(bao_slice(table, offset, size)).decode(),
    }
    return json.dumps(document | (changes or {})).encode()


def line_range(first, last):
    """The range of the lines first..last, with the line feed before them."""
    begin = TABLE.index(ACTORS[first] + b"\t")
    end = TABLE.index(b"\n", TABLE.index(ACTORS[last] + b"\t")) + 1
    begin = begin - 1 if begin else 0
    return begin, end - begin


def test_proof_of_every_payout():
    for index, actor in enumerate(ACTORS):
        assert verify_proof.payout_of(proof(*line_range(index, index)), actor) == 1000 + index


def test_proof_of_absence():
    for index in range(len(ACTORS) - 1):
        gap = b"actor-%04d" % (2 * index + 1)
        assert verify_proof.payout_of(proof(*line_range(index, index + 1)), gap) is None
    assert verify_proof.payout_of(proof(*line_range(0, 0)), b"a") is None
    assert verify_proof.payout_of(proof(*line_range(399, 399)), b"z") is None
    assert verify_proof.payout_of(proof(0, 0, table=b""), b"anyone") is None


def test_absence_needs_both_neighbours():
    gap = b"actor-0101"
    expect_fault(verify_proof.payout_of, proof(*line_range(50, 50)), gap)
    expect_fault(verify_proof.payout_of, proof(*line_range(51, 51)), gap)
    expect_fault(verify_proof.payout_of, proof(*line_range(60, 70)), gap)
    expect_fault(verify_proof.payout_of, proof(*line_range(1, 1)), b"a")
    expect_fault(verify_proof.payout_of, proof(*line_range(398, 398)), b"z")
    expect_fault(verify_proof.payout_of, proof(0, 0), b"a")
    expect_fault(verify_proof.payout_of, proof(len(TABLE), 0), b"z")
    expect_fault(verify_proof.payout_of, proof(len(TABLE) - 1, 1), b"z")


def test_range_must_hold_whole_lines():
    begin, size = line_range(10, 10)
    actor = ACTORS[10]
    expect_fault(verify_proof.payout_of, proof(begin, size - 1), actor)
    expect_fault(verify_proof.payout_of, proof(begin + 1, size - 1), actor)
    expect_fault(verify_proof.payout_of, proof(begin + 2, size - 2), actor)
    # Part of a longer name must not pass for a line of its own.
    expect_fault(verify_proof.payout_of, proof(begin + 3, size - 3), actor[2:])


def test_proof_document():
    begin, size = line_range(10, 10)
    good, actor = proof(begin, size), ACTORS[10]
    root = json.loads(good)["root"]
    assert verify_proof.payout_of(good, actor, root) == 1010
    expect_fault(verify_proof.payout_of, good, actor, "b3:" + "0" * 64)
    bad = {"root": root.upper(), "length": str(len(TABLE)), "offset": -1, "len": True, "slice": "!"}
    for member, value in bad.items():
        expect_fault(verify_proof.payout_of, proof(begin, size, changes={member: value}), actor)
    expect_fault(verify_proof.payout_of, proof(begin, size, changes={"note": "x"}), actor)
    expect_fault(verify_proof.payout_of, good[:-1] + b', "len": 1}', actor)
    expect_fault(verify_proof.payout_of, proof(begin, size, changes={"root": "b3:" + "0" * 64}), actor)
    expect_fault(verify_proof.payout_of, proof(begin, size, changes={"length": len(TABLE) + 1}), actor)
    expect_fault(verify_proof.payout_of, b"[]", actor)


def test_lines_must_be_sound():
    unsorted = [b"b\t1\na\t2\n", b"a\t1\na\t1\n"]
    malformed = [b"a\t01\n", b"a\t0\n", b"a 1\n", b"\na\t1\n", b"a\t1", b"a\t-1\n", b"\t1\n"]
    for table in unsorted + malformed:
        expect_fault(verify_proof.payout_of, proof(0, len(table), table=table), b"zz")


def test_proof_command_line():
    with tempfile.TemporaryDirectory() as scratch:
        path = pathlib.Path(scratch) / "proof.json"
        path.write_bytes(proof(*line_range(10, 11)))
        answers = {ACTORS[10].decode(): (0, b"1010\n"), "actor-0021": (0, b"none\n"), "b": (1, b"")}
        for actor, expected in answers.items():
            done = subprocess.run(
                [sys.executable, HERE / "verify_proof.py", path, "--actor", actor], capture_output=True
            )
            assert (done.returncode, done.stdout) == expected, done


# ------------------------------------------------------------------------------------------------------------ main


def examples_test(folder):
    def test_examples():
        folders = sorted(path.parent for path in folder.glob("*/expected.json"))
        assert folders, f"no examples in {folder}; give --examples DIR, or --no-examples to skip them"
        for example in folders:
            difference = reference.example_difference(example)
            assert difference is None, f"{example.name}: {difference}"

    return test_examples


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--examples", type=pathlib.Path, default=EXAMPLES_DEFAULT)
    parser.add_argument("--no-examples", action="store_true")
    arguments = parser.parse_args()
    tests = [value for name, value in list(globals().items()) if name.startswith("test_")]
    if not arguments.no_examples:
        tests.append(examples_test(arguments.examples))
    failed = 0
    for test in tests:
        try:
            test()
        except Exception as fault:
            failed += 1
            line = fault.__traceback__.tb_next.tb_lineno if fault.__traceback__.tb_next else 0
            print(f"FAILED {test.__name__} (line {line}): {type(fault).__name__}: {fault}")
    print(f"{len(tests) - failed} passed, {failed} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
