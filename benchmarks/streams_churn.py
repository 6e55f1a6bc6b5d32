"""10,000 streams on one process, 1 % of them reconnecting each second: what that does to its event loop."""

import random
import re
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks import cpu
from benchmarks.figures import number, percentile, ratio, spread, table
from benchmarks.stage import Stage
from benchmarks.streams_crowd import Crowd
from benchmarks.streams_servers import Contestant, Server, check_files

SETTLE_SECONDS = 3.0
IDLE_SECONDS = 5.0
SHARE = 0.01
LAG = "todoke_loop_lag_seconds"
BUCKET = re.compile(rf'^{LAG}_bucket{{le="([^"]+)"}} (\S+)$', re.MULTILINE)
ID = re.compile(rb"\nid: ?(\S+)")
BARE = "bare ASGI"
CONTESTANTS = (Contestant("Todoke, a job each", "todoke", is_shared=False), Contestant(BARE, "bare"))


@dataclass(frozen=True)
class Found:
    """Cores used idle and under churn; loop delay: mean ms and upper bounds of median and 99 %; first byte ms."""

    idle_cores: float
    cores: float
    postgres_cores: float
    clients_cores: float
    lag_mean: float
    lag_p50: float
    lag_p99: float
    first_p50: float
    first_p99: float


class Lag:
    """The loop's delay as its own histogram tells it, between two looks."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._before, self._sum = _buckets(server)

    def since(self) -> tuple[float, float, float]:
        """Mean, and the bounds of the buckets that hold the median and the 99th percentile; milliseconds."""
        now, total = _buckets(self._server)
        counts = {bound: now[bound] - self._before[bound] for bound in now}
        count = max(counts.values())
        bounds = [min(bound for bound, below in counts.items() if below >= share * count) for share in (0.5, 0.99)]
        return (total - self._sum) / max(count, 1) * 1e3, bounds[0] * 1e3, bounds[1] * 1e3


class Churn:
    """Streams that leave and come back with the cursor they have, as browsers do."""

    def __init__(self, server: Server, streams: int, seed: int) -> None:
        self._server, self._streams = server, streams
        self._paths = server.paths(0, streams)
        self._cursors: dict[int, str] = {}
        self._random = random.Random(seed)
        self.crowd = Crowd(server.port, self._news)
        self.crowd.open(self._paths)
        self.crowd.read_for(SETTLE_SECONDS)

    def run(self, seconds: float, rate: float) -> None:
        """So long, so many reconnects a second, evenly. Raises TimeoutError when a stream does not come back."""
        began, done = time.monotonic(), 0
        self.crowd.first_bytes.clear()
        while (passed := time.monotonic() - began) < seconds:
            while done < passed * rate:
                self._reconnect()
                done += 1
            self.crowd.read_for(1 / max(rate, 100))
        self.crowd.read(lambda: self.crowd.all_open, 60, "every stream is back")

    def _reconnect(self) -> None:
        stream = self._random.randrange(self._streams)
        cursor = self._cursors.get(stream)
        self.crowd.reopen(stream, self._paths[stream], f"Last-Event-ID: {cursor}\r\n" if cursor else "")

    def _news(self, stream: int, data: bytes, _now: float) -> None:
        if found := ID.findall(data):
            self._cursors[stream] = found[-1].decode()


def one(stage: Stage, contestant: Contestant, streams: int, seconds: float, seed: int) -> Found:
    """One server: filled, watched at rest, then under churn."""
    postgres = stage.postgres.child.pid
    assert postgres is not None
    with contestant.running(stage, streams) as server:
        churn = Churn(server, streams, seed)
        try:
            before = server.cpu_seconds()
            churn.crowd.read_for(IDLE_SECONDS)
            idle = (server.cpu_seconds() - before) / IDLE_SECONDS
            lag = Lag(server)
            clocks = {
                "server": server.cpu_seconds,
                "postgres": lambda: cpu.tree(postgres),
                "clients": time.process_time,
            }
            meter = cpu.Meter(clocks)
            churn.run(seconds, streams * SHARE)
            cores = {name: spent / seconds for name, spent in meter.spent().items()}
            first = [each * 1e3 for each in churn.crowd.first_bytes]
            return Found(
                idle, cores["server"], cores["postgres"], cores["clients"], *lag.since(),
                percentile(first, 0.5), percentile(first, 0.99),
            )  # fmt: skip
        finally:
            churn.crowd.close()


def measure(
    stage: Stage, chosen: Sequence[Contestant], streams: int, seconds: float, rounds: int, seed: int
) -> dict[str, list[Found]]:
    """By contestant, its rounds, interleaved; round n of each drops the same streams."""
    check_files(streams)
    found: dict[str, list[Found]] = {each.name: [] for each in chosen}
    for turn in range(rounds):
        for each in chosen:
            figure = one(stage, each, streams, seconds, seed + turn)
            found[each.name].append(figure)
            print(
                f"  round {turn + 1}: {each.name}: {figure.cores:.2f} cores, lag {figure.lag_mean:.1f} ms", flush=True
            )
    return found


def report(found: dict[str, list[Found]], streams: int) -> str:
    """Medians with ranges; bounds of buckets as they are."""
    columns = {
        "cores idle": "idle_cores",
        "cores": "cores",
        "loop delay mean ms": "lag_mean",
        "p50 under ms": "lag_p50",
        "p99 under ms": "lag_p99",
        "first byte p50 ms": "first_p50",
        "p99 ms": "first_p99",
        "PostgreSQL cores": "postgres_cores",
        "clients' cores": "clients_cores",
    }
    base = statistics.median([each.cores for each in found.get(BARE, [])] or [0.0])
    rows = []
    for name, rounds in found.items():
        cells = [spread([getattr(each, column) for each in rounds]) for column in columns.values()]
        times = ratio(statistics.median([each.cores for each in rounds]), base) if rounds else number(None)
        rows.append([name, *cells, times])
    return table([f"{streams:,} streams, 1 % reconnect a second", *columns, "cores to bare"], rows)


def _buckets(server: Server) -> tuple[dict[float, float], float]:
    text = server.metrics()
    total = re.search(rf"^{LAG}_sum (\S+)$", text, re.MULTILINE)
    return {float(bound): float(count) for bound, count in BUCKET.findall(text)}, float(total[1]) if total else 0.0
