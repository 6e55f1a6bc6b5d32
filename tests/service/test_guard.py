"""Desk mode asks for no key, so it answers to its own names and to no other site's page."""

import httpx
import pytest

from tests.conftest import serve
from todoke.runtime.settings import Settings


@pytest.mark.parametrize("host", ["localhost", "localhost:8080", "127.0.0.1", "127.0.0.1:1", "[::1]:80", "LOCALHOST"])
async def test_own_hosts_are_served(api: httpx.AsyncClient, host: str) -> None:
    assert (await api.get("/healthz", headers={"Host": host})).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "", "10.0.0.1", "[", "a@localhost:b@c"]
)
async def test_foreign_hosts_are_refused(api: httpx.AsyncClient, host: str) -> None:
    for method in ("GET", "POST"):
        answer = await api.request(method, "/generate-report", headers={"Host": host})
        assert answer.status_code in (400, 421), host
        assert "jobId" not in answer.text


FOREIGN = [
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://127.0.0.1:1"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
]


@pytest.mark.parametrize("headers", FOREIGN, ids=str)
async def test_another_sites_page_may_not_write(api: httpx.AsyncClient, headers: dict[str, str]) -> None:
    answer = await api.post("/generate-report", headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (403, "CROSS_SITE_REFUSED")


async def test_another_sites_page_may_not_read(api: httpx.AsyncClient) -> None:
    answer = await api.get("/healthz", headers={"Origin": "https://evil.example"})
    assert "access-control-allow-origin" not in answer.headers


async def test_our_own_page_may_write(api: httpx.AsyncClient) -> None:
    host = api.base_url.netloc.decode()
    headers = {"Origin": f"http://{host}", "Sec-Fetch-Site": "same-origin"}
    assert (await api.post("/generate-report", headers=headers)).status_code == 202


async def test_a_page_of_an_origin_the_operator_has_named_may_write(settings: Settings) -> None:
    ours = {"Origin": "http://localhost:5173", "Sec-Fetch-Site": "same-site"}
    named = settings.model_copy(update={"cors_origins": (ours["Origin"],)})
    async with serve(named) as url, httpx.AsyncClient(base_url=url) as api:
        answer = await api.post("/generate-report", headers=ours)
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (202, ours["Origin"])
        for headers in FOREIGN:
            assert (await api.post("/generate-report", headers=headers)).status_code == 403, headers
        assert (await api.post("/generate-report", headers=ours | {"Host": "evil.example"})).status_code == 421


async def test_where_keys_are_required_every_host_is_served(settings: Settings) -> None:
    """Whoever has no key gets nothing, and no browser adds one by itself."""
    public = settings.model_copy(
        update={"desk_mode": False, "require_keys": True, "public_url": "https://jobs.example.com"}
    )
    async with serve(public) as url, httpx.AsyncClient(base_url=url) as api:
        for host in ("jobs.example.com", "10.0.0.1:8080"):
            assert (await api.get("/healthz", headers={"Host": host})).status_code == 200
            assert (await api.post("/generate-report", headers={"Host": host})).status_code == 401
