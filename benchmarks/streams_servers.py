"""The servers of the streams benchmark, each started as a process of its own: Todoke, its peers, nginx with nchan."""

import asyncio
import contextlib
import os
import resource
import shutil
import signal
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

from benchmarks import cpu
from benchmarks.drain_todoke import accept
from benchmarks.stage import Program, Stage
from todoke.dev.ports import LOOPBACK, free_port

START_SECONDS = 30.0
STREAMS_MAX = 19_000
# As long as one of Todoke's frames, so that all carry the same.
PAYLOAD = "x" * 600
NCHAN_MODULE = Path("/usr/lib/nginx/modules/ngx_nchan_module.so")
NCHAN_MISSING = "not installed: apt-get install libnginx-mod-nchan"

NCHAN_CONFIGURATION = """
load_module {module};
daemon off; {user}
worker_processes 1; worker_rlimit_nofile {files};
pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections {files}; }}
http {{
    access_log off; keepalive_requests 1000000;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    nchan_shared_memory_size 256M;
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location = /publish {{ nchan_publisher http; nchan_channel_id $arg_id; }}
        location = /events {{ nchan_subscriber eventsource; nchan_channel_id $arg_id; }}
    }}
}}
"""


@dataclass
class Server:
    """A running server. `pids`: the processes that hold streams; `jobs`: what Todoke's streams watch."""

    name: str
    port: int
    program: Program
    is_shared: bool
    pids: set[int]
    jobs: list[UUID] = field(default_factory=list)
    database_url: str = ""

    def paths(self, first: int, behind: int) -> list[str]:
        """Where streams `first` to `behind` - 1 are found."""
        numbers = [0 if self.is_shared else number for number in range(first, behind)]
        if self.jobs:
            return [f"/jobs/{self.jobs[number]}/events" for number in numbers]
        return [f"/events?id={number}" for number in numbers]

    def cpu_seconds(self) -> float:
        """Processor time of the processes that hold streams."""
        return sum(cpu.own(pid) for pid in self.pids)

    def metrics(self) -> str:
        """What `/metrics` says."""
        with urllib.request.urlopen(f"http://{LOOPBACK}:{self.port}/metrics", timeout=30) as answer:
            return bytes(answer.read()).decode()


@dataclass(frozen=True)
class Contestant:
    """A server that can be started. `kind` is `todoke`, `nchan` or a peer app.

    is_shared: all streams watch one job or channel; otherwise each its own, where the server knows such a thing.
    """

    name: str
    kind: str
    is_shared: bool = True

    @property
    def trouble(self) -> str:
        """Why it cannot take part."""
        return NCHAN_MISSING if self.kind == "nchan" and not (NCHAN_MODULE.exists() and _nginx()) else ""

    @contextlib.contextmanager
    def running(self, stage: Stage, streams: int) -> Iterator[Server]:
        """The server, ready for so many streams; afterwards it is gone."""
        raise_files_limit()
        port = free_port()
        if self.kind == "todoke":
            server = start_todoke(stage, self.name, port, 1 if self.is_shared else streams, is_shared=self.is_shared)
        elif self.kind == "nchan":
            program = stage.start([_nginx(), "-p", str(stage.folder), "-c", str(_configuration(stage, port))])
            server = Server(self.name, port, program, self.is_shared, set())
        else:
            program = stage.start([sys.executable, "-m", "benchmarks.peers.stream_apps", self.kind, str(port)])
            server = Server(self.name, port, program, is_shared=True, pids={program.pid})
        try:
            _wait(server, "/readyz" if self.kind == "todoke" else "/nothing")
            if self.kind == "nchan":
                server.pids = cpu.descendants(server.program.pid)
            yield server
        finally:
            # With thousands of streams open, leaving politely is not what is measured.
            server.program.stop(5)


def start_todoke(stage: Stage, name: str, port: int, jobs: int, *, is_shared: bool) -> Server:
    """`python -m service` as `todoke dev` runs it, on a database of its own that holds so many waiting jobs."""
    url = asyncio.run(stage.new_database())
    ids = asyncio.run(accept(url, jobs))
    variables = {
        "DATABASE_URL": url,
        "SQS_QUEUE_URL": stage.new_queue(),
        "AWS_ENDPOINT_URL": stage.endpoint_url,
        "TODOKE_S3_BUCKET": "nobody",
        "TODOKE_PORT": str(port),
        "TODOKE_DESK_MODE": "true",
        "TODOKE_SECRET_KEYS": "only-for-benchmarks-on-loopback-0",
        "TODOKE_JOBS": "benchmarks.noop_jobs",
        "TODOKE_LOG_LEVEL": "WARNING",
    }
    program = stage.start([sys.executable, "-m", "service"], variables)
    return Server(name, port, program, is_shared, {program.pid}, ids, url)


def raise_files_limit() -> None:
    """Allow as many open files as the machine lets us; programs started from here inherit it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def check_files(streams: int) -> None:
    """Raises RuntimeError that says what to raise when this machine does not let us open so many streams."""
    raise_files_limit()
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < streams + 500:
        raise RuntimeError(f"{streams} streams need {streams + 500} open files in one process: ulimit -n is {soft}")


def signaled(program: Program, word: str, seconds: float) -> None:
    """Wait until a program has said a word. Blocks; raises RuntimeError or TimeoutError."""
    deadline = time.monotonic() + seconds
    while not program.says(word):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{word!r} not said within {seconds:g} s")
        time.sleep(0.02)


def start_signal(programs: Sequence[Program]) -> None:
    """Let programs that wait for it begin."""
    for program in programs:
        os.kill(program.pid, signal.SIGUSR1)


def _wait(server: Server, path: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not _answers(server.port, path):
        server.program.must_run()
        if time.monotonic() > deadline:
            raise TimeoutError(f"{server.name} is not ready within {START_SECONDS:g} s")
        time.sleep(0.05)


def _answers(port: int, path: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://{LOOPBACK}:{port}{path}", timeout=5):
            return True
    except urllib.error.HTTPError as error:
        with error:
            return error.code < 500
    except OSError:
        return False


def _nginx() -> str:
    return shutil.which("nginx", path=os.environ.get("PATH", "") + os.pathsep + "/usr/sbin") or ""


def _configuration(stage: Stage, port: int) -> Path:
    folder = stage.new_folder()
    path = folder / "nginx.conf"
    # As root its worker would become nobody, who may not enter the folder.
    user = "user root;" if os.geteuid() == 0 else ""
    files = min(resource.getrlimit(resource.RLIMIT_NOFILE)[0], 20_000)
    path.write_text(NCHAN_CONFIGURATION.format(module=NCHAN_MODULE, user=user, files=files, folder=folder, port=port))
    return path
