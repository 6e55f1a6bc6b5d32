"""The kind of a column is decided by all of its cells."""

from typing import Any

import pytest

CSV_KINDS = [
    (["1", "-2", "+3"], "integer", 0),
    (["1", "2.5", ".5", "5.", "1e3"], "number", 0),
    (["1", "", "  ", "3"], "integer", 2),
    (["1", "NA", "n/a", "NaN", "-"], "integer", 4),
    (["NA", "n/a"], "text", 0),
    (["NA", "Germany"], "text", 0),
    (["01067", "10115"], "text", 0),
    (["1"] * 5000 + ["late"], "text", 0),
    (["true", "FALSE", "True"], "boolean", 0),
    (["true", "1"], "text", 0),
    (["yes", "no"], "text", 0),
    (["", ""], "text", 2),
    (["9" * 30, "-1"], "integer", 0),
    (["9" * 400, "1"], "number", 0),
    (["inf", "-Infinity", "2"], "number", 0),
    (["2024-02-29", "1066/10/14"], "date", 0),
    (["2024-02-30", "2024-01-01"], "text", 0),
    (["0000-01-01"], "text", 0),
    (["2024-01-01", "2024-01-01 10:00"], "datetime", 0),
    (["2024-01-01T10:00:00.123456Z", "2024-01-01T10:00:00+0530"], "datetime", 0),
    (["1/2/2024", "3/25/2024"], "date", 0),
    (["1/2/2024", "25/3/2024"], "date", 0),
    (["1/2/2024", "3/4/2024"], "text", 0),
    (["3/25/2024", "25/3/2024"], "text", 0),
    (["1517966773840", "1517966773841"], "integer", 0),
    (["1,5", "2,5"], "text", 0),
]


@pytest.mark.parametrize(("cells", "kind", "missing"), CSV_KINDS)
def test_csv_cells_make_a_kind(cells: list[str], kind: str, missing: int, measure: Any) -> None:
    (profile, _) = measure(csv="v;end\n" + "".join(f"{cell};x\n" for cell in cells))[1]
    assert (profile.column.kind, profile.missing) == (kind, missing)


JSON_KINDS: list[tuple[list[Any], str, int]] = [
    ([1, 2, None], "integer", 1),
    ([1, 2.5], "number", 0),
    (["1", "2"], "text", 0),
    (["true", "false"], "text", 0),
    ([True, False], "boolean", 0),
    ([True, 1], "text", 0),
    ([1, "x"], "text", 0),
    (["", "0", None], "text", 1),
    (["2024-01-01", "2024-01-02"], "date", 0),
    (["2024-01-01T00:00:00Z"], "datetime", 0),
    ([float("nan"), 1.5], "number", 1),
    ([float("inf"), 1], "number", 0),
    ([10**400, 1], "number", 0),
    ([None, None], "text", 2),
]


@pytest.mark.parametrize(("values", "kind", "missing"), JSON_KINDS)
def test_json_values_keep_their_types(values: list[Any], kind: str, missing: int, measure: Any) -> None:
    (profile,) = measure(rows=[{"v": value} for value in values])[1]
    assert (profile.column.kind, profile.missing) == (kind, missing)


@pytest.mark.parametrize("name", ["time", "updated", "createdAt", "event_time", "created_at", "Date"])
def test_digits_are_a_time_only_under_a_name_that_says_so(name: str, measure: Any) -> None:
    found = measure(csv=f"{name},id\n1517966773840,1517966773840\n1517966996303,1517966996303\n")[1]
    assert [profile.column.kind for profile in found] == ["datetime", "integer"]
    assert str(found[0].span[0]) == "2018-02-07 01:26:13.840000"


def test_times_with_an_offset_are_shown_in_utc(measure: Any) -> None:
    (profile,) = measure(csv="t\n2024-01-01T01:00:00+02:00\n2024-01-01T01:00:00-02:00\n")[1]
    assert list(map(str, profile.span)) == ["2023-12-31 23:00:00", "2024-01-01 03:00:00"]


def test_infinite_numbers_are_counted_and_left_out(measure: Any) -> None:
    (profile,) = measure(csv="v\n1\ninf\n-inf\n3\n")[1]
    assert (profile.spread.infinite, profile.spread.mean, profile.spread.high) == (2, 2.0, 3.0)


def test_numbers_too_large_to_add_have_no_figure_rather_than_a_wrong_one(measure: Any) -> None:
    (profile,) = measure(csv="v\n1.7e308\n1.7e308\n1.7e308\n")[1]
    assert profile.spread.high == 1.7e308
    assert profile.spread.mean is None or profile.spread.mean == pytest.approx(1.7e308)


def test_rows_with_differing_keys_make_the_union(measure: Any) -> None:
    found = measure(rows=[{"a": 1}, {"b": "x", "a": 2}, {"c": True}])[1]
    assert [(p.column.name, p.missing) for p in found] == [("a", 1), ("b", 2), ("c", 2)]


def test_a_property_called_longitude_keeps_its_name(measure: Any) -> None:
    point = {"type": "Point", "coordinates": [1, 2]}
    feature = {"type": "Feature", "properties": {"longitude": "x"}, "geometry": point}
    found = measure(geojson={"type": "FeatureCollection", "features": [feature]})[1]
    assert [p.column.name for p in found] == ["longitude", "longitude (2)", "latitude"]


@pytest.mark.parametrize(
    "geometry",
    [
        None,
        {"type": "Point"},
        {"type": "Point", "coordinates": []},
        {"type": "Point", "coordinates": ["1", "2"]},
        {"type": "Polygon", "coordinates": [[[0, 0], [1, 0], [0, 1], [0, 0]]]},
    ],
)
def test_without_a_point_the_place_is_missing(geometry: Any, measure: Any) -> None:
    feature = {"type": "Feature", "properties": {"a": 1}, "geometry": geometry}
    found = measure(geojson={"type": "FeatureCollection", "features": [feature]})[1]
    assert [p.missing for p in found] == [0, 1, 1]
