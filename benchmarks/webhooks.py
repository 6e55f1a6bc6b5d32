"""Webhooks: how fast one notifier delivers, and what receivers that hang or are dead cost those that are not.

    python -m benchmarks.webhooks [--parts throughput,hanging,backlog] [--quick] [--rounds N] [--only WORD]

Rounds are interleaved with the references; each part prints its own table, about 6 minutes in all.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks import webhooks_backlog, webhooks_hanging, webhooks_throughput
from benchmarks.figures import machine
from benchmarks.stage import Stage, stage


@dataclass(frozen=True)
class Options:
    """What was asked for; `rounds` 0: the part's own number."""

    is_quick: bool
    rounds: int
    only: str

    def times(self, usual: int) -> int:
        """How many rounds."""
        return self.rounds or (1 if self.is_quick else usual)


def throughput(stage: Stage, options: Options) -> str:
    """Deliveries a second."""
    chosen = [
        each
        for each in webhooks_throughput.contestants(is_quick=options.is_quick)
        if options.only.lower() in each.name.lower()
    ]
    return webhooks_throughput.report(webhooks_throughput.measure(stage, chosen, options.times(3)))


def hanging(stage: Stage, options: Options) -> str:
    """Receivers that never answer."""
    size = webhooks_hanging.Size(400, 50, 1) if options.is_quick else webhooks_hanging.Size(20_000, 500, 8)
    return webhooks_hanging.report(webhooks_hanging.measure(stage, size, options.times(2)), size)


def backlog(stage: Stage, options: Options) -> str:
    """A backlog nobody takes."""
    owed, rate, seconds = (300, 50.0, 1.0) if options.is_quick else (100_000, 300.0, 12.0)
    return webhooks_backlog.report(webhooks_backlog.measure(stage, owed, rate, seconds), rate, seconds)


PARTS: dict[str, Callable[[Stage, Options], str]] = {
    "throughput": throughput,
    "hanging": hanging,
    "backlog": backlog,
}


def main(arguments: Sequence[str]) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default=",".join(PARTS), help=f"default {','.join(PARTS)}")
    parser.add_argument("--quick", action="store_true", help="few deliveries and one round, to see that it works")
    parser.add_argument("--rounds", type=int, default=0, help="default 3, hanging 2, backlog 1")
    parser.add_argument("--only", default="", help="of throughput, contestants whose name has this word")
    asked = parser.parse_args(arguments)
    parts = asked.parts.split(",")
    if unknown := set(parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    options = Options(asked.quick, asked.rounds, asked.only)
    print(machine(), flush=True)
    for name in parts:
        began = time.monotonic()
        print(f"\n{name}:", flush=True)
        with stage() as found:
            text = PARTS[name](found, options)
        print(f"\n{text}\n\n{time.monotonic() - began:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
