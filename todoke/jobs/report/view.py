"""What the page says about a column, as finished words; escaping is the template's work."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from todoke.jobs.report.contract import Kind
from todoke.jobs.report.gallery import Chart, Gallery, is_categorical
from todoke.jobs.report.profile import DATED, NUMERIC, QUANTILES, Profile
from todoke.jobs.report.wording import NONE, count, number, plural, share, shown, value

NAME_LETTERS = 80
VALUE_LETTERS = 60
NUMERIC_TOP = 5
NAMED = 6

KIND_WORDS: dict[Kind, str] = {
    "integer": "whole number",
    "number": "number",
    "boolean": "true or false",
    "date": "date",
    "datetime": "date and time",
    "text": "text",
}
KIND_COUNTED: dict[Kind, str] = {
    "integer": "whole number",
    "number": "number",
    "boolean": "truth value",
    "date": "date",
    "datetime": "moment",
    "text": "text",
}


@dataclass(frozen=True)
class Top:
    """One of the commonest values; `share` of the present ones, in percent."""

    value: str
    times: str
    share: str


@dataclass(frozen=True)
class ColumnView:
    """A column as the page shows it. summary: one line for the overview."""

    number: int
    name: str
    kind: Kind
    kind_words: str
    missing: int
    distinct: str
    summary: str
    remark: str
    figures: list[tuple[str, str]]
    top: list[Top]
    chart: Chart | None


def column_view(profile: Profile, gallery: Gallery) -> ColumnView:
    """Put the figures of one column into words."""
    kind = profile.column.kind
    return ColumnView(
        number=profile.column.position + 1,
        name=shown(profile.column.name, NAME_LETTERS),
        kind=kind,
        kind_words=KIND_WORDS[kind],
        missing=profile.missing,
        distinct=count(profile.distinct),
        summary=_summary(profile),
        remark=_remark(profile),
        figures=list(_figures(profile)),
        top=_top(profile),
        chart=gallery.of_column.get(profile.column.position),
    )


def kinds_in_words(found: Sequence[Profile]) -> str:
    """Such as "6 numbers · 4 texts"."""
    counts = Counter(profile.column.kind for profile in found)
    return " · ".join(plural(counts[kind], word) for kind, word in KIND_COUNTED.items() if counts[kind])


def remarks(found: Sequence[Profile]) -> Iterator[str]:
    """What a reader should know before trusting the figures; one sentence each."""
    empty = [one for one in found if not one.present and one.rows]
    gaps = [one for one in found if one.present and one.missing * 2 > one.rows]
    same = [one for one in found if one.distinct == 1 and one.present > 1]
    unique = [one for one in found if one.distinct == one.rows > 1 and one.column.kind in ("text", "integer")]
    infinite = [one for one in found if one.spread and one.spread.infinite]
    for group, words in (
        (empty, "without any value"),
        (gaps, "missing in more than half of the rows"),
        (same, "with the same value in every row that has one"),
        (unique, "with a different value in every row, so perhaps an identifier"),
        (infinite, "with infinite values, which the figures leave out"),
    ):
        if group:
            yield f"{plural(len(group), 'column')} {words}: {_names(group)}."


def _names(group: Sequence[Profile]) -> str:
    names = ", ".join(shown(one.column.name, 30) for one in group[:NAMED])
    return f"{names} and {len(group) - NAMED} more" if len(group) > NAMED else names


def _summary(profile: Profile) -> str:
    if not profile.present:
        return "no values"
    if profile.spread:
        low, median, high = profile.spread.low, profile.spread.median, profile.spread.high
        return f"{number(low)} to {number(high)}, median {number(median)}"
    if profile.span:
        return " to ".join(map(value, profile.span))
    if is_categorical(profile):
        first, times = profile.top[0]
        return f"{shown(value(first), 40)} ({count(times)})"
    return f"e.g. {shown(value(profile.top[0][0]), 40)}"


def _remark(profile: Profile) -> str:
    words = [profile.column.remark]
    if profile.column.kind == "text" and profile.present and not is_categorical(profile):
        words.append("Most values occur only once, so there is no chart.")
    if profile.spread and profile.spread.infinite:
        words.append(f"{plural(profile.spread.infinite, 'infinite value')} left out of the figures.")
    return " ".join(filter(None, words))


def _figures(profile: Profile) -> Iterator[tuple[str, str]]:
    yield "Values", count(profile.present)
    yield "Missing", count(profile.missing)
    yield "Distinct", count(profile.distinct)
    if profile.spread:
        spread = profile.spread
        yield "Mean", number(spread.mean)
        yield "Std. deviation", number(spread.deviation)
        yield "Minimum", number(spread.low)
        for part, cut in zip(QUANTILES, spread.quantiles, strict=True):
            yield ("Median" if part == 0.5 else f"{part:.0%} below"), number(cut)
        yield "Maximum", number(spread.high)
    if profile.column.kind in DATED:
        first, last = map(value, profile.span) if profile.span else (NONE, NONE)
        yield "First", first
        yield "Last", last
    if profile.lengths:
        yield "Fewest letters", count(profile.lengths[0])
        yield "Most letters", count(profile.lengths[1])


def _top(profile: Profile) -> list[Top]:
    if profile.top and profile.top[0][1] == 1 < profile.present:
        return []
    limit = NUMERIC_TOP if profile.column.kind in (*NUMERIC, *DATED) else len(profile.top)
    return [
        Top(shown(value(item), VALUE_LETTERS), count(times), share(times, profile.present))
        for item, times in profile.top[:limit]
    ]
