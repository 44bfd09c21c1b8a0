"""Run under the pinned environment.

`ensure()` restarts the calling script with the Python that the script `venv` prints, unless the packages are already
there. So `./compare`, `python3 reference.py` and a Python of the reader's own choice all work.
"""

import importlib.util
import os
import pathlib
import subprocess
import sys

PACKAGES = ("blake3", "pyarrow")


def ensure():
    if all(importlib.util.find_spec(package) for package in PACKAGES):
        return
    script = pathlib.Path(__file__).resolve().parent / "venv"
    python = subprocess.run([script], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    if os.path.abspath(sys.executable) == python:
        sys.exit(f"{python} lacks one of {', '.join(PACKAGES)}: remove its folder and run again")
    os.execv(python, [python, *sys.argv])
