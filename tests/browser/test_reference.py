"""The description for people works under its own policy, and without the internet."""

import re

import httpx
import pytest
from playwright.async_api import BrowserContext, ConsoleMessage

from tests.conftest import serve
from todoke.runtime.settings import Settings


async def test_each_page_allows_its_own_scripts_and_nothing_else(settings: Settings) -> None:
    async with serve(settings) as url, httpx.AsyncClient(base_url=url) as api:
        for path in ("/docs", "/redoc"):
            answer = await api.get(path)
            assert answer.headers["content-type"].startswith("text/html")
            [policy] = answer.headers.get_list("content-security-policy")
            scripts = re.findall(r"script-src ([^;]*)", policy)[0]
            assert "unsafe" not in scripts
            assert "'self'" in scripts
            assert {"default-src 'none'", "frame-ancestors 'none'", "base-uri 'none'"} <= set(policy.split("; "))
            assert not re.findall(r"""(?:src|href)=["'](?:https?:)?//""", answer.text)
            for name in re.findall(r'(?:src|href)="(static[^"]+)"', answer.text):
                file = await api.get("/" + name)
                assert (file.status_code, file.headers["cache-control"]) == (200, "no-cache")
                known = {"If-None-Match": file.headers["etag"]}
                assert (await api.get("/" + name, headers=known)).status_code == 304


@pytest.mark.browser
async def test_they_work_in_a_browser(settings: Settings, context: BrowserContext) -> None:
    async with serve(settings) as url:
        for path, sign in (("/docs", ".opblock-summary-path"), ("/redoc", "h1")):
            page, complaints = await context.new_page(), list[str]()

            def hear(message: ConsoleMessage, complaints: list[str] = complaints) -> None:
                # ReDoc would like its maker's logo from elsewhere, and is not let.
                if message.type == "error" and "cdn.redoc.ly" not in message.text:
                    complaints.append(message.text)

            page.on("console", hear)
            page.on("pageerror", lambda error, complaints=complaints: complaints.append(str(error)))
            await page.goto(url + path)
            await page.wait_for_selector(sign, state="attached", timeout=30_000)
            assert complaints == [], path
            await page.close()
