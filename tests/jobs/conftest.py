"""A job context that only remembers, and short ways to a report and to its figures."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from todoke.jobs.generate_report import Report, ReportParams, generate_report
from todoke.jobs.report.contract import FeatureCollection
from todoke.jobs.report.csv_text import sheet_from_csv
from todoke.jobs.report.json_rows import sheet_from_geojson, sheet_from_rows
from todoke.jobs.report.profile import Profile, profiles
from todoke.jobs.report.table import Table, opened

SAMPLES = Path(__file__).parents[1] / "data"
SHARED = Path(__file__).parents[3] / "shared" / "data"


@dataclass
class RememberingContext:
    """What the worker would hand to the job; keeps all it is told."""

    folder: Path
    jobs: Sequence[Mapping[str, Any]] = ()
    job_id: str = "0192f3a4-0000-7000-8000-000000000000"
    attempt: int = 1
    told: list[tuple[float, str]] = field(default_factory=list)
    attached: dict[str, tuple[bytes, str]] = field(default_factory=dict)

    def progress(self, percent: float, message: str = "") -> None:
        self.told.append((percent, message))

    def attach(self, name: str, content: bytes | Path, media_type: str) -> None:
        self.attached[name] = (content if isinstance(content, bytes) else content.read_bytes(), media_type)

    def activity(self) -> Sequence[Mapping[str, Any]]:
        return self.jobs


@dataclass(frozen=True)
class Made:
    """A finished report: its result, its page and what was said on the way."""

    report: Report
    page: str
    context: RememberingContext


Make = Callable[..., Made]
Measure = Callable[..., tuple[Table, list[Profile]]]


@pytest.fixture
def context(tmp_path: Path) -> RememberingContext:
    folder = tmp_path / "attempt"
    folder.mkdir()
    return RememberingContext(folder)


@pytest.fixture
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Run the job with the given params; each call in a folder of its own."""

    def run(jobs: Sequence[Mapping[str, Any]] = (), **params: Any) -> Made:
        context = RememberingContext(tmp_path_factory.mktemp("attempt"), jobs)
        report = generate_report(ReportParams.model_validate(params), context)
        return Made(report, context.attached["report.html"][0].decode(), context)

    return run


@pytest.fixture
def measure(tmp_path: Path) -> Iterator[Measure]:
    """The open table and the profiles of a CSV text, of rows or of a GeoJSON object."""
    with ExitStack() as stack:

        def load(
            csv: str | None = None, rows: list[dict[str, Any]] | None = None, geojson: Any = None
        ) -> tuple[Table, list[Profile]]:
            path = tmp_path / "sheet.csv"
            if csv is not None:
                sheet = sheet_from_csv(StringIO(csv, newline=""), path)
            elif rows is not None:
                sheet = sheet_from_rows(rows, path)
            else:
                sheet = sheet_from_geojson(FeatureCollection.model_validate(geojson), path)
            table = stack.enter_context(opened(sheet))
            return table, profiles(table, lambda done, name: None)

        yield load


@pytest.fixture
def sample() -> Callable[[str], str]:
    """The text of a file under tests/data."""
    return lambda name: (SAMPLES / name).read_bytes().decode()


@pytest.fixture
def shared() -> Callable[[str], dict[str, Any]]:
    """The params for a file of the shared data; skips where that is absent."""

    def params(name: str) -> dict[str, Any]:
        path = SHARED / name
        if not path.exists():
            pytest.skip(f"shared data absent: {name} is looked for in ../shared/data beside the repository")
        text = path.read_bytes().decode()
        return {"csv": text} if path.suffix == ".csv" else {"geojson": json.loads(text)}

    return params
