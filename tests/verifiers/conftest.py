"""Verifiers nobody of us wrote: two libraries from PyPI, two from npm, and Node's own ed25519."""

import base64
import fcntl
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest.mock import Mock, patch

import pytest
import standardwebhooks
import standardwebhooks.webhooks
import svix.webhooks

HERE = Path(__file__).resolve().parent
LOCK = HERE / "package-lock.json"
INSTALLED = HERE / "node_modules/.package-lock.json"
TRIES = 3  # within the timeout of one test
OK = "ok"


@dataclass(frozen=True)
class Case:
    """A webhook as somebody receives it whose clock says `now`. jwk: the key its `v1a` is to be verified with."""

    secret: str
    headers: dict[str, str]
    body: bytes
    now: int
    jwk: dict[str, str] | None = None


Verdicts = dict[str, str]
Verify = Callable[[Sequence[Case]], list[Verdicts]]


@pytest.fixture(scope="session")
def node() -> str:
    """The program, with the libraries of package-lock.json installed beside verify.mjs."""
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed (Debian: apt install nodejs npm)")
    with _alone():
        _install()
    return "node"


@pytest.fixture(scope="session")
def verdicts(node: str) -> Verify:
    """What every verifier says of each case, by its name: `ok`, or the name of what it raised. One process of node."""

    def verify(cases: Sequence[Case]) -> list[Verdicts]:
        theirs = _in_javascript(node, cases)
        return [_in_python(case) | verdict for case, verdict in zip(cases, theirs, strict=True)]

    return verify


def _in_python(case: Case) -> Verdicts:
    return {
        "PyPI standardwebhooks": _verdict(standardwebhooks.Webhook, case),
        "PyPI svix": _verdict(svix.webhooks.Webhook, case),
    }


def _verdict(library: Any, case: Case) -> str:
    clock = Mock(wraps=datetime)
    clock.now.return_value = datetime.fromtimestamp(case.now, tz=UTC)
    try:
        with patch.object(standardwebhooks.webhooks, "datetime", clock):
            library(case.secret).verify(case.body, case.headers)
    except Exception as error:
        return type(error).__name__
    return OK


def _in_javascript(node: str, cases: Sequence[Case]) -> list[Verdicts]:
    spelled = [{**asdict(case), "body": base64.b64encode(case.body).decode()} for case in cases]
    done = _run([node, "verify.mjs"], json.dumps(spelled))
    assert done.returncode == 0, done.stderr
    return [
        {f"node {name}" if name == "ed25519" else f"npm {name}": said for name, said in verdict.items()}
        for verdict in json.loads(done.stdout)
    ]


@contextmanager
def _alone() -> Iterator[None]:
    """One worker of xdist at a time; the lock file itself is held, so that nothing is left behind."""
    with LOCK.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _install() -> None:
    """`npm ci`, unless what lies in node_modules is what the lock says."""
    said = ""
    for _ in range(TRIES):
        if _is_installed():
            return
        command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        said = _run(command).stderr
    assert _is_installed(), f"npm ci in {HERE} did not manage; is the network there?\n{said}"


def _run(command: list[str], given: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, check=False, input=given, cwd=HERE, capture_output=True, text=True, timeout=35)


def _is_installed() -> bool:
    """npm notes what it installed in the words of the lock; times of files say nothing after a checkout."""
    if not INSTALLED.exists():
        return False
    wanted = json.loads(LOCK.read_text())["packages"]
    return json.loads(INSTALLED.read_text())["packages"] == {name: wanted[name] for name in wanted if name}
