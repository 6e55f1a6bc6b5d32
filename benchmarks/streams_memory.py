"""Resident memory of an idle stream at 1,000 and 5,000 streams: Todoke, its peers, nginx with nchan."""

import contextlib
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks import memory
from benchmarks.figures import number, ratio, spread, table
from benchmarks.stage import Stage
from benchmarks.streams_crowd import Crowd
from benchmarks.streams_servers import Contestant, Server, check_files
from benchmarks.streams_speaker import Speaker

WARM_UP = 100
SETTLE_SECONDS = 1.0
NCHAN = "nginx with nchan, a channel each"
CONTESTANTS = (
    Contestant("Todoke, a job each", "todoke", is_shared=False),
    Contestant("Todoke, one job", "todoke"),
    Contestant("sse-starlette", "sse-starlette"),
    Contestant("FastAPI's own SSE", "fastapi"),
    Contestant("bare ASGI", "bare"),
    Contestant(NCHAN, "nchan", is_shared=False),
    Contestant("nginx with nchan, one channel", "nchan"),
)


@dataclass(frozen=True)
class Found:
    """KB a stream between the warm-up and so many streams; `shared`: how much of it is shared memory."""

    resident: float
    shared: float


def one(stage: Stage, contestant: Contestant, counts: Sequence[int], warm_up: int = WARM_UP) -> list[Found]:
    """One server, filled step by step; the streams of the warm-up stay open and count for none of them.

    The last figure is that of the largest count after every stream has got an event.
    """
    found: list[Found] = []
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(contestant.running(stage, counts[-1]))
        crowd = Crowd(server.port)
        try:
            crowd.open(server.paths(0, warm_up))
            base = memory.at_rest(server.pids)
            for count in counts:
                crowd.open(server.paths(len(crowd), count))
                found.append(_since(base, server, count - warm_up))
            speaker = stack.enter_context(contextlib.closing(Speaker(stage, server)))
            speaker.speak_to_each(counts[-1])
            crowd.read_for(SETTLE_SECONDS)
            found.append(_since(base, server, counts[-1] - warm_up))
        finally:
            crowd.close()
    return found


def _since(base: memory.Memory, server: Server, streams: int) -> Found:
    now = memory.at_rest(server.pids)
    return Found((now.resident - base.resident) / streams, (now.shared - base.shared) / streams)


def measure(
    stage: Stage, chosen: Sequence[Contestant], counts: Sequence[int], rounds: int, warm_up: int = WARM_UP
) -> dict[str, list[list[Found]]]:
    """By contestant, its rounds, interleaved."""
    check_files(counts[-1])
    found: dict[str, list[list[Found]]] = {each.name: [] for each in chosen}
    for turn in range(rounds):
        for each in chosen:
            if each.trouble:
                continue
            figures = one(stage, each, counts, warm_up)
            found[each.name].append(figures)
            shown = " / ".join(f"{figure.resident:.1f}" for figure in figures)
            print(f"  round {turn + 1}: {each.name}: {shown} KB a stream", flush=True)
    return found


def report(found: dict[str, list[list[Found]]], chosen: Sequence[Contestant], counts: Sequence[int]) -> str:
    """Medians with ranges, and the ratio to nchan, idle and after an event."""
    width = len(counts) + 1
    by_name = {name: [[row[at].resident for row in rows] for at in range(width)] for name, rows in found.items()}
    nchan = by_name.get(NCHAN, [[]] * width)
    columns_head = [*(f"KB a stream at {count:,}" for count in counts), "after an event each", "of it shared memory"]
    head = ["resident memory", *columns_head, "to nchan idle", "after an event"]
    rows = []
    for each in chosen:
        columns = by_name[each.name]
        if not columns[-1]:
            rows.append([each.name, *["-"] * (width + 2), each.trouble or "-"])
            continue
        times = [_times(columns[at], nchan[at]) for at in (-2, -1)]
        shared = spread([row[-1].shared for row in found[each.name]])
        rows.append([each.name, *map(spread, columns), shared, *times])
    return table(head, rows)


def _times(values: Sequence[float], base: Sequence[float]) -> str:
    return ratio(statistics.median(values), statistics.median(base)) if base else number(None)
