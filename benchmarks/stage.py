"""What every benchmark stands on: a durable PostgreSQL, a queue endpoint, and programs started on them."""

import asyncio
import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import asyncpg
import boto3
from botocore.config import Config

from benchmarks import cpu
from todoke.dev.postgres import Postgres
from todoke.store.migrate import migrate

REPOSITORY = Path(__file__).resolve().parent.parent
REGION = "us-east-1"
KEYS = {"AWS_ACCESS_KEY_ID": "benchmark", "AWS_SECRET_ACCESS_KEY": "benchmark", "AWS_EC2_METADATA_DISABLED": "true"}
TEMPLATE = "todoke"
START_SECONDS = 60.0


class Program:
    """A program of the benchmark; what it says goes to a file, which is where its readiness is read."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self.log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                cwd=REPOSITORY,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # Ctrl-C reaches us alone, and we end them in order.
                start_new_session=True,
            )
        self.pid = self._process.pid

    def says(self, word: str) -> bool:
        """Whether its output has this word. Raises RuntimeError when it has ended without."""
        text = self.log.read_text(errors="replace")
        if word in text:
            return True
        if self._process.poll() is not None:
            raise RuntimeError(f"the program ended before it said {word!r}:\n{text[-2000:]}")
        return False

    def has_said(self, word: str) -> bool:
        """Whether its output has this word by now, whatever became of it."""
        return word in self.log.read_text(errors="replace")

    def ended(self) -> bool:
        """Whether it has ended, and well. Raises RuntimeError when it failed."""
        status = self._process.poll()
        if status:
            raise RuntimeError(f"a program failed:\n{self.log.read_text(errors='replace')[-2000:]}")
        return status is not None

    def must_run(self) -> None:
        """Raises RuntimeError with its last words when it has ended."""
        if self._process.poll() is not None:
            raise RuntimeError(f"a program ended early:\n{self.log.read_text(errors='replace')[-2000:]}")

    def kill(self) -> None:
        """End it as a crash would."""
        self._process.kill()
        self._process.wait()

    def stop(self, seconds: float = 30) -> None:
        """Ask it to end, then make it."""
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()


class Stage:
    """PostgreSQL with fsync on, migrated, and the in-memory SQS endpoint, each a process of its own."""

    def __init__(self, folder: Path, postgres: Postgres, endpoint: Program, endpoint_url: str) -> None:
        self.folder, self.postgres, self.endpoint, self.endpoint_url = folder, postgres, endpoint, endpoint_url
        # botocore's model check costs a fifth of a call and checks nothing here.
        self.sqs = boto3.client(
            "sqs",
            endpoint_url=endpoint_url,
            region_name=REGION,
            aws_access_key_id="benchmark",
            aws_secret_access_key="benchmark",
            config=Config(parameter_validation=False, proxies={}),
        )
        self._programs: list[Program] = []
        self._numbers = 0

    def start(self, command: Sequence[str], environment: Mapping[str, str] | None = None) -> Program:
        """Run a program in the repository with a small environment and these variables; it ends with the stage."""
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        self._numbers += 1
        variables = {**kept, **KEYS, "TMPDIR": str(self.folder), **(environment or {})}
        program = Program(command, variables, self.folder / f"program{self._numbers}.log")
        self._programs.append(program)
        return program

    def start_worker(self, settings: Mapping[str, str], module: str = "worker") -> Program:
        """A real worker process on this stage, quiet but for warnings; `settings` are environment variables."""
        return self.start([sys.executable, "-m", module], {"TODOKE_JOBS": "benchmarks.noop_jobs", **settings})

    def meter(self, worker: Program) -> cpu.Meter:
        """Processor time from now on: the worker itself, what it started, PostgreSQL and the queue endpoint."""
        postgres = self.postgres.child.pid
        assert postgres is not None
        return cpu.Meter(
            {
                "worker": lambda: cpu.own(worker.pid),
                "job processes": lambda: cpu.below(worker.pid),
                "PostgreSQL": lambda: cpu.tree(postgres),
                "endpoint": lambda: cpu.own(self.endpoint.pid),
            }
        )

    def new_file(self) -> Path:
        """The path of an empty file."""
        path = self.folder / f"file-{secrets.token_hex(4)}"
        path.touch()
        return path

    def new_folder(self) -> Path:
        """The path of an empty folder."""
        path = self.folder / f"folder-{secrets.token_hex(4)}"
        path.mkdir()
        return path

    def new_queue(self) -> str:
        """The URL of a queue nobody has used."""
        return str(self.sqs.create_queue(QueueName=f"benchmark-{secrets.token_hex(4)}")["QueueUrl"])

    def waiting(self, queue_url: str) -> int:
        """How many messages a queue has, hidden ones included."""
        names: list[Any] = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        found = self.sqs.get_queue_attributes(QueueUrl=queue_url, AttributeNames=names)["Attributes"]
        return sum(int(value) for value in found.values())

    def hold(self) -> None:
        """Have every queue keep its messages to itself."""
        self._tell("hold")

    def open(self) -> None:
        """Show the messages of every queue."""
        self._tell("open")

    def calls(self) -> dict[str, int]:
        """How often each call of SQS was made so far."""
        return {str(name): int(count) for name, count in json.loads(self._tell("calls")).items()}

    async def new_database(self, template: str | None = TEMPLATE) -> str:
        """The URL of a database nobody has used: migrated, or empty with `template` None."""
        name = f"benchmark_{secrets.token_hex(4)}"
        connection = await asyncpg.connect(self.database("postgres"))
        await connection.execute(f"CREATE DATABASE {name}" + (f" TEMPLATE {template}" if template else ""))
        await connection.execute("CHECKPOINT")
        await connection.close()
        return self.database(name)

    def database(self, name: str) -> str:
        """The URL of a database of this server."""
        return f"{self.postgres.url.rpartition('/')[0]}/{name}"

    def close(self) -> None:
        """End every program."""
        for program in reversed(self._programs):
            program.stop(10)
        self.sqs.close()

    def _tell(self, word: str) -> bytes:
        request = urllib.request.Request(f"{self.endpoint_url}/{word}", method="POST", data=b"")
        with urllib.request.urlopen(request, timeout=10) as answer:
            return bytes(answer.read())


@contextlib.contextmanager
def stage() -> Iterator[Stage]:
    """Everything up; afterwards everything gone."""
    with tempfile.TemporaryDirectory(prefix="todoke-benchmark-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        postgres = stack.enter_context(Postgres(folder / "postgres" / "data", secrets.token_hex()))
        migrate(postgres.url)
        endpoint = Program(
            [sys.executable, "-m", "benchmarks.queue_endpoint"], dict(os.environ), folder / "endpoint.log"
        )
        stack.callback(endpoint.stop)
        deadline = time.monotonic() + START_SECONDS
        while not endpoint.says("\n"):
            if time.monotonic() > deadline:
                raise RuntimeError("the queue endpoint did not start")
            time.sleep(0.02)
        port = int(endpoint.log.read_text())
        found = Stage(folder, postgres, endpoint, f"http://127.0.0.1:{port}")
        stack.callback(found.close)
        yield found


async def until(condition: Callable[[], bool | Awaitable[bool]], seconds: float, what: str) -> None:
    """Wait for a condition, asking 20 times a second. Raises TimeoutError that says what did not come true."""
    deadline = time.monotonic() + seconds
    while True:
        found = condition()
        if found if isinstance(found, bool) else await found:
            return
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {seconds:g} s")
        await asyncio.sleep(0.05)
