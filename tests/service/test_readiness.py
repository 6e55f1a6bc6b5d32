"""`/readyz` says of each part whether it is well, is asked as often as anybody likes, and never hangs."""

import asyncio
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from service.readiness import KEEP_SECONDS, PATIENCE_SECONDS, Probe, Readiness
from tests.conftest import make_settings, serve
from tests.service.callers import guarded, make_key
from tests.worker.proxy import Proxy
from todoke.dev.aws import Emulator
from todoke.dev.ports import free_port
from todoke.model.access import Scope
from todoke.model.errors import Unavailable
from todoke.runtime.settings import Settings
from todoke.store.database import Database


class Part:
    """Answers, fails or hangs; counts how often it is asked."""

    def __init__(self) -> None:
        self.asked, self.is_away, self.hangs = 0, False, False

    async def __call__(self) -> int:
        self.asked += 1
        if self.hangs:
            await asyncio.Event().wait()
        if self.is_away:
            raise Unavailable("away")
        return 7


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


async def test_one_question_a_second_however_many_ask() -> None:
    part, clock = Part(), Clock()
    probe = Probe(part, clock)
    assert await asyncio.gather(*(probe.word() for _ in range(50))) == ["ok"] * 50
    assert [await probe.word() for _ in range(50)] == ["ok"] * 50
    assert part.asked == 1
    part.is_away = True
    assert await probe.word() == "ok", "for a moment longer"
    clock.now += KEEP_SECONDS
    assert await probe.word() == "away"
    part.is_away = False
    clock.now += KEEP_SECONDS
    assert await probe.word() == "ok"
    assert part.asked == 3


async def test_what_does_not_answer_is_away_and_is_waited_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.readiness.PATIENCE_SECONDS", 0.05)
    part, clock = Part(), Clock()
    probe = Probe(part, clock)
    assert await probe.word() == "ok"
    part.hangs = True
    clock.now += KEEP_SECONDS
    async with asyncio.timeout(PATIENCE_SECONDS * 5):
        assert await probe.word() == "away"
        clock.now += 1000
        assert [await probe.word() for _ in range(100)] == ["away"] * 100
    assert part.asked == 2, "no second question while the first is open"
    probe.close()


STATES = [
    # postgres, queue, listening, epoch known, draining -> status, listener
    (True, True, True, True, False, "ready", "ok"),
    (True, False, True, True, False, "degraded", "ok"),
    (True, True, False, True, False, "degraded", "deaf"),
    (False, True, True, True, False, "not ready", "ok"),
    (True, True, False, False, False, "not ready", "away"),
    (False, False, False, False, False, "not ready", "away"),
    (True, True, True, True, True, "draining", "ok"),
]


@pytest.mark.parametrize(("postgres", "queue", "hears", "reads", "drains", "status", "listener"), STATES)
async def test_what_each_part_means(
    postgres: bool, queue: bool, hears: bool, reads: bool, drains: bool, status: str, listener: str
) -> None:
    parts = Part(), Part()
    parts[0].is_away, parts[1].is_away = not postgres, not queue
    hub: Any = SimpleNamespace(is_ready=True, listens=True, epoch="e")
    streams: Any = SimpleNamespace(is_draining=drains)
    readiness = Readiness(hub, streams, Probe(parts[0]), Probe(parts[1]))
    hub.is_ready = hears and reads
    readiness._has_heard = True
    hub.epoch = "e" if reads else None
    standing = await readiness.look()
    assert (standing.status, standing.parts["listener"]) == (status, listener)
    assert standing.parts["postgres"] == ("ok" if postgres else "away")
    assert standing.parts["queue"] == ("ok" if queue else "away")
    assert standing.is_ready == (status in ("ready", "degraded"))


async def test_it_is_not_ready_before_notify_was_heard_once() -> None:
    hub: Any = SimpleNamespace(is_ready=False, listens=True, epoch="e")
    streams: Any = SimpleNamespace(is_draining=False)
    readiness = Readiness(hub, streams, Probe(Part()), None)
    assert (await readiness.look()).status == "not ready"
    hub.is_ready = True
    assert (await readiness.look()).parts == {"postgres": "ok", "listener": "ok", "queue": "off"}
    hub.listens = False
    assert (await readiness.look()).parts["listener"] == "off"


