"""One event to 5,000 streams of one job until the last client has it: Todoke, its peers, nginx with nchan."""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.figures import ratio, spread, table
from benchmarks.stage import Stage
from benchmarks.streams_crowd import Crowd
from benchmarks.streams_servers import Contestant, Server, check_files
from benchmarks.streams_speaker import Speaker

SETTLE_SECONDS = 1.5
GIVE_UP_SECONDS = 60.0
# What every server's events have and no heartbeat has.
DATA = b"data:"
# The first event after the streams were opened finds cold caches everywhere.
WARM_UP = 1
NCHAN = "nginx with nchan"
CONTESTANTS = (
    Contestant("Todoke", "todoke"),
    Contestant("sse-starlette", "sse-starlette"),
    Contestant("FastAPI's own SSE", "fastapi"),
    Contestant("bare ASGI", "bare"),
    Contestant(NCHAN, "nchan"),
)


@dataclass(frozen=True)
class Found:
    """Milliseconds from sending until half of the clients, and the last, had it; processor ms of server and clients."""

    half: float
    last: float
    server_cpu: float
    clients_cpu: float


class Audience:
    """Streams of one server, all of which are to hear each event."""

    def __init__(self, server: Server, streams: int) -> None:
        self._server, self._streams = server, streams
        self._heard: dict[int, float] = {}
        self._crowd = Crowd(server.port, self._news)
        self.close = self._crowd.close
        self._crowd.open(server.paths(0, streams))
        self._crowd.read_for(SETTLE_SECONDS)

    def hear(self, speaker: "Speaker") -> Found:
        """One event. Raises TimeoutError when somebody does not hear it."""
        self._heard.clear()
        server, clients = self._server.cpu_seconds(), time.process_time()
        with speaker.speak() as sent_at:
            self._crowd.read(lambda: len(self._heard) == self._streams, GIVE_UP_SECONDS, "everybody has heard it")
            clients = time.process_time() - clients
            moments = sorted(self._heard.values())
            # What the server does after the last write belongs to this event, too.
            self._crowd.read_for(0.3)
        server = self._server.cpu_seconds() - server
        sent = sent_at()
        half, last = ((at - sent) * 1e3 for at in (moments[len(moments) // 2], moments[-1]))
        return Found(half, last, server * 1e3, clients * 1e3)

    def _news(self, stream: int, data: bytes, now: float) -> None:
        if DATA in data:
            self._heard[stream] = now


def one(stage: Stage, contestant: Contestant, streams: int, events: int) -> list[Found]:
    """So many events of one server, the first one not counted."""
    with contestant.running(stage, streams) as server:
        audience, speaker = Audience(server, streams), Speaker(stage, server)
        try:
            return [audience.hear(speaker) for _ in range(events + WARM_UP)][WARM_UP:]
        finally:
            speaker.close()
            audience.close()


def measure(
    stage: Stage, chosen: Sequence[Contestant], streams: int, events: int, rounds: int
) -> dict[str, list[Found]]:
    """By contestant, every event of every round; rounds are interleaved."""
    check_files(streams)
    found: dict[str, list[Found]] = {each.name: [] for each in chosen}
    for turn in range(rounds):
        for each in chosen:
            if each.trouble:
                continue
            events_heard = one(stage, each, streams, events)
            found[each.name] += events_heard
            shown = " / ".join(f"{event.last:.0f}" for event in events_heard)
            print(f"  round {turn + 1}: {each.name}: {shown} ms until the last", flush=True)
    return found


def report(found: dict[str, list[Found]], chosen: Sequence[Contestant], streams: int) -> str:
    """Medians with ranges over all events, and the ratio to nchan."""
    nchan = [event.last for event in found.get(NCHAN, [])]
    head = [f"one event to {streams:,}", "last client ms", "half ms", "server cpu ms", "clients' cpu ms", "to nchan"]
    rows = []
    for each in chosen:
        events = found[each.name]
        last = [event.last for event in events]
        times = ratio(statistics.median(last), statistics.median(nchan)) if last and nchan else each.trouble or "-"
        columns = ([getattr(event, name) for event in events] for name in ("half", "server_cpu", "clients_cpu"))
        rows.append([each.name, spread(last), *map(spread, columns), times])
    return table(head, rows)
