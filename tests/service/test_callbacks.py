"""A refused callback URL is a 422 with a sentence, and leaves nothing behind: no job, no event, no delivery, no key."""

import os
import subprocess
import sys
from uuid import UUID

import httpx
import pytest

from service.app import create_app
from tests.conftest import REPOSITORY, SECRET_KEYS, serve
from tests.make import start, succeed
from todoke.model.errors import InvalidInput
from todoke.runtime.settings import Settings
from todoke.store.database import Database
from todoke.store.ledger import Ledger

ALLOWED = "https://hooks.example.com/hook"

# One for each thing that is judged; the whole list is in tests/wire.
REFUSED = [
    "http://hooks.example.com/",
    "https://hooks.example.com:5432/",
    "https://user@hooks.example.com/",
    "https://hooks.example.com/#part",
    "https://hooks.example.com\\@127.0.0.1/",
    "https://b\u00fccher.example/",
    "https://2130706433/",
    "https://169.254.169.254/latest/meta-data/",
    "https://[::ffff:127.0.0.1]/",
    "https://receiver.internal/",
    "http://10.0.0.1/",
    "http://127.0.0.1.example.com/",
    "",
]


async def kept(database: Database) -> int:
    """Rows of any kind that a submit writes."""
    [found] = await database.fetch(
        "SELECT (SELECT count(*) FROM job) + (SELECT count(*) FROM event) + (SELECT count(*) FROM delivery) AS rows"
    )
    return int(found["rows"])


async def post(api: httpx.AsyncClient, callback_url: str, key: str | None = None) -> httpx.Response:
    headers = {"Idempotency-Key": key} if key else {}
    return await api.post("/generate-report", json={"callbackUrl": callback_url}, headers=headers)


def is_refusal(answer: httpx.Response) -> bool:
    problem = answer.json()
    return (answer.status_code, problem["code"]) == (422, "INVALID_INPUT") and "callbackUrl" in problem["detail"]


@pytest.mark.parametrize("key", [None, "once"])
async def test_a_refused_callback_stores_nothing(api: httpx.AsyncClient, database: Database, key: str | None) -> None:
    for url in REFUSED:
        assert is_refusal(await post(api, url, key)), url
    assert await kept(database) == 0
    # The key is still free.
    assert (await post(api, ALLOWED, key)).status_code == 202


async def test_a_desk_takes_loopback_over_http(api: httpx.AsyncClient) -> None:
    for url in ("http://localhost:9/hook", "http://127.0.0.1:9/", "http://[::1]:9/"):
        assert (await post(api, url)).status_code == 202


async def test_outside_a_desk_loopback_and_our_own_name_are_refused(settings: Settings, database: Database) -> None:
    served = settings.model_copy(update={"desk_mode": False, "public_url": "https://jobs.example.com"})
    async with serve(served) as url, httpx.AsyncClient(base_url=url) as api:
        for refused in ("http://localhost:9/", "https://127.0.0.1/", "https://[::1]/", "https://jobs.example.com/hook"):
            assert is_refusal(await post(api, refused)), refused
        assert await kept(database) == 0
        assert (await post(api, ALLOWED)).status_code == 202


async def test_what_the_operator_opened_is_taken(settings: Settings, database: Database) -> None:
    opened = settings.model_copy(update={"callback_hosts": ("receiver:8080",), "callback_networks": ("10.20.0.0/16",)})
    async with serve(opened) as url, httpx.AsyncClient(base_url=url) as api:
        for taken in ("http://receiver:8080/hook", "https://10.20.0.1/hook"):
            assert (await post(api, taken)).status_code == 202, taken
        for refused in ("http://receiver:8081/hook", "https://10.21.0.1/hook", "http://10.20.0.1/hook"):
            assert is_refusal(await post(api, refused)), refused
    assert len(await database.fetch("SELECT 1 FROM job")) == 2


@pytest.mark.parametrize("key", [None, "again"])
async def test_a_retry_of_a_job_whose_callback_is_refused_by_now_stores_nothing(
    settings: Settings, database: Database, ledger: Ledger, key: str | None
) -> None:
    opened = settings.model_copy(update={"callback_hosts": ("receiver:8080",)})
    async with serve(opened) as url, httpx.AsyncClient(base_url=url) as api:
        job_id = (await post(api, "http://receiver:8080/hook")).json()["jobId"]
    await succeed(ledger, await start(ledger, UUID(job_id)))
    before = await kept(database)
    async with serve(settings) as url, httpx.AsyncClient(base_url=url) as api:
        answer = await api.post(f"/jobs/{job_id}/retry", headers={"Idempotency-Key": key} if key else {})
        assert is_refusal(answer)
        assert "receiver" in answer.json()["detail"] or "https" in answer.json()["detail"]
    assert await kept(database) == before


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"callback_hosts": ("receiver",)}, "give host:port"),
        ({"callback_networks": ("0.0.0.0/0",)}, "not inside"),
        ({"callback_denied": ("10.0.0.1/8",)}, "is no network"),
    ],
    ids=str,
)
def test_an_entry_that_is_not_understood_stops_the_start(
    settings: Settings, wrong: dict[str, object], says: str
) -> None:
    with pytest.raises(InvalidInput, match=says):
        create_app(settings.model_copy(update=wrong))


@pytest.mark.parametrize("package", ["service", "notifier"])
def test_a_process_says_which_entry_it_does_not_understand(package: str) -> None:
    environment = os.environ | {"TODOKE_CALLBACK_HOSTS": "receiver", "TODOKE_SECRET_KEYS": SECRET_KEYS}
    command = [sys.executable, "-m", package]
    ended = subprocess.run(
        command, check=False, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 2
    assert "TODOKE_CALLBACK_HOSTS: receiver names no port; give host:port" in ended.stderr
