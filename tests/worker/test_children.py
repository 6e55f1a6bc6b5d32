"""Job code is kept apart: what it can see, what it can spoil, and what is left when somebody dies."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import REPOSITORY
from tests.worker.conftest import Office, StartWorker, is_alive, until
from todoke.runtime.settings import Settings

NOBODY = 65534


async def test_job_code_finds_no_secret(start_worker: StartWorker, office: Office, settings: Settings) -> None:
    await start_worker()
    found = await office.result(await office.submit("spy"))
    text = repr(found)
    assert "PATH" in found["environ"]
    assert settings.signing_secret is not None
    secrets = [
        settings.database_url.get_secret_value(),
        settings.database_url.get_secret_value().split("@")[0].rsplit(":", 1)[1],
        settings.signing_secret.get_secret_value(),
        "AWS_",
        "DATABASE_URL",
        "TODOKE_",
        "SECRET_OF_THE_WORKER",
        "hunter2",
    ]
    assert [secret for secret in secrets if secret in text] == []
    assert "socket" not in found["descriptors"].replace("socket_path", "")


async def test_what_job_code_prints_goes_to_the_log(start_worker: StartWorker, office: Office) -> None:
    worker = await start_worker()
    job = await office.submit("talk")
    assert await office.result(job) == ""
    assert await office.result(await office.submit("double", {"number": 1})) == {"number": 2}
    await until(lambda: any(line["text"] == "more words" for line in worker.logged("job.output")))
    [said] = [line for line in worker.logged("job.output") if line["text"] == "words of a job"]
    assert said["job_id"] == str(job)
    assert not worker.logged("not json")


async def test_a_warm_child_is_used_again(start_worker: StartWorker, office: Office) -> None:
    worker = await start_worker()
    before = worker.children()
    for number in range(3):
        await office.result(await office.submit("double", {"number": number}))
    assert worker.children() == before


async def test_a_killed_supervisor_leaves_nobody_behind(start_worker: StartWorker, office: Office) -> None:
    worker = await start_worker()
    jobs = [
        await office.submit("sleep-in-a-thread", {"number": 600}, timeout_seconds=900.0),
        await office.submit("sleep", {"number": 600}, timeout_seconds=900.0),
    ]
    for job in jobs:
        await office.when(job, lambda row: row["state"] == "PROCESSING")
    # Two that run job code, each below its warden.
    await until(lambda: len(worker.children()) == 4)
    children = worker.children()
    worker.process.kill()
    await until(lambda: not any(map(is_alive, children)), seconds=2)


async def test_what_job_code_started_ends_with_its_attempt(
    start_worker: StartWorker, office: Office, tmp_path: Path
) -> None:
    await start_worker()
    path = tmp_path / "pid"
    row = await office.end(await office.submit("spawn", {"path": str(path)}, max_attempts=1, timeout_seconds=0.7))
    assert row["error_code"] == "TIMEOUT"
    await until(lambda: not is_alive(int(path.read_text())))


async def test_job_modules_that_do_not_load_stop_the_worker(start_worker: StartWorker) -> None:
    worker = await start_worker(is_ready=False, jobs=("no_such_module",))
    assert await worker.ended() == 2
    assert "ModuleNotFoundError" in worker.lines[-1]["text"]


@pytest.mark.parametrize(
    "type_",
    ["in-c", "in-c-in-a-thread", "in-c-async", "program-in-c", "deaf", "daemonise-and-wait"],
)
async def test_a_killed_supervisor_leaves_nothing_of_a_job_that_cannot_hear(
    start_worker: StartWorker, office: Office, tmp_path: Path, type_: str
) -> None:
    worker = await start_worker()
    path = tmp_path / "notes"
    await office.submit(type_, {"path": str(path)}, timeout_seconds=900.0)
    await until(path.exists)
    below = worker.children()
    assert len(below) >= 2
    if type_ in ("program-in-c", "daemonise-and-wait"):
        assert int(path.read_text()) in below
    worker.process.kill()
    await until(lambda: not any(map(is_alive, below)), seconds=2)


@pytest.mark.parametrize("type_", ["daemonise-and-die", "kill-the-warden"])
async def test_what_left_its_group_ends_with_its_job(
    start_worker: StartWorker, office: Office, tmp_path: Path, type_: str
) -> None:
    await start_worker()
    path = tmp_path / "pid"
    row = await office.end(await office.submit(type_, {"path": str(path)}, max_attempts=1))
    assert (row["state"], row["error_code"]) == ("FAILED", "CHILD_DIED")
    await until(lambda: not is_alive(int(path.read_text())), seconds=2)


async def test_job_code_finds_what_it_is_allowed_and_no_more(start_worker: StartWorker, office: Office) -> None:
    worker = await start_worker()
    found = await office.result(await office.submit("spy"))
    names = {entry.partition("=")[0] for entry in found["proc"].split("\0") if entry}
    # LC_CTYPE is what Python itself adds where no locale is set.
    assert {"PATH", "HOME", "TMPDIR"} <= names <= {"PATH", "LANG", "LC_ALL", "TZ", "HOME", "TMPDIR", "LC_CTYPE"}
    assert str(worker.scratch) in found["environ"]
    assert len(found["descriptors"].split()) <= 6, found["descriptors"]


def test_job_code_cannot_read_the_supervisor() -> None:
    """Two processes of one ordinary user, as supervisor and job are; the kernel lets root read everything."""
    rooms = ("worker/processes.py", "todoke/runtime/hiding.py")
    source = "\n".join((REPOSITORY / room).read_text() for room in rooms)
    code = """
