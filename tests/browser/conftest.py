"""Pages in a real Chromium that watch jobs through a gate the test can break."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, BrowserContext, ConsoleMessage, Page, Route, async_playwright

from tests.acceptance.conftest import Desk, desk
from tests.browser.gate import Gate
from tests.conftest import serve
from todoke.runtime.settings import Settings

__all__ = ["Desk", "desk"]

CHROMIUM = Path("/usr/bin/chromium")
# What a page needs that watches: itself and the service. Anything else would be an error on the console.
POLICY = "default-src 'none'; script-src {0} 'unsafe-eval'; connect-src {0}; img-src data:"
WATCH = """
async ([target, options]) => {
    const { watch } = await import(options.from || "/todoke.js");
    Object.assign(window, { seen: [], states: [], ended: undefined, refused: undefined });
    window.job = watch(target, {
        ...options,
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

    async def sees(self, count: int) -> list[dict[str, Any]]:
        """What was dispatched, once there are so many events."""
        await self.page.wait_for_function("count => seen.length >= count", arg=count, timeout=30_000)
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
        await self.page.wait_for_function("state => job.state === state", arg=state, timeout=30_000)

    async def ends(self) -> dict[str, Any]:
        """What `done` has resolved with."""
        await self.page.wait_for_function("ended !== undefined", timeout=60_000)
        return dict(await self.page.evaluate("ended"))

    async def is_refused(self) -> int:
        """The status `done` was rejected with."""
        await self.page.wait_for_function("refused !== undefined", timeout=30_000)
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
    """A browser with an empty page at /page of every origin; /else/page may watch the jobs of another one."""

    async def answer(route: Route) -> None:
        sources = "http:" if "/else/" in route.request.url else "'self'"
        headers = {"Content-Security-Policy": POLICY.format(sources)}
        body = '<!doctype html><link rel="icon" href="data:,"><title>page</title>'
        await route.fulfill(body=body, content_type="text/html", headers=headers)

    context = await browser.new_context()
    await context.route("**/page", answer)
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
