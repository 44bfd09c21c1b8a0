#!/usr/bin/env python3
"""Random epochs from a seed.

    epochs.py --seed N --out DIR      writes DIR/inputs.arrows and DIR/policy.json, nothing else

One seed always gives the same bytes. `seed % len(FAMILIES)` chooses the family, so that any run of consecutive seeds
covers all of them; everything else is drawn from the seed. About half of the snapshots are written by pyarrow, as a
tenant's tool would, the others by `stream_forge`, which can also write what pyarrow leaves out (validity buffers of
ones, foreign metadata keys twice, a category dictionary before the actors').
"""

import argparse
import dataclasses
import json
import pathlib
import random
import unicodedata

import environment

if __name__ == "__main__":
    environment.ensure()

import pyarrow

import reference
import stream_forge as forge

U64_MAX = 2**64 - 1
AMOUNT_MAX = 10**38 - 1
LARGE_EPOCH_EVERY = 100  # one seed in so many makes 20 000 rows; the others stay small and quick
LARGE_EPOCH_ROWS = 20_000


@dataclasses.dataclass
class Epoch:
    """What the families fill in before anything is written."""

    actors: list  # dictionary values, bytes
    categories: list  # dictionary values, bytes
    rows: list  # (actor key, category key, units)
    policy: dict
    pool: int
    batches: list = None  # row counts; None: drawn when written
    drop_dictionaries: bool = False


@dataclasses.dataclass
class Case:
    seed: int
    family: str
    inputs: bytes
    policy: bytes


# ----------------------------------------------------------------------------------------------------------- names

ODD_NAMES = [
    "a",
    "A",
    " ",
    " leading and trailing ",
    "comma,quote\",apostrophe'",
    "back\\slash",
    "\u00a0",  # the first character behind C1
    "x\u00a0",
    "~",
    "\u00ad",
    "\u200b",
    "\ufeffmark",
    "\u2028line",
    "\u2029paragraph",
    "\U0001f600",
    "\U0001f469\u200d\U0001f4bb",
    "caf\u00e9",
    "cafe\u0301",
    "\u00c5ngstr\u00f6m",
    "\u212bngstr\u00f6m",
    "\ufffd",  # above U+10000 as UTF-16 code units, below as bytes
    "\U00010000",
    "\ud7ff",
    "\ue000",
    "\uffff",
    "\U0010ffff",
    "\u05d0\u05d1",
    "\u202eright-to-left",
    "=1+1",
    "-5",
    "0",
    "n" * 256,
    "n" * 255 + "o",
    "\u00e9" * 128,
    "\U0001f980" * 64,
    "acct",
    "acct-",
    "acct-1",
    "acct-10",
    "acct-1\u00e9",
]


def random_name(rng):
    if rng.random() < 0.6:
        return f"acct-{rng.randrange(10**6):06d}".encode()
    ranges = [(0x20, 0x7E), (0xA0, 0x2FF), (0x370, 0x7FF), (0x4E00, 0x9FFF), (0xE000, 0xFFFF), (0x10000, 0x1FFFF)]
    text = "".join(chr(rng.randint(*rng.choice(ranges))) for _ in range(rng.randint(1, 60)))
    if rng.random() < 0.2:
        text = unicodedata.normalize(rng.choice(["NFC", "NFD"]), text)
    name = text.encode("utf-8")[:256]
    return name.decode("utf-8", "ignore").encode("utf-8")


def make_actors(rng, count, odd=False):
    names = {name.encode("utf-8") for name in rng.sample(ODD_NAMES, min(count, len(ODD_NAMES)))} if odd else set()
    while len(names) < count:
        names.add(random_name(rng))
    names = sorted(names)
    if rng.random() < 0.5:
        rng.shuffle(names)
    return names


CATEGORY_NAMES = ["views", "subs", "bytes_stored", "uptime", "a", "A b", "~!@#$%^&*()", "x" * 64, "{}", "rewarder.pool"]


# -------------------------------------------------------------------------------------------------------- amounts


