"""What opens something never reaches a log: looked for in the output of a real API process at its most talkative."""

import asyncio
import contextlib
import json
import os
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx

from tests.conftest import REPOSITORY, SECRET_KEYS
from tests.environment import environment_of
from tests.make import accept, start, succeed
from tests.service.callers import guarded, make_key
from todoke.dev.ports import free_port
from todoke.model.ids import new_id
from todoke.runtime.settings import Settings
from todoke.store.database import Database
from todoke.store.ledger import Ledger

CALLBACK = "https://hooks.example.com/callback-token?key=callback-token"


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
        made = await client.post("/webhooks/secrets", headers=headers, json={"callbackUrl": CALLBACK})
        signing_secret = made.json()["secret"]
        for callback in (CALLBACK, CALLBACK.replace("//", "//user:callback-password@")):
            await client.post("/generate-report", headers=headers, json={"callbackUrl": callback})
        sent = await _attack(url, headers["Authorization"])
        await database.fetch("ALTER TABLE job RENAME TO job_away")
        client.cookies.clear()
        answer = await client.get(f"/jobs/{job_id}/events?ticket={tickets[1]}&lastEventId=earliest")
        assert answer.status_code == 500, "a fault, and its trace in the log"
    text = log.read_text()
    assert "request.fault" in text
    for letters in (*tickets, cookie, secret, wrong, "ticket=", tickets[1][:40], SECRET_KEYS, signing_secret):
        assert letters not in text, letters[:12]
    for letters in ("callback-password", "callback-token", "Bearer", str(settings.database_url.get_secret_value())):
        assert letters not in text, letters
    _check_lines(log.read_bytes(), sent)


async def _attack(url: str, authorization: str) -> int:
    """Requests that would like to write lines of their own; how many reach the application."""
    job_id, noise = new_id(), 'a"b\\c'
    targets = [
        "/%0d%0a%7B%22event%22:%22forged%22%7D",
        "/%1b[2J%1b]0;forged%07",
        f"/jobs/{job_id}%0aforged/events",
        f'/"{noise}"',
        "/" + "x" * 8192,
        "/%ff%fe%c0%af",
        "/%e2%80%a8forged%c2%85",
        f"/jobs/{job_id}?x=%0aforged",
        "//evil.example/..%2f..%2f",
    ]
    for target in targets:
        await _said(url, f"GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    hostile: list[bytes] = [
        b"User-Agent: \xff\xfe\xc2\x85\x9b31m" + noise.encode(),
        b"User-Agent: " + b"u" * 30_000,
        b"X-Forwarded-For: 1.1.1.1\tforged",
        b"X-Request-Id: forged\tforged",
        b"X-Request-Id: " + b"x" * 65,
        b"traceparent: 00-\xff",
        b"Authorization: " + authorization.encode() + b"forged",
        b"Cookie: todoke-stream=forged-cookie",
    ]
    for line in hostile:
        await _said(url, b"GET /jobs/x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + line + b"\r\n\r\n")
    return len(targets) + len(hostile)


def _check_lines(log: bytes, sent: int) -> None:
    """Every line is one JSON object in plain ASCII, and none was written by a caller."""
    lines = log.splitlines(keepends=True)
    assert all(line.endswith(b"\n") and line[:-1].isascii() for line in lines)
    assert not any(letter < 0x20 or letter == 0x7F for line in lines for letter in line[:-1])
    found = [json.loads(line) for line in lines]
    events = [line["event"] for line in found]
    assert "forged" not in events
    requests = [line for line in found if line["event"] == "request"]
    assert len([line for line in requests if line["status"] in (401, 404)]) >= sent
    for line in requests:
        assert re.fullmatch("[A-Za-z0-9_-]{8,64}", line["requestId"])
        assert len(line["path"]) <= 201
        assert "?" not in line["path"]
        assert len(line.get("userAgent", "")) <= 121
        assert {
            "method",
            "route",
            "status",
            "seconds",
            "bytes",
            "client",
            "process",
            "timestamp",
            "level",
        } <= line.keys()
    assert [line["status"] for line in found if line["event"] == "request.unread"] == [400]


async def _said(url: str, request: bytes) -> bytes:
    host, _, port = url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(request)
        return await asyncio.wait_for(reader.read(), 10)
    finally:
        writer.close()
        await writer.wait_closed()


async def _malformed(url: str, request: str) -> None:
    host, _, port = url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(request.encode())
    writer.write_eof()
    await asyncio.wait_for(reader.read(), 10)
    writer.close()
    await writer.wait_closed()
