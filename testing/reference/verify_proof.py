#!/usr/bin/env python3
"""Checks that one actor's payout, or its absence, belongs to an allocations root (contract, section 5).

    verify_proof.py PROOF.json --actor NAME [--root CID]

PROOF.json is {root, length, offset, len, slice}: `slice` is base64 of the Bao slice for the range (offset, len) of the
canonical allocations, a text of `length` bytes. Prints the payout, or `none`; exit 1 when the proof does not hold,
with the cause on stderr. Without --root the proof is checked against the root it names itself: compare that one with
the manifest's `allocations_root`.

The format, in the sense of the `bao` crate 0.13:

    slice   := content length, 8 bytes little-endian | node(whole content)
    node(t) := chunk, if t holds at most 1024 bytes
             | left and right chaining value, 64 bytes | node(left) | node(right)

in pre-order, without the subtrees that the range does not touch. The left subtree is the largest power of two of chunks
that leaves at least one byte to the right. A slice holds at least one chunk: an empty range stands for the byte at its
offset, and an offset at the end for the last chunk.

Standard library only; BLAKE3 is written out below, from its specification.
"""

import argparse
import base64
import binascii
import json
import pathlib
import re
import struct
import sys

# --------------------------------------------------------------------------------------------------------- BLAKE3

IV = (0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19)
PERMUTATION = (2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8)
COLUMNS_AND_DIAGONALS = (
    (0, 4, 8, 12),
    (1, 5, 9, 13),
    (2, 6, 10, 14),
    (3, 7, 11, 15),
    (0, 5, 10, 15),
    (1, 6, 11, 12),
    (2, 7, 8, 13),
    (3, 4, 9, 14),
)
ROUNDS = 7
MASK = 0xFFFFFFFF
BLOCK_BYTES, CHUNK_BYTES, CHAINING_VALUE_BYTES, PARENT_BYTES, HEADER_BYTES = 64, 1024, 32, 64, 8
CHUNK_START, CHUNK_END, PARENT, ROOT = 1, 2, 4, 8


def compress(chaining_value, block, counter, block_size, flags):
    """The compression function, cut to its first 8 words."""
    words = struct.unpack("<16I", block.ljust(BLOCK_BYTES, b"\0"))
    state = [*chaining_value, *IV[:4], counter & MASK, counter >> 32, block_size, flags]
    for _ in range(ROUNDS):
        for index, (a, b, c, d) in enumerate(COLUMNS_AND_DIAGONALS):
            for word, right_d, right_b in ((words[2 * index], 16, 12), (words[2 * index + 1], 8, 7)):
                state[a] = (state[a] + state[b] + word) & MASK
                mixed = state[d] ^ state[a]
                state[d] = (mixed >> right_d | mixed << (32 - right_d)) & MASK
                state[c] = (state[c] + state[d]) & MASK
                mixed = state[b] ^ state[c]
                state[b] = (mixed >> right_b | mixed << (32 - right_b)) & MASK
        words = [words[source] for source in PERMUTATION]
    return tuple(low ^ high for low, high in zip(state[:8], state[8:]))


def chunk_value(chunk, index, is_root):
    """The chaining value of one chunk; its place in the content goes into it, so a chunk cannot be moved."""
    value = IV
    blocks = [chunk[start : start + BLOCK_BYTES] for start in range(0, len(chunk), BLOCK_BYTES)] or [b""]
    for number, block in enumerate(blocks):
        flags = CHUNK_START if number == 0 else 0
        if number == len(blocks) - 1:
            flags |= CHUNK_END | (ROOT if is_root else 0)
        value = compress(value, block, index, len(block), flags)
    return struct.pack("<8I", *value)


def parent_value(left_and_right, is_root):
    flags = PARENT | (ROOT if is_root else 0)
    return struct.pack("<8I", *compress(IV, left_and_right, 0, BLOCK_BYTES, flags))


def left_size(size):
    """Bytes of the left subtree of a subtree of `size` > 1024 bytes."""
    chunks = (size - 1) // CHUNK_BYTES
    return CHUNK_BYTES << (chunks.bit_length() - 1)


# ------------------------------------------------------------------------------------------------------------ Bao


class ProofFault(Exception):
    """The proof does not hold."""


def require(condition, message):
    if not condition:
        raise ProofFault(message)


