"""Data that cannot be read as a table ends with a code and a sentence, never with a stack trace."""

from typing import Any

import pytest

from todoke.jobs.report.sheet import MAX_COLUMNS
from todoke.model.errors import Fail

WIDE = ",".join(f"c{index}" for index in range(10_000))
BAD = [
    ("a,b\n1,2\n3\n", "RAGGED_CSV", "Line 3 has 1 field, but the header has 2."),
    ("a,b\r\n1,2\r\n3,4,5\r\n", "RAGGED_CSV", "Line 3 has 3 fields"),
    ('a,b\n"two\nlines",1\n3,4,5\n', "RAGGED_CSV", "Line 4 has 3 fields"),
    ("a,b\n", "NO_ROWS", "no rows"),
    ("a\n\n \n", "NO_ROWS", "no rows"),
    ('a,b\n1,2\n"x,2\n3,4\n', "BAD_QUOTING", "line 3 is never closed"),
    ('a,b\n"x"y,2\n', "BAD_QUOTING", "line 2"),
    ("a,b\n1,M\ufffdnchen\n", "BAD_ENCODING", "Line 2"),
    ("\x00a,b\n1,2\n", "BAD_ENCODING", "zero byte"),
    (WIDE + "\n" + WIDE + "\n", "TOO_MANY_COLUMNS", "10,000 columns"),
    ("a,b\n" + WIDE + "\n", "TOO_MANY_COLUMNS", "10,000 columns"),
]


@pytest.mark.parametrize(("csv", "code", "words"), BAD, ids=[f"{code}-{n}" for n, (_, code, _) in enumerate(BAD)])
def test_bad_csv_fails_with_a_sentence(csv: str, code: str, words: str, make: Any) -> None:
    with pytest.raises(Fail, match=words) as caught:
        make(csv=csv)
    assert caught.value.code == code
    assert caught.value.message.endswith((".", '("").'))
    assert "c0," not in caught.value.message


@pytest.mark.parametrize(
    ("rows", "code"),
    [
        ([{}], "EMPTY_DATA"),
        ([{"a": "x\ufffd"}], "BAD_ENCODING"),
        ([{"a": "x\x00"}], "BAD_ENCODING"),
        ([{"a\x00": 1}], "BAD_ENCODING"),
        ([{"a": "\ud800"}], "BAD_ENCODING"),
        ([{f"k{index}": index} for index in range(MAX_COLUMNS + 1)], "TOO_MANY_COLUMNS"),
    ],
)
def test_bad_rows_fail_with_a_sentence(rows: list[dict[str, Any]], code: str, make: Any) -> None:
    with pytest.raises(Fail) as caught:
        make(rows=rows)
    assert caught.value.code == code


@pytest.mark.parametrize(
    "csv",
    [
        "a,b\n1,2\n",
        "\ufeffa,b\n1,2\n",
        "a;b\n1;2\n",
        "a\tb\n1\t2\n",
        "a|b\r\n1|2\r\n",
        "a,b\r1,2\r",
        '"a","b"\n"1","2"',
        "\n\na,b\n\n1,2\n\n",
        "a;b\n1;2,5\n".replace(",5", ""),
    ],
)
def test_any_common_dialect_is_read(csv: str, make: Any) -> None:
    report = make(csv=csv).report
    assert [(c.name, c.type, c.min) for c in report.columns] == [("a", "integer", 1), ("b", "integer", 2)]


def test_quoted_newlines_and_quotes_stay_in_their_cell(measure: Any) -> None:
    table, _ = measure(csv='a,b\r\n"two\r\nlines","say ""hi"""\r\n,x\r\n')
    assert table.preview == [("two\r\nlines", 'say "hi"'), (None, "x")]


def test_names_that_are_blank_or_double_are_told_apart(make: Any) -> None:
    made = make(csv="a,a,a (2),,\n1,2,3,4,5\n")
    assert [c.name for c in made.report.columns] == ["a", "a (3)", "a (2)", "column 4", "column 5"]
    assert "blank or used twice were changed to tell 3 columns apart" in made.page


def test_a_thousand_columns_are_fine_and_the_page_says_which_have_charts(make: Any) -> None:
    names = ",".join(f"n{index}" for index in range(MAX_COLUMNS))
    made = make(csv=f"{names}\n" + ",".join("1" * MAX_COLUMNS) + "\n")
    assert (made.report.column_count, made.report.chart_count) == (MAX_COLUMNS, 60)
    assert "Charts are drawn for the first 60 columns" in made.page
    assert made.page.count("<article ") == MAX_COLUMNS


def test_one_very_long_cell_is_cut_on_the_page(make: Any) -> None:
    assert len(make(csv="a\n" + "x" * 3_000_000 + "\n").page) < 20_000
