"""`todoke dev`: PostgreSQL, SQS and S3, and the three processes, kept running until told to stop."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from todoke.dev import aws, leftovers
from todoke.dev.binaries import find_binaries
from todoke.dev.child import Child
from todoke.dev.environment import child_environment, refuse_open_doors
from todoke.dev.first_key import first_key
from todoke.dev.ports import LOOPBACK, answers, listen
from todoke.dev.postgres import Postgres
from todoke.dev.state import StateFolder
from todoke.dev.supervisor import Member, Program, Supervisor, print_message
from todoke.model.errors import InvalidInput, TodokeError, Unavailable
from todoke.runtime.settings import load_settings

READY_SECONDS = 90
# The whole stop stays under ten seconds: TERM, again at 5 s, KILL at 8 s, then the parts they stood on.
PROGRAM_STEPS = ((signal.SIGTERM, 5.0), (signal.SIGTERM, 3.0))
POSTGRES_STEPS = ((signal.SIGINT, 1.0), (signal.SIGQUIT, 0.3))
# As pydantic reads a flag.
YES = frozenset({"1", "true", "yes", "on", "t", "y"})
AWS_STEPS = ((signal.SIGTERM, 1.3),)


def three_processes() -> dict[str, list[str]]:
    """How each kind of process is started."""
    return {
        kind: [sys.executable, "-m", module]
        for kind, module in (("api", "service"), ("worker", "worker"), ("notifier", "notifier"))
    }


def apply_migrations(database_url: str) -> None:
    """Bring the schema up to date."""
    from todoke.store.migrate import migrate  # noqa: PLC0415 - alembic is slow to import

    migrate(database_url)


@dataclass(frozen=True)
class Options:
    """What `todoke dev` is asked for. `port` 0 picks a free one; `programs` and `migrate` are replaced by tests."""

    port: int = 8080
    state: Path = Path(".todoke")
    api: int = 1
    workers: int = 1
    notifiers: int = 1
    restart: bool = True
    durable: bool = True
    require_keys: bool = False
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    programs: Mapping[str, Sequence[str]] = field(default_factory=three_processes)
    migrate: Callable[[str], None] = apply_migrations


class Stack:
    """Everything on one machine. `async with Stack(options) as stack:` is ready for jobs inside the block.

    Enter it from the main thread. Raises Refused when the caller must change something, Unavailable when a part
    does not start; then nothing is left running.
    """

    def __init__(self, options: Options, say: Callable[[str], None] = print_message) -> None:
        self.options = options
        self._folder = StateFolder(options.state)
        self._supervisor = Supervisor(restart=options.restart, say=say, changed=self._publish)
        self._published = False
        self._api_key: str | None = None

    @property
    def url(self) -> str:
        """Where the API answers."""
        return f"http://{LOOPBACK}:{self.port}"

    @property
    def facts(self) -> dict[str, Any]:
        """What dev.json says, process ids as of now."""
        environment = self._environment
        facts = {
            "url": self.url,
            "databaseUrl": self._postgres.url,
            "sqsQueueUrl": self._aws.places.queue_url,
            "dlqUrl": self._aws.places.dead_letter_url,
            "s3Bucket": self._aws.places.bucket,
            "awsEndpointUrl": self._aws.url,
            "awsRegion": aws.REGION,
            "awsAccessKeyId": aws.KEY_ID,
            "awsSecretAccessKey": aws.SECRET,
            "notifyChannel": environment.get("TODOKE_NOTIFY_CHANNEL") or "todoke",
            "signingSecret": environment["TODOKE_SIGNING_SECRET"],
            "pids": {kind: self._supervisor.pids(kind) for kind in (*self.options.programs, "postgres", "aws")},
        }
        return facts if self._api_key is None else facts | {"apiKey": self._api_key}

    async def start(self) -> None:
        """Bring everything up; returns when a job can be submitted and dev.json says where."""
        refuse_open_doors(self.options.environment)
        self._folder.claim()
        try:
            self._listener = listen(self.options.port)
            self.port: int = self._listener.getsockname()[1]
            await self._start_parts()
            await self._start_programs()
            await self._wait_ready()
        except BaseException as error:
            await self.stop()
            raise _first_leaf(error) from None
        self._published = True
        self._publish()

    async def stop(self) -> None:
        """End everything within ten seconds, in order: the processes, then what they stood on."""
        self._published = False
        await self._supervisor.let_go()
        programs = self._supervisor.of_kind(*self.options.programs)
        await asyncio.gather(*(self._supervisor.end(member, PROGRAM_STEPS) for member in programs))
        steps = {"postgres": POSTGRES_STEPS, "aws": AWS_STEPS}
        await asyncio.gather(
            *(self._supervisor.end(member, steps[member.kind]) for member in self._supervisor.of_kind(*steps))
        )
        if hasattr(self, "_listener"):
            self._listener.close()
        self._folder.withdraw()
        self._folder.release()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def _start_parts(self) -> None:
        folder, caller = self._folder, self.options.environment
        marks = {leftovers.MARK: str(folder.path)}
        found = folder.secrets()
        self._postgres = Postgres(
            folder.postgres,
            found.database_password,
            binaries=find_binaries(caller.get("TODOKE_PG_BIN")),
            log=folder.logs / "postgres.log",
            durable=self.options.durable,
            marks=marks,
        )
        bucket = caller.get("TODOKE_S3_BUCKET") or aws.BUCKET
        self._aws = aws.Emulator(folder.aws, bucket=bucket, log=folder.logs / "aws.log", marks=marks)
        await asyncio.to_thread(self._clear_leftovers)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._start_postgres())
            group.create_task(self._supervisor.add(Member("aws", self._aws)))
        require_keys = self.options.require_keys or caller.get("TODOKE_REQUIRE_KEYS", "").lower() in YES
        if require_keys:
            self._api_key = await first_key(self._postgres.url, folder)
        self._environment = child_environment(
            caller,
            state=folder.path,
            port=self.port,
            database_url=self._postgres.url,
            aws_url=self._aws.url,
            places=self._aws.places,
            secrets=found,
            require_keys=require_keys,
        )

    async def _start_postgres(self) -> None:
        await self._supervisor.add(Member("postgres", self._postgres))
        await asyncio.to_thread(self.options.migrate, self._postgres.url)

    def _clear_leftovers(self) -> None:
        leftovers.end(leftovers.marked(self._folder.path), signal.SIGKILL, 5.0)
        self._postgres.take_over()

    async def _start_programs(self) -> None:
        options = self.options
        counts = {"api": options.api, "worker": options.workers, "notifier": options.notifiers}
        for kind, command in options.programs.items():
            for number in range(1, counts.get(kind, 1) + 1):
                await self._supervisor.add(Member(kind, Program(self._child(kind, number, command))))

    def _child(self, kind: str, number: int, command: Sequence[str]) -> Child:
        environment = self._environment
        inherited: tuple[int, ...] = ()
        if kind == "api":
            # The socket is ours, so callers wait instead of being refused while an API process restarts.
            environment = environment | {"TODOKE_LISTEN_FD": str(self._listener.fileno())}
            inherited = (self._listener.fileno(),)
        name = f"{kind}-{number}"
        return Child(name, command, environment, self._folder.logs / f"{name}.log", inherited=inherited)

    async def _wait_ready(self) -> None:
        try:
            async with asyncio.timeout(READY_SECONDS):
                while not (self._supervisor.all_stand() and await asyncio.to_thread(answers, self.port, "/readyz", 2)):
                    self._supervisor.raise_if_hopeless()
                    await asyncio.sleep(0.05)
        except TimeoutError:
            first = self._supervisor.of_kind("api")[0].part.child
            raise Unavailable(f"not ready after {READY_SECONDS} s; the API says:\n{first.tail()}") from None

    def _publish(self) -> None:
        if self._published:
            self._folder.publish(self.facts)


def run(options: Options) -> int:
    """`todoke dev`: serve until SIGTERM or Ctrl-C. Exit code 0, or 1 after a sentence on stderr."""
    try:
        _check_settings()
        asyncio.run(_serve(options))
    except TodokeError as error:
        print_message(str(error))
        return 1
    return 0


async def _serve(options: Options) -> None:
    enough = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, enough.set)
    stack = Stack(options)
    starting = asyncio.create_task(stack.start())
    waiting = asyncio.create_task(enough.wait())
    await asyncio.wait({starting, waiting}, return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        starting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await starting
        return
    try:
        await starting
    except BaseException:
        waiting.cancel()
        raise
    try:
        print(f"todoke ready {stack.url}", flush=True)
        await waiting
    finally:
        await stack.stop()


def _check_settings() -> None:
    """A misspelt value is told here once, not by every child. Raises InvalidInput."""
    try:
        load_settings(desk_mode=True, host=LOOPBACK, listen_fd=None)
    except InvalidInput:
        refuse_open_doors(os.environ)  # whose words fit better, where they apply
        raise


def _first_leaf(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
