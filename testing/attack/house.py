"""What the attacks share: honest clients that are counted, attackers in processes of their own, and the service's memory.

Honest clients and attackers run in processes: in threads of one Python they would take the processor from each other, and the
figure would be Python's.
"""

import argparse
import importlib.util
import json
import multiprocessing
import pathlib
import resource
import signal
import socket
import statistics
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT / "testing" / "e2e"))

_spec = importlib.util.spec_from_file_location("e2e_house", ROOT / "testing" / "e2e" / "house.py")
e2e = importlib.util.module_from_spec(_spec)
sys.modules["e2e_house"] = e2e
_spec.loader.exec_module(e2e)

MIB = 1 << 20
RSS_GROWTH_MAX = 32 * MIB  # the goal of every attack
GOODPUT_MIN = 0.95
HONEST = 4  # processes; each waits for its answer before it asks again
IDLE_SECONDS = 9  # `read_timeout_ms`, 10 s, less what passes between an answer that is sent and one that is read
CONTEXT = multiprocessing.get_context("fork")


def enough_descriptors(count):
    """Raises this process's limit, and so its children's, as far as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(count, hard), hard))


def source(n):
    """Loopback addresses, so that an attack has more than one address's share of the connections."""
    return f"127.0.{1 + n // 250 % 250}.{1 + n % 250}"


def _honest(address, request, expected, counted, stop, tls):
    """Asks again and again over one connection; counts answers, what went wrong, and connections that it left idle for too long."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    connection, buffer, answered = None, b"", 0.0
    while not stop.value:
        kept = connection is not None
        try:
            if connection is None:
                connection, buffer = socket.create_connection(address, timeout=20), b""
                if tls:
                    connection = tls.wrap_socket(connection, server_hostname="localhost")
            asked = time.monotonic()
            connection.sendall(request)
            while b"\r\n\r\n" not in buffer:
                part = connection.recv(65536)
                if not part:
                    raise ConnectionError("closed")
                buffer += part
            head, _, buffer = buffer.partition(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            while len(buffer) < length:
                part = connection.recv(65536)
                if not part:
                    raise ConnectionError("closed")
                buffer += part
            buffer = buffer[length:]
            good = head.startswith(expected)
        except OSError:
            # The machine stood still, and with it this client, until the service closed an idle connection, as it should: any client
            # would ask again over another (RFC 9112 §9.3.1).
            idle = kept and not buffer and asked - answered >= IDLE_SECONDS
            good, connection = None if idle else False, None
        answered = time.monotonic()
        with counted.get_lock():
            counted[{True: 0, False: 1, None: 2}[good]] += 1


class Processes:
    """Processes that end with the block they were begun in, or are ended."""

    processes, stop = (), None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop.value = 1
        for process in self.processes:
            process.join(10)
            if process.is_alive():
                process.kill()


class Honest(Processes):
    """Clients that do what clients do; `rate` measures what they get."""

    def __init__(self, address, request, expected=b"HTTP/1.1 200 ", tls=None, count=HONEST):
        self.counted, self.stop = CONTEXT.Array("q", 3), CONTEXT.Value("b", 0)
        arguments = (address, request, expected, self.counted, self.stop, tls)
        self.processes = [CONTEXT.Process(target=_honest, args=arguments, daemon=True) for _ in range(count)]
        for process in self.processes:
            process.start()

    def rate(self, seconds):
        """Good answers a second."""
        before, begun = self.counted[0], time.monotonic()
        time.sleep(seconds)
        return (self.counted[0] - before) / (time.monotonic() - begun)

    def tell(self, figures):
        """What went wrong for them, which is nothing."""
        figures.tell("honest requests that failed", self.counted[1], "0", self.counted[1] == 0)
        if self.counted[2]:
            figures.tell("honest clients that stood still until closed", self.counted[2], f"> {IDLE_SECONDS} s")


class Attack(Processes):
    """A function in processes of its own, `work(n, stop, told)`; `told` is a queue for what they have to say."""

    def __init__(self, work, processes=1, *arguments):
        self.stop, self.told = CONTEXT.Value("b", 0), CONTEXT.Queue()
        self.processes = [CONTEXT.Process(target=work, args=(n, self.stop, self.told, *arguments), daemon=True) for n in range(processes)]
        for process in self.processes:
            process.start()

    def heard(self):
        """One word of each process, in the order in which they say it."""
        return [self.told.get(timeout=120) for _ in self.processes]


def rss(it):
    return it.metrics()["process_resident_memory_bytes"]


def closed(it):
    """Connections closed, by why."""
    samples = it.metrics()
    return {name.split('"')[1]: int(value) for name, value in samples.items() if name.startswith("connections_closed_total{") and value}


class Watch:
    """The service's memory from now on: what it has grown to at most, from where it stands now."""

    def __init__(self, it):
        self.it, self.before = it, rss(it)
        self.peak = self.before

    def look(self):
        self.peak = max(self.peak, rss(self.it))
        return self.grown

    @property
    def grown(self):
        return self.peak - self.before


class Figures:
    """Prints figures beside their goals; `end` exits with 1 if one is missed."""

    def __init__(self):
        self.missed = 0

    def tell(self, name, value, goal=None, good=None):
        """`good` is None for figures that stand for themselves."""
        word = "" if good is None else ("  ok" if good else "  MISSED")
        self.missed += good is False
        print(f"{name:44} {value:>20}  {goal or '':24}{word}", flush=True)

    def grown(self, watch, judged=True):
        grown = watch.look()
        self.tell("memory grew by", f"{grown / MIB:.1f} MiB", "<= 32 MiB", grown <= RSS_GROWTH_MAX if judged else None)

    def end(self):
        sys.exit(1 if self.missed else 0)


def compared(honest, attacked, rounds, seconds):
    """Goodput with the attack over goodput without, in turns, so that what else the machine does falls on both. `attacked` makes
    the attack's context."""
    ratios = []
    for _ in range(rounds):
        alone = honest.rate(seconds)
        with attacked():
            time.sleep(0.5)  # until it has begun
            under = honest.rate(seconds)
        ratios.append(under / alone)
        print(f"    {alone:8.0f} a second alone, {under:8.0f} under attack", flush=True)
    return statistics.median(ratios), ratios


def arguments(what, **more):
    parser = argparse.ArgumentParser(description=what, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", type=pathlib.Path, default=ROOT / "target" / "release" / "svc-rewarder")
    parser.add_argument("--short", action="store_true", help="the portion of every day: fewer seconds, speed is told and not judged")
    for name, (kind, default, text) in more.items():
        parser.add_argument(f"--{name}", type=kind, default=default, help=text)
    parsed = parser.parse_args()
    if not parsed.binary.exists():
        sys.exit(f"{parsed.binary} is not built: cargo build --release")
    parsed.binary = parsed.binary.resolve()
    enough_descriptors(20_000)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    return parsed


def get(path, bearer=None):
    """The bytes of a GET."""
    more = f"Authorization: Bearer {bearer}\r\n" if bearer else ""
    return f"GET {path} HTTP/1.1\r\nHost: x\r\n{more}\r\n".encode()


def big_run(it, epoch, actors):
    """Stores and computes an epoch with a large answer."""
    rows = [(f"actor-{n:08}-{'x' * 32}", "views", n + 1) for n in range(actors)]
    job = e2e.Job(epoch, e2e.snapshot(epoch, rows, pool=10**12))
    answer = it.run(job)
    assert answer.status == 200, answer
    return job


__all__ = [name for name in dir() if not name.startswith("_")] + ["json"]
