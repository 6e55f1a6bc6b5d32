"""schemathesis asks the running service whatever its description allows, and what it forbids: no fault, no surprise."""

import asyncio
import re
import sys
from pathlib import Path

import pytest

from tests.conftest import serve
from tests.service.callers import guarded, make_key
from todoke.runtime.settings import Settings
from todoke.store.database import Database

# What the description says of statuses, bodies, types and headers holds for every answer, and none is a fault.
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
)
LONG = [pytest.mark.full, pytest.mark.timeout(7_200)]


@pytest.mark.parametrize(("examples", "requests_min"), [(6, 500), pytest.param(4_500, 100_000, marks=LONG)])
async def test_the_service_is_what_its_description_says(
    settings: Settings, database: Database, seed: int, tmp_path: Path, examples: int, requests_min: int
) -> None:
    """The seed that is printed runs it again: `--seed`."""
    _, key = await make_key(database)
    async with serve(guarded(settings)) as url:
        command = [
            str(Path(sys.executable).with_name("schemathesis")),
            "run",
            f"{url}/openapi.json",
            *("--header", f"Authorization: {key['Authorization']}"),
            # Streams do not end, and long polls take their time; both have tests of their own.
            *("--header", "Accept: application/json"),
            *("--header", "Prefer: wait=0"),
            *("--checks", ",".join(CHECKS)),
            *("--max-examples", str(examples)),
            *("--seed", str(seed)),
            *("--request-timeout", "20"),
            *("--workers", "2"),
            "--no-color",
        ]
        process = await asyncio.create_subprocess_exec(
            *command, cwd=tmp_path, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        told, _ = await process.communicate()
    text = told.decode(errors="replace")
    assert process.returncode == 0, text[-6000:]
    found = re.search(r"(\d[\d,]*) generated", text)
    assert found, text[-3000:]
    assert int(found[1].replace(",", "")) >= requests_min, text[-3000:]
