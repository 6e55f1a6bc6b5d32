"""The peers in the drain, in an environment that the benchmark makes for them, each as fast as we could set it."""

import asyncio
import hashlib
import os
import shutil
import signal
import struct
import subprocess
import venv
from pathlib import Path

import asyncpg

from benchmarks import cpu
from benchmarks.drain_todoke import DRAIN_SECONDS, finished, quiet
from benchmarks.figures import Round
from benchmarks.stage import REPOSITORY, Program, Stage, until

PINS = Path(__file__).with_name("requirements.txt")
PACKAGES = {
    "procrastinate": ("procrastinate", "psycopg[binary,pool]"),
    "pgqueuer": ("pgqueuer[asyncpg]", "uvloop"),
    "celery": ("celery", "kombu[sqs]"),
    "original": ("fastapi", "uvicorn[standard]", "sqlalchemy", "psycopg[binary]", "boto3"),
}
FILL_SECONDS = 120


class Environment:
    """The Python that has the peers. `missing` says why a peer could not be installed."""

    def __init__(self) -> None:
        digest = hashlib.sha256(PINS.read_bytes()).hexdigest()[:12]
        self._folder = REPOSITORY / ".benchmarks" / f"peers-{digest}"
        self.python = str(self._folder / "bin" / "python")
        self.missing: dict[str, str] = {}

    def install(self, *peers: str) -> None:
        """Make it with these peers, all without a name, unless it is there; blocks for half a minute."""
        for peer, packages in PACKAGES.items():
            if peers and peer not in peers:
                continue
            if (self._folder / f"{peer}.installed").exists():
                continue
            print(f"installing {peer} into {self._folder.relative_to(REPOSITORY)} …", flush=True)
            try:
                if not Path(self.python).exists():
                    shutil.rmtree(self._folder, ignore_errors=True)
                    venv.create(self._folder, with_pip=True, symlinks=True)
                command = [self.python, "-m", "pip", "install", "--quiet", "-c", str(PINS), *packages]
                subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
            except (OSError, subprocess.SubprocessError) as error:
                said = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
                self.missing[peer] = f"could not be installed: {said[-1] if said else error}"
            else:
                (self._folder / f"{peer}.installed").touch()


class PostgresPeer:
    """A peer whose queue is PostgreSQL: `finished` counts its finished jobs, `seconds` is their time by its clock."""

    def __init__(self, name: str, module: str, jobs: int, option: int, environment: Environment) -> None:
        self.name, self.jobs = name, jobs
        self._peer, self._option, self._environment = module, option, environment
        self.counted, self._finished, self._seconds = COUNTS[module]

    @property
    def trouble(self) -> str:
        """Why it cannot take part."""
        return self._environment.missing.get(self._peer, "")

    async def round(self, stage: Stage) -> Round:
        """Fill, start, open, wait."""
        url = await stage.new_database(template=None)
        command = [self._environment.python, "-m", f"benchmarks.peers.{self._peer}_worker"]
        await _filled(stage.start([*command, "fill", str(self.jobs)], {"DATABASE_URL": url}))
        worker = stage.start([*command, "work", str(self._option)], {"DATABASE_URL": url})
        try:
            await until(lambda: worker.says("ready"), 60, f"{self.name} started")
            await quiet(lambda: cpu.tree(worker.pid))
            connection = await asyncpg.connect(url)
            try:
                meter = stage.meter(worker)
                os.kill(worker.pid, signal.SIGUSR1)
                await finished(connection, self._finished, self.jobs, worker)
                return Round(self.jobs, await connection.fetchval(self._seconds), meter.spent())
            finally:
                await connection.close()
        finally:
            await asyncio.to_thread(worker.stop, 10)


COUNTS = {
    "procrastinate": (
        "rows committed as succeeded, with their events",
        "SELECT count(*) FROM procrastinate_jobs WHERE status = 'succeeded'",
        """SELECT extract(epoch FROM
               max(at) FILTER (WHERE type = 'succeeded') - min(at) FILTER (WHERE type = 'started'))
           ::float8 FROM procrastinate_events""",
    ),
    "pgqueuer": (
        "rows of its log committed as successful; it buffers them and deletes the job",
        "SELECT count(*) FROM pgqueuer_log WHERE status = 'successful'",
        """SELECT extract(epoch FROM
               max(created) FILTER (WHERE status = 'successful') - min(created) FILTER (WHERE status = 'picked'))
           ::float8 FROM pgqueuer_log""",
    ),
}


class CelerySqs:
    """Celery on the same queue endpoint: prefork with one process, no results, no events, no polling pause."""

    counted = "runs of the task function; no result is kept, and the message is acknowledged before the run"

    def __init__(self, jobs: int, environment: Environment, prefetch: int = 10) -> None:
        self.name, self.jobs = "Celery over SQS, prefork 1", jobs
        self._environment, self._prefetch = environment, prefetch

    @property
    def trouble(self) -> str:
        """Why it cannot take part."""
        return self._environment.missing.get("celery", "")

    async def round(self, stage: Stage) -> Round:
        """Fill, start, open, wait."""
        stage.hold()
        marks = stage.new_file()
        variables = {
            "QUEUE_URL": stage.new_queue(),
            "ENDPOINT_PORT": stage.endpoint_url.rpartition(":")[2],
            "PREFETCH": str(self._prefetch),
            "MARKS": str(marks),
        }
        python, module = self._environment.python, "benchmarks.peers.celery_worker"
        await _filled(stage.start([python, "-m", module, "fill", str(self.jobs)], variables))
        polls = stage.calls().get("ReceiveMessage", 0)
        options = ["-P", "prefork", "-c", "1", "--without-gossip", "--without-mingle", "--without-heartbeat"]
        worker = stage.start([python, "-m", "celery", "-A", module, "worker", *options], variables)
        try:
            await until(lambda: stage.calls().get("ReceiveMessage", 0) > polls, 60, "Celery started")
            await quiet(lambda: cpu.tree(worker.pid))
            meter = stage.meter(worker)
            stage.open()
            await until(lambda: marks.stat().st_size >= 8 * self.jobs, DRAIN_SECONDS, f"all {self.jobs} tasks run")
            spent = meter.spent()
        finally:
            await asyncio.to_thread(worker.stop, 10)
        times = struct.unpack(f"{self.jobs}d", marks.read_bytes()[: 8 * self.jobs])
        return Round(self.jobs, times[-1] - times[0], spent)


async def _filled(program: Program) -> None:
    await until(program.ended, FILL_SECONDS, "backlog filled")
