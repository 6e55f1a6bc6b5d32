"""When a job will end, as far as its kind's past can say, and when to ask again: in 2 to 5 seconds."""

import json
from typing import Any
from uuid import UUID

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.history import KINDS_MAX, Paces
from service.pace import Pace, Past, pace
from tests.conftest import until
from tests.make import accept, start, succeed
from todoke.model.job import State
from todoke.runtime.lifecycle import running
from todoke.store.database import Database
from todoke.store.history import Ended, History
from todoke.store.ledger import Ledger
from todoke.store.reading import Status

TEN = Past([Ended(waited, 10.0 * ran) for waited, ran in zip(range(10), range(1, 11), strict=True)])


def running_job(*, due: float = 100.0, started: float | None = None, **story: Any) -> Status:
    """A job that was due and started so many seconds ago."""
    shown = {"phase": "queued" if started is None else "processing", "progress": None, "attempt": 1} | story
    return Status(
        job_id=UUID(int=1),
        tenant_id="default",
        story={"jobType": "generate-report", **shown},
        state=State.PENDING if started is None else State.PROCESSING,
        sequence=1,
        progress_version=0,
        epoch="a",
        artifacts=[],
        snapshot=json.dumps(shown),
        delivery=None,
        result_expired_at=None,
        due_age=due,
        start_age=started,
    )


def remaining(status: Status, past: Past = TEN) -> float | None:
    estimate = pace(past, status).estimate
    assert estimate is not None
    assert estimate.basis == past.basis
    return estimate.remaining


def test_without_a_past_it_is_as_ever() -> None:
    for past in (None, Past([])):
        assert pace(past, running_job(started=3)) == Pace(2_000, None)


def test_a_queued_job_waits_and_runs() -> None:
    assert remaining(running_job(due=0)) == pytest.approx(5 + 50)
    assert remaining(running_job(due=5.5)) == pytest.approx(1.5 + 50)
    assert remaining(running_job(due=-60)) == pytest.approx(60 + 4 + 50), "it is not due for a minute"


def test_the_older_the_less_is_left() -> None:
    left = [remaining(running_job(started=age)) for age in (1, 15, 25, 45, 99)]
    assert left == [49, 45, 35, 25, 1]
    assert pace(TEN, running_job(started=99)).milliseconds == 2_000
    assert pace(TEN, running_job(started=96.5)).milliseconds == 3_500
    assert pace(TEN, running_job(started=96.5)).retry_after == "4"


def test_a_job_that_outlasts_all_others_is_not_guessed_at() -> None:
    overdue = pace(TEN, running_job(started=101))
    assert overdue.estimate is not None
    assert overdue.estimate.public() == {"remainingSeconds": None, "upperSeconds": None, "basis": 10}
    assert overdue.milliseconds == 5_000
    assert remaining(running_job(due=50)) is None, "nor one that waits longer"


def test_its_own_progress_weighs_more_the_further_it_is() -> None:
    def at(percent: float) -> float | None:
        return remaining(running_job(started=10, progress={"percent": percent, "message": None}))

    assert at(0) == 50
    assert at(50) == pytest.approx(0.5 * 10 + 0.5 * 50)
    assert at(100) == 0
    beyond = running_job(started=200, progress={"percent": 80, "message": None})
    assert remaining(beyond) == pytest.approx(50), "all that is left to go by"


def test_a_job_that_waits_for_its_next_attempt_starts_over() -> None:
    waiting = running_job(due=-30, started=95, phase="waiting", attempt=2)
    assert remaining(waiting) == 30 + 50


ages = st.floats(0, 1e7)


@given(
    st.lists(st.tuples(ages, ages), max_size=20),
    st.floats(-1e7, 1e7),
    st.none() | ages,
    st.none() | st.floats(0, 100),
    st.sampled_from(["queued", "processing", "waiting"]),
)
def test_whatever_the_past_the_contract_holds(
    past: list[tuple[float, float]], due: float, started: float | None, percent: float | None, phase: str
) -> None:
    progress = None if percent is None else {"percent": percent, "message": None}
    status = running_job(due=due, started=started, phase=phase, progress=progress)
    answer = pace(Past([Ended(*item) for item in past]), status)
    assert 2_000 <= answer.milliseconds <= 5_000
    assert answer.retry_after in {"2", "3", "4", "5"}
    if answer.estimate is not None and answer.estimate.remaining is not None:
        assert answer.estimate.upper is None or 0 <= answer.estimate.remaining <= answer.estimate.upper


async def test_a_poll_shows_the_estimate(api: httpx.AsyncClient, ledger: Ledger) -> None:
    for _ in range(3):
        await succeed(ledger, await start(ledger, await accept(ledger)))
    job_id = await accept(ledger)
    first = (await api.get(f"/jobs/{job_id}")).json()
    assert first["estimate"] is None, "nobody waits for it"

    async def estimate() -> Any:
        answer = await api.get(f"/jobs/{job_id}")
        assert answer.headers["retry-after"] in {"2", "3", "4", "5"}
        return answer.json()["estimate"]

    found = None
    for _ in range(500):
        found = found or await estimate()
    assert found is not None
    assert found["basis"] == 3
    await succeed(ledger, await start(ledger, job_id))
    assert await estimate_at_the_end(api, job_id) is None


async def estimate_at_the_end(api: httpx.AsyncClient, job_id: UUID) -> Any:
    answer = await api.get(f"/jobs/{job_id}")
    assert "retry-after" not in answer.headers
    return answer.json()["estimate"]


async def test_a_database_that_is_away_costs_the_estimate_only() -> None:
    async with Database("postgresql://postgres@127.0.0.1:1/nowhere") as database:
        paces = Paces(History(database))
        async with running(paces.run()):
            assert paces.pace(running_job(started=3)) == Pace()
            kind = ("default", "generate-report")
            await until(lambda: kind in paces._kept)
            assert paces.past(*kind) is None
            assert paces.pace(running_job(started=3)) == Pace()


async def test_a_burst_does_not_hide_what_was_known(database: Database, ledger: Ledger) -> None:
    paces = Paces(History(database))
    kind = ("default", "generate-report")
    await succeed(ledger, await start(ledger, await accept(ledger)))
    await paces._read(kind)
    assert (past := paces.past(*kind)) is not None
    await database.fetch("DELETE FROM job")
    await paces._read(kind)
    assert paces.past(*kind) is past


async def test_memory_is_bounded(database: Database) -> None:
    paces = Paces(History(database))
    for number in range(KINDS_MAX + 5):
        paces.past(str(number), "x")
    assert len(paces._wanted) == KINDS_MAX
    paces._kept.update({(str(number), "x"): (0.0, None) for number in range(KINDS_MAX)})
    await paces._read(("one more", "x"))
    assert len(paces._kept) == KINDS_MAX
    assert ("one more", "x") in paces._kept
