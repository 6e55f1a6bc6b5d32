"""What operators are told of events and endpoints that keep failing: each thing once."""

from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from prometheus_client import REGISTRY

from tests.make import TENANT
from tests.owing import URL, owe
from todoke.model.delivery import Answer, Control, Delivery, Reason, judge
from todoke.model.endpoint import EndpointState
from todoke.runtime.settings import Settings
from todoke.store.database import Database
from todoke.store.deliveries import Deliveries
from todoke.store.endpoints import Endpoints
from todoke.store.ledger import Ledger

FAILED = Answer(Reason.HTTP_STATUS, 500)
WINDOW = 168 * 3600.0
HOUR = 3600.0


@pytest.fixture
def lines() -> Iterator[list[Any]]:
    with structlog.testing.capture_logs() as captured:
        yield captured


def told(lines: list[Any], event: str) -> list[Any]:
    return [line for line in lines if line["event"] == event]


def counted(word: str) -> float:
    return REGISTRY.get_sample_value("todoke_webhook_warnings_total", {"warning": word}) or 0


async def attempt(database: Database, answer: Answer, hours: float = 0) -> list[Delivery]:
    """So much later, everything owed is due, is claimed, and is answered so."""
    await database.fetch(
        "UPDATE endpoint SET blocked_until = clock_timestamp(),"
        " failing_since = failing_since - $1::float8 * interval '1 hour',"
        " updated_at = updated_at - $1::float8 * interval '1 hour'",
        hours,
    )
    await database.fetch("UPDATE delivery SET due_at = clock_timestamp()")
    deliveries = Deliveries(database, 4)
    await deliveries.stage()
    await deliveries.release(WINDOW)
    [endpoint] = await database.fetch("SELECT endpoint_key($1, $2) AS id", TENANT, URL)
    claimed = await deliveries.claim({(TENANT, endpoint["id"]): 4}, 40)
    await deliveries.record([judge(delivery, answer, WINDOW) for delivery in claimed])
    return claimed


async def test_the_fourth_failure_of_an_event_is_told_once(
    database: Database, ledger: Ledger, lines: list[Any]
) -> None:
    job_id, before = await owe(ledger), counted("fourth_failure")
    for answer in (FAILED, FAILED, Answer(Reason.SENDER), FAILED):
        await attempt(database, answer)
    assert told(lines, "delivery.failing") == []
    for _ in range(3):
        assert await attempt(database, FAILED)
    [line] = told(lines, "delivery.failing")
    assert (line["job_id"], line["sequence"], line["tenant"]) == (str(job_id), 3, TENANT)
    assert line["log_level"] == "warning"
    assert "example.com" not in repr(lines), "a URL may hold a token"
    assert counted("fourth_failure") == before + 1


async def test_a_success_at_the_fourth_attempt_is_no_warning(
    database: Database, ledger: Ledger, lines: list[Any]
) -> None:
    await owe(ledger)
    for answer in (FAILED, FAILED, FAILED, Answer(Reason.DELIVERED, 200)):
        await attempt(database, answer)
    assert told(lines, "delivery.failing") == []


async def test_a_day_and_three_days_of_failing_are_told_once_each(
    database: Database, ledger: Ledger, lines: list[Any]
) -> None:
    await owe(ledger)
    before = {word: counted(word) for word in ("failing_for_24_hours", "failing_for_72_hours")}
    hours = []
    for later in (0, 23.9, 0.05, 0.1, 0.1, 20, 27.5, 0.5, 1, 1):
        assert await attempt(database, FAILED, later)
        hours.append([line["hours"] for line in told(lines, "endpoint.failing")])
    assert hours == [[], [], [], [24], [24], [24], [24], [24, 72], [24, 72], [24, 72]]
    assert {word: counted(word) - count for word, count in before.items()} == dict.fromkeys(before, 1)


async def test_after_a_success_the_days_begin_anew(database: Database, ledger: Ledger, lines: list[Any]) -> None:
    for turn in range(2):
        await owe(ledger)
        await attempt(database, FAILED)
        await attempt(database, FAILED, 25)
        assert len(told(lines, "endpoint.failing")) == turn + 1
        await attempt(database, Answer(Reason.DELIVERED, 200))


async def test_a_receiver_may_ask_for_no_more_with_a_success(
    database: Database, ledger: Ledger, settings: Settings
) -> None:
    """Although its endpoint, which has never failed, has no row yet."""
    await owe(ledger)
    assert await attempt(database, Answer(Reason.DELIVERED, 200, control=Control.DISABLE))
    [seen] = await Endpoints(database, settings.notify_channel).listed(TENANT, 10)
    assert (seen.state, seen.disabled_reason, seen.failures) == (EndpointState.DISABLED, "asked_by_receiver", 0)
    [row] = await database.fetch("SELECT state FROM delivery")
    assert row["state"] == "DELIVERED"
    await owe(ledger)
    assert await attempt(database, FAILED) == []
