#!/usr/bin/env python3
"""The contract's arithmetic a second time: sealed snapshot + policy -> manifest and canonical allocations.

    reference.py run --inputs F.arrows --policy F.json --out DIR [--arrow]
    reference.py examples DIR

Written from the contract alone, for clearness and not for speed: integers only, one function a rule, the rounds of
capping exactly as they are written down. It shares no code with the service, so that a fault would have to be made
twice, in the same way, to stay unseen.

Exit codes of `run`: 0 paid, 2 refused (nothing written), 3 unpayable.
"""

import argparse
import collections
import dataclasses
import json
import pathlib
import re
import sys

import environment

if __name__ == "__main__":
    environment.ensure()

import blake3

import arrow_stream

EXIT_OK, EXIT_REFUSED, EXIT_UNPAYABLE = 0, 2, 3

SCORE_LIMIT = 10**38  # the first score total that Decimal128(38) cannot hold
WEIGHT_LIMIT = 2**64  # a scaled weight must fit an unsigned 64-bit integer

AMOUNT = re.compile(r"0|[1-9][0-9]{0,37}")
WEIGHT = re.compile(r"([0-9]{1,10})(?:\.([0-9]{1,18}))?")
TENANT = re.compile(r"[a-z0-9-]{1,64}")
IDENTIFIER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")
LABEL = re.compile(r"""[ -~]{1,64}""")  # asset and category, minus the three characters below
LABEL_FORBIDDEN = set("'\"\\")
ACTOR_BYTES_MAX = 256


class Refused(Exception):
    """Input that is read and refused; `reason` is a word of the contract's table."""

    def __init__(self, reason, detail):
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


# ----------------------------------------------------------------------------------------------------- identities


def cid(data):
    return "b3:" + blake3.blake3(data).hexdigest()


def run_key(epoch_id, policy_hash, inputs_cid):
    return cid(f"svc-rewarder|v1|{epoch_id}|{policy_hash}|{inputs_cid}".encode("ascii"))


def is_control(character):
    """Unicode general category Cc: C0, DEL and C1."""
    return ord(character) < 0x20 or 0x7F <= ord(character) <= 0x9F


def is_actor(name):
    if not 1 <= len(name) <= ACTOR_BYTES_MAX:
        return False
    try:
        text = name.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return not any(map(is_control, text))


def is_label(text):
    return LABEL.fullmatch(text) is not None and not LABEL_FORBIDDEN & set(text)


# ------------------------------------------------------------------------------------------------------- snapshot


@dataclasses.dataclass
class Snapshot:
    cid: str
    tenant: str
    epoch_id: str
    asset: str
    pool: int
    rows: list  # (actor as bytes, category as str, units)


METADATA_RULES = {
    "rewarder.schema": lambda text: text == "snapshot.v1",
    "rewarder.tenant": TENANT.fullmatch,
    "rewarder.epoch": IDENTIFIER.fullmatch,
    "rewarder.asset": is_label,
    "rewarder.pool_minor_units": AMOUNT.fullmatch,
}


def read_snapshot(data):
    try:
        return _read_snapshot(data)
    except arrow_stream.StreamFault as fault:
        raise Refused("snapshot_invalid", str(fault)) from None


def _read_snapshot(data):
    require = arrow_stream.require
    stream = arrow_stream.read_stream(data)
    own = [(key, value) for key, value in stream.metadata if key.startswith("rewarder.")]
    metadata = dict(own)
    require(len(own) == len(metadata), "a rewarder metadata key comes twice")
    require(metadata.keys() == METADATA_RULES.keys(), f"the rewarder metadata keys are {sorted(metadata)}")
    for key, rule in METADATA_RULES.items():
        require(rule(metadata[key]), f"{key} has a value out of its rule")
    require(len(set(stream.actors)) == len(stream.actors), "the actor dictionary holds a value twice")
    require(len(set(stream.categories)) == len(stream.categories), "the category dictionary holds a value twice")
    require(all(map(is_actor, stream.actors)), "an actor name is out of its rule")
    # Latin-1 maps each byte to one character, so a byte above 0x7E can never pass for printable ASCII.
    categories = [value.decode("latin-1") for value in stream.categories]
    require(all(map(is_label, categories)), "a category name is out of its rule")
    rows = [
        (stream.actors[actor], categories[category], units)
        for batch in stream.batches
        for actor, category, units in zip(*batch)
    ]
    return Snapshot(
        cid(data),
        metadata["rewarder.tenant"],
        metadata["rewarder.epoch"],
        metadata["rewarder.asset"],
        int(metadata["rewarder.pool_minor_units"]),
        rows,
    )


