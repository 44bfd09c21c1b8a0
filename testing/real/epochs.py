"""The real epochs and what has to come out of them.

Each figure was computed by programs that share nothing with the Rust: the table of March is that of the data's own
README, which two independent programs agree on; `exact.py` beside this file gives all of them again:

    testing/real/exact.py target/real/npm-2026-03.csv testing/real/policy.json 100000000
"""
import collections

TENANT = "npm-fund"
ASSET = "usd"
POOL = 100_000_000  # cents: a million dollars

Epoch = collections.namedtuple("Epoch", "id csv rows actors recipients payout residual root score_of absent")

# score_of: an owner and the score of all its packages; absent: an owner with downloads whose share is under a dollar.
MARCH = Epoch(
    id="2026-03",
    csv="npm-2026-03.csv",
    rows=3_771_841,
    actors=2_062_668,
    recipients=6_167,
    payout=99_507_604,
    residual=492_396,
    root="b3:ce32185af4804b17f334ea153ec0adbc82c40a8f3e40232e0a0cf5ef5dd14584",
    score_of=("github.com/lodash", "5050489297.5"),
    absent="github.com/touffy",
)

DECEMBER = Epoch(
    id="2025-12",
    csv="npm-2025-12.csv",
    rows=3_639_742,
    actors=1_978_292,
    recipients=6_252,
    payout=99_503_767,
    residual=496_233,
    root="b3:f32a3a13e26d791383e38874b23432158a9735f65a12f22b0ab71ef44bd71ecd",
    score_of=None,
    absent=None,
)

# The cut that ships: packages with at least 300,000 downloads in March 2026.
TOP = Epoch(
    id="2026-03",
    csv="npm-2026-03-top.csv",
    rows=25_350,
    actors=6_628,
    recipients=5_483,
    payout=99_909_569,
    residual=90_431,
    root="b3:c1188ab8127b448a468498515c9ecb1679bfde8631b6ca6163eed67cab8510cb",
    score_of=("github.com/lodash", "5040575772.5"),
    absent="github.com/all-contributors",
)

# A second month for the everyday tests: the same rows under another epoch, since only one month ships.
AGAIN = TOP._replace(id="2026-03-rehearsal", score_of=None, absent=None)
