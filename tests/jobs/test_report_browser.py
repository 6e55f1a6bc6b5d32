"""The page of a hostile file, opened by a real browser in both colour schemes."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from playwright.sync_api import Browser, Dialog, sync_playwright

CHROMIUM = Path("/usr/bin/chromium")


@pytest.fixture
def browser() -> Iterator[Browser]:
    if not CHROMIUM.exists():
        pytest.skip("Chromium is absent: install Debian's package chromium")
    with sync_playwright() as play:
        started = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.mark.browser
def test_nothing_of_a_hostile_file_runs(
    browser: Browser, make: Any, sample: Callable[[str], str], tmp_path: Path
) -> None:
    made = make(title="<script>alert(0)</script>", csv=sample("hostile.csv"))
    file = tmp_path / "report.html"
    file.write_text(made.page)
    shades = [look(browser, file, scheme, made.report) for scheme in ("light", "dark")]
    assert shades[0] != shades[1]


def look(browser: Browser, file: Path, scheme: Literal["light", "dark"], report: Any) -> list[str]:
    page = browser.new_page(color_scheme=scheme, viewport={"width": 400, "height": 800})
    heard: list[str] = []
    asked: list[str] = []

    def dismiss(dialog: Dialog) -> None:
        heard.append(dialog.message)
        dialog.dismiss()

    page.on("dialog", dismiss)
    page.on("console", lambda message: heard.append(message.text))
    page.on("pageerror", lambda error: heard.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(file.as_uri())
    assert page.evaluate("document.scripts.length") == 0
    assert page.evaluate("document.images.length") == 0
    assert page.locator("#report").get_attribute("data-row-count") == "6"
    charts = page.locator("figure[data-chart] svg")
    assert charts.count() == report.chart_count > 0
    assert all(charts.nth(index).is_visible() for index in range(charts.count()))
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    colours: list[str] = page.evaluate(
        "[getComputedStyle(document.body).backgroundColor,"
        " ...[...document.querySelectorAll('svg path, svg text')].map(e => getComputedStyle(e).fill)]"
    )
    assert (heard, asked) == ([], [file.as_uri()])
    page.close()
    return colours