def verified_range(slice_bytes, root, length, offset, size):
    """The bytes [offset, offset + size) of the content under `root`, whose length is `length`.

    The content's length is proven only when the last chunk is among those verified; a range that ends at `length` holds
    it always, so a claim about the end of the table cannot lean on a false length.
    """
    require(0 <= offset and 0 <= size and offset + size <= length, "the range lies outside the content")
    require(len(slice_bytes) >= HEADER_BYTES, "the slice is cut short")
    declared = int.from_bytes(slice_bytes[:HEADER_BYTES], "little")
    require(declared == length, "the slice is of a content of another length")
    # What the slice covers: at least one byte, and the last one if the offset is at the end.
    first = min(offset, max(length - 1, 0))
    last = max(offset + size, first + 1)
    position = HEADER_BYTES
    chunks = []

    def take(count):
        nonlocal position
        require(position + count <= len(slice_bytes), "the slice is cut short")
        position += count
        return slice_bytes[position - count : position]

    def descend(start, subtree_size, expected, is_root):
        if subtree_size <= CHUNK_BYTES:
            chunk = take(subtree_size)
            require(chunk_value(chunk, start // CHUNK_BYTES, is_root) == expected, "a chunk does not match the root")
            chunks.append((start, chunk))
            return
        parent = take(PARENT_BYTES)
        require(parent_value(parent, is_root) == expected, "a parent node does not match the root")
        middle = start + left_size(subtree_size)
        if first < middle:
            descend(start, middle - start, parent[:CHAINING_VALUE_BYTES], False)
        if last > middle:
            descend(middle, start + subtree_size - middle, parent[CHAINING_VALUE_BYTES:], False)

    descend(0, length, root, True)
    require(position == len(slice_bytes), "bytes follow the slice")
    start = chunks[0][0]
    content = b"".join(chunk for _, chunk in chunks)
    return content[offset - start : offset - start + size]


# ---------------------------------------------------------------------------------------------------------- proof

CID = re.compile(r"b3:([0-9a-f]{64})")
LINE = re.compile(rb"([^\x00-\x1f\x7f]{1,256})\t([1-9][0-9]{0,37})")
MEMBERS = {"root", "length", "offset", "len", "slice"}
LENGTH_MAX = 2**64 - 1


def read_proof(data):
    """(root as hex, length, offset, len, slice)"""

    def without_duplicates(pairs):
        members = dict(pairs)
        require(len(members) == len(pairs), "the proof holds a member twice")
        return members

    try:
        proof = json.loads(data.decode("utf-8"), object_pairs_hook=without_duplicates)
    except (ValueError, RecursionError):
        raise ProofFault("the proof is not JSON") from None
    require(isinstance(proof, dict) and proof.keys() == MEMBERS, f"the proof is not an object of {sorted(MEMBERS)}")
    numbers = [proof[name] for name in ("length", "offset", "len")]
    require(all(type(number) is int and 0 <= number <= LENGTH_MAX for number in numbers), "a number is out of range")
    match = CID.fullmatch(proof["root"]) if isinstance(proof["root"], str) else None
    require(match is not None, "the root is not a CID")
    try:
        slice_bytes = base64.b64decode(proof["slice"], validate=True)
        canonical = base64.b64encode(slice_bytes).decode("ascii") == proof["slice"]
    except (ValueError, TypeError, binascii.Error):
        canonical = False
    require(canonical, "the slice is not base64")
    return match[1], *numbers, slice_bytes


def lines_of(content, offset):
    """The whole lines of a range, as (actor, payout) pairs in strictly ascending order."""
    if offset > 0:
        require(content[:1] == b"\n", "the range begins neither at 0 nor with a line feed")
        content = content[1:]
    if not content:
        return []
    require(content.endswith(b"\n"), "the range ends inside a line")
    matches = [LINE.fullmatch(line) for line in content[:-1].split(b"\n")]
    require(all(matches), "a line is not an actor, a tab and a payout")
    lines = [(match[1], int(match[2])) for match in matches]
    actors = [actor for actor, _ in lines]
    require(all(a < b for a, b in zip(actors, actors[1:])), "the lines are not in ascending order")
    return lines


def payout_of(data, actor, root=None):
    """The payout that the proof shows for `actor`, or None where it shows that there is none; else `ProofFault`."""
    proof_root, length, offset, size, slice_bytes = read_proof(data)
    require(root is None or root == "b3:" + proof_root, "the proof is for another root")
    content = verified_range(slice_bytes, bytes.fromhex(proof_root), length, offset, size)
    lines = lines_of(content, offset)
    for name, payout in lines:
        if name == actor:
            return payout
    # Nobody stands between two neighbouring lines. Before the first and after the last line the table's own ends are
    # the neighbours.
    neighbour_before = offset == 0 or any(name < actor for name, _ in lines)
    neighbour_after = offset + size == length or any(name > actor for name, _ in lines)
    require(neighbour_before and neighbour_after, "the range does not hold the place where the actor would stand")
    return None


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("proof", type=pathlib.Path)
    parser.add_argument("--actor", required=True)
    parser.add_argument("--root", help="the allocations root that the proof must be for")
    arguments = parser.parse_args()
    try:
        payout = payout_of(arguments.proof.read_bytes(), arguments.actor.encode("utf-8"), arguments.root)
    except (ProofFault, UnicodeEncodeError) as fault:
        print(f"the proof fails: {fault}", file=sys.stderr)
        sys.exit(1)
    print("none" if payout is None else payout)


if __name__ == "__main__":
    main()
