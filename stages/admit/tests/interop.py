#!/usr/bin/env python3
"""Interoperation with pymacaroons, both ways, discharges included.

    interop.py mint              prints the vectors that src/capability/keyring.rs holds as constants
    interop.py verify SENT..     verifies what we minted (`root` or `root,discharge,..`); exits 1 if one does not verify
    interop.py both RONCTL       mints, narrows and binds with ronctl and with pymacaroons in every mix, and has each
                                 check what the other made; exits 1 if one is taken that should not be, or the other way

pymacaroons comes into a virtual environment of its own, target/venv-interop, at the first run.
"""
import json
import os
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[3]
VENV = ROOT / "target" / "venv-interop"
try:
    from pymacaroons import MACAROON_V2, Macaroon, Verifier
    from pymacaroons.serializers import BinarySerializer
except ImportError:
    if os.environ.get("INTEROP_VENV"):
        raise
    subprocess.run([sys.executable, "-m", "venv", VENV], check=True)
    subprocess.run([VENV / "bin" / "pip", "install", "-q", "pymacaroons==0.13.0"], check=True)
    os.execve(VENV / "bin" / "python3", [str(VENV / "bin" / "python3"), *sys.argv], os.environ | {"INTEROP_VENV": "1"})

SECRET = bytes(range(32))
OTHER = b"another key of 32 bytes, exactly"
PLACE = "https://auth.example"


def make(identifier, caveats, location="svc-rewarder", key=SECRET):
    m = Macaroon(version=MACAROON_V2, location=location, identifier=identifier, key=key)
    for caveat in caveats:
        m.add_first_party_caveat(caveat)
    return m


def send(root, *discharges):
    return ",".join([root.serialize(), *(root.prepare_for_request(d).serialize() for d in discharges)])


def bound():
    root = make("k1:bound", ["tenant = acme"])
    root.add_third_party_caveat(PLACE, OTHER, "who are you")
    root.add_first_party_caveat("scope = rewarder.run rewarder.seal")
    return root, make("who are you", ["dry_run = true"], PLACE, OTHER)


def mint():
    full = ["tenant = acme", "scope = rewarder.run rewarder.inspect", "epoch_prefix = 2026-",
            "not_before = 2026-01-01T00:00:00Z", "expires = 2027-01-01T00:00:00Z",
            "max_pool_minor_units = 250000", "dry_run = true"]
    long = ["tenant = " + "a" * 64, "scope = " + " ".join(f"s{i}" for i in range(50))]
    for name, location, caveats in [("PLAIN", "svc-rewarder", []), ("FULL", "svc-rewarder", full),
                                    ("NO_LOCATION", "", full[:2]), ("LONG", "x", long)]:
        print(f'const {name}: &str = "{make("k1:pymacaroons", caveats, location).serialize()}";')
    m = make("k1:third", [])
    m.add_third_party_caveat(PLACE, OTHER, "who are you")
    print(f'const THIRD_PARTY: &str = "{m.serialize()}";')
    print(f'const PYMACAROONS_BOUND: &str = "{send(*bound())}";')


def verifies(sent):
    root, *discharges = [Macaroon.deserialize(part, BinarySerializer()) for part in sent.split(",")]
    v = Verifier()
    v.satisfy_general(lambda _: True)
    try:
        return v.verify(root, SECRET, discharge_macaroons=discharges)
    except Exception as error:  # noqa: BLE001
        return error


def verify(tokens):
    answers = [verifies(token) for token in tokens]
    print(*answers, sep="\n")
    sys.exit(0 if all(answer is True for answer in answers) else 1)


def both(ronctl):
    failed = 0

    def check(what, expected, seen):
        nonlocal failed
        good = (seen is True) == expected
        failed += not good
        print(f"{'ok    ' if good else 'FAILED'} {what}: {'taken' if seen is True else 'refused'}")

    with tempfile.TemporaryDirectory() as home:
        keys = pathlib.Path(home) / "keys.json"
        keys.touch(0o600)
        keys.write_text(json.dumps({"keys": [{"id": "k1", "secret_hex": SECRET.hex()}]}))
        run = lambda *arguments: subprocess.run([ronctl, "cap", *arguments], capture_output=True, text=True)

        def print_of(*arguments):
            done = run(*arguments)
            assert done.returncode == 0, done
            return done.stdout.strip()

        ours = lambda sent: run("inspect", sent, "--keys", str(keys)).returncode == 0
        minted = print_of("mint", "--keys", str(keys), "--tenant", "acme", "--scope", "rewarder.run", "--expires", "2h")
        check("ours, verified by pymacaroons", True, verifies(minted))
        narrowed = print_of("attenuate", "--token", minted, "--caveat", "epoch_prefix = 2026-", "--dry-run-only")
        check("ours narrowed, verified by pymacaroons", True, verifies(narrowed))
        theirs = Macaroon.deserialize(minted, BinarySerializer()).add_first_party_caveat("max_pool_minor_units = 5")
        check("ours narrowed by pymacaroons, verified by us", True, ours(theirs.serialize()))
        full = make("k1:theirs", ["tenant = acme", "scope = rewarder.run"])
        check("theirs, verified by us", True, ours(full.serialize()))
        check("theirs narrowed by us, verified by pymacaroons", True,
              verifies(print_of("attenuate", full.serialize(), "--expires", "2h")))
        check("theirs of another key", False, ours(make("k1:x", ["tenant = acme"], key=OTHER).serialize()))
        root, said = bound()
        check("their root and discharge, bound by them", True, ours(send(root, said)))
        check("their root alone", False, ours(root.serialize()))
        check("their discharge, not bound", False, ours(root.serialize() + "," + said.serialize()))
        sent = print_of("bind", root.serialize(), "--discharge", said.serialize())
        check("their root and discharge, bound by us, verified by us", True, ours(sent))
        check("their root and discharge, bound by us, verified by pymacaroons", True, verifies(sent))
        check("the same bytes as bound by pymacaroons", True, sent == send(root, said))
        narrower = print_of("attenuate", root.serialize(), "--epoch-prefix", "2026-")
        check("a discharge bound before its root was narrowed", False, ours(narrower + "," + sent.split(",")[1]))
        forged = make("who are you", [], PLACE, b"a key that nobody was ever given")
        check("a discharge by another key", False, ours(send(root, forged)))
    print(f"{failed} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["mint"]:
            mint()
        case ["verify", *tokens] if tokens:
            verify(tokens)
        case ["both", ronctl]:
            both(ronctl)
        case _:
            sys.exit(__doc__)
