"""When a delivery is tried again, in virtual time: the rules alone, then through the real database."""

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.make import TENANT
from tests.model.pages import a_delivery
from tests.owing import URL, delivery_row, owe
from todoke.model.delivery import (
    ATTEMPTS_MAX,
    RETRY_SECONDS,
    Answer,
    Control,
    Delivery,
    DeliveryState,
    Reason,
    Verdict,
    judge,
)
from todoke.store.database import Database
from todoke.store.deliveries import Deliveries
from todoke.store.ledger import Ledger

DAY = 24 * 3600.0
WINDOW = 120 * 3600.0
SHORTEST, LONGEST = 75 * 3600 + 42 * 60 + 35, 94 * 3600 + 38 * 60 + 14
FAILURES = [
    Answer(reason, status)
    for reason, status in (
        (Reason.HTTP_STATUS, 404),
        (Reason.HTTP_STATUS, 500),
        (Reason.HTTP_STATUS, 429),
        (Reason.REDIRECT, 302),
        (Reason.TIMEOUT, None),
        (Reason.DNS, None),
        (Reason.BLOCKED, None),
    )
]
failures = st.sampled_from(FAILURES)
retry_afters = st.none() | st.floats(0, 1e12)


def run(answer: Answer) -> list[Verdict]:
    """Every verdict of a delivery that is always answered so, with no time between due and sent."""
    verdicts: list[Verdict] = []
    for attempt in itertools.count(1):
        owed = sum(verdict.delay for verdict in verdicts)
        verdicts.append(judge(a_delivery(attempt, owed_seconds=owed), answer, WINDOW))
        if verdicts[-1].state is not DeliveryState.PENDING:
            return verdicts
    raise AssertionError


@given(failures)
def test_twelve_attempts_within_their_bounds(answer: Answer) -> None:
    *retried, last = run(answer)
    assert (len(retried), last.state, last.reason) == (11, DeliveryState.PARKED, answer.reason)
    for verdict, seconds in zip(retried, RETRY_SECONDS, strict=True):
        assert seconds <= verdict.delay <= 1.25 * seconds
        assert verdict.is_charged
    assert SHORTEST <= sum(verdict.delay for verdict in retried) <= LONGEST


@pytest.mark.parametrize(("draw", "total"), [(1.0, SHORTEST), (1.25, LONGEST)])
def test_the_exact_ends_of_the_bounds(draw: float, total: int, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[float, float]] = []

    def uniform(low: float, high: float) -> float:
        asked.append((low, high))
        return draw

    monkeypatch.setattr(random, "uniform", uniform)
    assert round(sum(verdict.delay for verdict in run(Answer(Reason.TIMEOUT)))) == total
    assert set(asked) == {(1.0, 1.25)}, "jitter only adds"


@given(failures, st.integers(1, ATTEMPTS_MAX - 1), retry_afters, st.floats(0, WINDOW), st.floats(0, 30))
def test_retry_after_is_never_undercut(
    answer: Answer, attempt: int, retry_after: float | None, owed: float, seconds: float
) -> None:
    """Beyond the schedule, but for 24 hours and the window's end."""
    asking = Answer(answer.reason, answer.status, retry_after=retry_after, seconds=seconds)
    verdict = judge(a_delivery(attempt, owed_seconds=owed), asking, WINDOW)
    left, scheduled = WINDOW - owed - seconds, RETRY_SECONDS[attempt - 1]
    if verdict.state is DeliveryState.PARKED:
        assert verdict.reason is Reason.WINDOW
        assert left < 1.25 * scheduled
        return
    assert left >= scheduled
    assert verdict.delay >= min(retry_after or 0, DAY, left)
    assert scheduled <= verdict.delay <= max(1.25 * scheduled, min(retry_after or 0, DAY))
    assert verdict.delay <= left


@pytest.mark.parametrize(("asked", "got"), [(100.0, 100.0), (DAY, DAY), (DAY + 1, DAY), (1e300, DAY), (4.9, None)])
def test_a_retry_after(asked: float, got: float | None) -> None:
    delay = judge(a_delivery(1), Answer(Reason.HTTP_STATUS, 429, retry_after=asked), WINDOW).delay
    assert delay == got if got else 5 <= delay <= 6.25


def test_a_retry_after_ends_where_the_window_does() -> None:
    asking = Answer(Reason.HTTP_STATUS, 400, retry_after=3600, seconds=10)
    assert judge(a_delivery(2, owed_seconds=WINDOW - 610), asking, WINDOW).delay == 600
    parked = judge(a_delivery(5, owed_seconds=WINDOW - 610), asking, WINDOW)
    assert (parked.state, parked.reason) == (DeliveryState.PARKED, Reason.WINDOW)


def test_without_a_window_there_is_one_attempt() -> None:
    verdict = judge(a_delivery(1), Answer(Reason.TIMEOUT), 0)
    assert (verdict.state, verdict.reason) == (DeliveryState.PARKED, Reason.WINDOW)
    assert judge(a_delivery(1), Answer(Reason.DELIVERED, 200), 0).state is DeliveryState.DELIVERED


def test_a_success_counts_however_late() -> None:
    late = judge(a_delivery(ATTEMPTS_MAX, owed_seconds=2 * WINDOW), Answer(Reason.DELIVERED, 204), WINDOW)
    assert late.state is DeliveryState.DELIVERED


@pytest.mark.parametrize("answer", [*FAILURES, Answer(Reason.SENDER), Answer(Reason.HTTP_STATUS, 503, retry_after=1)])
def test_progress_is_sent_once_or_never(answer: Answer) -> None:
    assert judge(a_delivery(1, sequence=-4), answer, WINDOW).state is DeliveryState.PARKED


