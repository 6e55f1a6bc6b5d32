"""What opens something never reaches a log: looked for in the output of a real API process at its most talkative."""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx

from tests.conftest import REPOSITORY, SECRET_KEYS
from tests.environment import environment_of
from tests.make import accept, start, succeed
from tests.service.callers import guarded, make_key
from todoke.dev.ports import free_port
from todoke.runtime.settings import Settings
from todoke.store.database import Database
from todoke.store.ledger import Ledger


@contextlib.asynccontextmanager
async def api_process(settings: Settings, log: Path) -> AsyncIterator[str]:
    """A real one whose whole output goes to `log`; ended by SIGTERM."""
    port = free_port()
    variables = environment_of(guarded(settings, port=port, log_level="DEBUG", stream_drain_seconds=0.0))
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "service",
            cwd=REPOSITORY,
            env=variables | {"PYTHONPATH": os.environ.get("PYTHONPATH", "")},
            stdout=output,
            stderr=output,
        )
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client, asyncio.timeout(60):
            while not await _is_ready(client):
                assert process.returncode is None
                await asyncio.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await asyncio.wait_for(process.wait(), 20)


async def _is_ready(client: httpx.AsyncClient) -> bool:
    try:
        return (await client.get("/readyz")).status_code == 200
    except httpx.TransportError:
        return False


async def test_no_key_ticket_or_cookie_is_logged(
    settings: Settings, database: Database, ledger: Ledger, tmp_path: Path
) -> None:
    _, headers = await make_key(database)
    secret = headers["Authorization"].rpartition("_")[2]
    wrong = "f" * 48
    log = tmp_path / "api.log"
    async with api_process(settings, log) as url, httpx.AsyncClient(base_url=url, timeout=20) as client:
        submitted = await client.post("/generate-report", headers=headers)
        job_id = await accept(ledger)
        body = (await client.post(f"/jobs/{job_id}/tokens", headers=headers)).json()
        tickets = [submitted.json()["eventsUrl"].partition("ticket=")[2], body["ticket"]]
        async with client.stream("GET", body["eventsUrl"]) as open_stream:
            assert open_stream.status_code == 200
            cookie = open_stream.headers["set-cookie"].partition(";")[0].partition("=")[2]
            await succeed(ledger, await start(ledger, job_id))
            await open_stream.aread()
        for query in (tickets[0], tickets[1][:-3] + "AAA", tickets[1] + "%00"):
            await client.get(f"/jobs/{job_id}/events?ticket={query}")
        await client.get(f"/jobs/{job_id}?ticket={tickets[1]}", headers={"Authorization": f"Bearer tdk_{wrong}"})
        await _malformed(url, f"GET /jobs/{job_id}/events?ticket={tickets[1]} HTTP/9.9 x\r\nAuthorization\r\n\r\n")
        await _malformed(url, f"GET /jobs/{job_id}/events?ticket={tickets[1]} HTTP/1.1\r\n")
        await database.fetch("ALTER TABLE job RENAME TO job_away")
        client.cookies.clear()
        answer = await client.get(f"/jobs/{job_id}/events?ticket={tickets[1]}&lastEventId=earliest")
        assert answer.status_code == 500, "a fault, and its trace in the log"
    text = log.read_text()
    assert "request.fault" in text
    for letters in (*tickets, cookie, secret, wrong, "ticket=", tickets[1][:40], SECRET_KEYS):
        assert letters not in text, letters[:12]


async def _malformed(url: str, request: str) -> None:
    host, _, port = url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(request.encode())
    writer.write_eof()
    await asyncio.wait_for(reader.read(), 10)
    writer.close()
    await writer.wait_closed()
