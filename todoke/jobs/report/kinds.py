"""What a column is. Every cell falls into one class; the set of classes seen in ALL cells decides the kind."""

import re
from collections.abc import Set
from dataclasses import dataclass
from enum import IntFlag

from todoke.jobs.report.contract import Kind


class Cells(IntFlag):
    """The classes of cells a column may hold; SQL sends back the union of a column as one number."""

    SECONDS = 1
    MILLISECONDS = 2
    INTEGER = 4
    LONG_INTEGER = 8
    NUMBER = 16
    BOOLEAN = 32
    NOTHING = 64
    DATE = 128
    MOMENT = 256
    ZONED = 512
    MONTH_FIRST = 1024
    DAY_FIRST = 2048
    EITHER_FIRST = 4096
    TEXT = 8192


@dataclass(frozen=True)
class Typed:
    """kind, the SQL expression over `{text}` (trimmed) or `{cell}` that casts to it, and a remark for readers."""

    kind: Kind
    sql: str
    remark: str = ""


WHOLE = Cells.SECONDS | Cells.MILLISECONDS | Cells.INTEGER
NUMERIC = WHOLE | Cells.LONG_INTEGER | Cells.NUMBER
MOMENTS = Cells.DATE | Cells.MOMENT | Cells.ZONED

# Ten or thirteen digits are a point in time only in a column whose name says so.
TIME_WORD = re.compile(
    r"(?:^|[^a-z])(?:time|timestamp|date|datetime|created|updated|modified)(?:[^a-z]|$)", re.IGNORECASE
)
TIME_ENDING = re.compile(r"(?:[a-z](?:At|Time|Date|Timestamp)|_at|_ts|_ms)$")

_DAY = "[0-9]{4}-[0-9]{2}-[0-9]{2}"
_CLOCK = "[ T][0-9]{2}:[0-9]{2}(:[0-9]{2}([.][0-9]{1,9})?)?"
_OFFSET = "(Z|[+-][0-9]{2}(:?[0-9]{2})?)"
_DIGITS = "((0|[1-9][0-9]*)([.][0-9]*)?|[.][0-9]+)([eE][+-]?[0-9]{1,4})?"
_SLASHED = "[0-9]{1,2}/[0-9]{1,2}/[0-9]{4}"
_TO_INSTANT = "make_timestamp(epoch_us(try_cast({text} AS TIMESTAMPTZ)))"
_TO_DATE = "try_cast({text} AS DATE)"
_BY_MONTH = "try_strptime({text}, '%m/%d/%Y')"
_BY_DAY = "try_strptime({text}, '%d/%m/%Y')"
_IN_RANGE = " BETWEEN 1 AND 9999"

# In order: the first test a cell passes is its class.
_TESTS = (
    (Cells.SECONDS, ("1[0-9]{9}", "")),
    (Cells.MILLISECONDS, ("1[0-9]{12}", "")),
    (Cells.INTEGER, ("[+-]?(0|[1-9][0-9]{0,17})", "")),
    (Cells.LONG_INTEGER, ("[+-]?[1-9][0-9]{18,36}", "")),
    (Cells.NUMBER, (f"[+-]?({_DIGITS}|(?i:inf|infinity))", "")),
    (Cells.BOOLEAN, ("(?i:true|false)", "")),
    (Cells.NOTHING, ("(?i:na|n/a|#n/a|nan|nat|null|none|-)", "")),
    (Cells.DATE, ("[0-9]{4}(-[0-9]{2}-|/[0-9]{2}/)[0-9]{2}", f"year({_TO_DATE}){_IN_RANGE}")),
    (Cells.MOMENT, (_DAY + _CLOCK, f"year({_TO_INSTANT}){_IN_RANGE}")),
    (Cells.ZONED, (_DAY + _CLOCK + _OFFSET, f"year({_TO_INSTANT}){_IN_RANGE}")),
    (Cells.EITHER_FIRST, (_SLASHED, f"year({_BY_MONTH}){_IN_RANGE} AND {_BY_DAY} IS NOT NULL")),
    (Cells.MONTH_FIRST, (_SLASHED, f"year({_BY_MONTH}){_IN_RANGE}")),
    (Cells.DAY_FIRST, (_SLASHED, f"year({_BY_DAY}){_IN_RANGE}")),
)