@given(st.integers(1, ATTEMPTS_MAX), st.floats(0, WINDOW * 1.1))
def test_a_fault_of_our_own_costs_no_attempt(attempt: int, owed: float) -> None:
    verdict = judge(a_delivery(attempt, owed_seconds=owed), Answer(Reason.SENDER), WINDOW)
    assert not verdict.is_charged
    if verdict.state is DeliveryState.PENDING:
        usual = min(max(5, owed / 10), 300)
        assert usual <= verdict.delay <= usual * 1.25
    else:
        assert verdict.reason is Reason.WINDOW
        assert owed + 375 > WINDOW


@pytest.mark.parametrize("attempt", [1, ATTEMPTS_MAX])
def test_what_ends_at_once(attempt: int) -> None:
    for answer, reason in (
        (Answer(Reason.HTTP_STATUS, 410), Reason.GONE),
        (Answer(Reason.HTTP_STATUS, 500, control=Control.ABORT), Reason.ABORTED),
        (Answer(Reason.HTTP_STATUS, 500, control=Control.DISABLE), Reason.GONE),
    ):
        verdict = judge(a_delivery(attempt), answer, WINDOW)
        assert (verdict.state, verdict.reason) == (DeliveryState.PARKED, reason)


async def claim(database: Database) -> list[Delivery]:
    """What is due, moved through all its standings."""
    deliveries = Deliveries(database, 4)
    await deliveries.stage()
    await deliveries.release(WINDOW)
    [endpoint] = await database.fetch("SELECT endpoint_key($1, $2) AS id", TENANT, URL)
    return await deliveries.claim({(TENANT, endpoint["id"]): 4}, 40)


async def pass_time(database: Database, seconds: float) -> None:
    """Everything the rules look at happened so much longer ago."""
    for table, moments in {
        "delivery": ("due_at", "owed_since"),
        "endpoint": ("blocked_until", "failing_since", "updated_at"),
    }.items():
        earlier = ", ".join(f"{moment} = {moment} - $1::float8 * interval '1 second'" for moment in moments)
        await database.fetch(f"UPDATE {table} SET {earlier}", seconds)


async def pass_block(database: Database) -> float:
    """Let the time pass for which the endpoint is left alone, and say how long that was."""
    [row] = await database.fetch(
        "SELECT extract(epoch FROM blocked_until - clock_timestamp())::float8 AS seconds FROM endpoint"
    )
    await pass_time(database, row["seconds"])
    return float(row["seconds"])


async def fail(database: Database, delivery: Delivery, answer: Answer) -> float:
    """Record one more failure; then let the time until the delivery is due pass, and say how long that was."""
    verdict = judge(delivery, answer, WINDOW)
    assert await Deliveries(database, 4).record([verdict]) == [True]
    row = await delivery_row(database, delivery.job_id)
    if row["state"] == DeliveryState.PENDING:
        assert row["standing"] == "waiting"
        assert verdict.delay - 5 < row["due_seconds"] <= verdict.delay, "on the database's clock"
        await pass_time(database, verdict.delay)
    return verdict.delay


@pytest.mark.parametrize(
    "answer",
    [Answer(Reason.HTTP_STATUS, 500, excerpt="no"), Answer(Reason.HTTP_STATUS, 503), Answer(Reason.TIMEOUT)],
    ids=["500", "503", "timeout"],
)
async def test_a_receiver_that_always_fails(database: Database, ledger: Ledger, answer: Answer) -> None:
    """Through the real claims and records: twelve attempts, each at its time, then parked with all of them kept."""
    job_id, delays, held = await owe(ledger), [], 0.0
    for attempt in range(1, ATTEMPTS_MAX + 1):
        if not (claimed := await claim(database)):
            held += await pass_block(database)
            claimed = await claim(database)
        [delivery] = claimed
        assert delivery.attempt == attempt
        assert 0 <= delivery.owed_seconds - sum(delays) - held <= 60
        delays.append(await fail(database, delivery, answer))
    for delay, seconds in zip(delays, RETRY_SECONDS, strict=False):
        assert seconds <= delay <= seconds * 1.25
    assert SHORTEST <= sum(delays) <= LONGEST
    assert 20 < held <= 25 if answer.is_throttling else held == 0, "the second attempt waits for the cool-down"
    row = await delivery_row(database, job_id)
    assert (row["state"], row["attempt"], row["last_reason"]) == ("PARKED", ATTEMPTS_MAX, answer.reason)
    assert row["finished_at"] is not None
    await pass_time(database, WINDOW)
    assert await claim(database) == [], "nobody tries any more"
    kept = await database.fetch("SELECT attempt, status, reason, excerpt FROM delivery_attempt ORDER BY lease")
    each = (answer.status, answer.reason, answer.excerpt)
    assert [tuple(one) for one in kept] == [(attempt, *each) for attempt in range(1, ATTEMPTS_MAX + 1)]


async def test_attempts_lost_with_their_notifiers_count(database: Database, ledger: Ledger) -> None:
    """A delivery that takes every notifier with it does not go round for ever."""
    job_id = await owe(ledger)
    for attempt in range(1, ATTEMPTS_MAX + 1):
        [delivery] = await claim(database)
        assert delivery.attempt == attempt
        await pass_time(database, 41)
    assert await claim(database) == []
    row = await delivery_row(database, job_id)
    assert (row["state"], row["last_reason"]) == ("PARKED", Reason.LOST_LEASE)
    kept = await database.fetch("SELECT attempt, reason FROM delivery_attempt ORDER BY lease")
    assert [tuple(one) for one in kept] == [(attempt, "lost_lease") for attempt in range(1, ATTEMPTS_MAX + 1)]
