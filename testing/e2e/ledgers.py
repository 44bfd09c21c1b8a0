"""Real ledgers, each a private process or a file of its own, for the scripts that count what was settled.

A backend has `url` (a LEDGER_URL), `start`, `kill` (kill -9, nothing flushed), `stop`, and `settlements`, which reads what
stands in it by a way that the service does not use: a dump, a listing, SQL.
"""

import atexit
import json
import pathlib
import shutil
import subprocess
import tempfile
import time

from house import CHECKED, LOOPBACK, PATIENCE_SECONDS, ROOT, call

POSTGRES = ROOT / "testing" / "ledger" / "postgres-server"
STARTS_MAX = 50  # on the same port: for a moment it may be another's
PAGE = 1000

_alive = []


@atexit.register
def _leave_nothing_behind():
    for backend in list(_alive):
        backend.stop()


class Backend:
    """What they share: a directory, and an end with the script."""

    killable = True  # a process of its own

    def __init__(self):
        self.home = pathlib.Path(tempfile.mkdtemp(prefix="ledger-"))
        _alive.append(self)

    def stop(self):
        """May be called again."""
        if self not in _alive:
            return
        _alive.remove(self)
        if self.killable:
            self.kill()
        shutil.rmtree(self.home, ignore_errors=True)


class Embedded(Backend):
    """The service's own ledger: a file under its STATE_DIR, which `svc-ledger dump` reads when the service is down."""

    url = "embedded:"
    killable = False

    def __init__(self, svc_ledger):
        super().__init__()
        self.svc_ledger = svc_ledger

    def start(self):
        pass

    def settlements(self, state):
        told = subprocess.run([self.svc_ledger, "dump", "--state-dir", state], capture_output=True, text=True, check=True)
        return [json.loads(line) for line in told.stdout.splitlines()]


class SvcLedger(Backend):
    """`svc-ledger` on a free port, the same one after each start."""

    def __init__(self, svc_ledger, in_memory=False, arguments=()):
        super().__init__()
        self.svc_ledger, self.in_memory, self.arguments = svc_ledger, in_memory, arguments
        self.port, self.process = 0, None
        self.start()

    @property
    def address(self):
        return LOOPBACK, self.port

    @property
    def url(self):
        return f"http://{LOOPBACK}:{self.port}"

    def start(self):
        where = ["--in-memory"] if self.in_memory else ["--state-dir", str(self.home / "state")]
        command = [str(self.svc_ledger), "--listen", f"{LOOPBACK}:{self.port}", *where, *self.arguments]
        for _ in range(STARTS_MAX):
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=open(self.home / "log", "ab"))
            line = process.stdout.readline().decode()
            if line.startswith("listening on "):
                self.process, self.port = process, int(line.rsplit(":", 1)[1])
                return
            process.wait(PATIENCE_SECONDS)
            time.sleep(0.05)
        raise AssertionError(f"svc-ledger does not start: {(self.home / 'log').read_text()[-1000:]}")

    def kill(self):
        if self.process:
            self.process.kill()
            self.process.wait(PATIENCE_SECONDS)
            self.process.stdout.close()
            self.process = None

    def settlements(self, _state=None):
        found, after = [], ""
        while True:
            page = call(self.address, "GET", f"/settlements?limit={PAGE}{after}").json()
            found += page["settlements"]
            if "next" not in page:
                return found
            after = f"&after={page['next']}"


class Postgres(Backend):
    """A private PostgreSQL server behind a socket."""

    def __init__(self):
        super().__init__()
        subprocess.run([POSTGRES, "install"], check=True)
        self.start()

    def _script(self, *words):
        # To a file and not a pipe: the server would keep it open.
        with open(self.home / "said", "w+") as out:
            subprocess.run([POSTGRES, words[0], self.home, *words[1:]], stdout=out, check=True)
            out.seek(0)
            return out.read().strip()

    def start(self):
        self.url = self._script("start")

    def kill(self):
        self._script("kill")

    def settlements(self, _state=None):
        sql = "SELECT json_build_object('tenant', tenant, 'epoch_id', epoch_id, 'run_key', run_key, 'commitment', commitment) FROM rewarder.settlements"
        return [json.loads(line) for line in self._script("sql", sql).splitlines()]
