#!/usr/bin/env python3
"""Seals a CSV, and lets DuckDB make Parquet of it, in turns on two threads; prints the medians and their ratio.

usage: against_duckdb.py SEAL_FILE CSV [RUNS]      SEAL_FILE: the built example `seal_file`; needs `pip install duckdb`
"""
import os, re, statistics, subprocess, sys, tempfile

seal_file, csv = sys.argv[1:3]
runs = int(sys.argv[3]) if len(sys.argv) > 3 else 5
# Each in a fresh process, timed from inside: fresh memory for both, start-up for neither. Ours also waits for the
# disk (fsync), which DuckDB does not.
DUCKDB = """
import duckdb, sys, time
con = duckdb.connect(); con.execute("SET threads=2")
started = time.perf_counter()
con.execute(f"COPY (SELECT * FROM read_csv('{sys.argv[1]}')) TO '{sys.argv[2]}' (FORMAT parquet)")
print(time.perf_counter() - started, duckdb.__version__)
"""
run = lambda *command: subprocess.run(command, check=True, capture_output=True, text=True).stdout
ours, theirs, peak = [], [], []
with tempfile.TemporaryDirectory(dir=os.path.dirname(os.path.abspath(csv))) as out:
    for _ in range(runs):
        seconds, version = run(sys.executable, "-c", DUCKDB, csv, f"{out}/x.parquet").split()
        theirs.append(float(seconds))
        text = run(seal_file, csv, f"{out}/x.arrows", "2")
        seconds, unit = re.search(r" in ([0-9.]+)(ms|s) ", text).groups()
        ours.append(float(seconds) / (1000 if unit == "ms" else 1))
        peak.append(int(re.search(r"VmHWM:\s+(\d+)", text)[1]))
seal, duck = statistics.median(ours), statistics.median(theirs)
print(f"seal {seal:.3f} s, DuckDB {version} {duck:.3f} s, ratio {seal / duck:.2f}, peak {max(peak) // 1024} MiB")
print("seal  ", *(f"{t:.3f}" for t in ours))
print("DuckDB", *(f"{t:.3f}" for t in theirs))
