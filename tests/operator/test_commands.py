"""The commands of operators as they are typed, on a real database."""

import asyncio
import json
import os
import sys
from uuid import UUID

import pytest

from tests.conftest import REPOSITORY
from tests.make import WORKER, accept, fail, start
from todoke.model.ids import new_id
from todoke.store.database import Database
from todoke.store.ledger import Ledger
from todoke.store.reading import Reader
from todoke.store.repair import Repair


async def todoke(url: str, *words: str) -> tuple[int, str, str]:
    """Exit code, output, errors."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "todoke",
        *words,
        cwd=REPOSITORY,
        env={**os.environ, "DATABASE_URL": url},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    said, complained = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode or 0, said.decode(), complained.decode()


async def test_jobs_are_listed_and_shown(database_url: str, ledger: Ledger) -> None:
    ours, theirs = await accept(ledger), await accept(ledger, tenant_id="other\x1b[31m", type="another")
    await fail(ledger, await start(ledger, ours))
    code, said, _ = await todoke(database_url, "jobs", "list")
    assert code == 0
    assert [line.split("\t")[0] for line in said.splitlines()] == [str(theirs), str(ours)]
    assert "\x1b" not in said, "a tenant's words do not steer the terminal"
    _, said, _ = await todoke(database_url, "jobs", "list", "--state", "failed", "--type", "generate-report", "--json")
    [listed] = json.loads(said)
    assert (listed["jobId"], listed["tenantId"], listed["errorCode"]) == (str(ours), "default", "JOB_ERROR")
    _, said, _ = await todoke(database_url, "jobs", "show", str(ours), "--json")
    assert [event["type"] for event in json.loads(said)["events"]] == ["job.accepted", "job.started", "job.failed"]
    code, said, _ = await todoke(database_url, "jobs", "show", str(ours))
    assert code == 0
    assert "JOB_ERROR" in said


async def test_jobs_are_canceled_and_retried(database_url: str, ledger: Ledger, database: Database) -> None:
    queued, running, theirs = await accept(ledger), await accept(ledger), await accept(ledger, tenant_id="another")
    await start(ledger, running)
    unknown = new_id()
    code, said, _ = await todoke(database_url, "jobs", "cancel", *map(str, (queued, running, theirs, unknown)), "x")
    assert code == 1
    lines = said.splitlines()
    assert lines[0] == f"job {queued} is canceled"
    assert WORKER in lines[1]
    assert lines[2] == f"job {theirs} is canceled"
    assert "there is no job" in lines[3]
    assert "no job id" in lines[4]
    code, said, _ = await todoke(database_url, "jobs", "retry", str(theirs), str(running))
    assert code == 1
    [again] = await database.fetch("SELECT id, tenant_id FROM job WHERE retry_of = $1", theirs)
    assert said.splitlines()[0].endswith(str(again["id"]))
    assert again["tenant_id"] == "another"
    assert UUID(str(again["id"])) != theirs


async def test_cursors_are_made_void(database_url: str, reader: Reader) -> None:
    before = await reader.epoch()
    code, said, _ = await todoke(database_url, "void-cursors")
    assert (code, "reset" in said) == (0, True)
    assert await reader.epoch() != before


async def test_workers_are_alive_or_lost(database_url: str, repair: Repair, database: Database) -> None:
    code, said, _ = await todoke(database_url, "workers")
    assert (code, "todoke worker" in said) == (0, True)
    await repair.enroll("quick", "here", 1, 4, 2, ["a", "b"])
    await repair.enroll("slow", "there", 2, 4, 0, ["a"])
    await database.fetch("UPDATE worker SET seen_at = now() - interval '20 seconds' WHERE id = 'slow'")
    _, said, _ = await todoke(database_url, "workers", "--json")
    assert {seen["id"]: seen["standing"] for seen in json.loads(said)} == {"quick": "alive", "slow": "lost"}
    _, said, _ = await todoke(database_url, "workers")
    assert "2/4" in said


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("127.0.0.1:9/todoke", "is the server of DATABASE_URL"),
        ("{server}/nowhere", "create it"),
        ("{server}/postgres", "migrate"),
    ],
)
async def test_errors_say_what_to_do(database_url: str, place: str, words: str) -> None:
    before, _, server = database_url.partition("@")
    url = f"{before}@{place.format(server=server.partition('/')[0])}"
    for command in (("jobs", "list"), ("workers",)):
        code, _, complained = await todoke(url, *command)
        assert code == 2
        assert words in complained, complained
        assert "Traceback" not in complained
        assert before.rpartition(":")[2] not in complained, "the password is not shown"