# --------------------------------------------------------------------------------------------------------- policy


@dataclasses.dataclass
class Policy:
    hash: str
    id: str
    mode: str
    scale: int  # k: every weight and score is an integer times 10^-k
    weights: dict  # category -> weight x 10^k
    rounding: str
    min_payout: int
    epoch_cap: int = None
    actor_cap: int = None
    excess: str = "redistribute"


ROUNDINGS = {"share": ("floor", "largest_remainder"), "tariff": ("floor", "half_even")}
EXCESSES = ("redistribute", "residual")


def parse_json(data):
    """Strict RFC 8259: no byte order mark, no duplicate keys at any depth, no NaN, nothing after the value."""

    def without_duplicates(pairs):
        members = dict(pairs)
        if len(members) != len(pairs):
            raise ValueError("a key comes twice")
        return members

    def no_constant(word):
        raise ValueError(f"{word} is not JSON")

    text = data.decode("utf-8")
    if text.startswith("\ufeff"):
        raise ValueError("the text begins with a byte order mark")
    return json.loads(text, object_pairs_hook=without_duplicates, parse_constant=no_constant)


def parse_weights(members):
    """(k, {category: weight x 10^k}). k is the most fraction digits any weight needs, trailing zeros left off."""
    split = {}
    for category, text in members.items():
        if not is_label(category):
            raise ValueError("a weight names no valid category")
        match = WEIGHT.fullmatch(text) if isinstance(text, str) else None
        if match is None:
            raise ValueError("a weight is not a decimal string")
        split[category] = (match[1], (match[2] or "").rstrip("0"))
    scale = max((len(fraction) for _, fraction in split.values()), default=0)
    weights = {category: int(whole + fraction.ljust(scale, "0")) for category, (whole, fraction) in split.items()}
    if any(weight >= WEIGHT_LIMIT for weight in weights.values()):
        raise ValueError("a weight reaches 2^64 at the policy's scale")
    return scale, weights


def read_policy(data):
    try:
        return _read_policy(data)
    except (ValueError, RecursionError) as fault:
        raise Refused("policy_invalid", str(fault)) from None


def _read_policy(data):
    def members(value, required, optional):
        if not isinstance(value, dict):
            raise ValueError("not an object")
        missing, unknown = required - value.keys(), value.keys() - required - optional
        if missing or unknown:
            raise ValueError(f"fields missing: {sorted(missing)}, unknown: {len(unknown)}")
        return value

    def word(value, allowed):
        if not isinstance(value, str) or value not in allowed:
            raise ValueError(f"not one of {allowed}")
        return value

    def amount(value):
        if not isinstance(value, str) or not AMOUNT.fullmatch(value):
            raise ValueError("not an amount")
        return int(value)

    document = members(
        parse_json(data),
        {"schema", "id", "mode", "weights", "rounding"},
        {"min_payout_minor_units", "caps"},
    )
    word(document["schema"], ("rewarder.policy.v1",))
    identifier = document["id"]
    if not isinstance(identifier, str) or not IDENTIFIER.fullmatch(identifier):
        raise ValueError("id is out of its rule")
    mode = word(document["mode"], tuple(ROUNDINGS))
    rounding = word(document["rounding"], ROUNDINGS[mode])
    if not isinstance(document["weights"], dict):
        raise ValueError("weights is not an object")
    scale, weights = parse_weights(document["weights"])
    min_payout = amount(document.get("min_payout_minor_units", "1"))
    policy = Policy(cid(data), identifier, mode, scale, weights, rounding, min_payout)
    caps = members(document.get("caps", {}), set(), {"epoch_minor_units", "actor_minor_units", "excess"})
    if "epoch_minor_units" in caps:
        policy.epoch_cap = amount(caps["epoch_minor_units"])
    if "actor_minor_units" in caps:
        policy.actor_cap = amount(caps["actor_minor_units"])
    if "excess" in caps:
        policy.excess = word(caps["excess"], EXCESSES)
        if mode == "tariff":
            raise ValueError("excess has no meaning in tariff mode")
    return policy


# --------------------------------------------------------------------------------------------------------- kernel


class Unpayable(Exception):
    def __init__(self, reason, demanded=None):
        super().__init__(reason)
        self.reason = reason
        self.demanded = demanded


def scores_of(rows, policy):
    """S_a for every actor among the rows."""
    scores = collections.defaultdict(int)
    for actor, category, units in rows:
        if category not in policy.weights:
            raise Refused("unknown_category", "a row's category has no weight")
        scores[actor] += units * policy.weights[category]
    return dict(scores)


def budget_of(pool, policy):
    return pool if policy.epoch_cap is None else min(pool, policy.epoch_cap)


