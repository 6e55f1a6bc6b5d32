"""The shape of a column: what its chart shows, counted by DuckDB and ready to draw."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from todoke.jobs.report.profile import Profile
from todoke.jobs.report.table import Column, Table

BINS = 30
UNIT_BINS = 40
PERIODS = 80
MEASURES = 4
EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - the table holds UTC without a zone

# SQL interval, its length in seconds, how it is named
PERIOD_LENGTHS = (
    ("1 second", 1, "second"),
    ("10 seconds", 10, "10 seconds"),
    ("1 minute", 60, "minute"),
    ("10 minutes", 600, "10 minutes"),
    ("1 hour", 3_600, "hour"),
    ("6 hours", 21_600, "6 hours"),
    ("1 day", 86_400, "day"),
    ("7 days", 604_800, "week"),
    ("1 month", 2_629_800, "month"),
    ("3 months", 7_889_400, "quarter"),
    ("1 year", 31_557_600, "year"),
    ("5 years", 157_788_000, "five years"),
    ("10 years", 315_576_000, "decade"),
    ("100 years", 3_155_760_000, "century"),
)


@dataclass(frozen=True)
class Histogram:
    """counts[i] values lie in [start + i * width, start + (i + 1) * width); the last bin holds its end too.

    unit: every bin is one whole number, in its middle.
    """

    start: float
    width: float
    counts: list[int]
    unit: bool


@dataclass(frozen=True)
class Timeline:
    """For each period that has rows: its start (UTC), the rows in it and the mean of each measure."""

    period: str
    seconds: float
    starts: list[datetime]
    rows: list[int]
    means: list[list[float | None]]


def histogram(table: Table, profile: Profile) -> Histogram | None:
    """Count the finite numbers of a column in at most UNIT_BINS + 1 bins; None where there is nothing to draw."""
    if profile.spread is None or profile.spread.low is None or profile.spread.high is None:
        return None
    low, high = float(profile.spread.low), float(profile.spread.high)
    if not math.isfinite(high - low):
        return None
    unit = profile.column.kind == "integer" and high - low <= UNIT_BINS
    start, width, bins = (low - 0.5, 1.0, int(high - low) + 1) if unit else _bins(low, high, profile)
    cell = f"{profile.column.sql}::DOUBLE"
    found = table.connection.execute(
        f"""
        SELECT greatest(0, least(?, floor(({cell} - ?) / ?)))::INTEGER AS bin, count(*) FROM data
        WHERE isfinite({cell}) GROUP BY bin
        """,  # noqa: S608 - columns are c0, c1, …
        [bins - 1, start, width],
    ).fetchall()
    counts = dict(found)
    return Histogram(start, width, [counts.get(index, 0) for index in range(bins)], unit)


def _bins(low: float, high: float, profile: Profile) -> tuple[float, float, int]:
    wanted = min(BINS, max(8, math.isqrt(profile.present)))
    width = _round_width((high - low) / wanted, profile.column.kind == "integer")
    if high <= low or not width or low + width == low:
        width = abs(low) / 10 or 1.0
        return low - width / 2, width, 1
    start = math.floor(low / width) * width
    return start, width, max(1, math.ceil((high - start) / width))


def _round_width(least: float, whole: bool) -> float:
    """The next of 1, 2, 2.5, 5, 10 times a power of ten that is not below `least`."""
    if least <= 0:
        return 0.0
    power = 10.0 ** math.floor(math.log10(least))
    steps = (1, 2, 5, 10) if whole else (1, 2, 2.5, 5, 10)
    width = next((step * power for step in steps if step * power >= least), 10 * power)
    return max(1.0, width) if whole else width


def timeline(table: Table, dated: Profile, measures: Sequence[Column] = ()) -> Timeline | None:
    """Rows and the means of `measures` in each of at most about PERIODS periods; None without a date."""
    if dated.span is None:
        return None
    seconds = (_moment(dated.span[1]) - _moment(dated.span[0])).total_seconds()
    known = [entry for entry in PERIOD_LENGTHS if entry[1] >= 86_400 or dated.column.kind == "datetime"]
    interval, length, period = next((entry for entry in known if seconds / entry[1] <= PERIODS), known[-1])
    means = "".join(f", avg({c.sql}::DOUBLE) FILTER (WHERE isfinite({c.sql}::DOUBLE))" for c in measures)
    # A period that holds the first year may start before it, where Python knows no date.
    found = table.connection.execute(
        f"""
        SELECT greatest(time_bucket(INTERVAL '{interval}', {dated.column.sql}::TIMESTAMP), TIMESTAMP '0001-01-01')
            AS start, count(*){means}
        FROM data WHERE {dated.column.sql} IS NOT NULL GROUP BY start ORDER BY start
        """  # noqa: S608 - columns are c0, c1, …
    ).fetchall()
    columns = [[row[2 + index] for row in found] for index in range(len(measures))]
    return Timeline(period, length, [row[0] for row in found], [row[1] for row in found], columns)


def _moment(value: object) -> datetime:
    if isinstance(value, datetime):
        return value
    return datetime.fromisoformat(str(value))


def seconds_of(moment: datetime) -> float:
    """Seconds from 1970 to `moment`, negative before."""
    return (moment - EPOCH) / timedelta(seconds=1)
