"""Every figure against one worked out by the standard library alone."""

import csv
import json
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime
from io import StringIO
from typing import Any

import pytest

FILES = ("diamonds.csv", "earthquakes.json", "seattle-weather.csv", "taxis.csv", "tips.csv", "titanic.csv")
EPOCH_COLUMNS = {"time", "updated"}
# Text that looks like a number but is a code, and so on: said here, so that the test has its own opinion.
TEXT_COLUMNS = {"postcode", "code"}

Columns = dict[str, list[Any]]


def columns_of_csv(text: str, delimiter: str = ",") -> Columns:
    reader = csv.DictReader(StringIO(text, newline=""), delimiter=delimiter)
    rows = list(reader)
    return {name: typed(name, [row[name] for row in rows]) for name in reader.fieldnames or ()}


def typed(name: str, cells: Sequence[str]) -> list[Any]:
    for read in (int, float, truth, date.fromisoformat, instant):
        if name in TEXT_COLUMNS:
            break
        try:
            return [read(cell) if cell else None for cell in cells]
        except ValueError:
            continue
    return [cell or None for cell in cells]


def truth(cell: str) -> bool:
    if cell.lower() not in ("true", "false"):
        raise ValueError(cell)
    return cell.lower() == "true"


def instant(cell: str) -> datetime:
    moment = datetime.fromisoformat(cell)
    return moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment


def columns_of_geojson(collection: dict[str, Any]) -> Columns:
    features = collection["features"]
    names = dict.fromkeys(name for feature in features for name in feature["properties"] or {})
    found: Columns = {name: [(f["properties"] or {}).get(name) for f in features] for name in names}
    for name in EPOCH_COLUMNS & found.keys():
        found[name] = [datetime.fromtimestamp(ms / 1000, UTC).replace(tzinfo=None) for ms in found[name]]
    points = [f["geometry"] and f["geometry"]["type"] == "Point" and f["geometry"]["coordinates"] for f in features]
    for index, name in enumerate(("longitude", "latitude")):
        found[name] = [point[index] if point else None for point in points]
    return found


def quantile(values: Sequence[float], part: float) -> float:
    ordered = sorted(values)
    place = part * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def check(profile: Any, cells: Sequence[Any]) -> None:
    values = [cell for cell in cells if cell is not None]
    counts = Counter(values)
    assert profile.missing == len(cells) - len(values)
    assert profile.distinct == len(counts)
    expected = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:10]
    assert [(value, times) for value, times in profile.top] == expected
    if not values:
        assert profile.column.kind == "text"
    elif isinstance(values[0], bool):
        assert profile.column.kind == "boolean"
    elif isinstance(values[0], int | float):
        check_numbers(profile, values)
    elif isinstance(values[0], str):
        assert profile.column.kind == "text"
        assert profile.lengths == (min(map(len, values)), max(map(len, values)))
    else:
        assert profile.column.kind == ("datetime" if isinstance(values[0], datetime) else "date")
        assert profile.span == (min(values), max(values))


def check_numbers(profile: Any, values: Sequence[float]) -> None:
    assert profile.column.kind == ("integer" if all(isinstance(value, int) for value in values) else "number")
    spread = profile.spread
    assert (spread.low, spread.high, spread.infinite) == (min(values), max(values), 0)
    assert spread.mean == pytest.approx(statistics.fmean(values), rel=1e-9, abs=1e-12)
    if len(values) > 1:
        assert spread.deviation == pytest.approx(statistics.stdev(values), rel=1e-9)
    for part, cut in zip((0.05, 0.25, 0.5, 0.75, 0.95), spread.quantiles, strict=True):
        assert cut == pytest.approx(quantile(values, part), rel=1e-9, abs=1e-12)
    assert spread.median == pytest.approx(statistics.median(values), rel=1e-9)


def check_all(found: Sequence[Any], expected: Columns) -> None:
    assert [profile.column.name for profile in found] == list(expected)
    for profile in found:
        check(profile, expected[profile.column.name])


@pytest.mark.parametrize(("name", "delimiter"), [("orders.csv", ","), ("levels.csv", ";")])
def test_a_csv_sample_has_the_figures_of_the_standard_library(
    name: str, delimiter: str, measure: Any, sample: Callable[[str], str]
) -> None:
    text = sample(name)
    check_all(measure(csv=text)[1], columns_of_csv(text, delimiter))


def test_a_geojson_sample_has_the_figures_of_the_standard_library(measure: Any, sample: Callable[[str], str]) -> None:
    places = json.loads(sample("places.geojson"))
    check_all(measure(geojson=places)[1], columns_of_geojson(places))


@pytest.mark.parametrize("name", FILES)
def test_shared_data_has_the_figures_of_the_standard_library(
    name: str, measure: Any, shared: Callable[[str], dict[str, Any]]
) -> None:
    params = shared(name)
    expected = columns_of_csv(params["csv"]) if "csv" in params else columns_of_geojson(params["geojson"])
    table, found = measure(**params)
    assert table.rows == len(next(iter(expected.values())))
    check_all(found, expected)


@pytest.mark.parametrize("name", FILES)
def test_shared_data_becomes_a_page_with_its_counts(
    name: str, make: Any, shared: Callable[[str], dict[str, Any]]
) -> None:
    params = shared(name)
    expected = columns_of_csv(params["csv"]) if "csv" in params else columns_of_geojson(params["geojson"])
    made = make(title=name, **params)
    rows = len(next(iter(expected.values())))
    assert (made.report.row_count, made.report.column_count) == (rows, len(expected))
    assert f'data-row-count="{rows}" data-column-count="{len(expected)}"' in made.page
    assert made.page.count("<figure data-chart=") == made.page.count("<svg ") == made.report.chart_count
    assert made.report.chart_count >= sum(c.type != "text" for c in made.report.columns)
