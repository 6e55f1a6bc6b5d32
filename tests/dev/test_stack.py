"""The desk as a whole, with stand-ins for the three processes: start, deaths, restarts, end."""

import contextlib
import json
import os
import re
import signal
import stat
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from todoke.dev import leftovers
from todoke.dev.aws import REGION
from todoke.dev.child import wait_until

SCRIPT = Path(__file__).with_name("dummy_desk.py")
KEYS = {
    "url",
    "databaseUrl",
    "sqsQueueUrl",
    "dlqUrl",
    "s3Bucket",
    "awsEndpointUrl",
    "awsRegion",
    "awsAccessKeyId",
    "awsSecretAccessKey",
    "notifyChannel",
    "signingSecret",
    "pids",
}
KINDS = ("api", "worker", "notifier", "postgres", "aws")
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
PARENT = (
    "import subprocess, sys, time;"
    " subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); time.sleep(600)"
)


class Desk:
    """One run of the script; what it said so far is in `told`."""

    def __init__(self, state: Path, *more: str) -> None:
        self.state = state.resolve()
        self.told = ""
        self.process = subprocess.Popen(
            [sys.executable, SCRIPT, state, "0", *more], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self.told += line

    def wait_ready(self) -> None:
        assert wait_until(lambda: "todoke ready" in self.told or self.process.poll() is not None, 60)
        assert re.search(r"^todoke ready http://127\.0\.0\.1:\d+$", self.told, re.M), self.told

    @property
    def facts(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.state / "dev.json").read_text())
        return found

    def pids(self, kind: str) -> list[int]:
        found: list[int] = self.facts["pids"][kind]
        return found

    def everyone(self) -> set[int]:
        postgres = leftovers.standing_in(self.state / "postgres", "postgres")
        return leftovers.marked(self.state) | postgres | {pid for kind in KINDS for pid in self.pids(kind)}

    def wait_replaced(self, kind: str, pid: int) -> list[int]:
        count = len(self.pids(kind))

        def replaced() -> bool:
            now = self.pids(kind)
            return pid not in now and len(now) == count

        assert wait_until(replaced, 30), self.told
        return self.pids(kind)

    def end(self, number: signal.Signals = signal.SIGTERM) -> float:
        """Seconds until it was gone."""
        began = time.monotonic()
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            self.process.wait(30)
        finally:
            self.process.kill()
            self.process.wait()
            self._reader.join(30)
            assert self.process.stdout
            self.process.stdout.close()
        return time.monotonic() - began

    def wait_end(self) -> int:
        """Its exit status once it has ended by itself."""
        assert wait_until(lambda: self.process.poll() is not None, 60), self.told
        self.end()
        return self.process.returncode


@contextlib.contextmanager
def start(state: Path, *more: str) -> Iterator[Desk]:
    desk = Desk(state, *more)
    try:
        yield desk
    finally:
        desk.end()


@contextlib.contextmanager
def run(state: Path, *more: str) -> Iterator[Desk]:
    with start(state, *more) as desk:
        desk.wait_ready()
        yield desk


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=20) as answer:
        text: str = answer.read().decode()
        return text


def alive(pids: set[int]) -> set[int]:
    return {pid for pid in pids if leftovers.is_running(pid)}


def test_dev_json_says_everything_and_sigterm_leaves_nothing(tmp_path: Path) -> None:
    with run(tmp_path / "a state") as desk:
        facts, everyone = desk.facts, desk.everyone()
        assert set(facts) == KEYS
        assert set(facts["pids"]) == set(KINDS)
        assert [len(facts["pids"][kind]) for kind in KINDS] == [1, 2, 1, 1, 1]
        assert stat.S_IMODE((desk.state / "dev.json").stat().st_mode) == 0o600
        assert facts["databaseUrl"].startswith("postgresql://")
        assert facts["signingSecret"].startswith("whsec_")
        assert get(facts["url"]) == str(facts["pids"]["api"][0])
        assert desk.end() < 10
        assert desk.process.returncode == 0
        assert not alive(everyone)
        assert not (desk.state / "dev.json").exists()


