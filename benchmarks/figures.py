"""What a benchmark measured, and how it is shown: medians with their rounds, processor time by process, ratios."""

import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Round:
    """One drain: how many jobs in how many seconds, and the processor seconds of each process meanwhile."""

    jobs: int
    seconds: float
    cpu: Mapping[str, float]

    @property
    def rate(self) -> float:
        """Jobs a second."""
        return self.jobs / self.seconds


@dataclass
class Line:
    """All rounds of one contestant, or why there are none."""

    name: str
    counted: str
    rounds: list[Round] = field(default_factory=list)
    trouble: str = ""

    @property
    def rate(self) -> float:
        """Median jobs a second; 0 without a round."""
        return statistics.median(found.rate for found in self.rounds) if self.rounds else 0.0

    def cpu_us(self, process: str) -> float | None:
        """Median processor microseconds a job in this process; None where there is no such process."""
        found = [each.cpu[process] / each.jobs * 1e6 for each in self.rounds if process in each.cpu]
        return statistics.median(found) if found else None


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns line up in a terminal as well."""
    widths = [max(len(cell) for cell in column) for column in zip(head, *rows, strict=True)]
    lines = [_padded(head, widths), "|" + "|".join("-" * (width + 2) for width in widths) + "|"]
    return "\n".join([*lines, *(_padded(row, widths) for row in rows)])


def ratio(value: float, base: float) -> str:
    """`value` as a multiple of `base`."""
    return f"{value / base:.2f}x" if base else "-"


def number(value: float | None) -> str:
    """Three digits that matter; a dash for nothing."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def spread(values: Sequence[float]) -> str:
    """The median, and behind it the smallest and the largest; a dash for none."""
    if not values:
        return "-"
    middle = number(statistics.median(values))
    return middle if len(values) == 1 else f"{middle} ({number(min(values))}–{number(max(values))})"


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which this share of the values lies (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def machine() -> str:
    """One line about where this ran."""
    models = [line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    load = os.getloadavg()[0]
    return (
        f"{os.cpu_count()} cores ({models[0] if models else platform.machine()}), {platform.system()}"
        f" {platform.release()}, Python {platform.python_version()}, load before the run {load:.2f}"
    )


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


def _padded(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"
