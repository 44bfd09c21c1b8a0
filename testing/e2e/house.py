"""What the scripts here share: a service of one's own, its keys and tokens, epochs to give it, and a ledger that can be
told how to behave.

Nothing here waits by the clock: `until` polls for a state and fails after a deadline.
"""

import argparse
import atexit
import base64
import collections
import hashlib
import hmac
import http.client
import http.server
import json
import os
import pathlib
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import unittest

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
# What `testing/checked build --bins` makes.
CHECKED = ROOT / "target" / "checked" / "release"
sys.path.insert(0, str(ROOT / "testing" / "reference"))

import environment  # noqa: E402

environment.ensure()

import reference  # noqa: E402
import stream_forge as forge  # noqa: E402
import verify_proof  # noqa: E402, F401

LOOPBACK = "127.0.0.1"
PATIENCE_SECONDS = 20  # for anything that has to happen at last; a machine under load is slow
REQUEST_SECONDS = 30
FOREVER_MS = 86_400_000  # the longest time that a setting takes

cid = reference.cid


class Late(AssertionError):
    """Something did not happen in time."""


def until(what, look, seconds=PATIENCE_SECONDS):
    """The first true value of `look()`."""
    deadline = time.monotonic() + seconds
    while True:
        seen = look()
        if seen:
            return seen
        if time.monotonic() > deadline:
            raise Late(f"not within {seconds} s: {what() if callable(what) else what}")
        time.sleep(0.005)


# ----------------------------------------------------------------------------------------------------------- tokens

SECRET = bytes(range(32))
KEY_ID = "k1"
SCOPES = "rewarder.seal rewarder.policy rewarder.run rewarder.inspect"


def _field(number, data):
    length, digits = len(data), b""
    while length >= 0x80:
        digits += bytes([length & 0x7F | 0x80])
        length >>= 7
    return bytes([number]) + digits + bytes([length]) + data


