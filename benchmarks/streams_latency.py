"""Commit to bytes: 1,000 numbered events a second over 1,000 streams, beside the bare NOTIFY of the same PostgreSQL."""

import contextlib
import re
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from benchmarks import cpu
from benchmarks.figures import number, percentile, ratio, spread, table
from benchmarks.stage import Program, Stage
from benchmarks.streams_crowd import Crowd
from benchmarks.streams_servers import Contestant, Server, check_files, signaled, start_signal

# The id of a numbered frame: epoch, sequence.
ID = re.compile(rb"\nid: ?[0-9a-f]+\.(\d+)\r?\n")
ID_BYTES = 80
SETTLE_SECONDS = 2.0
PROBE_RATE = 100.0
LATE_SECONDS = 60.0

TODOKE = "Todoke: COMMIT sent to bytes at the client"
HEARD = "the same commits' NOTIFY, at a bare listener"
LOADED = "asyncpg NOTIFY round trip under this load"
IDLE = "asyncpg NOTIFY round trip, nothing else going on"


@dataclass
class Found:
    """By round: seconds by what was measured; processor microseconds an event by process; events a commit."""

    seconds: dict[str, list[list[float]]] = field(
        default_factory=lambda: {name: [] for name in (TODOKE, HEARD, LOADED, IDLE)}
    )
    cpu_us: dict[str, list[float]] = field(default_factory=dict)
    per_commit: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)


class Arrivals:
    """When each numbered event of each stream came; an id that was cut in two is put together."""

    def __init__(self) -> None:
        self.at: dict[tuple[int, int], float] = {}
        self._tails: dict[int, bytes] = {}

    def news(self, stream: int, data: bytes, now: float) -> None:
        """Called with what a stream got."""
        data = self._tails.pop(stream, b"\n") + data
        for found in ID.findall(data):
            self.at.setdefault((stream, int(found)), now)
        # Frames and chunks end with a line.
        if not data.endswith(b"\n"):
            self._tails[stream] = data[-ID_BYTES:]


class Latency:
    """One server with its streams, its writer and its probe, for any number of rounds."""

    def __init__(self, stage: Stage, server: Server, rate: float, seconds: float) -> None:
        self._stage, self._server = stage, server
        self._events, self._rate, self._trips = int(rate * seconds), rate, max(10, int(PROBE_RATE * seconds * 0.9))
        self._folder = stage.new_folder()
        self._arrivals = Arrivals()
        self._crowd = Crowd(server.port, self._arrivals.news)
        self._passes = 0

    @contextlib.contextmanager
    def ready(self, streams: int) -> Iterator[None]:
        """Streams open, writer and probe waiting for their signal."""
        self._crowd.open(self._server.paths(0, streams))
        (self._folder / "jobs").write_text("\n".join(map(str, self._server.jobs)))
        self._writer = self._helper("streams_writer", self._events, self._rate)
        self._probe = self._helper("streams_probe", self._trips, PROBE_RATE)
        try:
            for program in (self._writer, self._probe):
                signaled(program, "ready", 30)
            self._crowd.read_for(SETTLE_SECONDS)
            yield
        finally:
            self._writer.kill()
            self._probe.kill()
            self._crowd.close()

    def round(self, found: Found) -> None:
        """Bare NOTIFY idle, then the load with bare NOTIFY beside it. Raises TimeoutError when an event is lost."""
        self._arrivals.at.clear()
        found.seconds[IDLE].append(self._probed([self._probe]))
        postgres = self._stage.postgres.child.pid
        assert postgres is not None
        meter = cpu.Meter(
            {
                "API": self._server.cpu_seconds,
                "PostgreSQL": lambda: cpu.tree(postgres),
                "writer": lambda: cpu.own(self._writer.pid),
                "clients": time.process_time,
            }
        )
        found.seconds[LOADED].append(self._probed([self._writer, self._probe]))
        for name, spent in meter.spent().items():
            found.cpu_us.setdefault(name, []).append(spent / self._events * 1e6)
        self._join(found)

    def _probed(self, programs: Sequence[Program]) -> list[float]:
        """Seconds of the round trips of one pass of these programs; every event of the pass has arrived by then."""
        self._passes += 1
        start_signal(programs)
        expected = self._events if len(programs) > 1 else 0
        seconds = self._events / self._rate + LATE_SECONDS
        self._crowd.read(lambda: len(self._arrivals.at) >= expected, seconds, f"all {expected} events")
        self._crowd.read(lambda: self._probe.says(f"pass {self._passes} done"), seconds, "bare NOTIFY")
        return [float(line) for line in (self._folder / f"trips.{self._passes}").read_text().split()]

    def _join(self, found: Found) -> None:
        turn = self._passes // 2
        signaled(self._writer, f"pass {turn} done", LATE_SECONDS)
        lines = [line.split() for line in (self._folder / f"writes.{turn}").read_text().splitlines()]
        sent = {(int(stream), int(sequence)): float(at) for stream, sequence, at, _ in lines}
        found.seconds[TODOKE].append([self._arrivals.at[key] - at for key, at in sent.items()])
        found.per_commit.append(len(sent) / len(set(sent.values())))
        found.rates.append((len(sent) - 1) / (max(sent.values()) - min(sent.values())))
        numbers = {str(job): stream for stream, job in enumerate(self._server.jobs)}
        heard = []
        for line in (self._folder / f"heard.{self._passes}").read_text().splitlines():
            at, job, sequence = line.split()
            heard.append(float(at) - sent[numbers[job], int(sequence)])
        found.seconds[HEARD].append(heard)

    def _helper(self, module: str, count: int, rate: float) -> Program:
        command = [sys.executable, "-m", f"benchmarks.{module}", str(self._folder), str(count), str(rate)]
        return self._stage.start(command, {"DATABASE_URL": self._server.database_url})


def measure(stage: Stage, streams: int, rate: float, seconds: float, rounds: int) -> Found:
    """So many rounds over the same streams, a job each."""
    check_files(streams)
    found = Found()
    with Contestant("Todoke", "todoke", is_shared=False).running(stage, streams) as server:
        latency = Latency(stage, server, rate, seconds)
        with latency.ready(streams):
            for turn in range(rounds):
                latency.round(found)
                middle = statistics.median(found.seconds[TODOKE][-1]) * 1e3
                print(f"  round {turn + 1}: p50 {middle:.2f} ms", flush=True)
    return found


def report(found: Found) -> str:
    """Medians of the rounds' percentiles with their ranges, and the ratios to bare NOTIFY."""
    head = ["measured", "p50 ms", "p99 ms", "p50 to idle", "p99 to idle", "p50 to loaded", "p99 to loaded"]
    rows = [
        [
            name,
            *(spread([each * 1e3 for each in _of(found, name, share)]) for share in (0.5, 0.99)),
            *_ratios(found, name),
        ]
        for name in found.seconds
    ]
    spent = ", ".join(f"{name} {spread(values)}" for name, values in found.cpu_us.items())
    return (
        f"{table(head, rows)}\n\n{spread(found.rates)} events/s, {spread(found.per_commit)} a commit, none lost;"
        f" processor us an event: {spent}"
    )


def _of(found: Found, name: str, share: float) -> list[float]:
    return [percentile(seconds, share) for seconds in found.seconds[name] if seconds]


def _ratios(found: Found, name: str) -> list[str]:
    cells = []
    for base in (IDLE, LOADED):
        for share in (0.5, 0.99):
            values, bases = _of(found, name, share), _of(found, base, share)
            cells.append(ratio(statistics.median(values), statistics.median(bases)) if values else number(None))
    return cells
