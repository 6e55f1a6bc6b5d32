"""Which charts a table gets: one for each column that has a shape, and the means along the first date."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from todoke.jobs.report.charts import bars_chart, histogram_chart, means_chart, rows_chart
from todoke.jobs.report.profile import DATED, NUMERIC, Profile
from todoke.jobs.report.shapes import MEASURES, Timeline, histogram, timeline
from todoke.jobs.report.table import Column, Table
from todoke.jobs.report.wording import number, plural, shorten, shown, value

CHARTED_COLUMNS = 60
# A text column is categorical when it has few values, or when on average each comes twice.
FEW_VALUES = 50


@dataclass(frozen=True)
class Chart:
    """`kind` for programs; `caption` says what is drawn, `column` whose it is; `svg` is safe markup."""

    kind: str
    caption: str
    column: str
    svg: str


@dataclass(frozen=True)
class Gallery:
    """`of_column` by position; `over_time` the means along the date column named in `time_column`."""

    of_column: dict[int, Chart] = field(default_factory=dict)
    over_time: list[Chart] = field(default_factory=list)
    time_column: str = ""

    @property
    def charts(self) -> int:
        """How many charts the page shows."""
        return len(self.of_column) + len(self.over_time)


def is_categorical(profile: Profile) -> bool:
    """Whether the commonest values of a column say something about it."""
    if profile.column.kind == "boolean":
        return profile.present > 0
    few = profile.distinct <= FEW_VALUES or profile.distinct * 2 <= profile.present
    return profile.column.kind == "text" and profile.present > 0 and few


def draw(table: Table, found: Sequence[Profile], told: Callable[[int, str], None]) -> Gallery:
    """Draw the charts of the first CHARTED_COLUMNS columns; `told(done, name)` is called before each column."""
    of_column = {}
    for profile in found[:CHARTED_COLUMNS]:
        told(profile.column.position, profile.column.name)
        chart = _column_chart(table, profile)
        if chart is not None:
            of_column[profile.column.position] = chart
    over_time, time_column = _over_time(table, found[:CHARTED_COLUMNS])
    return Gallery(of_column, over_time, time_column)


def _column_chart(table: Table, profile: Profile) -> Chart | None:
    if profile.column.kind in NUMERIC:
        return _histogram(table, profile)
    if profile.column.kind in DATED:
        return _rows(table, profile)
    return _bars(profile) if is_categorical(profile) else None


def _key(column: Column) -> str:
    return f"chart-{column.position + 1}"


def _spoken(column: Column) -> str:
    return shown(column.name, 80)


def _histogram(table: Table, profile: Profile) -> Chart | None:
    shape = histogram(table, profile)
    if shape is None or profile.spread is None:
        return None
    low, high = map(number, (profile.spread.low, profile.spread.high))
    label = f"Histogram of {_spoken(profile.column)}: {plural(sum(shape.counts), 'value')} from {low} to {high}"
    svg = histogram_chart(shape, _key(profile.column), label)
    return Chart("histogram", "Rows by value of", profile.column.name, svg)


def _rows(table: Table, profile: Profile) -> Chart | None:
    shape = timeline(table, profile)
    if shape is None or profile.span is None:
        return None
    first, last = map(value, profile.span)
    label = f"Rows per {shape.period} by {_spoken(profile.column)}, from {first} to {last}"
    return Chart(
        "time", f"Rows per {shape.period} by", profile.column.name, rows_chart(shape, _key(profile.column), label)
    )


def _bars(profile: Profile) -> Chart:
    top = [(value(item), times) for item, times in profile.top]
    others = profile.present - sum(times for _, times in top)
    first, times = top[0]
    label = f"Commonest values of {_spoken(profile.column)}: first {shorten(first, 60)}, {plural(times, 'row')}"
    svg = bars_chart(top, others, profile.present, _key(profile.column), label)
    return Chart("bars", "Commonest values of", profile.column.name, svg)


def _over_time(table: Table, found: Sequence[Profile]) -> tuple[list[Chart], str]:
    dated = next((one for one in found if one.column.kind in DATED and one.distinct > 1), None)
    measures = [one.column for one in sorted(filter(_is_measure, found), key=_weight)[:MEASURES]]
    shape = timeline(table, dated, measures) if dated and measures else None
    if dated is None or shape is None or len(shape.starts) < 2:
        return [], ""
    return list(_means(shape, measures)), dated.column.name


def _means(shape: Timeline, measures: Sequence[Column]) -> Iterator[Chart]:
    for index, column in enumerate(measures):
        label = f"Mean of {_spoken(column)} per {shape.period}, from {shape.starts[0]} to {shape.starts[-1]}"
        svg = means_chart(shape, index, f"time-{_key(column)}", label)
        yield Chart("means", f"Mean per {shape.period} of", column.name, svg)


def _is_measure(profile: Profile) -> bool:
    return profile.column.kind in NUMERIC and profile.distinct > 1


def _weight(profile: Profile) -> tuple[bool, bool, int]:
    """Fractions before whole numbers, which are often codes; columns that are mostly empty last."""
    return profile.missing * 2 > profile.rows, profile.column.kind == "integer", profile.column.position
