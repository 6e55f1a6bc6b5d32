"""The whole product as a user runs it: `todoke dev` as a child process, everything else through its doors."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

HERE = Path(__file__).parent
READY_SECONDS = 60


class Desk:
    """A running `todoke dev`."""

    def __init__(self, state: Path, *flags: str, **variables: str) -> None:
        self.state = state
        command = [str(Path(sys.executable).with_name("todoke")), "dev", "--port", "0", "--state", str(state), *flags]
        paths = os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
        environment = os.environ | {"PYTHONPATH": paths, "TODOKE_JOBS": "paced_jobs"} | variables
        self.process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.lines: list[str] = []
        self.is_ready = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def wait_ready(self) -> "Desk":
        if not self.is_ready.wait(READY_SECONDS) or self.process.poll() is not None:
            self.kill()
            raise AssertionError("todoke dev did not get ready:\n" + "".join(self.lines))
        return self

    @property
    def facts(self) -> dict[str, Any]:
        return dict(json.loads((self.state / "dev.json").read_text()))

    @property
    def url(self) -> str:
        return str(self.facts["url"])

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(12)
        self._reader.join(5)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(5)

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)
            if line.startswith("todoke ready "):
                self.is_ready.set()
        self.is_ready.set()


@pytest.fixture(scope="session")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """One `todoke dev` for the tests that harm nothing."""
    desk = Desk(tmp_path_factory.mktemp("desk") / "state", TODOKE_LEASE_SECONDS="3", TODOKE_SWEEP_SECONDS="1")
    try:
        yield desk.wait_ready()
    finally:
        if desk.process.poll() is None:
            assert desk.stop() == 0, "".join(desk.lines)


@pytest.fixture
def client(desk: Desk) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=desk.url, timeout=20) as client:
        yield client
