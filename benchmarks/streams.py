"""Streams: how late, how large, how fast to many, how calm; each beside references in the same run.

    python -m benchmarks.streams [latency] [memory] [broadcast] [churn] [--quick] [--rounds N] [--only WORD] [--seed N]

Without a mode all four run, one after the other, about 15 minutes. Rounds are interleaved with the references; each
mode prints its own table.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks import streams_broadcast, streams_churn, streams_latency, streams_memory
from benchmarks.figures import machine
from benchmarks.stage import Stage, stage
from benchmarks.streams_servers import Contestant


@dataclass(frozen=True)
class Options:
    """What was asked for; `rounds` 0: the mode's own number."""

    is_quick: bool
    rounds: int
    only: str
    seed: int

    def chosen(self, contestants: Sequence[Contestant]) -> list[Contestant]:
        """Those whose name has the word."""
        found = [each for each in contestants if self.only.lower() in each.name.lower()]
        for each in found:
            if each.trouble:
                print(f"  {each.name}: {each.trouble}", flush=True)
        return found

    def times(self, usual: int) -> int:
        """How many rounds."""
        return self.rounds or (1 if self.is_quick else usual)


def latency(stage: Stage, options: Options) -> str:
    """Commit to bytes."""
    streams, rate, seconds = (20, 50.0, 1.0) if options.is_quick else (1000, 1000.0, 10.0)
    found = streams_latency.measure(stage, streams, rate, seconds, options.times(3))
    return streams_latency.report(found)


def memory(stage: Stage, options: Options) -> str:
    """Memory of an idle stream."""
    counts, warm_up = ([20, 40], 10) if options.is_quick else ([1000, 5000], streams_memory.WARM_UP)
    chosen = options.chosen(streams_memory.CONTESTANTS)
    found = streams_memory.measure(stage, chosen, counts, options.times(2), warm_up)
    return streams_memory.report(found, chosen, counts)


def broadcast(stage: Stage, options: Options) -> str:
    """One event to everybody."""
    streams, events = (40, 2) if options.is_quick else (5000, 5)
    chosen = options.chosen(streams_broadcast.CONTESTANTS)
    found = streams_broadcast.measure(stage, chosen, streams, events, options.times(3))
    return streams_broadcast.report(found, chosen, streams)


def churn(stage: Stage, options: Options) -> str:
    """Reconnects without end."""
    streams, seconds = (100, 2.0) if options.is_quick else (10_000, 30.0)
    chosen = options.chosen(streams_churn.CONTESTANTS)
    found = streams_churn.measure(stage, chosen, streams, seconds, options.times(2), options.seed)
    return streams_churn.report(found, streams)


MODES: dict[str, Callable[[Stage, Options], str]] = {
    "latency": latency,
    "memory": memory,
    "broadcast": broadcast,
    "churn": churn,
}


def main(arguments: Sequence[str]) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modes", nargs="*", metavar="mode", help=f"{', '.join(MODES)}; default all")
    parser.add_argument("--quick", action="store_true", help="few streams and one round, to see that it works")
    parser.add_argument("--rounds", type=int, default=0, help="default 3, memory and churn 2")
    parser.add_argument("--only", default="", help="contestants whose name has this word (not latency)")
    parser.add_argument("--seed", type=int, default=1, help="which streams reconnect; default 1")
    asked = parser.parse_args(arguments)
    if unknown := set(asked.modes) - set(MODES):
        parser.error(f"no such mode: {', '.join(sorted(unknown))}")
    options = Options(asked.quick, asked.rounds, asked.only, asked.seed)
    print(machine(), flush=True)
    for name in asked.modes or MODES:
        began = time.monotonic()
        print(f"\n{name}:", flush=True)
        with stage() as found:
            text = MODES[name](found, options)
        print(f"\n{text}\n\n{time.monotonic() - began:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
