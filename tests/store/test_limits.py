"""Who runs next, and how many at once: priority by rank, limits counted from leases."""

import asyncio
from typing import Any
from uuid import UUID

from tests.make import TENANT, TYPE, WORKER, accept, fail, start, succeed
from todoke.model.job import Attempt
from todoke.store.database import Database
from todoke.store.ledger import Ledger
from todoke.store.repair import Repair

KEYED: dict[str, Any] = {"concurrency_key": "k", "concurrency_limit": 2}


async def limited(ledger: Ledger, ids: list[UUID], worker_id: str = WORKER) -> list[Attempt]:
    return await ledger.claim_limited(ids, [TYPE], worker_id, 60)


async def test_without_priorities_hints_decide(ledger: Ledger) -> None:
    ids = [await accept(ledger) for _ in range(4)]
    assert {attempt.id for attempt in await ledger.claim([ids[3]], [TYPE], WORKER, 60)} == {ids[3]}


async def test_a_hint_is_a_permit_while_a_job_of_higher_priority_is_due(ledger: Ledger) -> None:
    plain = [await accept(ledger) for _ in range(3)]
    urgent = await accept(ledger, priority=5)
    assert [attempt.id for attempt in await ledger.claim([plain[2]], [TYPE], WORKER, 60)] == [urgent]
    # Nothing urgent is left: hints decide again.
    assert [attempt.id for attempt in await ledger.claim([plain[2]], [TYPE], WORKER, 60)] == [plain[2]]


async def test_a_low_job_gives_way_and_is_not_starved(ledger: Ledger, database: Database) -> None:
    low = await accept(ledger, priority=-5)
    plain = await accept(ledger)
    assert [attempt.id for attempt in await ledger.claim([low], [TYPE], WORKER, 60)] == [plain]
    young = await accept(ledger)
    # Five minutes later it has waited as long as its priority costs, and nobody younger passes it.
    await database.fetch("UPDATE job SET rank_at = rank_at - interval '6 minutes' WHERE id = $1", low)
    assert [attempt.id for attempt in await ledger.claim([young], [TYPE], WORKER, 60)] == [low]


async def test_a_priority_that_is_not_due_changes_nothing(ledger: Ledger) -> None:
    await accept(ledger, priority=9, delay_seconds=60.0)
    plain = [await accept(ledger) for _ in range(2)]
    assert [attempt.id for attempt in await ledger.claim([plain[1]], [TYPE], WORKER, 60)] == [plain[1]]


async def test_straight_claims_take_what_is_due_best_rank_first(ledger: Ledger) -> None:
    lost = await accept(ledger)
    await start(ledger, lost, lease_seconds=0)
    plain = [await accept(ledger) for _ in range(3)]
    urgent = await accept(ledger, priority=1)
    await accept(ledger, delay_seconds=60.0)
    await accept(ledger, type="another")
    await accept(ledger, **KEYED)
    first = await ledger.claim_due(2, [TYPE], WORKER, 60)
    assert {attempt.id for attempt in first} == {urgent, plain[0]}
    rest = await ledger.claim_due(10, [TYPE], WORKER, 60)
    assert {attempt.id for attempt in rest} == {plain[1], plain[2], lost}


async def test_concurrent_straight_claims_share_the_work(ledger: Ledger) -> None:
    ids = {await accept(ledger) for _ in range(40)}
    claims = await asyncio.gather(*(ledger.claim_due(10, [TYPE], f"worker-{n}", 60) for n in range(4)))
    taken = [attempt.id for claim in claims for attempt in claim]
    assert len(taken) == len(set(taken))
    assert set(taken) <= ids


async def test_no_more_of_a_key_run_at_once_than_its_limit(ledger: Ledger, database: Database) -> None:
    ids = [await accept(ledger, **KEYED) for _ in range(6)]
    assert await ledger.claim(ids, [TYPE], WORKER, 60) == [], "they are left to claim_limited"
    claims = await asyncio.gather(*(limited(ledger, ids, f"worker-{n}") for n in range(5)))
    assert sum(map(len, claims)) == 2
    parked = await database.fetch(
        "SELECT 1 FROM job WHERE state = 'PENDING' AND redispatch_at > now() + interval '20 s'"
    )
    assert len(parked) == 4


async def test_the_end_of_one_frees_the_next_in_rank(ledger: Ledger, repair: Repair) -> None:
    ids = [await accept(ledger, **KEYED) for _ in range(4)]
    running = await limited(ledger, ids)
    assert await repair.redispatch(10, 30) == []
    assert await succeed(ledger, running[0])
    assert await repair.redispatch(10, 30) == [ids[2]]
    assert [attempt.id for attempt in await limited(ledger, [ids[2], ids[3]])] == [ids[2]]
    assert await fail(ledger, running[1])
    assert await repair.redispatch(10, 30) == [ids[3]]


async def test_an_expired_lease_occupies_nothing(ledger: Ledger, database: Database) -> None:
    ids = [await accept(ledger, **KEYED) for _ in range(4)]
    await limited(ledger, ids)
    await database.fetch("UPDATE job SET lease_expires_at = now() WHERE state = 'PROCESSING'")
    assert {attempt.id for attempt in await limited(ledger, ids[2:])} == set(ids[2:])


async def test_a_limited_job_whose_place_is_taken_is_not_renewed(ledger: Ledger, database: Database) -> None:
    [late] = await limited(ledger, [await accept(ledger, **KEYED)])
    plain = await start(ledger, await accept(ledger))
    await database.fetch("UPDATE job SET lease_expires_at = now() WHERE state = 'PROCESSING'")
    held = [(attempt.id, attempt.lease) for attempt in (late, plain)]
    assert await ledger.renew(held, WORKER, 60) == {plain.id: False}


async def test_keys_of_different_tenants_and_names_do_not_meet(ledger: Ledger) -> None:
    one = {"concurrency_limit": 1}
    first = await accept(ledger, concurrency_key="k", **one)
    second = await accept(ledger, concurrency_key="k", tenant_id="another", **one)
    third = await accept(ledger, concurrency_key="l", **one)
    assert len(await limited(ledger, [first, second, third])) == 3


async def test_a_tenant_has_its_limit_too(database: Database, repair: Repair) -> None:
    ledger = Ledger(database, "todoke", tenant_jobs_max=2)
    mine = [await accept(ledger) for _ in range(4)]
    theirs = await accept(ledger, tenant_id="another")
    claimed = await ledger.claim([*mine, theirs], [TYPE], WORKER, 60)
    assert {attempt.id for attempt in claimed} == {mine[0], mine[1], theirs}
    mine_running = next(attempt for attempt in claimed if attempt.tenant_id == TENANT)
    assert await succeed(ledger, mine_running)
    assert await repair.redispatch(10, 30) == [mine[2]]