def _base64url(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def macaroon(*caveats, key_id=KEY_ID, secret=SECRET, flip=None, location=b"e2e"):
    """A first-party macaroon, version 2 binary, keyed as libmacaroons does; `flip` spoils a byte of the signature."""
    chained = lambda key, data: hmac.new(key, data, hashlib.sha256).digest()
    identifier = f"{key_id}:e2e".encode()
    signature = chained(chained(b"macaroons-key-generator", secret), identifier)
    body = b"\2" + _field(1, location) + _field(2, identifier) + b"\0"
    for caveat in caveats:
        body += _field(2, caveat.encode()) + b"\0"
        signature = chained(signature, caveat.encode())
    if flip is not None:
        signature = bytes(byte ^ (index == flip) for index, byte in enumerate(signature))
    return _base64url(body + b"\0" + _field(6, signature))


def token(tenant="acme", *more, scope=SCOPES):
    return macaroon(f"tenant = {tenant}", f"scope = {scope}", *more)


# ----------------------------------------------------------------------------------------------------------- epochs

VIEWS = {"views": "1"}


def policy(id="p1", weights=VIEWS, mode="share", rounding="floor", **more):
    """A policy's bytes."""
    members = {"schema": "rewarder.policy.v1", "id": id, "mode": mode, "weights": weights, "rounding": rounding}
    return json.dumps(members | more).encode()


def snapshot(epoch, rows=(("ann", "views", 3), ("bob", "views", 1)), tenant="acme", pool=1000, end=forge.END_OF_STREAM):
    """A sealed snapshot's bytes, from rows of (actor, category, units)."""
    pairs = {
        "rewarder.schema": "snapshot.v1",
        "rewarder.tenant": tenant,
        "rewarder.epoch": epoch,
        "rewarder.asset": "roc",
        "rewarder.pool_minor_units": str(pool),
    }
    actors = sorted({actor.encode() for actor, _, _ in rows})
    categories = sorted({category.encode() for _, category, _ in rows})
    keyed = [(actors.index(actor.encode()), categories.index(category.encode()), units) for actor, category, units in rows]
    parts = [forge.schema(pairs.items())]
    if rows:
        parts += [forge.dictionary(0, actors), forge.dictionary(1, categories), forge.record(keyed)]
    return b"".join([*parts, end])


class Job:
    """Inputs of one epoch, and what they come to by the reference."""

    def __init__(self, epoch, inputs=None, rules=None, policy_id="p1", tenant="acme"):
        self.epoch, self.policy_id, self.tenant = epoch, policy_id, tenant
        self.inputs = snapshot(epoch, tenant=tenant) if inputs is None else inputs
        self.rules = policy(policy_id) if rules is None else rules
        self.inputs_cid, self.policy_hash = cid(self.inputs), cid(self.rules)
        self.run_key = reference.run_key(epoch, self.policy_hash, self.inputs_cid)

    @property
    def body(self):
        return {"inputs_cid": self.inputs_cid, "policy_id": self.policy_id, "policy_hash": self.policy_hash}

    @property
    def path(self):
        return f"/rewarder/epochs/{self.epoch}"

    def expected(self):
        return reference.compute(self.inputs, self.rules)


# ---------------------------------------------------------------------------------------------------------- service


class Answer:
    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    def json(self):
        return json.loads(self.body)

    def __repr__(self):
        return f"{self.status} {dict(self.headers)} {self.body[:400]!r}"


def call(address, method, path, body=None, headers=None):
    """One request on a connection of its own. `body` may be an iterable of parts; then it is sent in chunks."""
    connection = http.client.HTTPConnection(*address, timeout=REQUEST_SECONDS)
    try:
        chunked = body is not None and not isinstance(body, (bytes, str))
        connection.request(method, path, body, headers or {}, encode_chunked=chunked)
        response = connection.getresponse()
        return Answer(response.status, response.headers, response.read())
    finally:
        connection.close()


class Service:
    """A private service: fresh state, free loopback ports, settings from a file that `reload` may replace."""

    running = set()

    def __init__(self, binary, settings=None, stages=None, variables=None, arguments=(), under=()):
        """`under` is a command that runs the service, as strace does."""
        self.binary, self.arguments, self.variables, self.under = binary, arguments, variables or {}, under
        self.process = None
        self.home = pathlib.Path(tempfile.mkdtemp(prefix="rewarder-e2e-"))
        Service.running.add(self)
        self.state = self.home / "state"
        keys = self.home / "keys.json"
        keys.touch(0o600)
        keys.write_text(json.dumps({"keys": [{"id": KEY_ID, "secret_hex": SECRET.hex()}]}))
        self.settings = {
            "http_addr": f"{LOOPBACK}:0",
            "metrics_addr": f"{LOOPBACK}:0",
            "state_dir": str(self.state),
            "cap_keys_file": str(keys),
            "log_format": "json",
            "tenant_rps_max": 1_000_000,
            "rps_max": 1_000_000,
            "concurrency_compute_workers": 1,
            # Ten minutes of patience are for people.
            "brownout_exit_ms": 500, "brownout_probe_ms": 100,
        } | (settings or {})
        self.stages = stages or {}
        self.token = token()
        self.problems = collections.Counter()
        self.counting = threading.Lock()
        self.start()

    def configure(self):
        lines = [f"{name} = {json.dumps(value)}" for name, value in self.settings.items()]
        for name, (width, queue) in self.stages.items():
            lines.append(f"[stages.{name}]\nwidth = {width}\nqueue = {queue}")
        (self.home / "config.toml").write_text("\n".join(lines) + "\n")

    def start(self):
        """Starts it, again after an end, and waits until it serves; `wait_ready` waits for readiness."""
        self.configure()
        self.log = []
        self.problems.clear()
        variables = {"PATH": os.environ.get("PATH", "")} | self.variables
        command = [*self.under, str(self.binary), "--config", str(self.home / "config.toml"), *self.arguments]
        self.begun = time.monotonic()
        self.process = subprocess.Popen(command, env=variables, cwd=self.home, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
        reading = threading.Thread(target=self._read, args=(self.process.stderr,), daemon=True)
        reading.start()
        until(lambda: f"the service serves; it said {self.log}", self._serving)

    def _read(self, pipe):
        for line in pipe:
            try:
                self.log.append(json.loads(line))
            except ValueError:
                self.log.append({"message": line.decode("utf-8", "replace").rstrip()})

    def _serving(self):
        for line in list(self.log):
            if line.get("message") == "svc-rewarder is serving":
                address = lambda name: (LOOPBACK, int(line[name].rsplit(":", 1)[1]))
                self.http, self.metrics_address = address("http_addr"), address("metrics_addr")
                self.serving = line
                return True
        if self.process.poll() is not None:
            raise AssertionError(f"the service ended with {self.process.returncode}: {self.log}")
        return False

    def wait_ready(self):
        """Waits for readiness; the seconds since the process was started."""
        until(lambda: f"ready; readyz says {self.ready()}", lambda: self.ready().status == 200)
        return time.monotonic() - self.begun

    def signal(self, number):
        self.process.send_signal(number)

    def kill(self):
        self.process.kill()
        self.process.wait(PATIENCE_SECONDS)  # with a limit, it holds no lock that a signal's handler would need

    def ended(self, seconds=PATIENCE_SECONDS):
        """Waits for its end; the exit code."""
        return self.process.wait(seconds)

    def stop(self):
        """Ends it and takes its state away. May be called again."""
        if self.process and self.process.poll() is None:
            self.kill()
        shutil.rmtree(self.home, ignore_errors=True)
        Service.running.discard(self)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    # ---- requests

    def request(self, method, path, body=None, headers=None, bearer=True):
        """One request; `bearer` is a token, True for one that may everything, None for none."""
        headers = dict(headers or {})
        if bearer:
            headers["Authorization"] = f"Bearer {self.token if bearer is True else bearer}"
        answer = call(self.http, method, path, body, headers)
        if answer.headers.get("Content-Type") == "application/problem+json" and answer.body:
            with self.counting:
                self.problems[answer.json()["reason"]] += 1
        return answer

    def get(self, path, **options):
        return self.request("GET", path, **options)

    def put_snapshot(self, data, **options):
        return self.request("PUT", f"/rewarder/snapshots/{cid(data)}", data, **options)

    def put_policy(self, data, **options):
        return self.request("PUT", f"/rewarder/policies/{cid(data)}", data, **options)

    def upload(self, job, bearer=True):
        """Stores a job's inputs; returns the job."""
        for answer in self.put_snapshot(job.inputs, bearer=bearer), self.put_policy(job.rules, bearer=bearer):
            assert answer.status in (200, 201), answer
        return job

    def compute(self, job, query="", headers=None, bearer=True, **more):
        headers = {"Content-Type": "application/json"} | (headers or {})
        return self.request("POST", f"{job.path}/compute{query}", json.dumps(job.body | more), headers, bearer)

    def run(self, job, **options):
        """Stores and computes."""
        return self.compute(self.upload(job, options.get("bearer", True)), **options)

    # ---- the operators' port

    def ready(self):
        return call(self.metrics_address, "GET", "/readyz")

    def cause(self):
        """What keeps it from being ready; empty if nothing does."""
        return self.ready().json()["cause"]

    def metrics(self):
        """Samples by their text, as `queue_depth{stage="emit"}`."""
        text = call(self.metrics_address, "GET", "/metrics").body.decode()
        samples = (line.rsplit(" ", 1) for line in text.splitlines() if line and line[0] != "#")
        return {name: float(value) for name, value in samples}

    def events(self, topic=None):
        return Events(self, topic)


class Events:
    """Listens to the bus in a thread."""

    def __init__(self, service, topic=None):
        self.seen = []
        self.connection = http.client.HTTPConnection(*service.metrics_address, timeout=REQUEST_SECONDS)
        self.connection.request("GET", "/events" + (f"?topic={topic}" if topic else ""))
        self.socket = self.connection.sock
        self.response = self.connection.getresponse()
        assert self.response.status == 200 and self.response.headers["Content-Type"] == "text/event-stream"
        assert self.response.readline() == b": listening\n"
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        try:
            for line in self.response:
                if line.startswith(b"data: "):
                    self.seen.append(json.loads(line[len(b"data: ") :]))
        except (OSError, ValueError, http.client.HTTPException, AttributeError):
            pass  # the end of the service, or of the test

    def close(self):
        self.socket.shutdown(socket.SHUT_RDWR)

    def names(self):
        return [event["event"] for event in list(self.seen)]

    def wait(self, name):
        return until(lambda: f"the event {name} among {self.names()}", lambda: next((e for e in list(self.seen) if e["event"] == name), None))


@atexit.register
def _leave_nothing_behind():
    for service in list(Service.running):
        service.stop()


def _stopped(number, _):
    """The end by a signal, or by the time that a script may take."""
    print(f"stopped by {signal.Signals(number).name}", flush=True)
    _leave_nothing_behind()
    os._exit(1)  # an exception would be taken for the failure of the case that runs


# ----------------------------------------------------------------------------------------------------------- ledger

PROBE = cid(b"svc-rewarder|probe")  # what the service asks for to see whether the ledger is there


class Ledger:
    """A `svc-ledger` of contract §6 that settles an epoch once, counts, and misbehaves on request.

    `behave(intent, attempt)` names what a submission meets (attempt counts from 1 for each run key):

        accept          what a good ledger does: 201, 200 dup, or 409 conflict
        foreign_dup     200 dup with a commitment that is not the service's
        settle_reset    settles, then resets the connection without an answer
        settle_silence  settles, holds the ledger, and never answers
        reset           resets the connection before anything is settled
        reset_in_body   settles, answers half of its body, resets
        silence         answers nothing until the service gives up
        slow:MS         a good answer, late
        garbled         201 with a word that is none of 201
        a number        that status; `429:2` has Retry-After: 2

    While it is `held`, submissions and questions about a run wait until `release` lets that run pass, however often the
    service comes back for it. So a job can be kept in the stage `emit` without a clock.
    """

    def __init__(self, behave=lambda intent, attempt: "accept"):
        self.behave = behave
        self.lock = threading.Condition()
        self.settled = {}  # (tenant, epoch) -> intent
        self.settlements = collections.Counter()  # by run key
        self.attempts = collections.Counter()  # submissions, by run key
        self.questions = collections.Counter()
        self.intents = {}  # by run key, as first received
        self.keys_sent = []  # Idempotency-Key and run key of each submission
        self.arrived = []  # run keys, in the order in which they first came
        self.open_runs = set()  # those that came and are not settled
        self.peak = 0  # most open at once
        self.held = False
        self.passing = set()
        self.port = 0
        self.server = None
        self.start()

    def start(self):
        """Listens, again on the same port after `stop`."""
        ledger = self

        class Handler(_LedgerHandler):
            pass

        Handler.ledger = ledger

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 256

            def handle_error(self, request, client_address):
                pass  # a client that went away is part of the game

        self.server = Server((LOOPBACK, self.port), Handler)
        self.port = self.server.server_port
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def stop(self):
        """Nobody listens any more; connections that are open are cut at their next use."""
        if self.server:
            self.server.shutdown()
            self.server.server_close()
            self.server = None
        with self.lock:
            self.lock.notify_all()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.open()
        self.stop()

    @property
    def url(self):
        return f"http://{LOOPBACK}:{self.port}"

    # ---- the gate

    def hold(self):
        self.held = True

    def release(self, *run_keys):
        """Lets these runs pass."""
        with self.lock:
            self.passing.update(run_keys)
            self.lock.notify_all()

    def open(self):
        with self.lock:
            self.held = False
            self.lock.notify_all()

    def waiting(self):
        """Run keys that came and are not settled, in order."""
        with self.lock:
            return [key for key in self.arrived if key in self.open_runs]

    def passes(self, run_key):
        return not self.held or run_key in self.passing or self.server is None

    # ---- the law

    def settle(self, intent):
        """(status, answer) of a good ledger."""
        with self.lock:
            key = (intent["tenant"], intent["epoch_id"])
            stored = self.settled.get(key)
            if stored is None:
                self.settled[key] = intent
                self.settlements[intent["run_key"]] += 1
                result, status, stored = "accepted", 201, intent
            elif stored["run_key"] == intent["run_key"]:
                result, status = "dup", 200
            else:
                result, status = "conflict", 409
            self.open_runs.discard(intent["run_key"])
            return status, {"result": result, "run_key": stored["run_key"], "commitment": stored["commitment"]}

    def find(self, run_key):
        with self.lock:
            return next((intent for intent in self.settled.values() if intent["run_key"] == run_key), None)

    def count(self, run_key):
        with self.lock:
            return self.settlements[run_key]


class _LedgerHandler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    ledger = None

    def log_message(self, *_):
        pass

    def gone(self):
        """Whether the service has closed the connection."""
        readable, _, _ = select.select([self.connection], [], [], 0)
        try:
            return bool(readable) and not self.connection.recv(1, socket.MSG_PEEK)
        except OSError:
            return True

    def gate(self, run_key):
        """Waits until the run may pass; false if the service went away meanwhile."""
        ledger = self.ledger
        with ledger.lock:
            while not ledger.passes(run_key):
                if self.gone():
                    return False
                ledger.lock.wait(0.02)
        return True

    def answer(self, status, members=None, headers=(), cut=False):
        body = b"" if members is None else json.dumps(members).encode()
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if cut else body)
        self.wfile.flush()

    def reset(self):
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.rfile.close()
        self.wfile.close()
        self.connection.close()

    def do_GET(self):
        ledger, run_key = self.ledger, self.path.rsplit("/", 1)[1]
        if ledger.server is None:
            return self.reset()
        if run_key != PROBE:
            with ledger.lock:
                ledger.questions[run_key] += 1
            if not self.gate(run_key):
                return self.reset()
        stored = ledger.find(run_key)
        if stored is None:
            return self.answer(404, {"result": "unknown"})
        self.answer(200, {"run_key": stored["run_key"], "commitment": stored["commitment"]})

    def do_POST(self):
        ledger = self.ledger
        intent = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        run_key = intent["run_key"]
        if ledger.server is None:
            return self.reset()
        with ledger.lock:
            ledger.attempts[run_key] += 1
            ledger.keys_sent.append((self.headers["Idempotency-Key"], run_key))
            if run_key not in ledger.intents:
                ledger.intents[run_key] = intent
                ledger.arrived.append(run_key)
                ledger.open_runs.add(run_key)
                ledger.peak = max(ledger.peak, len(ledger.open_runs))
            attempt = ledger.attempts[run_key]
        if not self.gate(run_key):
            return self.reset()
        word, _, number = str(ledger.behave(intent, attempt)).partition(":")
        if word == "accept":
            self.answer(*ledger.settle(intent))
        elif word == "foreign_dup":
            self.answer(200, {"result": "dup", "run_key": run_key, "commitment": cid(b"another")})
        elif word == "settle_reset":
            ledger.settle(intent)
            self.reset()
        elif word == "settle_silence":
            ledger.hold()
            ledger.settle(intent)
            until("the service gives up", self.gone)
            self.reset()
        elif word == "reset":
            self.reset()
        elif word == "reset_in_body":
            self.answer(*ledger.settle(intent), cut=True)
            self.reset()
        elif word == "silence":
            until("the service gives up", self.gone)
            self.reset()
        elif word == "slow":
            deadline = time.monotonic() + int(number) / 1000
            while time.monotonic() < deadline and not self.gone():
                time.sleep(0.005)
            self.answer(*ledger.settle(intent))
        elif word == "garbled":
            self.answer(201, {"result": "dup"})
        else:
            self.answer(int(word), {"detail": "LEDGER-MARKER"}, [("Retry-After", number)] if number else [])


# Delivery waits as long as a held ledger likes: each attempt ends after a moment, and there are enough of them.
PATIENT = {"brownout_p99_ms": FOREVER_MS, "ledger_deadline_ms": FOREVER_MS, "ledger_max_retries": 1000, "drain_deadline_ms": FOREVER_MS, "request_deadline_ms": FOREVER_MS}


# ---------------------------------------------------------------------------------------------------------- scripts


def in_threads(tasks, seconds=2 * REQUEST_SECONDS):
    """Runs all at once; their results in order, once all are done, each within so many seconds."""
    results = [None] * len(tasks)

    def work(index, task):
        try:
            results[index] = task()
        except BaseException as error:  # noqa: BLE001
            results[index] = error

    threads = [threading.Thread(target=work, args=pair, daemon=True) for pair in enumerate(tasks)]
    for thread in threads:
        thread.start()

    def join():
        for thread in threads:
            thread.join(seconds)
            assert not thread.is_alive(), "a request was never answered"
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return results

    return join


class Case(unittest.TestCase):
    """A case that may start services and ledgers of its own; they end with it."""

    binary = None
    maxDiff = None

    def service(self, settings=None, **options):
        service = Service(self.binary, settings, **options)
        self.addCleanup(service.stop)
        return service

    def ledger(self, *arguments):
        ledger = Ledger(*arguments)
        self.addCleanup(ledger.__exit__)
        return ledger

    def with_ledger(self, ledger, settings=None, **options):
        """A service that emits to this ledger, and waits for it."""
        return self.service(PATIENT | {"ledger_url": ledger.url} | (settings or {}), **options)


class _Lines(unittest.TestResult):
    """One line a case; what failed is told in full at once."""

    passed = 0

    def __init__(self):
        super().__init__()
        self.failed = set()

    def _line(self, word, test, more=""):
        seconds = time.monotonic() - self.begun
        print(f"{word:6} {seconds:6.2f}s  {test._testMethodName.removeprefix('test_').replace('_', ' ')}{more}", flush=True)

    def startTest(self, test):
        super().startTest(test)
        self.begun = time.monotonic()

    def addSuccess(self, test):
        self.passed += 1
        self._line("ok", test)

    def addSkip(self, test, reason):
        super().addSkip(test, reason)
        self._line("skip", test, f": {reason}")

    def addFailure(self, test, error):
        super().addFailure(test, error)
        self.failed.add(test.id())
        self._line("FAILED", test)
        print(self.failures[-1][1], flush=True)

    def addError(self, test, error):
        super().addError(test, error)
        self.failed.add(test.id())
        if hasattr(test, "_testMethodName"):
            self._line("FAILED", test)
        print(self.errors[-1][1], flush=True)

    def addSubTest(self, test, subtest, error):
        super().addSubTest(test, subtest, error)
        if error is not None:
            self.failed.add(test.id())
            print(f"FAILED          {subtest}\n{(self.failures + self.errors)[-1][1]}", flush=True)


def main(module, what, seconds_max):
    """Runs the cases of a script in the order in which they are written."""
    parser = argparse.ArgumentParser(description=what)
    parser.add_argument("--binary", type=pathlib.Path, default=CHECKED / "svc-rewarder")
    parser.add_argument("--only", metavar="WORD", default="", help="cases whose name holds this")
    arguments = parser.parse_args()
    if not arguments.binary.exists():
        sys.exit(f"{arguments.binary} is not built: testing/checked build --bins")
    Case.binary = arguments.binary.resolve()
    for number in signal.SIGTERM, signal.SIGINT, signal.SIGALRM:
        signal.signal(number, _stopped)
    signal.alarm(seconds_max)
    loader = unittest.TestLoader()
    loader.sortTestMethodsUsing = None  # as they stand in the file
    suite = unittest.TestSuite()
    for case in [c for c in vars(module).values() if isinstance(c, type) and issubclass(c, Case) and c is not Case]:
        names = [name for name in vars(case) if name.startswith("test_") and arguments.only in name]
        suite.addTests(case(name) for name in names)
    result = _Lines()
    suite.run(result)
    failed = len(result.failed)
    skipped = f", {len(result.skipped)} skipped" if result.skipped else ""
    print(f"{result.passed} passed, {failed} failed{skipped}")
    sys.exit(1 if failed else 0)