def share(scores, budget, policy):
    cap = policy.actor_cap
    scores = {actor: score for actor, score in scores.items() if score > 0}
    capped = set()
    if cap is not None and policy.excess == "redistribute":
        while True:
            rest = budget - cap * len(capped)
            total = sum(score for actor, score in scores.items() if actor not in capped)
            round_ = {a for a, score in scores.items() if a not in capped and rest * score > cap * total}
            if not round_:
                break
            capped |= round_
    others = {actor: score for actor, score in scores.items() if actor not in capped}
    rest = budget - (cap * len(capped) if capped else 0)
    total = sum(others.values())

    payouts = {actor: cap for actor in capped}
    for actor, score in others.items():
        payouts[actor] = rest * score // total
    if policy.rounding == "largest_remainder" and others:
        missing = rest - sum(payouts[actor] for actor in others)
        by_remainder = sorted(others, key=lambda actor: (-(rest * others[actor] % total), actor))
        for actor in by_remainder[:missing]:
            payouts[actor] += 1
    if cap is not None and policy.excess == "residual":
        payouts = {actor: min(payout, cap) for actor, payout in payouts.items()}
    return payouts


def divide_half_even(numerator, denominator):
    quotient, remainder = divmod(numerator, denominator)
    above_half = 2 * remainder > denominator
    odd_tie = 2 * remainder == denominator and quotient % 2 == 1
    return quotient + (above_half or odd_tie)


def tariff(scores, policy):
    unit = 10**policy.scale
    payouts = {}
    for actor, score in scores.items():
        payout = divide_half_even(score, unit) if policy.rounding == "half_even" else score // unit
        payouts[actor] = payout if policy.actor_cap is None else min(payout, policy.actor_cap)
    return payouts


def without_dust(payouts, policy):
    return {actor: payout for actor, payout in payouts.items() if payout > 0 and payout >= policy.min_payout}


def payouts_of(scores, budget, policy):
    """The table: actor -> payout, dust and zeros left out; raises `Unpayable`."""
    if sum(scores.values()) >= SCORE_LIMIT:
        raise Unpayable("overflow")
    if policy.mode == "share":
        return without_dust(share(scores, budget, policy), policy)
    payouts = without_dust(tariff(scores, policy), policy)
    demanded = sum(payouts.values())
    if demanded > budget:
        raise Unpayable("over_budget", demanded)
    return payouts


# ------------------------------------------------------------------------------------------------------- the run


@dataclasses.dataclass
class Run:
    manifest: dict
    scale: int
    allocations: list  # (actor as bytes, score as integer of that scale, payout), ascending

    @property
    def status(self):
        return self.manifest["status"]

    @property
    def manifest_bytes(self):
        return canonical_json(self.manifest)

    @property
    def commitment(self):
        return cid(self.manifest_bytes)

    @property
    def canonical_text(self):
        return canonical_text((actor, payout) for actor, _, payout in self.allocations)


def canonical_text(payouts):
    return b"".join(b"%s\t%d\n" % (actor, payout) for actor, payout in payouts)


def canonical_json(value):
    """RFC 8785 for what a manifest holds: ASCII keys, ASCII strings, integers below 2^53.

    Within these, sorting by code point equals sorting by UTF-16 code unit, and no number needs the ECMAScript form.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode("utf-8")


def compute(inputs, policy_bytes):
    """The contract's order of refusals holds: snapshot_invalid, policy_invalid, unknown_category."""
    snapshot = read_snapshot(inputs)
    policy = read_policy(policy_bytes)
    scores = scores_of(snapshot.rows, policy)
    budget = budget_of(snapshot.pool, policy)
    verdict = {"status": "ok"}
    demanded = {}
    try:
        payouts = payouts_of(scores, budget, policy)
    except Unpayable as unpayable:
        payouts = {}
        verdict = {"status": "unpayable", "reason": unpayable.reason}
        if unpayable.demanded is not None:
            demanded = {"demanded_minor_units": str(unpayable.demanded)}
    allocations = [(actor, scores[actor], payouts[actor]) for actor in sorted(payouts)]
    paid = sum(payouts.values())
    manifest = {
        "schema": "rewarder.manifest.v1",
        "kernel": "v1",
        **verdict,
        "tenant": snapshot.tenant,
        "epoch_id": snapshot.epoch_id,
        "run_key": run_key(snapshot.epoch_id, policy.hash, snapshot.cid),
        "inputs": {"cid": snapshot.cid, "rows": len(snapshot.rows), "actors": len(scores)},
        "policy": {"id": policy.id, "hash": policy.hash},
        "allocations_root": cid(canonical_text((actor, payout) for actor, _, payout in allocations)),
        "totals": {
            "asset": snapshot.asset,
            "pool_minor_units": str(snapshot.pool),
            "budget_minor_units": str(budget),
            "payout_minor_units": str(paid),
            "residual_minor_units": str(budget - paid),
            "recipients": len(payouts),
            **demanded,
        },
    }
    return Run(manifest, policy.scale, allocations)


