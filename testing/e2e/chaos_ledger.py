"""A ledger that misbehaves: a proxy before a real `svc-ledger`, at the level of bytes on a socket.

Each request of the service draws a fate from a seed. What the ledger behind it has settled stays settled, whatever becomes of
the answer; what the proxy did and saw is kept, so that a script can say afterwards whether the client obeyed.

    good             as it is
    late             50 to 500 ms of latency, before or after the ledger
    reset_accept     the connection is reset before the request is read
    reset_mid_body   reset when half of the body has come; the ledger never hears of it
    reset_settled    settled, then reset before the answer
    silent           settled, then nothing until the service gives up
    half_head        settled, then half of the answer's head, then reset
    half_body        settled, then the head and half of the body, then reset
    half_closed      the same, then an orderly end of the connection
    drip             settled, the answer in single bytes with pauses
    storm            500, 502, 503 or 504, before or after the ledger settled; an HTML page now and then
    patience         429 or 503 with Retry-After, in seconds or as a date: nothing is settled
    garbled          201 or 200 with a body that says something else
    foreign_dup      200 dup with our run key and another commitment: only where a script asks for it
    slow             600 ms before the ledger hears of it: only where a script asks for it

However the dice fall, each of the others is met at least twice by a submission.
"""

import collections
import email.utils
import json
import random
import socket
import struct
import threading
import time

from house import LOOPBACK, PROBE, cid

HEAD_BYTES_MAX = 64 * 1024
DRIP_SECONDS = 0.01
SLOW_SECONDS = 0.6  # longer than an attempt waits
PATIENCE_SECONDS = (1, 2)
STORM_SECONDS = 0.3  # an ill ledger is ill for a while
GONE_SECONDS_MAX = 30
WEIGHTS = {
    "good": 30, "late": 14, "reset_accept": 5, "reset_mid_body": 6, "reset_settled": 8, "silent": 3, "half_head": 4, "half_body": 6,
    "half_closed": 4, "drip": 4, "storm": 3, "patience": 6, "garbled": 4,
}  # fmt: skip


class Reset(Exception):
    """The connection is reset now."""


class Fate:
    """What one request met."""

    def __init__(self, at, method, run_key, name):
        self.at, self.method, self.run_key, self.name = at, method, run_key, name
        self.result = None  # what the ledger said, if it was asked


