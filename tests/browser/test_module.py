"""`/todoke.js` as it is served, and the page of docs/browser.md as it stands there."""

import re

import httpx
import pytest
from playwright.async_api import BrowserContext

from service.routes.module import WEB
from tests.browser.gate import Gate, page
from tests.conftest import REPOSITORY
from tests.make import WORKER, accept, start, succeed
from todoke.model.job import Progress
from todoke.store.ledger import Ledger

SCRIPTS = sorted("/" + path.relative_to(WEB).as_posix() for path in WEB.rglob("*.js"))
ABROAD = {"Origin": "https://elsewhere.example", "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "cors"}


@pytest.mark.parametrize("path", SCRIPTS)
async def test_any_page_may_import_it_and_no_cache_mixes_two_versions(api: httpx.AsyncClient, path: str) -> None:
    answer = await api.get(path, headers=ABROAD)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/javascript; charset=utf-8")
    assert answer.content == (WEB / path[1:]).read_bytes()
    assert answer.headers["access-control-allow-origin"] == "*"
    assert answer.headers["cross-origin-resource-policy"] == "cross-origin"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-cache"
    for known in (answer.headers["etag"], f'"other", W/{answer.headers["etag"]}'):
        again = await api.get(path, headers={"If-None-Match": known})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", answer.headers["etag"])
    assert (await api.get(path, headers={"If-None-Match": '"other"'})).status_code == 200
    head = await api.head(path)
    assert (head.status_code, head.content, head.headers["etag"]) == (200, b"", answer.headers["etag"])


def test_what_it_imports_is_served() -> None:
    for script in WEB.rglob("*.js"):
        for name in re.findall(r'^import .* from "([^"]+)";', script.read_text(), re.MULTILINE):
            if script.name == "todoke.js" and name == "/todoke.js":
                continue  # the example in its opening comment
            assert (script.parent / name).is_file(), f"{script.name} imports {name}"


@pytest.mark.browser
async def test_the_page_of_the_documentation(context: BrowserContext, gate: Gate, ledger: Ledger) -> None:
    text = (REPOSITORY / "docs/browser.md").read_text(encoding="utf-8")
    [source] = re.findall(r"^```html\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)

    gate.pages["/example"] = page(source, policy="script-src 'self' 'unsafe-inline' 'unsafe-eval'")
    shown, errors = await context.new_page(), list[str]()
    shown.on("pageerror", lambda error: errors.append(str(error)))
    job_id = await accept(ledger)
    await shown.goto(f"{gate.url}/example?job={job_id}")
    attempt = await start(ledger, job_id)
    await ledger.report([Progress(job_id, attempt.lease, 40, "on the way")], WORKER)
    await shown.wait_for_function("document.querySelector('#bar').value === 40")
    await succeed(ledger, attempt)
    await shown.wait_for_function("document.querySelector('#word').value === 'success'")
    assert errors == []
