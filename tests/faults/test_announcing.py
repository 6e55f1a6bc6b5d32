"""Hints that are never sent, in real processes: a sweep shows what they would have."""

import signal
from pathlib import Path

import httpx
from pydantic import SecretStr

from tests.faults.house import House
from tests.pooler import pooled
from tests.service.test_stream import watch


async def test_a_worker_killed_between_commit_and_hint(house: House) -> None:
    api = await house.start("api", notify_mode="post_commit")
    worker = await house.start(
        "worker", "kill", "before", "todoke.store.announcing:PostCommit._send", notify_mode="post_commit"
    )
    async with httpx.AsyncClient(base_url=api.url, timeout=30) as client:
        job_id = await house.submit("act")
        async with watch(client, job_id, "earliest") as reading:
            assert (await reading.next()).event == "job.accepted"
            assert await worker.ended(60) == -signal.SIGKILL
            assert (await reading.next()).event == "job.started", "its hint died with the worker"


async def test_without_any_notify_a_stream_gets_everything(house: House) -> None:
    api = await house.start("api", notify_mode="off")
    await house.start("worker", notify_mode="off")
    async with httpx.AsyncClient(base_url=api.url, timeout=30) as client:
        job_id = await house.submit("act")
        async with watch(client, job_id, "earliest") as reading:
            events = [(await reading.next()).event]
            while events[-1] != "job.succeeded":
                events.append((await reading.next()).event)
    assert [event for event in events if event != "job.progress"] == ["job.accepted", "job.started", "job.succeeded"]


async def test_an_api_behind_a_transaction_pooler_stops_and_says_why(house: House, tmp_path: Path) -> None:
    with pooled(house.settings.database_url.get_secret_value(), tmp_path) as url:
        api = await house.start("api", listen_database_url=SecretStr(url), is_ready=False)
        assert await api.ended(60) == 2
    said = [line["text"] for line in api.lines if line["event"] == "not json"]
    assert any("TODOKE_LISTEN_DATABASE_URL" in text for text in said), api.lines
