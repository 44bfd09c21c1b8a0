"""What every script here needs: where things are, how to run them, a service of one's own, and a tally of checks."""
import http.client
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.parse

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CACHE = ROOT / "target" / "real"
RELEASE = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"
POLICY = HERE / "policy.json"
SHIPPED = HERE / "npm-2026-03-top.arrows"

READY_SECONDS_MAX = 10  # the runbook: 2 s on the small profile, look into it after 10
DRAIN_SECONDS_MAX = 15
COMMAND_SECONDS_MAX = 600
REQUEST_SECONDS_MAX = 60

# What the one who runs this may have set for a service of his own must not reach ours.
for setting in ("RON_CONFIG", "RON_TOKEN", "LEDGER_URL"):
    os.environ.pop(setting, None)


def program(name):
    """One of our binaries, by its path."""
    path = RELEASE / name
    if not path.exists():
        sys.exit(f"{path} is not built: cargo build --release")
    return str(path)


def need(*packages):
    """Installs Debian packages whose program of the same name is missing."""
    missing = [package for package in packages if not shutil.which(package)]
    if not missing:
        return
    sudo = [] if os.geteuid() == 0 else ["sudo"]
    quiet = {"stdout": sys.stderr, "check": True}
    subprocess.run([*sudo, "apt-get", "update", "-q"], **quiet)
    subprocess.run([*sudo, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "-q", "-y",
                    "--no-install-recommends", *missing], **quiet)


def run(*command, codes=(0,), env=None, cwd=None):
    """Runs to the end; stops the script, showing what the command said, unless its exit code is one of `codes`."""
    done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          env={**os.environ, **(env or {})}, cwd=cwd, timeout=COMMAND_SECONDS_MAX)
    if codes is not None and done.returncode not in codes:
        shown = " ".join(str(part) for part in command)
        sys.exit(f"exit {done.returncode} from: {shown}\n{done.stdout}{done.stderr}")
    return done


def shell(line, *arguments):
    """A line of shell with its arguments as $1, $2 …: what a person would type, and its output."""
    return run("sh", "-c", line, "sh", *arguments).stdout.strip()


def b3sum(path):
    """The CID of a file, by a program that is not ours."""
    return "b3:" + run("b3sum", "--no-names", path).stdout.strip()


class Checks:
    """Prints a line for each check, and counts."""

    def __init__(self):
        self.passed = self.failed = 0

    def same(self, what, actual, expected):
        self.holds(what, actual == expected, actual if actual == expected else f"{actual}, expected {expected}")

    def holds(self, what, held, shown=""):
        self.passed += bool(held)
        self.failed += not held
        print(f"{'ok' if held else 'FAILED'}: {what}{': ' if shown != '' else ''}{shown}", flush=True)

    def close(self):
        """The last line, and the exit code."""
        print(f"{self.passed} passed, {self.failed} failed")
        return 1 if self.failed else 0


def free_ports(count):
    """Loopback ports that nobody has at this moment, all different."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


class Service:
    """`svc-rewarder serve` of one's own: fresh state and keys under `folder`, free loopback ports, gone with the block.

    `settings` are environment variables of contract §8 beside the ones that make it private.
    """

    SCOPES = "rewarder.seal rewarder.policy rewarder.run rewarder.inspect"

    def __init__(self, folder, tenant, **settings):
        self.folder, self.tenant = pathlib.Path(folder), tenant
        http_port, metrics_port = free_ports(2)
        self.address, self.metrics_address = f"127.0.0.1:{http_port}", f"127.0.0.1:{metrics_port}"
        self.url = f"http://{self.address}"
        self.keys, self.token_file = self.folder / "keys.json", self.folder / "token"
        self.environment = {
            "HTTP_ADDR": self.address,
            "METRICS_ADDR": self.metrics_address,
            "STATE_DIR": str(self.folder / "state"),
            "CAP_KEYS_FILE": str(self.keys),
            "AMNESIA_MODE": "false",
            **settings,
        }

    def __enter__(self):
        self.folder.mkdir(parents=True, exist_ok=True)
        run(program("ronctl"), "cap", "keygen", "--keys", self.keys)
        self.token = run(program("ronctl"), "cap", "mint", "--keys", self.keys, "--tenant", self.tenant,
                         "--scope", self.SCOPES, "--expires", "2h").stdout.strip()
        self.token_file.write_text(self.token + "\n")
        self.token_file.chmod(0o600)
        self.log = open(self.folder / "log", "w+")
        self.process = subprocess.Popen([program("svc-rewarder"), "serve"], env={**os.environ, **self.environment},
                                        stdin=subprocess.DEVNULL, stdout=self.log, stderr=subprocess.STDOUT)
        try:
            self.wait_until_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_):
        self.stop()

    def wait_until_ready(self):
        give_up = time.monotonic() + READY_SECONDS_MAX
        while time.monotonic() < give_up and self.process.poll() is None:
            try:
                if request("GET", self.metrics_address, "/readyz").status == 200:
                    return
            except OSError:
                pass  # it does not listen yet
            time.sleep(0.02)
        self.log.seek(0)
        sys.exit(f"the service did not get ready within {READY_SECONDS_MAX} s:\n{self.log.read()[-4000:]}")

    def stop(self):
        """As an operator would: drain, and only then by force."""
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(DRAIN_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()

    def ask(self, method, path, body=None, **headers):
        """One request with the capability; headers by name with `_` for `-`."""
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        return request(method, self.address, path, body, {"Authorization": f"Bearer {self.token}", **headers})

    def submit(self, inputs, policy, *options, codes=(0,)):
        """`ronctl submit`: its exit code and what it printed as JSON."""
        done = run(program("ronctl"), "submit", "--url", self.url, "--token-file", self.token_file,
                   "--inputs", inputs, "--policy", policy, "--json", *options, codes=codes)
        return done.returncode, json.loads(done.stdout) if done.stdout.strip() else {}


class Answer:
    def __init__(self, response):
        self.status, self.headers, self.bytes = response.status, response.headers, response.read()

    def json(self):
        return json.loads(self.bytes)


def request(method, address, path, body=None, headers=None):
    """One request on a connection of its own."""
    connection = http.client.HTTPConnection(address, timeout=REQUEST_SECONDS_MAX)
    try:
        if isinstance(body, dict):
            body, headers = json.dumps(body), {"Content-Type": "application/json", **(headers or {})}
        connection.request(method, path, body, headers or {})
        return Answer(connection.getresponse())
    finally:
        connection.close()


def actor_path(epoch, actor):
    """Where an actor's payout and proof are; slashes and all are percent-encoded."""
    return f"/rewarder/epochs/{epoch}/allocations/{urllib.parse.quote(actor, safe='')}"


def machine():
    """Cores and the processor's name, for figures that mean nothing without them."""
    model = "unknown processor"
    with open("/proc/cpuinfo") as lines:
        for line in lines:
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    return f"{len(os.sched_getaffinity(0))} cores, {model}"
