"""`todoke demo`: one command, one report, three outcomes side by side."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from playwright.async_api import async_playwright

from tests.acceptance.polling import finished, submit
from tests.conftest import REPOSITORY
from todoke.dev.demo import read_params

DATA = REPOSITORY.parent / "shared" / "data"
TODOKE = str(Path(sys.executable).with_name("todoke"))


def run_demo(tmp_path: Path, *flags: str) -> "subprocess.CompletedProcess[str]":
    command = [TODOKE, "demo", "--once", "--port", "0", "--state", str(tmp_path / "state"), "--out", str(tmp_path)]
    return subprocess.run(
        [*command, *flags], capture_output=True, text=True, timeout=110, cwd=tmp_path, check=False, env=_wide()
    )


def _wide() -> dict[str, str]:
    return os.environ | {"COLUMNS": "160"}


async def rows_and_charts(report: Path) -> tuple[int, int]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--disable-dev-shm-usage", "--disable-background-networking"]
        )
        page = await browser.new_page()
        await page.goto(report.as_uri())
        rows = await page.locator("[data-row-count]").first.get_attribute("data-row-count")
        charts = await page.locator("svg:visible").count()
        assert await page.evaluate("document.scripts.length") == 0
        await browser.close()
    return int(rows or 0), charts


@pytest.mark.browser
async def test_the_demo_reports_on_a_file(tmp_path: Path) -> None:
    data = REPOSITORY / "todoke" / "dev" / "sample.csv"
    done = run_demo(tmp_path, "--data", str(data))
    assert done.returncode == 0, done.stdout + done.stderr
    for words in ("Polling", "SSE", "Webhook", "signature verified", "From start to report", "/docs"):
        assert words in done.stdout, words
    rows, charts = await rows_and_charts(tmp_path / "report.html")
    with data.open(newline="") as file:
        header, *expected = csv.reader(file)
    assert rows == len(expected)
    assert charts >= len(header)


def test_the_demo_says_what_is_wrong_with_a_file(tmp_path: Path) -> None:
    for name, content, words in (
        ("ragged.csv", b"a,b\n1\n1,2,3\n", "job failed"),
        ("broken.json", b"{", "not JSON"),
        ("latin.csv", b"a\n\xe9\n", "UTF-8"),
    ):
        path = tmp_path / name
        path.write_bytes(content)
        done = run_demo(tmp_path, "--data", str(path))
        assert done.returncode in (1, 2)
        assert words in done.stdout + done.stderr, done.stdout + done.stderr
        assert "Traceback" not in done.stdout + done.stderr


def test_the_demo_misses_a_file_kindly(tmp_path: Path) -> None:
    done = run_demo(tmp_path, "--data", str(tmp_path / "absent.csv"))
    assert done.returncode == 2
    assert "absent.csv" in done.stderr


@pytest.mark.skipif(not DATA.is_dir(), reason="the folder of real data files is not beside this checkout")
def test_every_real_file_becomes_a_report(client: httpx.Client) -> None:
    for path in sorted(DATA.iterdir()):
        params = read_params(path)
        status = finished(client, submit(client, params=params), 110)
        assert status["status"] == "success", (path.name, status["error"])
        summary = client.get(status["resultUrl"], params={"artifact": "result.json"}).json()
        assert summary["rowCount"] == _rows(path), path.name


def _rows(path: Path) -> int:
    if path.suffix == ".json":
        return len(json.loads(path.read_text())["features"])
    with path.open(newline="") as file:
        return sum(1 for _ in csv.reader(file)) - 1