import os, subprocess, sys, types
room = types.ModuleType("processes")
exec(sys.argv[1], room.__dict__)
reader = '''
import os, sys
for name in ("environ", "mem", "maps"):
    try:
        print(len(open(f"/proc/{sys.argv[1]}/{name}", "rb").read(64)) and "read")
    except OSError as error:
        print(type(error).__name__)
'''
for hide in (lambda: None, room.hide_memory):
    # What exec brings can be read again: only the process that hid is hidden.
    hide()
    command = [sys.argv[2], "-I", "-S", "-c", reader, str(os.getpid())]
    print(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
print(room.resident_bytes(os.getpid()) > 0, len(room.below(os.getpid())), bool(os.listdir("/proc/self/fd")))
"""
    # One that every user may run: a virtual environment may lie in a closed folder.
    python = "/usr/bin/python3" if Path("/usr/bin/python3").exists() else sys.executable
    rights: dict[str, Any] = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
    command = [python, "-I", "-S", "-c", code, source, python]
    run = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False, cwd="/", **rights)
    assert run.returncode == 0, run.stderr
    before, after, works = run.stdout.splitlines()
    assert "'read'" in before
    assert after == "['PermissionError', 'PermissionError', 'PermissionError']"
    assert works == "True 0 True"


@pytest.mark.parametrize(
    ("type_", "memory_mb", "code"),
    [
        ("huge-result", 0, "RESULT_TOO_LARGE"),
        ("huge-result", 512, "MEMORY_LIMIT"),
        ("huge-file", 512, "RESULT_TOO_LARGE"),
    ],
)
async def test_a_result_of_a_gibibyte_does_not_pass_through_the_supervisor(
    start_worker: StartWorker, office: Office, type_: str, memory_mb: int, code: str
) -> None:
    worker = await start_worker(s3_bucket="", job_memory_mb=memory_mb)
    await office.result(await office.submit("double", {"number": 1}))
    before = most_resident_bytes(worker.pid)
    row = await office.end(await office.submit(type_, {"number": 2**30}), seconds=40)
    assert (row["state"], row["error_code"], row["attempt"]) == ("FAILED", code, 1)
    assert most_resident_bytes(worker.pid) - before < 100 * 2**20
    assert await office.result(await office.submit("double", {"number": 2})) == {"number": 4}
    await until(lambda: not worker.leftovers())


def most_resident_bytes(pid: int) -> int:
    """The most memory the process ever had."""
    [line] = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024
