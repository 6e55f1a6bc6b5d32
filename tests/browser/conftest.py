"""Pages in a real Chromium that watch jobs through a gate the test can break."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, BrowserContext, CDPSession, ConsoleMessage, Page, async_playwright

from tests.acceptance.conftest import Desk, desk
from tests.browser.gate import Gate
from tests.conftest import serve
from todoke.runtime.settings import Settings

__all__ = ["Desk", "desk"]

CHROMIUM = Path("/usr/bin/chromium")
WATCH = """
async ([target, options]) => {
    const { watch } = await import(options.from || "/todoke.js");
    Object.assign(window, { seen: [], states: [], ended: undefined, refused: undefined });
    window.job = watch(target, {
        ...options,
        renew: options.renewals && (async () => options.renewals.shift() ?? null),
        onEvent: ({ type, data, lastEventId }) => seen.push({
            type, id: lastEventId, sequence: data.data.sequence, status: data.data.status,
            percent: data.data.progress && data.data.progress.percent,
        }),
        onState: (state) => states.push(state),
    });
    job.done.then((final) => { window.ended = final; }, (error) => { window.refused = error.status; });
}
"""


class Reader:
    """A page that watches one job."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.complaints: list[str] = []
        page.on("console", self._hear)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def _hear(self, message: ConsoleMessage) -> None:
        # Chromium itself reports every answer that is no success, and connections that break.
        if message.type in ("error", "warning") and not message.text.startswith("Failed to load resource"):
            self.complaints.append(message.text)

    async def watch(self, target: object, **options: Any) -> None:
        """Begin. options: as `watch` takes them."""
        await self.page.evaluate(WATCH, [str(target), options])

    async def until(self, condition: str, arg: object = None, seconds: float = 60) -> None:
        """Wait for something in the page, hidden or not: a page that is not shown draws no frames to look at."""
        await self.page.wait_for_function(condition, arg=arg, timeout=seconds * 1000, polling=50)

    async def freeze(self) -> CDPSession:
        """Stop the page's scripts in the middle, as sleep does. `thaw` with the answer."""
        session, stopped = await self.page.context.new_cdp_session(self.page), asyncio.Event()
        session.on("Debugger.paused", lambda _: stopped.set())
        await session.send("Debugger.enable")
        await session.send("Debugger.pause")
        async with asyncio.timeout(20):
            await stopped.wait()
        return session

    async def thaw(self, session: CDPSession) -> None:
        """Undo `freeze`."""
        await session.send("Debugger.disable")

    async def sees(self, count: int) -> list[dict[str, Any]]:
        """What was dispatched, once there are so many events."""
        await self.until("count => seen.length >= count", count)
        return await self.seen()

    async def seen(self) -> list[dict[str, Any]]:
        """What was dispatched so far."""
        return list(await self.page.evaluate("seen"))

    async def numbered(self) -> list[int]:
        """The sequences of what was dispatched and is in the log, in order."""
        unnumbered = ("job.progress", "snapshot", "reset")
        return [event["sequence"] for event in await self.seen() if event["type"] not in unnumbered]

    async def is_in(self, state: str) -> None:
        """Wait until the watch is in `state`."""
        await self.until("state => job.state === state", state)

    async def ends(self) -> dict[str, Any]:
        """What `done` has resolved with."""
        await self.until("ended !== undefined")
        return dict(await self.page.evaluate("ended"))

    async def is_refused(self) -> int:
        """The status `done` was rejected with."""
        await self.until("refused !== undefined")
        return int(await self.page.evaluate("refused"))


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    if not CHROMIUM.exists():  # noqa: ASYNC240 - once, before anything runs
        pytest.skip("Chromium is absent: install Debian's package chromium")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--disable-dev-shm-usage", "--disable-background-networking"]
        )
        yield browser
        await browser.close()


@pytest.fixture
async def context(browser: Browser) -> AsyncIterator[BrowserContext]:
    """A browser without a past."""
    context = await browser.new_context()
    yield context
    await context.close()


@pytest.fixture
async def gate(settings: Settings) -> AsyncIterator[Gate]:
    """A gate before a running API."""
    async with serve(settings) as api, Gate(api) as gate:
        yield gate


@pytest.fixture
async def visit(context: BrowserContext) -> AsyncIterator[Callable[[str], Any]]:
    """Opens a page of an origin; at the end no page may have anything to complain of."""
    readers: list[Reader] = []

    async def visit(origin: str) -> Reader:
        reader = Reader(await context.new_page())
        readers.append(reader)
        await reader.page.goto(f"{origin}/page")
        return reader

    yield visit
    assert [complaint for reader in readers for complaint in reader.complaints] == []


@pytest.fixture
async def reader(visit: Callable[[str], Any], gate: Gate) -> Reader:
    """A page of the service's own origin."""
    return await visit(gate.url)  # type: ignore[no-any-return]