def random_amount(rng, digits_max=38):
    """Every order of magnitude equally often, with the round numbers and their neighbours among them."""
    digits = rng.randint(1, digits_max)
    kind = rng.randrange(4)
    if kind == 0:
        return 10 ** (digits - 1)
    if kind == 1:
        return 10**digits - 1
    return rng.randrange(10 ** (digits - 1), 10**digits)


def random_pool(rng):
    return rng.choice(
        [
            rng.randrange(8),
            rng.randrange(1000),
            10**6,
            rng.randrange(10**9),
            rng.randrange(10**15),
            10**37,
            10**37 + rng.randrange(10**9),
            AMOUNT_MAX,
            random_amount(rng),
        ]
    )


def random_units(rng):
    return rng.choice([0, 1, 2, 3, rng.randrange(100), rng.randrange(10**6), rng.randrange(2**64), U64_MAX])


def small_units(rng):
    return rng.choice([0, 1, 1, 2, 5, rng.randrange(1000)])


def random_weight(rng, digits_max=18):
    """A decimal string whose integer at `digits_max` fraction digits stays below 2^64."""
    whole = rng.choice([0, 0, 1, 2, 9, 17])
    digits = rng.choice([0, 0, 1, 2, 3, digits_max, rng.randint(0, digits_max)])
    text = f"{'0' * rng.choice([0, 0, 0, 2])}{whole}"
    if digits:
        text += "." + "".join(rng.choice("0123456789") for _ in range(digits - 1)) + rng.choice("0123456789")
        zeros = rng.choice([0, 0, 1, 3])
        text += "0" * min(zeros, digits_max - digits)
    return text


def random_weights(rng, categories, digits_max=None):
    digits_max = rng.choice([0, 1, 6, 18]) if digits_max is None else digits_max
    weights = {name: random_weight(rng, digits_max) for name in categories}
    if rng.random() < 0.2:
        weights[rng.choice(list(weights))] = rng.choice(["0", "0.0", "0000000000.000"])
    if rng.random() < 0.2:
        weights["never used"] = random_weight(rng, digits_max)
    return weights


def wide_weights(rng, categories):
    """At scale 0 a weight may have all ten digits."""
    return {name: str(rng.choice([rng.randrange(10**10), 9999999999, 1])) for name in categories}


# --------------------------------------------------------------------------------------------------------- policy


def make_policy(rng, mode, rounding, weights, pool, caps=None, min_payout=None):
    policy = {
        "schema": "rewarder.policy.v1",
        "id": rng.choice(["p1", "rev42", "A.b_c:d-e", "0" * 128]),
        "mode": mode,
        "weights": weights,
        "rounding": rounding,
    }
    if min_payout is not None:
        policy["min_payout_minor_units"] = str(min_payout)
    elif rng.random() < 0.4:
        policy["min_payout_minor_units"] = str(rng.choice([0, 1, 1, 2, 2, 3, 5, 1000, random_amount(rng)]))
    if caps is not None:
        policy["caps"] = caps
    return policy


