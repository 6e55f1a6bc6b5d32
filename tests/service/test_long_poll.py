"""Long polls over a real socket: they answer with the change, not late, not for nothing, and leave nothing behind."""

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import httpx
import pytest
from prometheus_client import REGISTRY

from tests.conftest import make_settings, serve, until
from tests.make import WORKER, accept, fail, start, succeed
from todoke.dev.aws import Emulator
from todoke.dev.postgres import Postgres
from todoke.model.job import Progress
from todoke.runtime.settings import Settings
from todoke.store.database import Database
from todoke.store.ledger import Ledger
from todoke.store.migrate import migrate

# Longer than a client of these tests has patience: an answer that comes was not waited out.
LONG = {"Prefer": "wait=30"}


def held() -> int:
    """Long polls that are open now."""
    return int(REGISTRY.get_sample_value("todoke_long_polls") or 0)


def outcomes(outcome: str) -> int:
    """Long polls that ended so."""
    return int(REGISTRY.get_sample_value("todoke_long_poll_ends_total", {"outcome": outcome}) or 0)


async def hold(
    api: httpx.AsyncClient, path: str, headers: dict[str, str] = LONG, method: str = "GET"
) -> asyncio.Task[httpx.Response]:
    """A long poll that is known to wait."""
    before = held()
    task = asyncio.create_task(api.request(method, path, headers=headers))
    await until(lambda: held() > before or task.done())
    assert not task.done(), task.result().text
    return task


async def busy(database: Database) -> int:
    """Connections of others that are doing something, or are kept from doing anything else."""
    [row] = await database.fetch(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state <> 'idle'"
        " AND pid <> pg_backend_pid()"
    )
    return int(row["count"])


async def tag_of(api: httpx.AsyncClient, job_id: UUID) -> str:
    return (await api.get(f"/jobs/{job_id}")).headers["etag"]


@pytest.mark.parametrize("change", ["start", "progress", "end", "cancel"])
@pytest.mark.parametrize("with_tag", [True, False])
async def test_it_answers_with_the_change(
    api: httpx.AsyncClient, ledger: Ledger, change: str, *, with_tag: bool
) -> None:
    job_id = await accept(ledger)
    attempt = await start(ledger, job_id) if change in ("progress", "end") else None
    tag = await tag_of(api, job_id)
    task = await hold(api, f"/jobs/{job_id}", LONG | ({"If-None-Match": tag} if with_tag else {}))
    if change == "start":
        await start(ledger, job_id)
    elif change == "cancel":
        await ledger.cancel(job_id, "default")
    else:
        assert attempt is not None
        if change == "progress":
            await ledger.report([Progress(job_id, attempt.lease, 30, "")], WORKER)
        else:
            await succeed(ledger, attempt)
    answer = await task
    assert answer.status_code == (202 if change in ("start", "progress") else 200)
    assert answer.headers["etag"] != tag
    assert answer.headers["preference-applied"] == "wait=30"
    assert answer.headers["vary"] == "Prefer"
    assert held() == 0


async def test_a_lost_notify_costs_one_sweep(settings: Settings) -> None:
    async with Database(settings.database_url.get_secret_value()) as database:
        silent = Ledger(database, "another_channel")
        async with serve(settings) as url, httpx.AsyncClient(base_url=url, timeout=20) as api:
            job_id = await accept(silent)
            task = await hold(api, f"/jobs/{job_id}")
            await fail(silent, await start(silent, job_id))
            assert (await task).json()["sequence"] > 1


async def test_nothing_new_in_time(api: httpx.AsyncClient, ledger: Ledger) -> None:
    job_id = await accept(ledger)
    short = {"Prefer": "wait=1"}
    tag = await tag_of(api, job_id)
    plain, tagged, starred = await asyncio.gather(
        api.get(f"/jobs/{job_id}", headers=short),
        api.get(f"/jobs/{job_id}", headers=short | {"If-None-Match": tag}),
        api.get(f"/jobs/{job_id}", headers=short | {"If-None-Match": "*"}),
    )
    assert [answer.status_code for answer in (plain, tagged, starred)] == [202, 304, 304]
    assert plain.json()["status"] == "running"
    assert tagged.content == b""
    for answer in (plain, tagged, starred):
        assert answer.headers["preference-applied"] == "wait=1"
        assert answer.headers["etag"] == tag
        assert 2 <= int(answer.headers["retry-after"]) <= 5


