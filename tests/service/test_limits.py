"""Who may ask how much: budgets of tenants and keys, suspension, the depth of the queue, and when a key was used."""

import asyncio
import re
from collections.abc import Mapping

import asyncpg
import httpx
import pytest

from service.admission import STALE_SECONDS, Admission
from service.budgets import BUCKETS_MAX, Budget, Budgets
from service.identity import Identity, Right
from service.problems import ProblemError
from service.usage import Usage
from tests.conftest import serve
from tests.make import accept, start
from tests.service.callers import door, guarded, make_key
from tests.streams.raw import connection, read_until, request
from todoke.model.access import EVERY_SCOPE
from todoke.model.limits import NO_TENANT_LIMITS, KeyLimits, TenantLimits
from todoke.runtime.settings import Settings
from todoke.store.api_keys import ApiKeys
from todoke.store.database import Database, queries
from todoke.store.ledger import Ledger
from todoke.store.tenants import Tenants
from todoke.wire.sse import Decoder

REPORT = {"type": "generate-report"}


@pytest.fixture(autouse=True)
def _quick_refusals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.gate.REFUSAL_SECONDS", 0.01)


class Clock:
    """Time that a test moves."""

    now = 1_000.0

    def __call__(self) -> float:
        return self.now


def left(answer: httpx.Response, budget: str = "submits") -> int:
    found = re.search(rf'"{budget}";r=(\d+);t=\d+', answer.headers["ratelimit"])
    assert found, answer.headers["ratelimit"]
    return int(found[1])


def is_limited(answer: httpx.Response) -> bool:
    if answer.status_code != 429:
        return False
    assert answer.json()["code"] == "RATE_LIMITED"
    assert answer.headers["content-type"] == "application/problem+json"
    return True


async def test_a_budget_is_told_and_kept(settings: Settings, database: Database) -> None:
    async with door(settings, tenant_submits_per_minute=5, tenant_reads_per_minute=3) as api:
        _, key = await make_key(database)
        submitted = [await api.post("/generate-report", headers=key) for _ in range(6)]
        assert [answer.status_code for answer in submitted] == [202] * 5 + [429]
        assert submitted[0].headers["ratelimit-policy"] == '"submits";q=5;w=60'
        assert [left(answer) for answer in submitted] == [4, 3, 2, 1, 0, 0]
        refused = submitted[5]
        assert is_limited(refused)
        assert 1 <= int(refused.headers["retry-after"]) <= 12
        assert refused.headers["ratelimit-policy"] == '"submits";q=5;w=60'
        # Reads are counted apart, whatever they lead to.
        codes = [(await api.get(path, headers=key)).status_code for path in ("/jobs/x", "/nothing", "/jobs", "/jobs")]
        assert codes == [404, 404, 200, 429]
        assert (await api.get("/healthz", headers=key)).status_code == 200
        assert "ratelimit" not in (await api.get("/openapi.json", headers=key)).headers
    [row] = await database.fetch("SELECT count(*) FROM job")
    assert row["count"] == 5


async def test_a_refusal_reads_no_body(settings: Settings, database: Database) -> None:
    async with door(settings, tenant_submits_per_minute=1) as api:
        _, key = await make_key(database)
        await api.post("/generate-report", headers=key)
        url, lines = str(api.base_url), [f"Authorization: {key['Authorization']}", "Content-Length: 1000"]
        async with connection(url) as (reader, writer):
            writer.write(request(url, "/generate-report", *lines, method="POST"))
            assert b" 429 " in await read_until(reader, lambda got: b"\r\n\r\n" in got)


async def test_tenants_do_not_share_and_keys_of_one_do(settings: Settings, database: Database) -> None:
    async with door(settings, tenant_submits_per_minute=4) as api:
        ours = [(await make_key(database))[1] for _ in range(4)]
        _, theirs = await make_key(database, tenant="another")
        for key in ours:
            assert (await api.post("/generate-report", headers=key)).status_code == 202
        assert all([is_limited(await api.post("/generate-report", headers=key)) for key in ours])
        assert left(await api.post("/generate-report", headers=theirs)) == 3


