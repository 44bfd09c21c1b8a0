#!/usr/bin/env python3
"""Interoperation with pymacaroons, both ways (pip install pymacaroons).

    interop.py mint            prints the vectors that src/capability/keyring.rs holds as constants
    interop.py verify TOKEN..  verifies tokens minted by us; exits 1 if one does not verify
"""
import sys
from pymacaroons import MACAROON_V2, Macaroon, Verifier
from pymacaroons.serializers import BinarySerializer

SECRET = bytes(range(32))


def mint():
    full = ["tenant = acme", "scope = rewarder.run rewarder.inspect", "epoch_prefix = 2026-",
            "not_before = 2026-01-01T00:00:00Z", "expires = 2027-01-01T00:00:00Z",
            "max_pool_minor_units = 250000", "dry_run = true"]
    for name, location, caveats in [("PLAIN", "svc-rewarder", []), ("FULL", "svc-rewarder", full),
                                    ("NO_LOCATION", "", full[:2]), ("LONG", "x", ["tenant = " + "a" * 64, "scope = " + " ".join(f"s{i}" for i in range(50))])]:
        m = Macaroon(version=MACAROON_V2, location=location, identifier="k1:pymacaroons", key=SECRET)
        for caveat in caveats:
            m.add_first_party_caveat(caveat)
        print(f'const {name}: &str = "{m.serialize()}";')
    m = Macaroon(version=MACAROON_V2, location="svc-rewarder", identifier="k1:third", key=SECRET)
    m.add_third_party_caveat("https://auth.example", b"another key of 32 bytes, exactly", "who are you")
    print(f'const THIRD_PARTY: &str = "{m.serialize()}";')


def verify(tokens):
    good = True
    for token in tokens:
        m = Macaroon.deserialize(token, BinarySerializer())
        v = Verifier()
        v.satisfy_general(lambda _: True)
        try:
            ok = v.verify(m, SECRET)
        except Exception as error:  # noqa: BLE001
            ok = error
        print(m.identifier, [c.caveat_id for c in m.caveats], ok)
        good &= ok is True
    sys.exit(0 if good else 1)


mint() if sys.argv[1:2] == ["mint"] else verify(sys.argv[2:])
