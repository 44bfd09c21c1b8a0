#!/usr/bin/env python3
"""The fund's arithmetic in exact integers, for share mode with one cap: where the expected figures come from.

usage: exact.py EPOCH.csv POLICY.json POOL

Shares no code with the Rust, nor with testing/reference, which covers the whole contract; this is the part of it that
the fund uses, short enough to be read at one sitting. The digest needs `b3sum`.
"""
import csv
import json
import subprocess
import sys


def weights(policy):
    """Weights as integers of one decimal scale, and that scale: {"a": "1.5", "b": "1"} is {"a": 15, "b": 10}, 1."""
    split = {name: weight.partition(".")[::2] for name, weight in policy["weights"].items()}
    scale = max(len(fraction.rstrip("0")) for _, fraction in split.values())
    return {name: int(whole + fraction.rstrip("0").ljust(scale, "0")) for name, (whole, fraction) in split.items()}, scale


def scores(path, policy):
    """Each owner's score, an integer at the policy's scale."""
    weight, _ = weights(policy)
    total = {}
    with open(path, newline="", encoding="utf-8") as file:
        rows = csv.reader(file)
        next(rows)
        for actor, category, units in rows:
            total[actor] = total.get(actor, 0) + int(units) * weight[category]
    return total


def shares(score, budget, cap=None):
    """What each owner would get, in largest remainders, before dust; and how many were capped in each round."""
    capped, rounds = set(), []
    left, whole = budget, sum(score.values())
    while cap is not None:
        over = [actor for actor, own in score.items() if actor not in capped and left * own > cap * whole]
        if not over:
            break
        rounds.append(len(over))
        capped.update(over)
        left -= cap * len(over)
        whole -= sum(score[actor] for actor in over)
    share = {actor: cap for actor in capped}
    remainders = []
    for actor, own in score.items():
        if own and actor not in capped:
            share[actor], remainder = divmod(left * own, whole)
            remainders.append((-remainder, actor.encode(), actor))
    missing = left - sum(amount for actor, amount in share.items() if actor not in capped)
    for _, _, actor in sorted(remainders)[:missing]:
        share[actor] += 1
    return share, rounds


def without_dust(share, policy):
    smallest = int(policy.get("min_payout_minor_units", "1"))
    return {actor: amount for actor, amount in share.items() if amount >= smallest}


def canonical(payouts):
    """The text that the allocations root is the digest of."""
    ordered = sorted((actor.encode(), amount) for actor, amount in payouts.items())
    return b"".join(b"%s\t%d\n" % line for line in ordered)


def main(path, policy, pool):
    policy = json.load(open(policy, encoding="utf-8"))
    score = scores(path, policy)
    share, rounds = shares(score, int(pool), int(policy["caps"]["actor_minor_units"]))
    payouts = without_dust(share, policy)
    root = subprocess.run(["b3sum"], input=canonical(payouts), stdout=subprocess.PIPE, check=True).stdout.split()[0]
    print(f"actors            {len(score)}")
    print(f"recipients        {len(payouts)}")
    print(f"payout            {sum(payouts.values())}")
    print(f"residual          {int(pool) - sum(payouts.values())}")
    print(f"capped, by round  {rounds}")
    print(f"allocations_root  b3:{root.decode()}")


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