@pytest.mark.parametrize("form", ["{0}", "W/{0}", '"x", {0}', '"a,b" , W/{0},"y"', "*"])
async def test_every_spelling_of_the_tag_it_holds(api: httpx.AsyncClient, ledger: Ledger, form: str) -> None:
    job_id = await accept(ledger)
    headers = {"If-None-Match": form.format(await tag_of(api, job_id))}
    assert (await api.get(f"/jobs/{job_id}", headers=headers)).status_code == 304
    task = await hold(api, f"/jobs/{job_id}", LONG | headers)
    await start(ledger, job_id)
    assert (await task).status_code == 202


@pytest.mark.parametrize("tag", ['"other.1.0"', 'W/"x", "y"', "nonsense", '""'])
async def test_another_tag_is_answered_at_once(api: httpx.AsyncClient, ledger: Ledger, tag: str) -> None:
    job_id = await accept(ledger)
    answer = await api.get(f"/jobs/{job_id}", headers=LONG | {"If-None-Match": tag})
    assert (answer.status_code, answer.headers["preference-applied"]) == (202, "wait=30")


async def test_what_has_ended_or_is_not_there_is_answered_at_once(api: httpx.AsyncClient, ledger: Ledger) -> None:
    job_id = await accept(ledger)
    await succeed(ledger, await start(ledger, job_id))
    answer = await api.get(f"/jobs/{job_id}", headers=LONG)
    assert answer.status_code == 200
    tagged = await api.get(f"/jobs/{job_id}", headers=LONG | {"If-None-Match": answer.headers["etag"]})
    assert tagged.status_code == 304
    foreign = await accept(ledger, tenant_id="another")
    for other in (foreign, "nonsense"):
        assert (await api.get(f"/jobs/{other}", headers=LONG)).status_code == 404


async def test_a_hundred_on_one_job(settings: Settings, ledger: Ledger, database: Database) -> None:
    job_id = await accept(ledger)
    async with serve(settings) as url:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=url, timeout=20, limits=limits) as api:
            tasks = [asyncio.create_task(api.get(f"/jobs/{job_id}", headers=LONG)) for _ in range(100)]
            await until(lambda: held() == 100)
            async with asyncio.timeout(10):
                while await busy(database):  # a sweep may be reading
                    await asyncio.sleep(0.01)
            assert held() == 100
            await start(ledger, job_id)
            answers = await asyncio.gather(*tasks)
    assert {answer.json()["sequence"] for answer in answers} == {2}
    assert held() == 0


async def test_a_caller_that_leaves_leaves_nothing(settings: Settings, ledger: Ledger) -> None:
    job_id = await accept(ledger)
    async with serve(settings) as url:
        gone, tasks = outcomes("gone"), len(asyncio.all_tasks())
        port = int(url.rpartition(":")[2])
        for path, method in ((f"/jobs/{job_id}", "GET"), ("/generate-report", "POST")):
            for _ in range(5):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nPrefer: wait=30\r\n\r\n".encode())
                try:
                    await until(lambda: held() == 1)
                finally:
                    writer.close()
                await writer.wait_closed()
                await until(lambda: held() == 0)
        await until(lambda: len(asyncio.all_tasks()) <= tasks + 1)
        assert outcomes("gone") == gone + 10


async def test_a_stopping_api_answers_and_the_next_one_goes_on(settings: Settings, ledger: Ledger) -> None:
    job_id = await accept(ledger)
    async with serve(settings) as url, httpx.AsyncClient(base_url=url, timeout=20) as api:
        tag = await tag_of(api, job_id)
    headers = LONG | {"If-None-Match": tag}
    async with httpx.AsyncClient(timeout=20) as client:
        async with serve(settings) as url:
            task = await hold(client, f"{url}/jobs/{job_id}", headers)
        answer = await task
        assert answer.status_code == 304
        assert "preference-applied" not in answer.headers, "it was not held for as long as it was asked to be"
        async with serve(settings) as url:
            task = await hold(client, f"{url}/jobs/{job_id}", headers)
            await start(ledger, job_id)
            assert (await task).status_code == 202


