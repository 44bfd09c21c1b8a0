#!/usr/bin/env python3
"""A real epoch from public data: a fund shared among everyone who publishes on npm, by a month's downloads.

usage: npm_fund.py DIR VERSION [--min-downloads N] > epoch.csv

VERSION is one of the package `download-counts`: 2.20260301.0 (March 2026), 2.20251201.0 (December 2025) or another.
Fetches with `npm pack` what DIR does not hold yet (about 80 MB, all under the MIT licence): `download-counts@VERSION`
(downloads of each package), `all-the-package-repos@2.0.3148` (its repository) and `npm-high-impact@1.13.0` (the most
depended upon). One CSV row a package, in the order of counts.json, downloads as they are:

  actor     host and owner of the repository, in lower case (github.com/lodash); npm/NAME for a package without one
  category  `depended` if the package is in npm-high-impact's list of the most depended upon, else `published`
  units     downloads in that month

With --min-downloads only the packages with at least N downloads, otherwise the same rows in the same order.
"""
import argparse
import csv
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile

REPOSITORIES = ("all-the-package-repos", "2.0.3148", "data/packages.json")
MOST_DEPENDED_UPON = ("npm-high-impact", "1.13.0", "lib/top-dependent.js")
OWNER = re.compile(r"https?://(?:www\.)?([a-z0-9.-]+\.[a-z]+)/([a-z0-9._~-]+)")


def packed(folder, name, version, member):
    """One file of a published package, as text."""
    path = os.path.join(folder, f"{name}-{version}.tgz")
    if not os.path.exists(path):
        fetch(path, f"{name}@{version}")
    with tarfile.open(path) as package:
        return package.extractfile(f"package/{member}").read().decode()


def fetch(path, package):
    """Under a temporary name first: an interrupted download must not be taken for a finished one."""
    folder, name = os.path.split(path)
    with tempfile.TemporaryDirectory(dir=folder) as unfinished:
        subprocess.run(["npm", "pack", "--silent", package], cwd=unfinished, check=True, stdout=subprocess.DEVNULL)
        os.rename(os.path.join(unfinished, name), path)


def rows(counts, repositories, depended):
    for name, downloads in counts.items():
        found = OWNER.match((repositories.get(name) or "").lower())
        actor = f"{found[1]}/{found[2]}" if found else f"npm/{name}"
        yield actor, "depended" if name in depended else "published", downloads


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("folder", metavar="DIR", help="where the packages are kept")
    options.add_argument("version", metavar="VERSION", help="of `download-counts`, e.g. 2.20260301.0")
    options.add_argument("--min-downloads", type=int, default=0, metavar="N")
    chosen = options.parse_args()
    os.makedirs(chosen.folder, exist_ok=True)

    counts = json.loads(packed(chosen.folder, "download-counts", chosen.version, "counts.json"))
    repositories = json.loads(packed(chosen.folder, *REPOSITORIES))
    depended = set(re.findall(r"^\s*'([^']+)'", packed(chosen.folder, *MOST_DEPENDED_UPON), re.M))

    out = csv.writer(sys.stdout, lineterminator="\n")
    out.writerow(["actor", "category", "units"])
    out.writerows(row for row in rows(counts, repositories, depended) if row[2] >= chosen.min_downloads)


if __name__ == "__main__":
    main()
