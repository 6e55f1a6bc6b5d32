"""What the edge refuses, in words; and that reading the types costs the API nothing."""

import subprocess
import sys
from typing import Any

import pytest
from pydantic import ValidationError

from todoke.jobs.catalog import JobType
from todoke.jobs.generate_report import ReportParams, generate_report

POINT = {"type": "Point", "coordinates": [1, 2]}


def feature(**properties: Any) -> dict[str, Any]:
    features = [{"type": "Feature", "properties": properties, "geometry": POINT}]
    return {"type": "FeatureCollection", "features": features}


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"rows": [{"a": 1}, {"b": {"c": 1}}]}, "row 2: field 'b' holds an object"),
        ({"rows": [{"a": [1]}]}, "row 1: field 'a' holds a list"),
        ({"rows": []}, "at least 1 item"),
        ({"rows": [1]}, "valid dictionary"),
        ({"csv": " \ufeff\r\n"}, "the CSV text is empty"),
        ({"csv": 5}, "valid string"),
        ({"csv": "a\n1", "rows": [{"a": 1}]}, "only one of csv, rows and geojson"),
        ({"geojson": feature(x={"y": 1})}, "feature 1: field 'x' holds an object"),
        ({"geojson": {"type": "Feature"}}, "FeatureCollection"),
        ({"geojson": {"type": "FeatureCollection", "features": []}}, "at least 1 item"),
        ({"title": "x" * 201}, "at most 200"),
        ({"colour": "red"}, "not permitted"),
    ],
)
def test_wrong_params_are_refused_in_words(params: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        ReportParams.model_validate(params)
    assert words in str(caught.value.errors()[0]["msg"])


@pytest.mark.parametrize("params", [{}, {"csv": "a\n1"}, {"rows": [{"a": None}]}, {"geojson": feature(a=True)}])
def test_params_survive_the_way_through_json(params: dict[str, Any]) -> None:
    once = ReportParams.model_validate(params)
    assert ReportParams.model_validate_json(once.model_dump_json(exclude_none=True)) == once


def test_the_job_is_declared_as_a_user_would() -> None:
    assert isinstance(generate_report, JobType)
    assert (generate_report.name, generate_report.isolation) == ("generate-report", "process")
    assert generate_report.summary


def test_importing_the_job_loads_no_engine() -> None:
    script = (
        "import sys, todoke.jobs.generate_report as job; job.generate_report.params.model_json_schema();"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = set(run.stdout.split())
    assert "pydantic" in loaded
    assert not loaded & {"duckdb", "_duckdb", "matplotlib", "numpy", "jinja2", "PIL"}