@pytest.mark.parametrize("limit", ["streams_max", "tenant_streams_max"])
async def test_beyond_the_limit_it_is_answered_at_once(settings: Settings, ledger: Ledger, limit: str) -> None:
    job_id = await accept(ledger)
    narrow = settings.model_copy(update={limit: 1})
    async with serve(narrow) as url, httpx.AsyncClient(base_url=url, timeout=20) as api:
        task = await hold(api, f"/jobs/{job_id}")
        answer = await api.get(f"/jobs/{job_id}", headers=LONG)
        assert answer.status_code == 202
        assert "preference-applied" not in answer.headers
        assert 2 <= int(answer.headers["retry-after"]) <= 5
        await start(ledger, job_id)
        assert (await task).headers["preference-applied"] == "wait=30"


@pytest.mark.parametrize("jobs", [20, pytest.param(500, marks=[pytest.mark.full, pytest.mark.timeout(900)])])
async def test_whenever_it_begins_it_ends_with_the_job(
    api: httpx.AsyncClient, ledger: Ledger, jobs: int, seed: int
) -> None:
    rng = random.Random(seed)

    async def live(job_id: UUID) -> None:
        await asyncio.sleep(rng.random() * 0.02)
        attempt = await start(ledger, job_id)
        await asyncio.sleep(rng.random() * 0.02)
        await ledger.report([Progress(job_id, attempt.lease, 50, "")], WORKER)
        await asyncio.sleep(rng.random() * 0.02)
        await succeed(ledger, attempt)

    async def follow(job_id: UUID) -> None:
        tag, places = "", [(0, 0)]
        while True:
            answer = await api.get(f"/jobs/{job_id}", headers=LONG | ({"If-None-Match": tag} if tag else {}))
            tag = answer.headers["etag"]
            _, sequence, version = tag.strip('"').split(".")
            places.append((int(sequence), int(version)))
            if answer.status_code == 200:
                break
            assert answer.status_code == 202, "it was woken for something"
        assert places == sorted(set(places)), "each answer is news"

    for _ in range(0, jobs, 10):
        ids = [await accept(ledger) for _ in range(10)]
        async with asyncio.timeout(60):
            await asyncio.gather(*(live(job_id) for job_id in ids), *(follow(job_id) for job_id in ids * 3))


@pytest.fixture
def own_postgres(tmp_path: Path) -> Iterator[Postgres]:
    """A server of this test's own, to be stopped."""
    with Postgres(tmp_path / "data", "secret", durable=False) as server:
        migrate(server.url)
        yield server


async def test_when_postgres_goes_away_it_is_told_so(
    own_postgres: Postgres, emulator: Emulator, queue_url: str
) -> None:
    settings = make_settings(own_postgres.url, queue_url, emulator)
    async with (
        Database(own_postgres.url) as database,
        serve(settings) as url,
        httpx.AsyncClient(base_url=url, timeout=20) as api,
    ):
        job_id = await accept(Ledger(database, settings.notify_channel))
        task = await hold(api, f"/jobs/{job_id}")
        submit = await hold(api, "/generate-report", LONG, "POST")
        await asyncio.to_thread(own_postgres.stop)
        answers = [await task, await api.get(f"/jobs/{job_id}", headers=LONG)]
        assert [answer.status_code for answer in answers] == [503, 503]
        assert all(answer.headers["retry-after"] for answer in answers)
        assert (await submit).status_code == 202, "it was kept, and so it is said"
        await asyncio.to_thread(own_postgres.start)
        async with asyncio.timeout(20):
            while (await api.get("/readyz")).status_code != 200:
                await asyncio.sleep(0.05)
        task = await hold(api, f"/jobs/{job_id}")
        await start(Ledger(database, settings.notify_channel), job_id)
        assert (await task).json()["sequence"] == 2
