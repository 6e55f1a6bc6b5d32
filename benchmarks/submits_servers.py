"""The servers of the submits benchmark, each a process of its own on a database and a queue of its own."""

import asyncio
import contextlib
import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks import cpu
from benchmarks.drain_peers import Environment
from benchmarks.stage import REPOSITORY, Program, Stage
from todoke.dev.ports import LOOPBACK, free_port
from todoke.model.access import Scope
from todoke.store.api_keys import ApiKeys
from todoke.store.database import Database

START_SECONDS = 30.0
# About 300 bytes, as a small job of the kind that Todoke ships has.
CSV = "tea,grams,price\n" + "".join(f"tea number {n},{n * 5},{n}.50\n" for n in range(9))
BODY = json.dumps({"params": {"title": "Teas", "csv": CSV}, "metadata": {"order": "A-7"}})
# On, and never reached: what they cost is measured, not what they refuse.
LIMITS = {
    "TODOKE_TENANT_SUBMITS_PER_MINUTE": "100000000",
    "TODOKE_TENANT_READS_PER_MINUTE": "100000000",
    "TODOKE_QUEUE_DEPTH_MAX": "100000000",
    "TODOKE_TENANT_QUEUE_DEPTH_MAX": "100000000",
}


@dataclass
class Server:
    """A running server. path: where it takes submits; lines: what each request to it carries, its key first."""

    port: int
    program: Program
    path: str
    lines: list[str] = field(default_factory=list)
    database_url: str = ""

    def ask(self, method: str, path: str, body: str | None = None) -> Any:
        """One request, for preparing. Blocks."""
        headers = dict(line.split(": ", 1) for line in self.lines if "{key}" not in line)
        data = None if body is None else body.encode()
        asked = urllib.request.Request(f"http://{LOOPBACK}:{self.port}{path}", data, headers, method=method)
        with urllib.request.urlopen(asked, timeout=30) as answer:
            return json.loads(answer.read() or b"null")

    def cpu_seconds(self) -> float:
        """Processor time of the API process so far."""
        return cpu.own(self.program.pid)


@dataclass(frozen=True)
class Contestant:
    """A server that can be started."""

    name: str
    kind: str

    @contextlib.contextmanager
    def running(self, stage: Stage, environment: Environment) -> Iterator[Server]:
        """The server, ready; afterwards it is gone."""
        port = free_port()
        server = _todoke(stage, port) if self.kind == "todoke" else _peer(stage, self.kind, port, environment)
        try:
            _wait(server, "/readyz")
            yield server
        finally:
            server.program.stop(5)


TODOKE = Contestant("Todoke", "todoke")
ORIGINAL = Contestant("(a) a commit and a SendMessage a request, in threads", "original")
ASYNCPG = Contestant("(b) FastAPI, one asyncpg INSERT a request", "asyncpg")
BARE = Contestant("(c) bare ASGI, INSERTs in one commit", "bare")


def _todoke(stage: Stage, port: int) -> Server:
    url = asyncio.run(stage.new_database())
    variables = {
        "DATABASE_URL": url,
        "SQS_QUEUE_URL": stage.new_queue(),
        "AWS_ENDPOINT_URL": stage.endpoint_url,
        "TODOKE_S3_BUCKET": "nobody",
        "TODOKE_PORT": str(port),
        "TODOKE_SECRET_KEYS": "only-for-benchmarks-on-loopback-0",
        **LIMITS,
    }
    program = stage.start([sys.executable, "-m", "service"], variables)
    key = asyncio.run(_key(url))
    lines = [f"Authorization: Bearer {key}", "Content-Type: application/json", "Idempotency-Key: {key}"]
    return Server(port, program, "/generate-report", lines, url)


async def _key(url: str) -> str:
    async with Database(url) as database:
        _, text = await ApiKeys(database).create("default", "benchmark", [Scope.ADMIN])
    return text


def _peer(stage: Stage, kind: str, port: int, environment: Environment) -> Server:
    url = asyncio.run(stage.new_database(template=None))
    variables = {
        "DATABASE_URL": url,
        "SQS_QUEUE_URL": stage.new_queue(),
        "AWS_ENDPOINT_URL": stage.endpoint_url,
        "AWS_REGION": "us-east-1",
    }
    if kind == "original":
        command = [environment.python, "-m", "benchmarks.peers.original_app", str(port)]
    else:
        command = [sys.executable, "-m", "benchmarks.peers.submit_apps", kind, str(port)]
    return Server(port, stage.start(command, variables), "/submit", ["Content-Type: application/json"])


def call(plan: object) -> dict[str, Any]:
    """Run the callers, as a process of their own; what they tell. Blocks."""
    command = [sys.executable, "-m", "benchmarks.submits_client", json.dumps(plan.__dict__)]
    run = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True, timeout=300)
    told: dict[str, Any] = json.loads(run.stdout)
    return told


def must_be(told: dict[str, Any], codes: Sequence[str]) -> None:
    """Raises RuntimeError for answers of other codes."""
    if set(told["codes"]) - set(codes):
        raise RuntimeError(f"answers were {told['codes']}, not all of {', '.join(codes)}")


def _wait(server: Server, path: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        server.program.must_run()
        try:
            with urllib.request.urlopen(f"http://{LOOPBACK}:{server.port}{path}", timeout=5):
                return
        except urllib.error.HTTPError as error:
            with error:
                if error.code < 500:
                    return
        except OSError:
            pass
        if time.monotonic() > deadline:
            raise TimeoutError(f"port {server.port} is not ready within {START_SECONDS:g} s")
        time.sleep(0.05)
