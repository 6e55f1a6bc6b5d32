"""Houses, and the code of the version before this one."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.faults.conftest import house, make_house

__all__ = ["house", "make_house"]

# The last commit of the version whose schema is the one before ours. A new migration moves it.
PREVIOUS = "b2e842a14cd1583f6847f9a51634be396010ea0f"
# CI may run as another user than the one who owns the files.
GIT = ["git", "-c", "safe.directory=*", "-C", str(REPOSITORY)]


def _knows_history() -> bool:
    asked = subprocess.run([*GIT, "cat-file", "-e", PREVIOUS], capture_output=True, check=False, timeout=60)
    return asked.returncode == 0


# Files without their history, or a shallow clone, have nothing to upgrade from.
if not _knows_history():
    print(f"tests/upgrade is left out: commit {PREVIOUS[:7]} is missing; git fetch --unshallow", file=sys.stderr)
    collect_ignore_glob = ["test_*"]


@pytest.fixture(scope="session")
def previous(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files of the version before this one, out of the history of this repository."""
    parts = ["todoke", "service", "worker", "notifier", "tests"]
    archive = subprocess.run([*GIT, "archive", PREVIOUS, *parts], capture_output=True, check=True, timeout=60)
    folder = tmp_path_factory.mktemp("previous")
    subprocess.run(["tar", "-x", "-C", folder], input=archive.stdout, check=True, timeout=60)
    return folder