TEXT = Typed("text", "{cell}")
BOOLEAN = Typed("boolean", "CASE lower({text}) WHEN 'true' THEN true WHEN 'false' THEN false END")


def trimmed(cell: str) -> str:
    """SQL for `cell` without the blanks around it."""
    return f"trim({cell}, e' \\t\\r\\n')"


def classes_sql(cell: str) -> str:
    """SQL aggregate over column `cell` that gives the union of the classes of its cells."""
    text = trimmed(cell)
    branches = []
    for found, (shape, check) in _TESTS:
        valid = check.replace("{text}", text) or "true"
        branches.append(f"WHEN regexp_full_match({text}, '{shape}') AND {valid} THEN {found.value}")
    return f"bit_or(CASE {' '.join(branches)} ELSE {Cells.TEXT.value} END)"


def cast_sql(typed: Typed, cell: str) -> str:
    """SQL for `cell` as a value of its kind, null where it holds none."""
    return typed.sql.replace("{text}", trimmed(cell)).replace("{cell}", cell)


def decide(name: str, seen: Cells, types: Set[type] | None) -> Typed:
    """The kind of a column from the classes of its cells and, for JSON, the Python types of its values.

    A JSON string never becomes a number or a boolean; it may become a date. Mixed types make text.
    """
    if types is None:
        return _from_text(name, seen)
    if types == {bool}:
        return BOOLEAN
    if types and types <= {int, float}:
        return _numeric(name, seen & ~Cells.NOTHING) or Typed("number", "null::DOUBLE")
    return (_dated(seen) if types == {str} else None) or TEXT


def _from_text(name: str, seen: Cells) -> Typed:
    # Words such as "NA" stand for nothing only where every other cell is a number, a date or a boolean.
    values = seen & ~Cells.NOTHING
    if values == Cells.BOOLEAN:
        return BOOLEAN
    return _numeric(name, values) or _dated(values) or TEXT


def _numeric(name: str, seen: Cells) -> Typed | None:
    if not seen or seen & ~NUMERIC:
        return None
    named_time = TIME_WORD.search(name) or TIME_ENDING.search(name)
    if seen == Cells.MILLISECONDS and named_time:
        return Typed("datetime", "epoch_ms(try_cast({text} AS BIGINT))", "Read as milliseconds since 1970, UTC.")
    if seen == Cells.SECONDS and named_time:
        sql = "make_timestamp(try_cast({text} AS BIGINT) * 1000000)"
        return Typed("datetime", sql, "Read as seconds since 1970, UTC.")
    if seen & Cells.NUMBER:
        return Typed("number", "nullif(try_cast({text} AS DOUBLE), 'nan'::DOUBLE)")
    return Typed("integer", f"try_cast({{text}} AS {'HUGEINT' if seen & Cells.LONG_INTEGER else 'BIGINT'})")


def _dated(seen: Cells) -> Typed | None:
    if not seen:
        return None
    if seen == Cells.DATE:
        return Typed("date", _TO_DATE)
    if not seen & ~MOMENTS:
        return Typed("datetime", _TO_INSTANT, "Times with an offset are shown in UTC." * bool(seen & Cells.ZONED))
    if seen & Cells.MONTH_FIRST and not seen & ~(Cells.MONTH_FIRST | Cells.EITHER_FIRST):
        return Typed("date", f"{_BY_MONTH}::DATE", "Read as month/day/year.")
    if seen & Cells.DAY_FIRST and not seen & ~(Cells.DAY_FIRST | Cells.EITHER_FIRST):
        return Typed("date", f"{_BY_DAY}::DATE", "Read as day/month/year.")
    return None
