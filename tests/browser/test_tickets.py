"""A watch whose ticket ends: it asks for a new one, and stops where there is none."""

import json
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest

from tests.browser.conftest import Reader
from tests.browser.gate import Asked, Gate, refusal
from tests.make import accept, start, succeed
from todoke.store.ledger import Ledger

pytestmark = pytest.mark.browser

ALLOW = b"Access-Control-Allow-Origin: *\r\n"


class Office:
    """Lets in who has the ticket of the day, and hands one out at /tokens."""

    def __init__(self, job_id: UUID) -> None:
        self.path = f"/jobs/{job_id}/events"
        self.ticket = "one"
        self.is_open = True
        self.handed_out = 0

    @property
    def url(self) -> str:
        return f"{self.path}?ticket={self.ticket}"

    def judge(self, asked: Asked) -> bytes | None:
        if asked.is_events and asked.query.get("ticket") != [self.ticket]:
            return refusal(401, "Access-Control-Allow-Origin: *")
        if not asked.path.endswith("/tokens"):
            return None
        assert asked.method == "POST"
        if not self.is_open:
            return refusal(401)
        self.handed_out += 1
        body = json.dumps({"ticket": self.ticket, "eventsUrl": self.url})
        return f"HTTP/1.1 201 Created\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}".encode()


async def test_a_ticket_is_renewed(reader: Reader, gate: Gate, ledger: Ledger) -> None:
    job_id = await accept(ledger)
    office = Office(job_id)
    gate.judge = office.judge
    await reader.watch(office.url)
    await reader.sees(1)
    office.ticket = "two"
    gate.cut()
    await succeed(ledger, await start(ledger, job_id))
    await reader.ends()
    assert await reader.numbered() == [2, 3]
    assert office.handed_out == 1


async def test_a_right_that_has_ended(reader: Reader, gate: Gate, ledger: Ledger) -> None:
    job_id = await accept(ledger)
    office = Office(job_id)
    gate.judge = office.judge
    await reader.watch(office.url)
    await reader.sees(1)
    office.ticket, office.is_open = "two", False
    gate.cut()
    assert await reader.is_refused() == 401


async def test_a_page_of_another_origin(visit: Callable[[str], Any], gate: Gate, ledger: Ledger) -> None:
    job_id = await accept(ledger)
    office = Office(job_id)
    gate.judge, gate.extra = office.judge, ALLOW
    async with Gate() as elsewhere:
        reader = await visit(f"{elsewhere.url}/else")
        await reader.watch(office.url, **{"from": f"{gate.url}/todoke.js"})
        await reader.sees(1)
        gate.cut()
        await start(ledger, job_id)
        await reader.sees(2)
        office.ticket = "two"
        gate.cut()
        assert await reader.is_refused() == 401, "another origin's page gets no ticket by itself"
        assert office.handed_out == 0