def decimal_of(integer, scale):
    """An exact decimal.Decimal without going through any context's precision."""
    import decimal

    return decimal.Decimal((0, tuple(map(int, str(integer))), -scale))


def allocations_table(run):
    """The Arrow table for people, exact decimals."""
    import pyarrow

    actors = [actor.decode("utf-8") for actor, _, _ in run.allocations]
    scores = [decimal_of(score, run.scale) for _, score, _ in run.allocations]
    payouts = [decimal_of(payout, 0) for _, _, payout in run.allocations]
    return pyarrow.table(
        [
            pyarrow.array(actors, pyarrow.utf8()),
            pyarrow.array(scores, pyarrow.decimal128(38, run.scale)),
            pyarrow.array(payouts, pyarrow.decimal128(38, 0)),
        ],
        names=["actor", "score", "payout_minor_units"],
    )


# ---------------------------------------------------------------------------------------------------- command line


def print_json(value):
    print(json.dumps(value, sort_keys=True))


def command_run(arguments):
    try:
        run = compute(arguments.inputs.read_bytes(), arguments.policy.read_bytes())
    except Refused as refused:
        print_json({"reason": refused.reason, "detail": refused.detail})
        return EXIT_REFUSED
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "manifest.json").write_bytes(run.manifest_bytes)
    (arguments.out / "allocations.tsv").write_bytes(run.canonical_text)
    if arguments.arrow:
        import pyarrow

        table = allocations_table(run)
        with pyarrow.ipc.new_file(arguments.out / "allocations.arrow", table.schema) as writer:
            writer.write_table(table)
    answer = {key: run.manifest[key] for key in ("epoch_id", "tenant", "run_key", "status", "totals")}
    answer |= {"commitment": run.commitment, "ledger": {"result": "none"}}
    if run.status == "ok":
        print_json(answer)
        return EXIT_OK
    print_json(answer | {"reason": run.manifest["reason"]})
    return EXIT_UNPAYABLE


def example_difference(folder):
    """None, or what differs between our result and one example."""
    expected = json.loads((folder / "expected.json").read_bytes())
    inputs = (folder / "inputs.arrows").read_bytes()
    policy = (folder / "policy.json").read_bytes()
    try:
        run = compute(inputs, policy)
    except Refused as refused:
        found = {"reason": refused.reason, "exit": EXIT_REFUSED}
        return None if found == expected else f"{refused}, expected {expected}"
    found = {
        "inputs_cid": run.manifest["inputs"]["cid"],
        "policy_hash": run.manifest["policy"]["hash"],
        "run_key": run.manifest["run_key"],
        "commitment": run.commitment,
        "status": run.status,
        "allocations_root": run.manifest["allocations_root"],
        "allocations": {actor.decode("utf-8"): str(payout) for actor, _, payout in run.allocations},
    }
    if "reason" in run.manifest:
        found["reason"] = run.manifest["reason"]
    for key in sorted(found.keys() | expected.keys()):
        if found.get(key) != expected.get(key):
            return f"{key}: {found.get(key)!r}, expected {expected.get(key)!r}"
    if run.manifest_bytes != (folder / "manifest.json").read_bytes():
        return "the manifests' bytes differ"
    return None


def command_examples(arguments):
    folders = sorted(path.parent for path in arguments.folder.glob("*/expected.json"))
    failed = 0
    for folder in folders:
        difference = example_difference(folder)
        if difference is not None:
            failed += 1
            print(f"FAILED {folder.name}: {difference}")
    print(f"{len(folders) - failed} passed, {failed} failed")
    return 0 if folders and not failed else 1


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    run = commands.add_parser("run", help="compute one epoch")
    run.add_argument("--inputs", type=pathlib.Path, required=True)
    run.add_argument("--policy", type=pathlib.Path, required=True)
    run.add_argument("--out", type=pathlib.Path, required=True)
    run.add_argument("--arrow", action="store_true", help="write allocations.arrow too")
    run.set_defaults(command=command_run)
    examples = commands.add_parser("examples", help="check against a folder of examples")
    examples.add_argument("folder", type=pathlib.Path)
    examples.set_defaults(command=command_examples)
    arguments = parser.parse_args()
    sys.exit(arguments.command(arguments))


if __name__ == "__main__":
    main()
