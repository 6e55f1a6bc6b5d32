"""A sheet: the table as text in one file of one dialect, whatever it came as. DuckDB reads only this file."""

import csv
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from todoke.jobs.report.contract import Source
from todoke.model.errors import Fail

MAX_COLUMNS = 1_000
MAX_NAME = 500
# The one thing csv.QUOTE_NONNUMERIC leaves bare, so that a null differs from every text.
NULL = 0

_DAMAGED = re.compile("[\x00\ufffd\ud800-\udfff]")

Cell = str | int


@dataclass(frozen=True)
class Sheet:
    """`rows` records of `len(names)` quoted fields in `path`, a bare 0 for null, without a header.

    types: for JSON, the Python types seen in each column (without None); None for CSV, where all is text
    and a blank field is missing.
    """

    source: Source
    origin: str
    path: Path
    names: Sequence[str]
    rows: int
    types: Sequence[set[type]] | None = None
    notes: list[str] = field(default_factory=list)


def write(path: Path, rows: Iterable[Sequence[Cell]]) -> int:
    """Write `rows` in the dialect of a sheet; return how many there were."""
    written = 0
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
        for row in rows:
            writer.writerow(row)
            written += 1
    return written


def column_names(given: Sequence[str], notes: list[str]) -> list[str]:
    """Make every name non-blank and unique; say in `notes` what was changed. Fails above MAX_COLUMNS."""
    check_width(len(given))
    stripped = [name.strip()[:MAX_NAME] for name in given]
    taken = set(stripped)
    names: list[str] = []
    seen: set[str] = set()
    for position, wanted in enumerate(stripped, start=1):
        name = wanted if wanted and wanted not in seen else _free_name(wanted or f"column {position}", taken)
        names.append(name)
        seen.add(name)
        taken.add(name)
    renamed = sum(name != wanted for name, wanted in zip(names, stripped, strict=True))
    if renamed:
        notes.append(f"Names that were blank or used twice were changed to tell {renamed} columns apart.")
    return names


def _free_name(wanted: str, taken: set[str]) -> str:
    if wanted not in taken:
        return wanted
    return next(name for number in count(2) if (name := f"{wanted} ({number})") not in taken)


def check_width(width: int) -> None:
    """Raise Fail when a table is too wide for one page."""
    if width > MAX_COLUMNS:
        raise Fail(
            "TOO_MANY_COLUMNS",
            f"The table has {width:,} columns; a report shows at most {MAX_COLUMNS:,}. "
            "Leave out the columns you do not need, or turn the table so that they become rows.",
        )


def check_text(text: str, where: str) -> None:
    """Raise Fail when `text` holds what only a wrong decoding leaves behind."""
    found = _DAMAGED.search(text)
    if found is None:
        return
    what = "a zero byte" if found[0] == "\x00" else "a character that was lost on the way"
    raise Fail(
        "BAD_ENCODING",
        f"{where} contains {what}, so the text was probably not saved as UTF-8. Save it as UTF-8 and send it again.",
    )
