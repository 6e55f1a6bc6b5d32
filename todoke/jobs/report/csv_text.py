"""CSV text of any common dialect becomes a sheet, or a sentence that names the line which is wrong."""

import csv
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TextIO

from todoke.jobs.report.contract import BLANK
from todoke.jobs.report.sheet import Sheet, check_text, check_width, column_names, write
from todoke.model.errors import Fail

DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "pipes"}
SNIFFED_LINES = 200
MAX_FIELD = 2**31 - 1


def sheet_from_csv(stream: TextIO, path: Path) -> Sheet:
    """Read a seekable `stream` opened with newline="" record by record and write the sheet to `path`.

    Raises Fail: EMPTY_DATA, NO_ROWS, RAGGED_CSV, BAD_QUOTING, BAD_ENCODING, TOO_MANY_COLUMNS.
    """
    csv.field_size_limit(MAX_FIELD)
    delimiter = sniff(list(islice(_lines(stream), SNIFFED_LINES)))
    stream.seek(0)
    records = _records(stream, delimiter)
    header = next(records, None)
    if header is None:
        raise Fail("EMPTY_DATA", "The CSV text is empty; it needs a header line and at least one row.")
    notes: list[str] = []
    names = column_names(header[1], notes)
    rows = write(path, _of_width(records, len(names)))
    if not rows:
        raise Fail("NO_ROWS", "The CSV text has a header line but no rows under it.")
    return Sheet("csv", f"CSV text separated by {DELIMITERS[delimiter]}", path, names, rows, notes=notes)


def sniff(lines: list[str]) -> str:
    """The delimiter that cuts every record alike into the most fields; else the commonest in the header."""
    widths = {delimiter: _widths(lines, delimiter) for delimiter in DELIMITERS}
    even = {mark: seen[0] for mark, seen in widths.items() if len(set(seen)) == 1 and seen[0] > 1}
    if even:
        return max(even, key=lambda mark: even[mark])
    return max(DELIMITERS, key=lambda mark: widths[mark][0] if widths[mark] else 0)


def _widths(lines: list[str], delimiter: str) -> list[int]:
    records = [record for record in csv.reader(lines, delimiter=delimiter) if any(record)]
    cut_off = len(lines) == SNIFFED_LINES and len(records) > 1
    return [len(record) for record in (records[:-1] if cut_off else records)]


def _lines(stream: Iterable[str]) -> Iterator[str]:
    for number, line in enumerate(stream, start=1):
        check_text(line, f"Line {number} of the CSV text")
        yield line.lstrip("\ufeff") if number == 1 else line


def _records(stream: Iterable[str], delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Each record that is not blank, with the line it starts on."""
    reader = csv.reader(_lines(stream), delimiter=delimiter, strict=True)
    start = 1
    try:
        for record in reader:
            if len(record) > 1 or (record and record[0].strip(BLANK)):
                yield start, record
            start = reader.line_num + 1
    except csv.Error as error:
        raise Fail("BAD_QUOTING", _quoting_sentence(str(error), start)) from None


def _quoting_sentence(error: str, line: int) -> str:
    if "unexpected end" in error:
        return f"A quotation mark opened in the record that starts on line {line} is never closed."
    return (
        f"The record that starts on line {line} has text after a closing quotation mark. "
        'Write a quotation mark inside a quoted field twice ("").'
    )


def _of_width(records: Iterable[tuple[int, list[str]]], width: int) -> Iterator[list[str]]:
    for line, record in records:
        if len(record) != width:
            check_width(len(record))
            fields = f"{len(record)} field{'s' * (len(record) != 1)}"
            raise Fail("RAGGED_CSV", f"Line {line} has {fields}, but the header has {width}.")
        yield record
