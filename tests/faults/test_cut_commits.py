"""The connection breaks during COMMIT (row 21): whether the server got it or not, the job's story stays one."""

import asyncio

import httpx
import pytest

from tests.faults.house import PATIENT, RECOVERY_SECONDS, House
from tests.faults.proxy_postgres import PostgresProxy

SETTINGS = PATIENT

ACCEPT = "INSERT INTO job"
CLAIM = "job.lease + 1"
SETTLE = "INSERT INTO artifact"

WAYS = pytest.mark.parametrize("is_delivered", [True, False], ids=["server-got-it", "server-did-not"])


@WAYS
async def test_a_claim_whose_commit_is_cut(house: House, wire: PostgresProxy, is_delivered: bool) -> None:
    cut = wire.cut_commit(CLAIM, is_delivered=is_delivered)
    await house.start(**wire.through)
    jobs = [await house.submit() for _ in range(3)]
    await asyncio.wait_for(cut.happened.wait(), 10)
    rows = [await house.end(job) for job in jobs]
    house.deed("cut", "claim")
    await house.verdict(recovery_seconds=RECOVERY_SECONDS)
    assert {(row["state"], row["failures"]) for row in rows} == {("SUCCESS", 0)}
    if not is_delivered:
        assert {(row["attempt"], row["losses"]) for row in rows} == {(1, 0)}


@WAYS
async def test_a_finish_whose_commit_is_cut(house: House, wire: PostgresProxy, is_delivered: bool) -> None:
    cut = wire.cut_commit(SETTLE, is_delivered=is_delivered)
    worker = await house.start(**wire.through)
    jobs = [await house.submit(size=100_000) for _ in range(3)]
    await asyncio.wait_for(cut.happened.wait(), 10)
    rows = [await house.end(job) for job in jobs]
    await house.verdict(is_duplicates_only=True)
    assert {(row["state"], row["attempt"], row["losses"], row["sequence"]) for row in rows} == {("SUCCESS", 1, 0, 3)}
    assert not worker.logged("attempt.lost"), "the first commit was its own"


@WAYS
async def test_a_failed_attempt_whose_commit_is_cut_is_charged_once(
    house: House, wire: PostgresProxy, is_delivered: bool
) -> None:
    cut = wire.cut_commit(SETTLE, is_delivered=is_delivered)
    await house.start(**wire.through)
    job = await house.submit(failures=1)
    await asyncio.wait_for(cut.happened.wait(), 10)
    row = await house.end(job)
    await house.verdict()
    assert (row["state"], row["attempt"], row["failures"], row["losses"]) == ("SUCCESS", 2, 1, 0)


@WAYS
async def test_a_release_at_shutdown_whose_commit_is_cut(house: House, wire: PostgresProxy, is_delivered: bool) -> None:
    first = await house.start(drain_seconds=0.2, **wire.through)
    job = await house.submit(seconds=600, timeout_seconds=900.0)
    await house.started(job)
    cut = wire.cut_commit(SETTLE, is_delivered=is_delivered)
    assert await house.terminate(first) == 0
    assert cut.happened.is_set()
    await house.start()
    row = await house.end(job)
    await house.verdict()
    assert (row["attempt"], row["failures"], row["losses"]) == (2, 0, 0)


@WAYS
async def test_a_submit_whose_commit_is_cut_makes_one_job(
    house: House, wire: PostgresProxy, is_delivered: bool
) -> None:
    api = await house.start("api", **wire.through)
    await house.start()
    async with httpx.AsyncClient(base_url=api.url, timeout=20) as client:
        for key in ({}, {"Idempotency-Key": "one"}):
            cut = wire.cut_commit(ACCEPT, is_delivered=is_delivered)
            answer = await client.post("/act", json={"params": {"path": str(house.effects)}}, headers=key)
            assert cut.happened.is_set()
            assert answer.status_code == 202, answer.text
            house.accept(answer, key.get("Idempotency-Key"))
        again = await client.post("/act", json={"params": {"path": str(house.effects)}}, headers=key)
        assert again.json()["jobId"] == answer.json()["jobId"]
    history = await house.verdict(is_duplicates_only=True)
    assert len(history.rows) == 2


async def test_many_commits_cut_at_random(house: House, wire: PostgresProxy, seed: int) -> None:
    """Every third commit of a claim and of a finish is cut, in either way, under a load of jobs."""
    worker = await house.start(slots=8, **wire.through)
    cuts = []
    for nth in range(2, 20, 3):
        cuts += [wire.cut_commit(CLAIM, is_delivered=bool((seed >> nth) & 1), nth=nth)]
        cuts += [wire.cut_commit(SETTLE, is_delivered=bool((seed >> nth) & 2), nth=nth)]
    for number in range(40):
        await house.submit(failures=number % 2)
    await house.at_rest(40)
    for cut in cuts:
        if cut.happened.is_set():
            house.deed("cut", cut.marker.decode())
    history = await house.verdict()
    assert sum(cut.happened.is_set() for cut in cuts) >= 4
    assert {(row["state"], row["failures"]) for row in history.rows.values()} == {("SUCCESS", 0), ("SUCCESS", 1)}
    assert worker.is_alive
