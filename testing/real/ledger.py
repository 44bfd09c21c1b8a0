"""A ledger to settle against, apart from the service: contract §6, ledger protocol, in memory.

It keeps its own books, so that what was paid is counted where the money would move and not by the one who asked for it.

    with Ledger() as ledger:
        … LEDGER_URL=ledger.url …
        ledger.settled      {(tenant, epoch): intent}, each at most once
        ledger.answers      every answer given, in order: "accepted", "dup", "conflict"
"""
import http.server
import json
import threading

INTENT_BYTES_MAX = 64 * 1024  # an intent is under 2 KiB; anything near this is not one


class Ledger:
    def __init__(self):
        self.settled, self.answers = {}, []
        self.turn = threading.Lock()

    def __enter__(self):
        books = self

        class Desk(Handler):
            ledger = books

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Desk)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()

    def settle(self, intent):
        """The settle-once law: a settlement key holds one run for ever."""
        key = intent["tenant"], intent["epoch_id"]
        with self.turn:
            held = self.settled.setdefault(key, intent)
            status, answer = 201, "accepted"
            if held is not intent:
                status, answer = (200, "dup") if held["run_key"] == intent["run_key"] else (409, "conflict")
            self.answers.append(answer)
        return status, {"result": answer, "run_key": held["run_key"], "commitment": held["commitment"]}

    def find(self, run_key):
        with self.turn:
            found = [intent for intent in self.settled.values() if intent["run_key"] == run_key]
        if not found:
            return 404, {"result": "unknown"}
        return 200, {"result": "dup", "run_key": run_key, "commitment": found[0]["commitment"]}

    def paid(self):
        """The sum of everything ever settled, in minor units."""
        return sum(int(intent["payout_minor_units"]) for intent in self.settled.values())


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        length = int(self.headers.get("Content-Length", 0))
        if self.path != "/intents" or length > INTENT_BYTES_MAX:
            return self.answer(404, {"result": "unknown"})
        intent = json.loads(self.rfile.read(length))
        if self.headers.get("Idempotency-Key") != intent["run_key"]:
            return self.answer(400, {"result": "idempotency key is not the run key"})
        self.answer(*self.ledger.settle(intent))

    def do_GET(self):
        self.answer(*self.ledger.find(self.path.removeprefix("/intents/").replace("%3A", ":")))

    def answer(self, status, body):
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass
