"""The order of the work: sheet, table, figures, charts, page. Says how far it is all the way."""

from io import StringIO
from pathlib import Path

from todoke.jobs.context import JobContext
from todoke.jobs.report.contract import ColumnSummary, Report, ReportParams
from todoke.jobs.report.csv_text import sheet_from_csv
from todoke.jobs.report.gallery import Gallery, draw
from todoke.jobs.report.json_rows import sheet_from_activity, sheet_from_geojson, sheet_from_rows
from todoke.jobs.report.page import render
from todoke.jobs.report.profile import Profile, Value, profiles
from todoke.jobs.report.sheet import Sheet
from todoke.jobs.report.table import opened
from todoke.jobs.report.wording import plural, shown, visible

PAGE = "report.html"
MEDIA_TYPE = "text/html; charset=utf-8"


class Steps:
    """Turns "column 3 of 9" within one stretch of the work into a percentage that never falls."""

    def __init__(self, ctx: JobContext, first: float, last: float, words: str, total: int) -> None:
        self._ctx, self._first, self._last, self._words, self._total = ctx, first, last, words, total

    def __call__(self, done: int, name: str) -> None:
        percent = self._first + (self._last - self._first) * done / max(1, self._total)
        told = f"{self._words} {done + 1} of {self._total}: {shown(name, 60)}"
        self._ctx.progress(round(percent, 1), told)


def build(params: ReportParams, ctx: JobContext) -> Report:
    """Make the page, attach it and return what it shows in short. Raises Fail for data it cannot read."""
    ctx.progress(1, "Reading the data")
    sheet = _sheet(params, ctx)
    ctx.progress(12, f"Loading {plural(sheet.rows, 'row')} and {plural(len(sheet.names), 'column')}")
    with opened(sheet) as table:
        width = len(table.columns)
        found = profiles(table, Steps(ctx, 25, 50, "Profiling column", width))
        gallery = draw(table, found, Steps(ctx, 50, 92, "Drawing charts, column", width))
        ctx.progress(93, "Writing the page")
        title = visible(params.title.strip()) or "Report"
        page = render(title, sheet, table, found, gallery)
    target = ctx.folder / PAGE
    target.write_bytes(page.encode())
    ctx.attach(PAGE, target, MEDIA_TYPE)
    ctx.progress(100, f"The report is ready: {plural(gallery.charts, 'chart')}")
    return _report(title, sheet, found, gallery)


def _sheet(params: ReportParams, ctx: JobContext) -> Sheet:
    path: Path = ctx.folder / "sheet.csv"
    if params.csv is not None:
        return sheet_from_csv(StringIO(params.csv, newline=""), path)
    if params.rows is not None:
        return sheet_from_rows(params.rows, path)
    if params.geojson is not None:
        return sheet_from_geojson(params.geojson, path)
    return sheet_from_activity(ctx.activity(), path)


def _report(title: str, sheet: Sheet, found: list[Profile], gallery: Gallery) -> Report:
    return Report(
        title=title,
        source=sheet.source,
        row_count=sheet.rows,
        column_count=len(found),
        chart_count=gallery.charts,
        columns=[_summary(profile) for profile in found],
    )


def _summary(profile: Profile) -> ColumnSummary:
    low, high = map(_plain, profile.bounds)
    return ColumnSummary(
        name=profile.column.name,
        type=profile.column.kind,
        missing=profile.missing,
        distinct=profile.distinct,
        min=low,
        max=high,
        mean=profile.spread.mean if profile.spread else None,
        median=profile.spread.median if profile.spread else None,
    )


def _plain(value: Value | None) -> int | float | str | None:
    return value if value is None or isinstance(value, int | float) else str(value).replace(" ", "T")