async def test_without_queue_it_is_degraded_and_without_postgresql_not_ready(
    settings: Settings, emulator: Emulator, queue_url: str
) -> None:
    away = settings.model_copy(update={"sqs_queue_url": queue_url.replace(queue_url.rpartition("/")[2], "none")})
    async with serve(away) as url, httpx.AsyncClient(base_url=url) as api:
        answer = await api.get("/readyz")
        assert (answer.status_code, answer.json()["status"], answer.json()["queue"]) == (200, "degraded", "away")
    nowhere = make_settings(f"postgresql://u@127.0.0.1:{free_port()}/x", queue_url, emulator)
    async with serve(nowhere, is_ready=False) as url, httpx.AsyncClient(base_url=url) as api:
        answer = await api.get("/readyz")
        parts = {"postgres": "away", "listener": "away", "queue": "ok"}
        assert (answer.status_code, answer.json()) == (503, {"status": "not ready"} | parts)
        assert (await api.get("/healthz")).json() == {"status": "ok"}
        assert (await api.head("/healthz")).status_code == 200


async def test_a_lost_bell_only_degrades(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("todoke.store.bell.ECHO_SECONDS", 0.1)
    async with Proxy(settings.listen_url) as bell:
        deaf = settings.model_copy(update={"listen_database_url": SecretStr(bell.url)})
        async with serve(deaf) as url, httpx.AsyncClient(base_url=url) as api:
            assert (await api.get("/readyz")).json()["status"] == "ready"
            await bell.cut()
            assert await _when(api, "listener", "deaf") == (200, "degraded")


@pytest.mark.full
async def test_a_postgresql_that_says_nothing_hangs_nobody(settings: Settings) -> None:
    async with Proxy(settings.database_url.get_secret_value()) as way:
        through = settings.model_copy(update={"database_url": SecretStr(way.url)})
        async with serve(through) as url, httpx.AsyncClient(base_url=url) as api:
            assert (await api.get("/readyz")).json()["status"] == "ready"
            way.silence()
            assert await _when(api, "postgres", "away") == (503, "not ready")
            await way.cut()


async def _when(api: httpx.AsyncClient, part: str, word: str) -> tuple[int, str]:
    """What is answered once a part stands so; no answer takes longer than it may."""
    async with asyncio.timeout(15):
        while True:
            async with asyncio.timeout(PATIENCE_SECONDS * 3):
                answer = await api.get("/readyz")
            if answer.json()[part] == word:
                return answer.status_code, answer.json()["status"]
            await asyncio.sleep(0.05)


async def test_measures_are_for_this_machine_or_an_operator(settings: Settings, database: Database) -> None:
    _, admin = await make_key(database)
    _, reader = await make_key(database, Scope.READ)
    elsewhere = [
        {"X-Forwarded-For": "10.0.0.3"},
        {"Forwarded": "for=10.0.0.3"},
        {"X-Real-IP": "10.0.0.3"},
        {"Via": "1.1 proxy"},
        {"Host": "jobs.example.com"},
        {"Host": "127.0.0.1.evil.example"},
        {"Host": "["},
    ]
    async with serve(guarded(settings)) as url, httpx.AsyncClient(base_url=url) as api:
        assert "todoke_http_requests_total" in (await api.get("/metrics")).text
        for headers in elsewhere:
            assert (await api.get("/metrics", headers=headers)).json()["code"] == "KEY_REQUIRED", headers
            assert (await api.get("/metrics", headers=headers | reader)).json()["code"] == "SCOPE_MISSING"
            assert (await api.get("/metrics", headers=headers | admin)).status_code == 200


async def test_labels_of_requests_are_bounded(settings: Settings) -> None:
    async with serve(settings) as url, httpx.AsyncClient(base_url=url) as api:
        for number in range(20):
            await api.get(f"/nothing/{number}")
            await api.get(f"/jobs/{number}")
        await api.request("PROPFIND", "/nothing")
        text = (await api.get("/metrics")).text
    counted = [line for line in text.splitlines() if line.startswith("todoke_http_requests_total")]
    assert 'todoke_http_requests_total{method="GET",route="unmatched",status="404"}' in "\n".join(counted)
    assert 'todoke_http_requests_total{method="GET",route="/jobs/{job_id}",status="404"}' in "\n".join(counted)
    assert 'method="other"' in "\n".join(counted)
    assert not [line for line in counted if "/nothing" in line]
