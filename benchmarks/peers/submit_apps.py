"""The references of the submits benchmark, run by the same uvicorn. None knows keys, limits, or the same submit twice.

    python -m benchmarks.peers.submit_apps asyncpg|bare PORT

`POST /submit` takes a JSON body, keeps it as a job, and answers 202. DATABASE_URL says where.
"""

import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator, Sequence
from typing import Any
from uuid import UUID

import asyncpg
import uvicorn
from fastapi import FastAPI
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.types import ASGIApp, Receive, Scope, Send

from todoke.model.ids import new_id
from todoke.runtime.batcher import Batcher

TABLE = "CREATE TABLE IF NOT EXISTS submitted (id uuid PRIMARY KEY, state text NOT NULL, params json NOT NULL)"
INSERT = "INSERT INTO submitted (id, state, params) VALUES ($1, 'PENDING', $2)"
INSERT_MANY = (
    "INSERT INTO submitted (id, state, params)"
    " SELECT id, 'PENDING', params::json FROM unnest($1::uuid[], $2::text[]) AS asked (id, params)"
)
URL = os.environ.get("DATABASE_URL", "")
HEAD = [(b"content-type", b"application/json"), (b"retry-after", b"3")]


class Asked(BaseModel):
    """The body."""

    params: dict[str, Any] = {}


def answer(job_id: UUID) -> dict[str, str]:
    """As the contract has it."""
    return {"jobId": str(job_id), "statusUrl": f"/jobs/{job_id}"}


def with_asyncpg() -> ASGIApp:
    """FastAPI, and one INSERT by asyncpg for each request."""
    pools: list[Any] = []

    @contextlib.asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        async with asyncpg.create_pool(URL, min_size=8, max_size=8) as pool:
            await pool.execute(TABLE)
            pools.append(pool)
            yield

    app = FastAPI(lifespan=lifespan)

    @app.post("/submit", status_code=202)
    async def submit(asked: Asked) -> JSONResponse:
        job_id = new_id()
        await pools[0].execute(INSERT, job_id, json.dumps(asked.params))
        return JSONResponse(answer(job_id), 202, {"Retry-After": "3"})

    return app


def bare() -> ASGIApp:
    """An ASGI function, and INSERTs that share a commit with those that come at the same time."""
    pools: list[Any] = []

    async def flush(items: Sequence[tuple[UUID, str]]) -> Sequence[None]:
        await pools[0].execute(INSERT_MANY, [item[0] for item in items], [item[1] for item in items])
        return [None] * len(items)

    batcher: Batcher[tuple[UUID, str], None] = Batcher(flush, 100)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await receive()
            pools.append(await asyncpg.create_pool(URL, min_size=2, max_size=2))
            await pools[0].execute(TABLE)
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        message = await receive()
        job_id = new_id()
        if scope["method"] == "POST":
            await batcher.put((job_id, message["body"].decode()))
        body = json.dumps(answer(job_id)).encode()
        headers = [*HEAD, (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 202, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return app


APPS = {"asyncpg": with_asyncpg, "bare": bare}

if __name__ == "__main__":
    uvicorn.run(APPS[sys.argv[1]](), port=int(sys.argv[2]), log_level="warning", access_log=False)