def test_a_killed_child_is_replaced_and_no_port_changes(tmp_path: Path) -> None:
    with run(tmp_path) as desk:
        before = desk.facts
        for kind in KINDS:
            victim = desk.pids(kind)[0]
            os.kill(victim, signal.SIGKILL)
            if kind == "api":  # the socket stays open, so a caller waits instead of being refused
                assert get(before["url"]) != str(victim)
            desk.wait_replaced(kind, victim)
        after = desk.facts
        assert {key: after[key] for key in KEYS - {"pids"}} == {key: before[key] for key in KEYS - {"pids"}}
        sqs = boto3.client("sqs", endpoint_url=after["awsEndpointUrl"], region_name=REGION)
        sqs.send_message(QueueUrl=after["sqsQueueUrl"], MessageBody="hint")
        # dev.json is written again only when the queues are there, the dead letters' and its redrive policy included.
        known = sqs.get_queue_attributes(QueueUrl=after["sqsQueueUrl"], AttributeNames=["RedrivePolicy"])
        assert after["dlqUrl"].rpartition("/")[2] in known["Attributes"]["RedrivePolicy"]
        sqs.get_queue_attributes(QueueUrl=after["dlqUrl"], AttributeNames=["QueueArn"])
        sqs.close()


def test_what_a_killed_process_started_goes_with_it(tmp_path: Path) -> None:
    with run(tmp_path, f"worker={PARENT}") as desk:
        # Two workers with a child each, API, notifier and emulator; PostgreSQL hides its environment.
        assert wait_until(lambda: len(leftovers.marked(desk.state)) >= 7, 10)
        victim = desk.pids("worker")[0]
        family = {pid for pid in leftovers.marked(desk.state) if os.getpgid(pid) == victim}
        assert len(family) == 2
        os.kill(victim, signal.SIGKILL)
        desk.wait_replaced("worker", victim)
        assert not alive(family)


def test_without_restart_the_dead_stay_dead(tmp_path: Path) -> None:
    with run(tmp_path, "no-restart") as desk:
        os.kill(desk.pids("notifier")[0], signal.SIGKILL)
        assert wait_until(lambda: desk.pids("notifier") == [], 10)
        assert wait_until(lambda: "notifier-1 was ended by signal 9" in desk.told, 5)
        assert len(desk.pids("worker")) == 2


def test_the_stubborn_are_killed_within_ten_seconds(tmp_path: Path) -> None:
    with run(tmp_path, f"worker={STUBBORN}") as desk:
        everyone = desk.everyone()
        assert desk.end(signal.SIGINT) < 10
        assert not alive(everyone)


def test_children_die_with_a_killed_desk_and_the_next_one_starts_on_the_same_data(tmp_path: Path) -> None:
    with run(tmp_path, f"worker={STUBBORN}") as desk:
        everyone, before = desk.everyone(), desk.facts
        desk.end(signal.SIGKILL)
        others = everyone - set(before["pids"]["worker"])
        assert wait_until(lambda: not alive(others), 10), alive(others)
    assert alive(everyone)
    with run(tmp_path) as heir:
        assert not alive(everyone)
        assert heir.facts["signingSecret"] == before["signingSecret"]


def test_a_second_desk_on_the_folder_is_refused_and_the_first_named(tmp_path: Path) -> None:
    with run(tmp_path) as desk:
        with start(tmp_path) as other:
            assert other.wait_end() == 1
        assert f"in use by process {desk.process.pid} at {desk.facts['url']}" in other.told
        assert "Traceback" not in other.told
        assert get(desk.facts["url"])


def test_a_process_that_cannot_start_ends_the_desk_with_its_words(tmp_path: Path) -> None:
    with start(tmp_path, "worker=raise SystemExit('the flux is misaligned')") as desk:
        assert desk.wait_end() == 1
    assert "the flux is misaligned" in desk.told
    assert "does not stay up" in desk.told
    assert not leftovers.marked(tmp_path.resolve())


def test_sigterm_while_starting_is_obeyed(tmp_path: Path) -> None:
    with start(tmp_path) as desk:
        assert wait_until(lambda: bool(leftovers.marked(desk.state)), 30)
        assert desk.end() < 10
    assert not leftovers.marked(desk.state)
    assert not leftovers.standing_in(desk.state / "postgres", "postgres")


@pytest.mark.parametrize("name", ["TODOKE_PUBLIC_URL", "TODOKE_LEASE_SECONDS"])
def test_settings_that_cannot_be_are_told_before_anything_starts(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "https://example.com")
    with start(tmp_path / "state") as desk:
        assert desk.wait_end() == 1
    assert name in desk.told
    assert not (tmp_path / "state").exists()