async def test_a_key_may_have_a_limit_of_its_own(settings: Settings, database: Database) -> None:
    async with door(settings, tenant_submits_per_minute=10) as api:
        (key, narrow), (_, wide) = await make_key(database), await make_key(database)
        await ApiKeys(database).limit(key.id, KeyLimits(submits_per_minute=2))
        answers = [await api.post("/generate-report", headers=narrow) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [202, 202, 429]
        assert answers[0].headers["ratelimit-policy"] == '"submits";q=10;w=60, "key-submits";q=2;w=60'
        assert (left(answers[1]), left(answers[1], "key-submits")) == (8, 0)
        # What was refused took nothing of the tenant's.
        assert left(await api.post("/generate-report", headers=wide)) == 7


async def test_a_tenant_may_have_limits_of_its_own(settings: Settings, database: Database) -> None:
    async with door(settings, tenant_submits_per_minute=1, tenant_reads_per_minute=1) as api:
        await Tenants(database).set("another", TenantLimits(submits_per_minute=3, reads_per_minute=0))
        _, key = await make_key(database, tenant="another")
        codes = [(await api.post("/generate-report", headers=key)).status_code for _ in range(4)]
        assert codes == [202, 202, 202, 429]
        reads = [await api.get("/jobs", headers=key) for _ in range(3)]
        assert [answer.status_code for answer in reads] == [200] * 3
        assert "ratelimit" not in reads[0].headers


async def test_a_batch_costs_its_jobs(settings: Settings, database: Database) -> None:
    async with door(settings, tenant_submits_per_minute=10) as api:
        _, key = await make_key(database)
        first = await api.post("/jobs/batch", json={"jobs": [REPORT] * 6}, headers=key)
        assert (first.status_code, left(first)) == (202, 4)
        refused = await api.post("/jobs/batch", json={"jobs": [REPORT] * 6}, headers=key)
        assert is_limited(refused)
        never = await api.post("/jobs/batch", json={"jobs": [REPORT] * 12}, headers=key)
        assert is_limited(never)
        assert "retry-after" not in never.headers
    [row] = await database.fetch("SELECT count(*) FROM job")
    assert row["count"] == 6


async def test_a_reader_of_a_stream_is_asked_to_come_back(settings: Settings, database: Database) -> None:
    async with door(settings, tenant_reads_per_minute=1) as api:
        _, key = await make_key(database)
        await api.get("/jobs", headers=key)
        for path in ("/events", "/jobs/x/events"):
            answer = await api.get(path, headers=key)
            assert (answer.status_code, answer.headers["content-type"].partition(";")[0]) == (200, "text/event-stream")
            decoder = Decoder()
            [frame] = decoder.feed(answer.content)
            assert (frame.event, frame.data) == ("reconnect", '{"reason":"overloaded"}')
            assert decoder.retry_milliseconds in range(10_000, 30_001)
            assert is_limited(await api.get(path, headers=key | {"Accept": "application/json"}))


async def test_a_suspended_tenant_is_kept_out_and_its_jobs_go_on(
    settings: Settings, database: Database, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.keyring.KEEP_SECONDS", 0.05)
    monkeypatch.setattr("service.streams.RIGHTS_SECONDS", 0.1)
    job_id = await accept(ledger)
    async with door(settings) as api:
        _, key = await make_key(database)
        _, other = await make_key(database, tenant="another")
        watched = (await api.post(f"/jobs/{job_id}/tokens", headers=key)).json()["eventsUrl"]
        async with asyncio.timeout(20), api.stream("GET", watched) as stream:
            lines = stream.aiter_lines()
            while "event: snapshot" not in await anext(lines):
                pass
            await Tenants(database).suspend("default", is_suspended=True)
            rest = [line async for line in lines]
        assert "event: reconnect" in rest
        # A key that was looked up just before is good for that long.
        await asyncio.sleep(0.06)
        refused = await api.get("/jobs", headers=key)
        assert (refused.status_code, refused.json()["code"]) == (403, "TENANT_SUSPENDED")
        assert (await api.get(watched)).status_code == 401, "which stops a browser"
        assert (await api.get("/jobs", headers=other)).status_code == 200
        assert (await start(ledger, job_id)).number == 1
        await Tenants(database).suspend("default", is_suspended=False)
        await asyncio.sleep(0.06)
        assert (await api.get("/jobs", headers=key)).status_code == 200
        async with api.stream("GET", watched) as stream:
            assert stream.status_code == 200


async def test_a_tenants_own_cap_of_streams(settings: Settings, database: Database, ledger: Ledger) -> None:
    job_id = await accept(ledger)
    await Tenants(database).set("default", TenantLimits(streams_max=1))
    async with door(settings) as api:
        _, key = await make_key(database)
        async with api.stream("GET", f"/jobs/{job_id}/events", headers=key) as first:
            # Kept: when nobody holds it any more, the stream is closed.
            chunks = first.aiter_text()
            assert await anext(chunks)
            second = await api.get(f"/jobs/{job_id}/events", headers=key)
            assert '{"reason":"overloaded"}' in second.text


async def test_a_full_queue_puts_submits_off(settings: Settings, database: Database, ledger: Ledger) -> None:
    for _ in range(3):
        await accept(ledger)
    full = guarded(settings, queue_depth_max=5, tenant_queue_depth_max=4, sweep_seconds=0.2)
    async with serve(full) as url, httpx.AsyncClient(base_url=url) as api:
        (_, ours), (_, theirs) = await make_key(database), await make_key(database, tenant="another")
        await _counted(api, 3)
        assert (await api.post("/generate-report", headers=ours)).status_code == 202
        quota = await api.post("/generate-report", headers=ours)
        assert (quota.status_code, quota.json()["code"]) == (429, "QUEUE_QUOTA")
        assert 1 <= int(quota.headers["retry-after"]) <= 60
        batch = await api.post("/jobs/batch", json={"jobs": [REPORT] * 2}, headers=theirs)
        assert (batch.status_code, batch.json()["code"]) == (503, "QUEUE_FULL")
        assert "retry-after" in batch.headers
        assert (await api.post("/generate-report", headers=theirs)).status_code == 202
        assert (await api.post("/generate-report", headers=theirs)).json()["code"] == "QUEUE_FULL"
        await ledger.claim(
            [row["id"] for row in await database.fetch("SELECT id FROM job")], ["generate-report"], "worker", 60
        )
        await _counted(api, 0)
        assert (await api.post("/generate-report", headers=ours)).status_code == 202
    [row] = await database.fetch("SELECT count(*) FROM job")
    assert row["count"] == 6


async def _counted(api: httpx.AsyncClient, depth: int) -> None:
    async with asyncio.timeout(20):
        while f"\ntodoke_queue_depth {depth}.0" not in (await api.get("/metrics")).text:
            await asyncio.sleep(0.05)


def admission(clock: Clock, **limits: int) -> Admission:
    settings = Settings(queue_depth_max=0, tenant_queue_depth_max=0).model_copy(update=limits)  # type: ignore[call-arg]
    return Admission(settings, None, clock)  # type: ignore[arg-type]


def code(checked: Admission, tenant_id: str, limits: TenantLimits = NO_TENANT_LIMITS, jobs: int = 1) -> str | None:
    try:
        checked.check(tenant_id, limits, jobs)
    except ProblemError as error:
        return str(error.problem.code)
    return None


def test_room_in_the_queue() -> None:
    clock = Clock()
    room = admission(clock, queue_depth_max=10, tenant_queue_depth_max=6)
    assert code(room, "a", jobs=1_000) is None, "nothing has been counted yet"
    waiting: Mapping[str, int] = {"a": 6, "b": 2}
    room.learn(waiting, clock.now)
    assert (code(room, "a"), code(room, "b"), code(room, "c", jobs=3)) == ("QUEUE_QUOTA", None, "QUEUE_FULL")
    assert code(room, "a", TenantLimits(queue_depth_max=0)) is None
    assert code(room, "b", TenantLimits(queue_depth_max=2)) == "QUEUE_QUOTA"
    room.took("b", 2)
    assert code(room, "c") == "QUEUE_FULL"
    clock.now += STALE_SECONDS + 1
    assert code(room, "c") is None, "an old count says nothing"


def test_when_to_come_back_follows_the_pace() -> None:
    clock = Clock()
    room = admission(clock, queue_depth_max=10)
    seconds = []
    for drained in (0, 20, 1):
        room.learn({"a": 100}, clock.now)
        room.took("a", drained)
        clock.now += 10
        room.learn({"a": 100}, clock.now)
        with pytest.raises(ProblemError) as caught:
            room.check("a", NO_TENANT_LIMITS)
        seconds.append(int(caught.value.problem.headers["Retry-After"]))
    assert seconds == [60, 46, 60]


async def test_counting_walks_an_index(database_url: str) -> None:
    other = await asyncpg.connect(database_url)
    await other.execute(
        "SET session_replication_role = replica; "
        "INSERT INTO job (id, tenant_id, type, state, params, max_attempts, timeout_seconds, due_at, created_at,"
        " updated_at, finished_at) SELECT gen_random_uuid(), 't' || n % 10, 't',"
        " CASE WHEN n % 20 = 0 THEN 'PENDING' ELSE 'SUCCESS' END, '{}', 5, 60, now(), now(), now(),"
        " CASE WHEN n % 20 <> 0 THEN now() END FROM generate_series(1, 20000) AS n"
    )
    await other.execute("VACUUM ANALYZE job")
    plan = "\n".join(row[0] for row in await other.fetch(f"EXPLAIN {queries('tenants')['waiting']}"))
    await other.close()
    assert re.search(r"Index Only Scan using job_(tenant_)?rank", plan), plan


async def test_when_a_key_was_used(database: Database) -> None:
    key, _ = await make_key(database)
    keys = ApiKeys(database)
    usage = Usage(keys)
    usage.note(key.id)
    usage.note("unknown")
    await usage.tell()
    [told] = await keys.newest()
    assert told.last_used_at is not None
    usage.note(key.id)
    await usage.tell()
    [again] = await keys.newest()
    assert again.last_used_at == told.last_used_at, "once a minute at most"


async def test_the_api_notes_who_came(settings: Settings, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.usage.TELL_SECONDS", 0.1)
    (used, headers), (unused, wrong) = await make_key(database), await make_key(database)
    async with door(settings) as api:
        await api.get("/jobs", headers=headers)
        await api.get("/jobs", headers={"Authorization": wrong["Authorization"][:-4] + "0000"})
        async with asyncio.timeout(20):
            while not any(key.last_used_at for key in await ApiKeys(database).newest()):
                await asyncio.sleep(0.05)
    assert {key.id: key.last_used_at is not None for key in await ApiKeys(database).newest()} == {
        used.id: True,
        unused.id: False,
    }


@pytest.mark.parametrize(("per_minute", "jobs"), [(60, 10), (30, 10), (12, 5), (60, 60), (6_000, 1_000)])
def test_a_batch_that_waits_as_told_is_taken(per_minute: int, jobs: int) -> None:
    """The gate takes one for each request, before anybody knows what is in it."""
    clock = Clock()
    budgets = Budgets(Settings(tenant_submits_per_minute=per_minute), clock)  # type: ignore[call-arg]
    caller = Identity("a", EVERY_SCOPE, Right("a"))
    budgets.charge(caller, Budget.SUBMITS, per_minute)
    clock.now += 61 / per_minute
    budgets.charge(caller, Budget.SUBMITS)
    with pytest.raises(ProblemError) as refused:
        budgets.charge(caller, Budget.SUBMITS, jobs, paid=1)
    clock.now += int(refused.value.problem.headers["Retry-After"])
    budgets.charge(caller, Budget.SUBMITS)
    budgets.charge(caller, Budget.SUBMITS, jobs, paid=1)
    with pytest.raises(ProblemError) as never:
        budgets.charge(caller, Budget.SUBMITS, per_minute + 1, paid=1)
    assert "Retry-After" not in never.value.problem.headers


async def test_whoever_asks_too_much_waits_for_each_refusal(
    settings: Settings, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as it waits, others are answered."""
    monkeypatch.setattr("service.gate.REFUSAL_SECONDS", 3_600)
    async with door(settings, tenant_submits_per_minute=1) as api:
        (_, greedy), (_, other) = await make_key(database), await make_key(database, tenant="another")
        await api.post("/generate-report", headers=greedy)
        waiting = asyncio.create_task(api.post("/generate-report", headers=greedy))
        assert (await api.post("/generate-report", headers=other)).status_code == 202
        assert not waiting.done()
        waiting.cancel()


def test_buckets_are_bounded() -> None:
    budgets = Budgets(Settings(tenant_reads_per_minute=5), Clock())  # type: ignore[call-arg]
    for number in range(BUCKETS_MAX + 10):
        tenant = f"tenant {number}"
        budgets.charge(Identity(tenant, EVERY_SCOPE, Right(tenant)), Budget.READS)
    assert len(budgets._buckets) == BUCKETS_MAX


def test_a_clock_moves_budgets() -> None:
    clock = Clock()
    budgets = Budgets(Settings(tenant_submits_per_minute=60), clock)  # type: ignore[call-arg]
    caller = Identity("a", EVERY_SCOPE, Right("a"))
    budgets.charge(caller, Budget.SUBMITS, 60)
    with pytest.raises(ProblemError):
        budgets.charge(caller, Budget.SUBMITS)
    clock.now += 1
    budgets.charge(caller, Budget.SUBMITS)
    assert dict(budgets.headers(caller, Budget.SUBMITS))[b"ratelimit"] == b'"submits";r=0;t=60'
