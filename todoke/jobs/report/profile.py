"""The figures of every column: one statement for ten columns, and one more for each column's values."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from todoke.jobs.report.contract import Kind
from todoke.jobs.report.table import CHUNK, Column, Table

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
TOP_VALUES = 10
NUMERIC: tuple[Kind, ...] = ("integer", "number")
DATED: tuple[Kind, ...] = ("date", "datetime")

Value = bool | int | float | str | date | datetime


@dataclass(frozen=True)
class Spread:
    """Figures of the finite numbers of a column; None where there is none or a double cannot hold it.

    deviation: of the sample (n - 1). quantiles: as QUANTILES, linear between neighbours. infinite: left out.
    """

    low: int | float | None
    high: int | float | None
    mean: float | None
    deviation: float | None
    quantiles: tuple[float | None, ...]
    infinite: int

    @property
    def median(self) -> float | None:
        """The middle of the finite numbers."""
        return self.quantiles[QUANTILES.index(0.5)]


@dataclass(frozen=True)
class Profile:
    """One column in figures; `top` the commonest values with their counts, ties in order of value."""

    column: Column
    rows: int
    present: int
    distinct: int
    top: list[tuple[Value, int]]
    spread: Spread | None = None
    span: tuple[Value, Value] | None = None
    lengths: tuple[int, int] | None = None

    @property
    def missing(self) -> int:
        """Rows without a value."""
        return self.rows - self.present

    @property
    def bounds(self) -> tuple[Value | None, Value | None]:
        """Least and greatest value of a column of numbers or dates."""
        if self.spread:
            return self.spread.low, self.spread.high
        return self.span or (None, None)


def profiles(table: Table, told: Callable[[int, str], None]) -> list[Profile]:
    """Profile every column; `told(done, name)` is called before each."""
    figures = list(_figures(table))
    found = []
    for column, (present, *rest) in zip(table.columns, figures, strict=True):
        told(column.position, column.name)
        top, distinct = _values(table, column)
        found.append(_profile(column, table.rows, present, rest, top, distinct))
    return found


def _profile(
    column: Column, rows: int, present: int, rest: list[Any], top: list[tuple[Value, int]], distinct: int
) -> Profile:
    if column.kind in NUMERIC:
        return Profile(column, rows, present, distinct, top, spread=_spread(present, *rest))
    pair = (rest[0], rest[1]) if rest and rest[0] is not None else None
    if column.kind in DATED:
        return Profile(column, rows, present, distinct, top, span=pair)
    return Profile(column, rows, present, distinct, top, lengths=pair)


def _spread(present: int, finite: int, low: Any, high: Any, mean: Any, deviation: Any, quantiles: Any) -> Spread:
    cuts = tuple(map(_finite, quantiles or [None] * len(QUANTILES)))
    return Spread(low, high, _finite(mean), _finite(deviation), cuts, present - finite)


def _finite(figure: float | None) -> float | None:
    return figure if figure is not None and math.isfinite(figure) else None


def _figures(table: Table) -> Iterator[list[Any]]:
    """For each column its count of present values, then what `_select` asks for."""
    for start in range(0, len(table.columns), CHUNK):
        asked = [_select(column) for column in table.columns[start : start + CHUNK]]
        flat = ", ".join(figure for figures in asked for figure in figures)
        answers = iter(table.connection.execute(f"SELECT {flat} FROM data").fetchall()[0])  # noqa: S608 - columns are c0, c1, …
        for figures in asked:
            yield [next(answers) for _ in figures]


def _select(column: Column) -> list[str]:
    cell = column.sql
    if column.kind in NUMERIC:
        finite = f"FILTER (WHERE isfinite({cell}::DOUBLE))"
        cuts = ", ".join(map(str, QUANTILES))
        return [
            f"count({cell})",
            f"count({cell}) {finite}",
            f"min({cell}) {finite}",
            f"max({cell}) {finite}",
            f"favg({cell}::DOUBLE) {finite}",
            f"stddev_samp({cell}::DOUBLE) {finite}",
            f"quantile_cont({cell}::DOUBLE, [{cuts}]) {finite}",
        ]
    if column.kind in DATED:
        return [f"count({cell})", f"min({cell})", f"max({cell})"]
    if column.kind == "text":
        return [f"count({cell})", f"min(length({cell}))", f"max(length({cell}))"]
    return [f"count({cell})"]


def _values(table: Table, column: Column) -> tuple[list[tuple[Value, int]], int]:
    """The commonest values with their counts, and how many different ones there are."""
    found = table.connection.execute(
        f"""
        SELECT {column.sql}, count(*) AS times, count(*) OVER () FROM data WHERE {column.sql} IS NOT NULL
        GROUP BY {column.sql} ORDER BY times DESC, {column.sql} LIMIT {TOP_VALUES}
        """  # noqa: S608 - columns are c0, c1, …
    ).fetchall()
    return [(value, times) for value, times, _ in found], found[0][2] if found else 0
