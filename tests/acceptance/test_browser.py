"""A native EventSource in a real Chromium, its connection cut in the middle: no gap, no repeat, an end."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from playwright.async_api import Page, async_playwright

from tests.acceptance.conftest import Desk

pytestmark = pytest.mark.browser

WATCH = """
(jobId) => {
    window.seen = [];
    const source = new EventSource(`/jobs/${jobId}/events?lastEventId=earliest`);
    for (const type of ["snapshot", "reset", "job.accepted", "job.started", "job.retrying", "job.progress",
                        "job.succeeded", "job.failed"])
        source.addEventListener(type, (event) => {
            const data = JSON.parse(event.data).data;
            window.seen.push({type, id: event.lastEventId, sequence: data.sequence,
                              percent: data.progress && data.progress.percent});
        });
    window.source = source;
}
"""


class Cut:
    """A TCP proxy whose connections can be cut."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._writers: set[asyncio.StreamWriter] = set()
        self.opened = 0

    async def __aenter__(self) -> "Cut":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.cut()

    def cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.opened += 1
        there, back = await asyncio.open_connection(*self._target)
        self._writers |= {writer, back}
        with contextlib.suppress(OSError):
            await asyncio.gather(self._pump(reader, back), self._pump(there, writer))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while chunk := await reader.read(65536):
                writer.write(chunk)
                await writer.drain()
        writer.close()


@pytest.fixture
async def page() -> AsyncIterator[Page]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--disable-dev-shm-usage", "--disable-background-networking"]
        )
        # An answer of the API lets no page of its own origin connect; the tests' page stands for one that may.
        yield await browser.new_page(bypass_csp=True)
        await browser.close()


async def seen(page: Page, count: int, last: str) -> list[dict[str, Any]]:
    await page.wait_for_function(
        "([count, last]) => seen.length >= count && seen.at(-1).type === last", arg=[count, last], timeout=20_000
    )
    return list(await page.evaluate("seen"))


async def test_event_source_resumes_where_it_was_cut(desk: Desk, page: Page, tmp_path: Path) -> None:
    target = urlsplit(desk.url)
    assert target.hostname
    assert target.port
    async with httpx.AsyncClient(base_url=desk.url) as client, Cut(target.hostname, target.port) as line:
        answer = await client.post("/paced", json={"params": {"folder": str(tmp_path), "steps": 3}})
        job_id = answer.json()["jobId"]
        await page.goto(f"{line.url}/healthz")
        await page.evaluate(WATCH, job_id)
        await seen(page, 2, "job.started")
        (tmp_path / "1").touch()
        await seen(page, 3, "job.progress")
        line.cut()
        (tmp_path / "2").touch()
        (tmp_path / "3").touch()
        events = await seen(page, 4, "job.succeeded")
        numbered = [event for event in events if event["type"] != "job.progress"]
        assert [(event["type"], event["sequence"]) for event in numbered] == [
            ("job.accepted", 1),
            ("job.started", 2),
            ("job.succeeded", 3),
        ]
        assert [event["id"].partition(".")[2] for event in numbered] == ["1", "2", "3"]
        percents = [event["percent"] for event in events if event["type"] == "job.progress"]
        assert percents == sorted(set(percents)), "progress neither repeats nor falls"
        await page.wait_for_function("source.readyState === EventSource.CLOSED", timeout=20_000)
        assert len(await page.evaluate("seen")) == len(events), "after the end the browser stops by itself"
