"""A watch whose ticket ends: it asks for a new one, and stops where there is none."""

import json
from collections.abc import Callable
from typing import Any
from uuid import UUID

import httpx
import pytest

from tests.browser.conftest import Reader
from tests.browser.gate import Asked, Gate, refusal
from tests.conftest import serve
from tests.make import accept, start, succeed
from tests.service.callers import guarded, make_key
from todoke.runtime.settings import Settings
from todoke.store.database import Database
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


async def test_real_tickets_on_a_page_of_another_origin(
    visit: Callable[[str], Any], settings: Settings, database: Database, ledger: Ledger
) -> None:
    _, headers = await make_key(database)
    job_id = await accept(ledger)
    async with serve(guarded(settings)) as api, Gate(api) as gate, Gate() as elsewhere:
        async with httpx.AsyncClient(base_url=api, headers=headers, timeout=20) as owner:
            first = (await owner.post(f"/jobs/{job_id}/tokens")).json()["eventsUrl"]
            reader = await visit(f"{elsewhere.url}/else")
            await reader.watch(first, renewals=[], **{"from": f"{gate.url}/todoke.js"})
            await reader.sees(1)
            assert (await owner.delete(f"/jobs/{job_id}/tokens")).status_code == 204
            gate.cut()
            assert await reader.is_refused() == 401
            second = (await owner.post(f"/jobs/{job_id}/tokens")).json()["eventsUrl"]
            await reader.watch(first, renewals=[second], lastEventId="earliest", **{"from": f"{gate.url}/todoke.js"})
            await reader.sees(1)
            await succeed(ledger, await start(ledger, job_id))
            await reader.ends()
            assert await reader.numbered() == [1, 2, 3]
