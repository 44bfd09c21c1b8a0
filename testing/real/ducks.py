"""DuckDB and pyarrow, as programs of their own.

They are the tools here that are not ours. They run in a process apart, under the pinned environment that the script
`venv` makes: what measures memory or time beside them stays small, and every other script needs Python alone.

    with DuckDB(threads=2) as duckdb:
        rows, milliseconds = duckdb.query("SELECT 42")

Started as a program this file serves one JSON request a line: {"sql": …} or {"arrow_to_csv": [FROM, TO]} or
{"dictionary_bytes": FROM}.
"""
import functools
import json
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent


@functools.cache
def python():
    """The Python that has the packages of requirements.txt."""
    return subprocess.run([HERE / "venv"], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


class DuckDB:
    """One connection in a process of its own, closed with the block."""

    def __init__(self, threads=2):
        self.threads = threads

    def __enter__(self):
        self.process = subprocess.Popen([python(), __file__, str(self.threads)], text=True,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait(timeout=30)

    def ask(self, **request):
        print(json.dumps(request), file=self.process.stdin, flush=True)
        answer = json.loads(self.process.stdout.readline() or '{"error": "the process of DuckDB ended"}')
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer

    def query(self, sql):
        """The rows, every value as text so that no integer loses a digit, and the milliseconds of the query alone."""
        answer = self.ask(sql=sql)
        return answer["rows"], answer["milliseconds"]

    def arrow_to_csv(self, snapshot, csv):
        """A sealed snapshot as the CSV that one might have sealed, its rows in their order."""
        self.ask(arrow_to_csv=[str(snapshot), str(csv)])

    def dictionary_bytes(self, snapshot):
        """What the actor dictionary of a snapshot takes: its offsets and its text."""
        return self.ask(dictionary_bytes=str(snapshot))["bytes"]


def serve(threads):
    import duckdb

    connection = duckdb.connect(config={"threads": threads, "preserve_insertion_order": "false"})
    for line in sys.stdin:
        try:
            answer = reply(connection, json.loads(line))
        except Exception as error:  # whatever went wrong, the one who asked has to hear it
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


def reply(connection, request):
    if "sql" in request:
        return query(connection, request["sql"])
    if "arrow_to_csv" in request:
        return arrow_to_csv(*request["arrow_to_csv"])
    return {"bytes": dictionary_bytes(request["dictionary_bytes"])}


def query(connection, sql):
    import time

    start = time.perf_counter()
    rows = connection.execute(sql).fetchall()
    milliseconds = (time.perf_counter() - start) * 1000
    return {"rows": [[str(value) for value in row] for row in rows], "milliseconds": milliseconds}


def arrow_to_csv(snapshot, csv):
    import pyarrow.csv
    import pyarrow.ipc

    with pyarrow.ipc.open_stream(snapshot) as stream:
        table = stream.read_all()
    plain = table.cast(pyarrow.schema([("actor", "string"), ("category", "string"), ("units", "uint64")]))
    pyarrow.csv.write_csv(plain, csv, pyarrow.csv.WriteOptions(quoting_style="needed"))
    return {}


def dictionary_bytes(snapshot):
    import pyarrow.ipc

    with pyarrow.ipc.open_stream(snapshot) as stream:
        return stream.read_next_batch().column("actor").dictionary.nbytes


if __name__ == "__main__":
    serve(int(sys.argv[1]))
