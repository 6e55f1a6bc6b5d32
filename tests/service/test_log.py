"""The log as a JSON list, from any place in it; a place it does not have is no empty list."""

from typing import Any
from uuid import UUID

import httpx
import pytest

from tests.make import accept, start, succeed
from todoke.store.ledger import Ledger

JSON = {"Accept": "application/json"}


async def log(api: httpx.AsyncClient, job_id: UUID, **params: Any) -> httpx.Response:
    return await api.get(f"/jobs/{job_id}/events", headers=JSON, params=params)


async def epoch(api: httpx.AsyncClient, job_id: UUID) -> str:
    return (await api.get(f"/jobs/{job_id}")).headers["etag"].strip('"').partition(".")[0]


async def test_from_any_place(api: httpx.AsyncClient, ledger: Ledger) -> None:
    job_id = await accept(ledger)
    await succeed(ledger, await start(ledger, job_id))
    whole = (await log(api, job_id)).json()
    assert [item["data"]["sequence"] for item in whole] == [1, 2, 3]
    for seen in range(4):
        for after in (str(seen), f"{await epoch(api, job_id)}.{seen}"):
            assert (await log(api, job_id, after=after)).json() == whole[seen:]
    assert (await log(api, job_id, after="1", limit=1)).json() == whole[1:2]


@pytest.mark.parametrize("after", ["", "x", "-1", "1.5.2", "+1", "9" * 40, "1 ", "earliest"])
async def test_what_is_no_place_is_refused(api: httpx.AsyncClient, ledger: Ledger, after: str) -> None:
    answer = await log(api, await accept(ledger), after=after)
    assert (answer.status_code, answer.json()["code"]) == (422, "INVALID_INPUT")
    assert "cursor" in answer.json()["detail"]


async def test_a_place_it_does_not_have_is_told(api: httpx.AsyncClient, ledger: Ledger) -> None:
    job_id, other = await accept(ledger), await accept(ledger)
    await start(ledger, other)
    own = await epoch(api, job_id)
    cases = {
        "2": "ahead",
        f"{own}.2": "ahead",
        f"{await epoch(api, other)}.1": "job",
        f"{'0' * 8}{own[8:]}.1": "epoch",
    }
    for after, reason in cases.items():
        answer = await log(api, job_id, after=after)
        assert (answer.status_code, answer.json()["code"]) == (409, "CURSOR_LOST"), after
        assert answer.json()["reason"] == reason
        assert answer.json()["sequence"] == 1


@pytest.mark.parametrize("limit", ["0", "1001", "x"])
async def test_limits_have_limits(api: httpx.AsyncClient, ledger: Ledger, limit: str) -> None:
    assert (await log(api, await accept(ledger), limit=limit)).status_code == 422
