"""The page: one HTML file without script or outside resource. Jinja escapes every word; only charts are markup."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from todoke.jobs.report.gallery import CHARTED_COLUMNS, Gallery
from todoke.jobs.report.profile import Profile
from todoke.jobs.report.sheet import Sheet
from todoke.jobs.report.table import Table
from todoke.jobs.report.view import column_view, kinds_in_words, remarks
from todoke.jobs.report.wording import count, share, shown

TEMPLATE = "page.html.j2"
PREVIEW_COLUMNS = 40
PREVIEW_LETTERS = 60

_PAGES = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_PAGES.filters |= {"markup": Markup, "words": shown, "count": count, "share": share}


def render(title: str, sheet: Sheet, table: Table, found: Sequence[Profile], gallery: Gallery) -> str:
    """The whole page as text."""
    now = datetime.now(UTC)
    missing = sum(profile.missing for profile in found)
    return _PAGES.get_template(TEMPLATE).render(
        title=title,
        origin=sheet.origin,
        generated=now.isoformat(timespec="seconds"),
        generated_words=f"{now.day} {now:%B %Y, %H:%M} UTC",
        rows=sheet.rows,
        tiles=[
            ("Rows", count(sheet.rows)),
            ("Columns", count(len(found))),
            ("Missing cells", share(missing, sheet.rows * len(found))),
            ("Charts", count(gallery.charts)),
        ],
        kinds=kinds_in_words(found),
        remarks=[*sheet.notes, *remarks(found)],
        columns=[column_view(profile, gallery) for profile in found],
        charted_columns=CHARTED_COLUMNS if len(found) > CHARTED_COLUMNS else 0,
        gallery=gallery,
        preview=_preview(table),
        preview_cut=len(found) > PREVIEW_COLUMNS and PREVIEW_COLUMNS,
    )


def _preview(table: Table) -> list[list[str | None]]:
    return [
        [None if cell is None else shown(cell, PREVIEW_LETTERS) for cell in row[:PREVIEW_COLUMNS]]
        for row in table.preview
    ]
