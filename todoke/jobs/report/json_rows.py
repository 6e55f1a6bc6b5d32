"""JSON rows, GeoJSON features and job activity become sheets; their own types are kept."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from todoke.jobs.report.contract import Feature, FeatureCollection, Fields, Source
from todoke.jobs.report.sheet import NULL, Cell, Sheet, check_text, check_width, column_names, write
from todoke.model.errors import Fail

ACTIVITY = (
    *("jobType", "status", "phase", "attempt", "errorCode"),
    *("createdAt", "startedAt", "finishedAt", "waitSeconds", "runSeconds"),
)
# Above this a whole number is no finite double either, and Python refuses to spell it out.
MAX_BITS = 1_024


def sheet_from_rows(rows: Sequence[Fields], path: Path) -> Sheet:
    """One column for each key of any row, in the order first seen; a key a row lacks is missing there."""
    return _sheet("rows", "JSON rows", rows, _keys(rows), path)


def sheet_from_geojson(collection: FeatureCollection, path: Path) -> Sheet:
    """The properties, then longitude and latitude in degrees; both missing where there is no Point."""
    properties = [feature.properties or {} for feature in collection.features]
    keys = _keys(properties)
    places = [_place(feature) for feature in collection.features]
    records = ([*map(row.get, keys), *place] for row, place in zip(properties, places, strict=True))
    return _write("geojson", "GeoJSON features", records, [*keys, "longitude", "latitude"], path)


def sheet_from_activity(jobs: Sequence[Mapping[str, Any]], path: Path) -> Sheet:
    """The newest jobs of the tenant; may be without rows."""
    return _sheet("activity", "Job activity of this account", jobs, _keys(jobs) or list(ACTIVITY), path)


def _sheet(source: Source, origin: str, rows: Sequence[Mapping[str, Any]], keys: list[str], path: Path) -> Sheet:
    if not keys:
        raise Fail("EMPTY_DATA", "The rows have no fields, so there is nothing to report.")
    return _write(source, origin, ([*map(row.get, keys)] for row in rows), keys, path)


def _write(source: Source, origin: str, records: Iterator[list[Any]], keys: list[str], path: Path) -> Sheet:
    for key in keys:
        check_text(key, "A field name")
    notes: list[str] = []
    names = column_names(keys, notes)
    types: list[set[type]] = [set() for _ in names]
    rows = write(path, _texts(records, types))
    return Sheet(source, origin, path, names, rows, types, notes)


def _texts(records: Iterator[list[Any]], types: list[set[type]]) -> Iterator[list[Cell]]:
    for number, record in enumerate(records, start=1):
        for value, seen in zip(record, types, strict=True):
            if value is not None:
                seen.add(type(value))
        yield [_text(value, number) for value in record]


def _text(value: Any, number: int) -> Cell:
    if value is None:
        return NULL
    if isinstance(value, str):
        check_text(value, f"Row {number}")
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) and value.bit_length() > MAX_BITS:
        return "inf" if value > 0 else "-inf"
    return repr(value)


def _keys(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    keys: dict[str, None] = {}
    for row in rows:
        keys.update(dict.fromkeys(row))
    check_width(len(keys))
    return list(keys)


def _place(feature: Feature) -> tuple[Any, Any]:
    geometry = feature.geometry
    if geometry is None or geometry.type != "Point" or not isinstance(geometry.coordinates, list):
        return None, None
    pair = geometry.coordinates[:2]
    if len(pair) < 2 or any(isinstance(value, bool) or not isinstance(value, int | float) for value in pair):
        return None, None
    return pair[0], pair[1]
