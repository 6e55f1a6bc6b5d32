"""Whatever comes in, a report or a sentence comes out."""

import csv
import re
from collections.abc import Callable
from io import StringIO
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from todoke.jobs.report.contract import BLANK
from todoke.model.errors import Fail

EAGER = settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
LETTERS = ",;|\t\"\n\r a10-.e<>&'$\\é漢🎉\x07\u202e\u2028\ufeff"
WORDS = ("\r\n", "{{", "nan", "inf", "1e308", "true", "2024-01-01", "T10:00", "+02:00")
PIECES = st.sampled_from([*LETTERS, *WORDS])
CODES = {"EMPTY_DATA", "NO_ROWS", "RAGGED_CSV", "BAD_QUOTING", "BAD_ENCODING"}
CELLS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
    st.datetimes().map(str),
    st.dates().map(str),
)


def check_sentence(fail: Fail) -> None:
    assert fail.code in CODES
    assert fail.message[0].isupper()
    assert fail.message.endswith((".", '("").'))


def is_escaped(page: str) -> bool:
    """No `<` but those of the page's own elements, no script, no handler."""
    return not re.search(r"<(?!/?[a-z][\w]*[ >/]|!doctype)|<script|<img|<[^>]* on\w+=", page)


@EAGER
@given(text=st.lists(PIECES, min_size=1, max_size=60).map("".join))
def test_any_text_is_a_report_or_a_sentence(text: str, make: Callable[..., Any]) -> None:
    if not text.strip(BLANK):
        return
    try:
        made = make(csv=text)
    except Fail as fail:
        check_sentence(fail)
    else:
        assert made.report.row_count > 0
        assert is_escaped(made.page)


@EAGER
@given(rows=st.lists(st.dictionaries(st.text("abc<'\"$ ", max_size=3), CELLS, max_size=4), min_size=1, max_size=12))
def test_any_rows_are_a_report_or_a_sentence(rows: list[dict[str, Any]], make: Callable[..., Any]) -> None:
    try:
        made = make(rows=rows)
    except Fail as fail:
        check_sentence(fail)
    else:
        assert made.report.row_count == len(rows)
        assert is_escaped(made.page)


@EAGER
@given(
    cells=st.lists(
        st.lists(st.text("<>&\"'=a1,\n/ script", max_size=9), min_size=2, max_size=2), min_size=1, max_size=8
    )
)
def test_a_csv_comes_back_cell_for_cell(cells: list[list[str]], measure: Callable[..., Any]) -> None:
    text = StringIO(newline="")
    csv.writer(text, quoting=csv.QUOTE_ALL).writerows([["a", "b"], *cells])
    table, _ = measure(csv=text.getvalue())
    assert table.rows == len(cells)
    assert table.preview == [tuple(cell if cell.strip() else None for cell in row) for row in cells[:10]]
