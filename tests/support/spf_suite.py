"""The test suite of RFC 7208, as the OpenSPF project published it: YAML inside the source distribution of pyspf.

It is not part of this repository. pip fetches the distribution once, checked by its hash, into the tests' cache folder
(`MAILFRONT_TEST_CACHE`, else /var/cache/mailfront-tests for root, else ~/.cache/mailfront-tests).
"""

import os
import subprocess
import sys
import tarfile
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tests.support.dns_server import FAILS, Records


def cache_folder() -> Path:
    """Where fetched test data is kept between runs."""
    if given := os.environ.get("MAILFRONT_TEST_CACHE"):
        return Path(given)
    if os.getuid() == 0:
        return Path("/var/cache/mailfront-tests")
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "mailfront-tests"


def source_file(requirement: str, sha256: str, member: str) -> bytes:
    """One file out of a source distribution. `requirement` is `name==version`."""
    folder = cache_folder() / "sdists"
    archive = folder / f"{requirement.replace('==', '-')}.tar.gz"
    if not archive.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as work:
            wanted = Path(work) / "requirements.txt"
            wanted.write_text(f"{requirement} --hash=sha256:{sha256}\n")
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
            command += ["--no-binary", ":all:", "--require-hashes", "-r", str(wanted), "-d", work]
            done = subprocess.run(command, capture_output=True, text=True, timeout=300)
            fetched = Path(work) / archive.name
            if not fetched.exists():
                raise RuntimeError(f"pip could not fetch {requirement}:\n{done.stdout}{done.stderr}")
            fetched.rename(archive)
    with tarfile.open(archive) as opened:
        found = opened.extractfile(member)
        assert found is not None, member
        return found.read()


@cache
def scenarios() -> list[dict[str, Any]]:
    """The scenarios of the suite: description, zonedata, tests."""
    text = source_file(
        "pyspf==2.0.14",
        "57a7ef01bda090173aafb6af0106251686ed73f03db4e911fcd34c57fc347186",
        "pyspf-2.0.14/test/rfc7208-tests.yml",
    )
    return list(yaml.safe_load_all(text))


def zone(zonedata: dict[str, Any]) -> Records:
    """The zone of a scenario, as our test name server wants it."""
    records: Records = {}
    for name, entries in zonedata.items():
        records[name.lower()] = _entry(entries)
    return records


def _entry(entries: list[Any]) -> Any:
    found: dict[str, Any] = {}
    fails_otherwise = False
    for each in entries:
        if each == "TIMEOUT":
            fails_otherwise = True
            continue
        for kind, value in each.items():
            if value == "TIMEOUT":
                found[kind] = FAILS
                continue
            if value == "NONE":
                found.setdefault(kind, [])
                continue
            if kind == "MX":
                value = f"{value[0]} {value[1]}"
            found.setdefault(kind, []).append(value)
    # The suite writes what was once type SPF; where no TXT is named, the same is published as TXT.
    if "SPF" in found and "TXT" not in found:
        found["TXT"] = found["SPF"]
    if fails_otherwise:
        for kind in ("A", "AAAA", "MX", "PTR", "TXT"):
            found[kind] = found.get(kind) or FAILS
    return found
