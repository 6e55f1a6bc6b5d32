"""A sheet becomes typed columns in an in-memory DuckDB that can reach nothing but that one file.

No name and no cell ever becomes SQL: columns are c0, c1, …
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import duckdb

from todoke.jobs.report.contract import Kind
from todoke.jobs.report.kinds import Cells, Typed, cast_sql, classes_sql, decide, trimmed
from todoke.jobs.report.sheet import Sheet

# One thread: sums come out the same to the last bit, and the machine is shared with other jobs.
THREADS = 1
MEMORY = "2GB"
# Columns in one statement: DuckDB plans longer ones ever more slowly.
CHUNK = 10
PREVIEW_ROWS = 10
MAX_RECORD_BYTES = 2**30


@dataclass(frozen=True)
class Column:
    """A column of the table `data`; `sql` is its name there."""

    position: int
    name: str
    kind: Kind
    remark: str

    @property
    def sql(self) -> str:
        return f"c{self.position}"


@dataclass(frozen=True)
class Table:
    """`connection` holds the table `data`; `preview` the first rows as they came, None where missing."""

    connection: duckdb.DuckDBPyConnection
    columns: list[Column]
    rows: int
    preview: list[tuple[str | None, ...]]


@contextmanager
def opened(sheet: Sheet) -> Iterator[Table]:
    """Load `sheet`, decide each column's kind over all rows, and close the database at the end."""
    with _locked_database(sheet.path) as connection:
        _load(connection, sheet)
        typed = _kinds(connection, sheet)
        preview = connection.execute(f"SELECT * FROM raw LIMIT {PREVIEW_ROWS}").fetchall()  # noqa: S608 - a constant
        casts = (f"{cast_sql(kind, f'c{index}')} AS c{index}" for index, kind in enumerate(typed))
        connection.execute(f"CREATE TABLE data AS SELECT {', '.join(casts)} FROM raw")  # noqa: S608 - columns are c0, c1, …
        connection.execute("DROP TABLE raw")
        columns = [
            Column(index, name, kind.kind, kind.remark)
            for index, (name, kind) in enumerate(zip(sheet.names, typed, strict=True))
        ]
        yield Table(connection, columns, sheet.rows, preview)


@contextmanager
def _locked_database(path: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    config: dict[str, str | bool | int | float | list[str]] = {
        "threads": THREADS,
        "memory_limit": MEMORY,
        "temp_directory": str(path.with_name("spill")),
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
        "python_enable_replacements": False,
    }
    with duckdb.connect(":memory:", config=config) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute("SET allowed_paths = ?", [[str(path)]])
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
        yield connection


def _load(connection: duckdb.DuckDBPyConnection, sheet: Sheet) -> None:
    names = [f"c{index}" for index in range(len(sheet.names))]
    # A blank field of a CSV is missing; an empty JSON string is a value.
    cell = "{0}" if sheet.types is not None else f"CASE WHEN {trimmed('{0}')} <> '' THEN {{0}} END AS {{0}}"
    connection.execute(
        f"""
        CREATE TABLE raw AS SELECT {", ".join(map(cell.format, names))} FROM read_csv(
            ?, columns = {{{", ".join(f"'{name}': 'VARCHAR'" for name in names)}}},
            auto_detect = false, header = false, delim = ',', quote = '"', escape = '"', new_line = '\\n',
            nullstr = '0', allow_quoted_nulls = false, strict_mode = true, parallel = false,
            max_line_size = {MAX_RECORD_BYTES})
        """,  # noqa: S608 - columns are c0, c1, …
        [str(sheet.path)],
    )


def _kinds(connection: duckdb.DuckDBPyConnection, sheet: Sheet) -> list[Typed]:
    seen: dict[str, int] = {}
    for start in range(0, len(sheet.names), CHUNK):
        chunk = ", ".join(f"c{index}" for index in range(start, min(start + CHUNK, len(sheet.names))))
        # Unpivoted, so that DuckDB compiles the patterns once and not for each column.
        cells = f"UNPIVOT (SELECT {chunk} FROM raw) ON {chunk} INTO NAME name VALUE cell"  # noqa: S608 - c0, c1, …
        asked = f"SELECT name, {classes_sql('cell')} FROM ({cells}) GROUP BY name"  # noqa: S608 - as above
        seen.update(connection.execute(asked).fetchall())
    types: Sequence[set[type] | None] = sheet.types or [None] * len(sheet.names)
    return [
        decide(name, Cells(seen.get(f"c{index}", 0)), given)
        for index, (name, given) in enumerate(zip(sheet.names, types, strict=True))
    ]