class Chaos:
    """Listens on a free port; `calm` ends the misbehaviour. `fate(method, run_key)` may name one, or None for the dice."""

    def __init__(self, ledger_address, seed, fate=lambda method, run_key: None):
        self.ledger_address, self.fate = ledger_address, fate
        self.dice, self.lock = random.Random(seed), threading.Lock()
        self.calm = False
        self.due = [name for name in WEIGHTS for _ in range(2)]  # by submissions, before the dice decide
        self.dice.shuffle(self.due)
        self.storm_until = 0.0
        self.seen = []  # fates, in order
        self.not_before = {}  # run key -> when it may come again
        self.early = []  # (run key, seconds too early): disobedience
        self.patience_kinds = collections.Counter()
        self.listener = socket.create_server((LOOPBACK, 0), backlog=256)
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self):
        return f"http://{LOOPBACK}:{self.port}"

    def stop(self):
        self.listener.close()

    def _accept(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _draw(self, method, run_key):
        with self.lock:
            name = self.fate(method, run_key)
            if name is None:
                if self.calm:
                    name = "good"
                elif self.due and method == "POST":
                    name = self.due.pop()
                elif time.monotonic() < self.storm_until:
                    name = "storm"
                else:
                    name = self.dice.choices(list(WEIGHTS), WEIGHTS.values())[0]
                    if name == "patience" and run_key == PROBE:
                        name = "good"  # to ask whether it is there is how the end of its illness is seen
                    if name == "storm":
                        self.storm_until = time.monotonic() + STORM_SECONDS
            fate = Fate(time.monotonic(), method, run_key, name)
            self.seen.append(fate)
            return fate, self.dice.random(), self.dice.random()

    def _serve(self, connection):
        buffer = b""
        try:
            while True:
                # A reset before anything is read is drawn when the first byte is there: an idle connection has no request.
                first = connection.recv(1, socket.MSG_PEEK) if not buffer else b"-"
                if not first:
                    return
                buffer = self._request(connection, buffer)
        except Reset:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        except (OSError, EOFError, ValueError):
            pass  # the service went away, or the ledger behind did
        finally:
            connection.close()

    def _request(self, connection, buffer):
        """One request; what came after it."""
        while b"\r\n\r\n" not in buffer:
            part = connection.recv(65536)
            if not part or len(buffer) > HEAD_BYTES_MAX:
                raise EOFError
            buffer += part
        head, _, body = buffer.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        method, target, _ = lines[0].split(" ", 2)
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        length = int(headers.get("content-length", 0))
        run_key = headers.get("idempotency-key") or target.rsplit("/", 1)[-1]
        fate, one, two = self._draw(method, run_key)
        self._obeyed(fate)
        if fate.name == "reset_accept":
            raise Reset
        wanted = length // 2 if fate.name == "reset_mid_body" else length
        while len(body) < wanted:
            part = connection.recv(65536)
            if not part:
                raise EOFError
            body += part
        if fate.name == "reset_mid_body":
            raise Reset
        body, rest = body[:length], body[length:]
        self._answer(connection, fate, one, two, head + b"\r\n\r\n" + body)
        return rest

    def _obeyed(self, fate):
        with self.lock:
            then = self.not_before.pop(fate.run_key, None)
            if then is not None and fate.at < then:
                self.early.append((fate.run_key, then - fate.at))

    def _ask(self, fate, request):
        """The real ledger's answer, whole, on a connection of its own."""
        with socket.create_connection(self.ledger_address, timeout=GONE_SECONDS_MAX) as ledger:
            ledger.sendall(request)
            answer = b""
            while b"\r\n\r\n" not in answer:
                part = ledger.recv(65536)
                if not part:
                    raise EOFError
                answer += part
            head, _, body = answer.partition(b"\r\n\r\n")
            length = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
            while len(body) < length:
                part = ledger.recv(65536)
                if not part:
                    raise EOFError
                body += part
        fate.result = json.loads(body).get("result")
        return head + b"\r\n\r\n", body

    def _until_gone(self, connection):
        connection.settimeout(GONE_SECONDS_MAX)
        while connection.recv(4096):
            pass
        raise EOFError

    def _say(self, connection, status, body=b"", headers=(), now=None):
        lines = [f"HTTP/1.1 {status} -", f"Date: {email.utils.formatdate(now, usegmt=True)}", f"Content-Length: {len(body)}", *headers]
        connection.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + body)

    def _answer(self, connection, fate, one, two, request):
        name = fate.name
        if name == "patience":
            seconds = PATIENCE_SECONDS[int(two * len(PATIENCE_SECONDS))]
            status = 429 if one < 0.5 else 503
            as_date = self.patience_kinds["date"] < self.patience_kinds["seconds"]
            # A date is counted from the Date beside it, however much of this second is over.
            now = time.time()
            said = email.utils.formatdate(now + seconds, usegmt=True) if as_date else str(seconds)
            with self.lock:
                self.patience_kinds["date" if as_date else "seconds"] += 1
                self.not_before[fate.run_key] = time.monotonic() + seconds
            return self._say(connection, status, b"{}", [f"Retry-After: {said}"], now)
        if name == "storm" and one < 0.5:
            page = b"<html><h1>502 Bad Gateway</h1></html>" if two < 0.3 else b""
            return self._say(connection, (500, 502, 503, 504)[int(two * 4)], page)
        if name == "slow":
            time.sleep(SLOW_SECONDS)
        if name == "late" and one < 0.5:
            time.sleep(0.05 + 0.45 * two)
        if name == "foreign_dup":
            body = json.dumps({"result": "dup", "run_key": fate.run_key, "commitment": cid(b"another")}).encode()
            return self._say(connection, 200, body)
        head, body = self._ask(fate, request)
        if name == "reset_settled":
            raise Reset
        if name == "silent":
            self._until_gone(connection)
        if name == "half_head":
            connection.sendall(head[: max(1, int(len(head) * one))])
            raise Reset
        if name in ("half_body", "half_closed"):
            connection.sendall(head + body[: int(len(body) * one * 0.99)])
            if name == "half_body":
                raise Reset
            raise EOFError
        if name == "storm":
            return self._say(connection, (500, 502, 503, 504)[int(two * 4)])
        if name == "garbled":
            garbage = [b"accepted", body[: len(body) // 2], json.dumps({"result": "dup"}).encode()]
            # A 201 that says nothing else has settled it.
            status, garbage = (201, garbage) if one < 0.5 else (200, [b"", b"{}", *garbage])
            return self._say(connection, status, garbage[int(two * len(garbage))])
        if name == "late":
            time.sleep(0.05 + 0.45 * two if one >= 0.5 else 0)
        if name == "drip":
            # What a client waits for: the first bytes quickly, the end never quite.
            for at, byte in enumerate(head + body):
                connection.sendall(bytes([byte]))
                if at % 4 == 0:
                    time.sleep(DRIP_SECONDS)
            return None
        connection.sendall(head + body)
        return None