def random_caps(rng, mode, pool):
    """Each field with and without the others, around the sizes where it bites."""
    caps = {}
    if rng.random() < 0.4:
        caps["epoch_minor_units"] = str(
            rng.choice([0, 1, pool // 2, pool * 9 // 10, min(pool + 1, AMOUNT_MAX), random_amount(rng)])
        )
    if rng.random() < 0.6:
        caps["actor_minor_units"] = str(
            rng.choice([0, 1, pool // 3, pool // 10 + 1, pool // 50 + 1, pool // 100 + 1, random_amount(rng)])
        )
    if mode == "share" and rng.random() < 0.6:
        caps["excess"] = rng.choice(["redistribute", "residual"])
    return caps if caps or rng.random() < 0.3 else None


def policy_bytes(rng, policy):
    members = list(policy.items())
    rng.shuffle(members)
    text = json.dumps(dict(members), ensure_ascii=rng.random() < 0.5, indent=rng.choice([None, 0, 1, 2, 4]))
    if rng.random() < 0.2:
        # The same value in other bytes: the hash is of the file, the meaning of the JSON.
        text = text.replace("schema", "\\u0073chema", 1).replace("/", "\\/")
    if rng.random() < 0.3:
        text = rng.choice(["\n", " \t\r\n"]) + text + rng.choice(["\n", "\r\n\t "])
    return text.encode("utf-8")


# --------------------------------------------------------------------------------------------------------- writing


def batch_sizes(rng, rows):
    """How many rows each batch holds: one, several of odd sizes, some of them empty, or none for no rows."""
    if rows == 0:
        return rng.choice([[], [0], [0, 0, 0]])
    if rng.random() < 0.5:
        return [rows]
    sizes, left = [], rows
    while left:
        size = min(left, rng.choice([0, 1, 7, 8, 9, rng.randint(1, rows)]))
        sizes.append(size)
        left -= size
        if len(sizes) > 12:
            return sizes + [left]
    return sizes


def split(rows, sizes):
    batches, start = [], 0
    for size in sizes:
        batches.append(rows[start : start + size])
        start += size
    return batches


def snapshot_metadata(rng, pool):
    pairs = [
        ("rewarder.schema", "snapshot.v1"),
        ("rewarder.tenant", rng.choice(["acme", "a", "-", "0-9", "t" * 64])),
        ("rewarder.epoch", rng.choice(["2026-w07", "e1", "0", "E:1.2_3-4", "9" * 128])),
        ("rewarder.asset", rng.choice(["roc", "ROC", "a b", "!", "~" * 64])),
        ("rewarder.pool_minor_units", str(pool)),
    ]
    if rng.random() < 0.3:
        foreign = [("pandas", "{}"), ("Rewarder.Schema", "other"), ("rewarder", "x"), ("rewarder_x", "")]
        pairs.append(rng.choice(foreign))
        pairs.append(("note", "\U0001f980 \u00e9"))
    if rng.random() < 0.3:
        rng.shuffle(pairs)
    return pairs


def write_with_pyarrow(rng, epoch, pairs, sizes):
    nullable = rng.random() < 0.3
    schema = pyarrow.schema(
        [
            pyarrow.field("actor", pyarrow.dictionary(pyarrow.uint32(), pyarrow.utf8()), nullable),
            pyarrow.field("category", pyarrow.dictionary(pyarrow.uint8(), pyarrow.utf8()), nullable),
            pyarrow.field("units", pyarrow.uint64(), nullable),
        ],
        metadata=dict(pairs),
    )
    actors = pyarrow.array([name.decode("utf-8") for name in epoch.actors], pyarrow.utf8())
    categories = pyarrow.array([name.decode("ascii") for name in epoch.categories], pyarrow.utf8())
    sink = pyarrow.BufferOutputStream()
    with pyarrow.ipc.new_stream(sink, schema) as writer:
        for rows in split(epoch.rows, sizes):
            columns = list(zip(*rows)) if rows else [(), (), ()]
            keys = pyarrow.array(columns[0], pyarrow.uint32())
            kinds = pyarrow.array(columns[1], pyarrow.uint8())
            arrays = [
                pyarrow.DictionaryArray.from_arrays(keys, actors),
                pyarrow.DictionaryArray.from_arrays(kinds, categories),
                pyarrow.array(columns[2], pyarrow.uint64()),
            ]
            writer.write_batch(pyarrow.record_batch(arrays, schema=schema))
    return sink.getvalue().to_pybytes()


def write_with_forge(rng, epoch, pairs, sizes):
    if rng.random() < 0.2:
        pairs = pairs + [("twice", "1"), ("twice", "2")]
    validity = rng.choice([lambda count: b"", forge.ones])
    parts = [forge.schema(pairs, forge.fields(nullable=rng.random() < 0.5))]
    if not epoch.drop_dictionaries:
        dictionaries = [
            forge.dictionary(forge.ACTOR_DICTIONARY, batch=forge.text_batch(epoch.actors, validity(len(epoch.actors)))),
            forge.dictionary(forge.CATEGORY_DICTIONARY, epoch.categories),
        ]
        if rng.random() < 0.5:
            dictionaries.reverse()
        parts += dictionaries
    parts += [forge.record(batch=forge.row_batch(rows, validity)) for rows in split(epoch.rows, sizes)]
    return b"".join(parts) + forge.END_OF_STREAM


def write_snapshot(rng, epoch):
    pairs = snapshot_metadata(rng, epoch.pool)
    sizes = batch_sizes(rng, len(epoch.rows)) if epoch.batches is None else epoch.batches
    # pyarrow writes the dictionaries with the first batch; without one only the forge can put them in.
    write = rng.choice([write_with_pyarrow, write_with_forge])
    return write(rng, epoch, pairs, sizes)


# -------------------------------------------------------------------------------------------------------- families


def any_rounding(rng, mode):
    return rng.choice(reference.ROUNDINGS[mode])


def random_rows(rng, count, actors, categories, units=random_units):
    return [(rng.randrange(len(actors)), rng.randrange(len(categories)), units(rng)) for _ in range(count)]


def pick_categories(rng):
    return rng.sample(CATEGORY_NAMES, rng.randint(1, 5))


def mixed(rng, mode, count=None, odd=False):
    count = rng.choice([1, 2, 3, 20, 50, 150, 400]) if count is None else count
    actors = make_actors(rng, rng.choice([1, 2, 3, max(1, count // 3), count + 5]), odd)
    names = pick_categories(rng)
    wide = rng.random() < 0.1
    weights = wide_weights(rng, names) if wide else random_weights(rng, names)
    rows = random_rows(rng, count, actors, names, rng.choice([random_units, small_units, small_units]))
    pool = random_pool(rng)
    policy = make_policy(rng, mode, any_rounding(rng, mode), weights, pool, random_caps(rng, mode, pool))
    return Epoch(actors, [name.encode() for name in names], rows, policy, pool)


def family_share(rng):
    return mixed(rng, "share")


def family_tariff(rng):
    epoch = mixed(rng, "tariff")
    if rng.random() < 0.7:
        epoch.pool = AMOUNT_MAX
        epoch.policy.get("caps", {}).pop("epoch_minor_units", None)
    return epoch


def family_odd_names(rng):
    return mixed(rng, "share", count=rng.choice([40, 120]), odd=True)


def family_capping_rounds(rng):
    """A ladder of scores under a cap that a few actors pass in each round, and so lift the next ones over it."""
    count = rng.randint(3, 60)
    actors = make_actors(rng, count)
    ratio = rng.choice([(21, 20), (6, 5), (3, 2), (2, 1)])
    scores, score = [], rng.choice([1, 1000])
    for _ in range(count):
        scores.append(min(score, U64_MAX))
        score = score * ratio[0] // ratio[1] + 1
    rows = [(index, 0, score) for index, score in enumerate(scores)]
    rng.shuffle(rows)
    pool = rng.choice([10 * count, 10**6, 10**18 + 7, AMOUNT_MAX])
    cap = pool // count + rng.choice([0, 1, pool // (5 * count), pool // count])
    caps = {"actor_minor_units": str(cap), "excess": rng.choice(["redistribute", "redistribute", "residual"])}
    policy = make_policy(rng, "share", any_rounding(rng, "share"), {"views": random_weight(rng)}, pool, caps, 1)
    if not int(policy["weights"]["views"].replace(".", "")):
        policy["weights"]["views"] = "0.5"
    return Epoch(actors, [b"views"], rows, policy, pool)


def family_small_caps(rng):
    """A cap of a few units over a pool of a few units each: shares lie between the cap and the next unit."""
    count = rng.randint(2, 30)
    actors = make_actors(rng, count)
    rows = [(index, 0, rng.choice([1, rng.randint(1, 9), rng.randint(1, 1000)])) for index in range(count)]
    pool = rng.randint(1, 5 * count)
    # Half of the caps are one actor's share rounded down: passed by a fraction of a unit only.
    _, _, units = rng.choice(rows)
    cap = rng.choice([rng.randint(1, 8), pool * units // sum(units for _, _, units in rows)])
    excess = rng.choice(["redistribute", "redistribute", "residual"])
    caps = {"actor_minor_units": str(cap), "excess": excess}
    rounding = rng.choice(["largest_remainder", "largest_remainder", "floor"])
    policy = make_policy(rng, "share", rounding, {"views": "0.1"}, pool, caps, rng.choice([1, 1, 2]))
    return Epoch(actors, [b"views"], rows, policy, pool)


def family_remainder_ties(rng):
    """Equal scores, or few distinct ones, over a pool that does not divide: names decide who gets the last units."""
    count = rng.randint(2, 40)
    actors = make_actors(rng, count, odd=rng.random() < 0.5)
    rows = [(index, 0, rng.choice([1, 1, 1, 2])) for index in range(count)]
    pool = rng.choice([count - 1, count + 1, 3 * count + 2, 10**37 + 1])
    caps = rng.choice([None, {"actor_minor_units": str(pool // count + 1), "excess": "residual"}])
    policy = make_policy(rng, "share", "largest_remainder", {"views": "1"}, pool, caps, 1)
    return Epoch(actors, [b"views"], rows, policy, pool)


def family_half_even(rng):
    """Scores that end in exactly one half, and one step beside it."""
    digits = rng.randint(1, 18)
    half = 5 * 10 ** (digits - 1)
    step = "0." + "1".rjust(digits, "0")
    count = rng.randint(1, 40)
    actors = make_actors(rng, count)
    units = [rng.randrange(18) * 10**digits + half + rng.choice([0, 0, -1, 1]) for _ in range(count)]
    rows = [(index, 0, min(unit, U64_MAX)) for index, unit in enumerate(units)]
    policy = make_policy(rng, "tariff", rng.choice(["half_even", "half_even", "floor"]), {"views": step}, 0, None, 1)
    return Epoch(actors, [b"views"], rows, policy, rng.choice([AMOUNT_MAX, 10 * count]))


def family_score_limit(rng):
    """The scores add up to exactly 10^38, or to one below."""
    total = 10**38 - rng.choice([0, 1])
    # With these weights a dozen rows suffice, and what is left over fits one row of the smallest weight.
    scale, whole = rng.choice([(9, "9999999999"), (18, "18"), (18, "1")])
    weights = {"big": whole, "one": "0." + "1".rjust(scale, "0")}
    big = int(whole) * 10**scale
    actors = make_actors(rng, rng.randint(1, 30))
    rows, left = [], total
    while left > big * U64_MAX:
        rows.append((rng.randrange(len(actors)), 0, U64_MAX))
        left -= big * U64_MAX
    rows.append((rng.randrange(len(actors)), 0, left // big))
    rows.append((rng.randrange(len(actors)), 1, left % big))
    rng.shuffle(rows)
    mode = rng.choice(["share", "tariff"])
    pool = rng.choice([AMOUNT_MAX, 10**37, 1])
    policy = make_policy(rng, mode, any_rounding(rng, mode), weights, pool, random_caps(rng, mode, pool))
    return Epoch(actors, [b"big", b"one"], rows, policy, pool)


def family_over_budget(rng):
    """A tariff whose budget is exactly what is demanded, or one short of it; caps and dust change what is demanded."""
    epoch = mixed(rng, "tariff", count=rng.choice([5, 50]))
    caps = epoch.policy.pop("caps", None) or {}
    caps.pop("epoch_minor_units", None)
    data = write_with_forge(rng, dataclasses.replace(epoch, pool=0), snapshot_metadata(rng, 0), [len(epoch.rows)])
    policy = reference.read_policy(json.dumps(epoch.policy | {"caps": caps}).encode())
    scores = reference.scores_of(reference.read_snapshot(data).rows, policy)
    demanded = sum(reference.without_dust(reference.tariff(scores, policy), policy).values())
    budget = min(max(demanded - rng.choice([0, 1]), 0), AMOUNT_MAX)
    if rng.random() < 0.5:
        epoch.pool = budget
    else:
        epoch.pool = AMOUNT_MAX
        caps["epoch_minor_units"] = str(budget)
    if caps:
        epoch.policy["caps"] = caps
    return epoch


def family_dust(rng):
    """A minimum between the payouts, or equal to one of them."""
    epoch = mixed(rng, rng.choice(["share", "tariff"]), count=rng.choice([10, 60]))
    epoch.pool = rng.choice([1000, 10**6])
    epoch.policy["min_payout_minor_units"] = str(rng.choice([1, 2, epoch.pool // 20, epoch.pool // 3, epoch.pool + 1]))
    return epoch


def family_empty(rng):
    """No rows: no batches with and without dictionaries, and batches of zero rows."""
    epoch = mixed(rng, rng.choice(["share", "tariff"]), count=1)
    epoch.rows = []
    epoch.drop_dictionaries = rng.random() < 0.5
    epoch.batches = [] if epoch.drop_dictionaries else rng.choice([[], [0], [0, 0]])
    if epoch.batches and rng.random() < 0.3:
        epoch.actors = []
    return epoch


def family_unused_values(rng):
    """Dictionaries hold values that no row uses, also categories that the policy does not name."""
    epoch = mixed(rng, "share", count=rng.choice([1, 30]))
    unnamed = [f"unnamed-{index}".encode() for index in range(rng.randint(1, 20))]
    epoch.categories = epoch.categories + unnamed
    epoch.actors = epoch.actors + [b"\xf0\x9f\xa6\x80 nobody %d" % index for index in range(30)]
    return epoch


def family_zero_weights(rng):
    """Actors that score nothing, all of them or some."""
    epoch = mixed(rng, rng.choice(["share", "tariff"]), count=rng.choice([3, 40]))
    names = list(epoch.policy["weights"])
    for name in names if rng.random() < 0.4 else names[:1]:
        epoch.policy["weights"][name] = rng.choice(["0", "0.000", "000"])
    return epoch


def family_unknown_category(rng):
    """One row, perhaps with 0 units, names a category without a weight."""
    epoch = mixed(rng, rng.choice(["share", "tariff"]), count=rng.choice([1, 20]))
    epoch.categories = epoch.categories + [b"unweighted"]
    row = (rng.randrange(len(epoch.actors)), len(epoch.categories) - 1, rng.choice([0, 1, U64_MAX]))
    epoch.rows.insert(rng.randint(0, len(epoch.rows)), row)
    return epoch


def family_full_dictionaries(rng):
    """All 256 categories, and about as many actors as rows."""
    names = [f"c{index:03d}" for index in range(256)]
    actors = make_actors(rng, 200)
    rows = random_rows(rng, 300, actors, names, small_units)
    pool = random_pool(rng)
    policy = make_policy(rng, "share", any_rounding(rng, "share"), random_weights(rng, names), pool)
    return Epoch(actors, [name.encode() for name in names], rows, policy, pool)


FAMILIES = {
    name.removeprefix("family_"): function for name, function in sorted(globals().items()) if name.startswith("family_")
}


def make_case(seed):
    rng = random.Random(seed)
    if seed % LARGE_EPOCH_EVERY == LARGE_EPOCH_EVERY - 1:
        name, epoch = "large", mixed(rng, rng.choice(["share", "tariff"]), count=LARGE_EPOCH_ROWS)
    else:
        name = list(FAMILIES)[seed % len(FAMILIES)]
        epoch = FAMILIES[name](rng)
    return Case(seed, name, write_snapshot(rng, epoch), policy_bytes(rng, epoch.policy))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    arguments = parser.parse_args()
    case = make_case(arguments.seed)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "inputs.arrows").write_bytes(case.inputs)
    (arguments.out / "policy.json").write_bytes(case.policy)
    print(case.family)


if __name__ == "__main__":
    main()
