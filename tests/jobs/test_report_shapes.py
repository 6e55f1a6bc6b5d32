"""What the charts show, counted again by hand."""

from collections import Counter, defaultdict
from datetime import datetime
from typing import Any

import pytest

from todoke.jobs.report.shapes import histogram, timeline


def test_a_histogram_puts_every_value_into_its_bin(measure: Any) -> None:
    values = [0, 1, 1, 2, 3.5, 7, 7.25, 12, 99.5, 100]
    table, found = measure(csv="v\n" + "\n".join(map(str, values)) + "\n")
    shape = histogram(table, found[0])
    assert shape is not None
    last = len(shape.counts) - 1
    by_hand = Counter(min(last, int((value - shape.start) / shape.width)) for value in values)
    assert shape.counts == [by_hand[index] for index in range(last + 1)]
    assert shape.start <= 0
    assert shape.start + shape.width * len(shape.counts) >= 100


def test_few_whole_numbers_have_a_bin_each(measure: Any) -> None:
    table, found = measure(csv="v\n3\n5\n5\n7\n")
    shape = histogram(table, found[0])
    assert shape is not None
    assert (shape.unit, shape.start, shape.width, shape.counts) == (True, 2.5, 1.0, [1, 0, 2, 0, 1])


@pytest.mark.parametrize("cells", [["5"], ["5.5", "5.5"], ["1e16", "10000000000000002.0"], ["5e-324"], ["-0.0", "0.0"]])
def test_numbers_too_near_one_another_still_fall_into_bins(cells: list[str], measure: Any) -> None:
    table, found = measure(csv="v\n" + "\n".join(cells) + "\n")
    shape = histogram(table, found[0])
    assert shape is not None
    assert sum(shape.counts) == len(cells)


@pytest.mark.parametrize("cells", [["inf", "-inf"], ["-1.7e308", "1.7e308"]])
def test_numbers_without_a_finite_range_have_no_histogram(cells: list[str], measure: Any) -> None:
    table, found = measure(csv="v\n" + "\n".join(cells) + "\n")
    assert histogram(table, found[0]) is None


def test_a_timeline_counts_rows_and_means_for_each_period(measure: Any, sample: Any) -> None:
    rows = [(f"2023-{month:02}-{day:02}", month * day / 4) for month in range(1, 13) for day in range(1, 29, 3)]
    table, (dated, measured) = measure(csv="day,v\n" + "".join(f"{day},{v}\n" for day, v in rows))
    shape = timeline(table, dated, [measured.column])
    assert shape is not None
    months = defaultdict(list)
    for day, v in rows:
        months[day[:7]].append(v)
    assert shape.period == "week"
    assert sum(shape.rows) == len(rows)
    assert [start.weekday() for start in shape.starts] == [0] * len(shape.starts)
    for start, count, mean in zip(shape.starts, shape.rows, shape.means[0], strict=True):
        within = [v for day, v in rows if 0 <= (datetime.fromisoformat(day) - start).days < 7]
        assert count == len(within)
        assert mean == pytest.approx(sum(within) / len(within))


@pytest.mark.parametrize(
    ("cells", "period"),
    [
        (["2024-01-01 10:00:00", "2024-01-01 10:00:30"], "second"),
        (["2024-01-01 10:00:00", "2024-01-01 22:00:30"], "10 minutes"),
        (["2024-01-01", "2024-01-02"], "day"),
        (["1890-05-01", "1890-07-09"], "day"),
        (["1066-10-14", "2024-07-09"], "century"),
        (["0001-01-01", "9999-12-31"], "century"),
    ],
)
def test_the_period_fits_the_span(cells: list[str], period: str, measure: Any) -> None:
    table, found = measure(csv="t\n" + "\n".join(cells) + "\n")
    shape = timeline(table, found[0])
    assert shape is not None
    assert (shape.period, sum(shape.rows)) == (period, 2)
