"""Polling as tests do it: impatient, bounded."""

import time
from typing import Any

import httpx


def finished(client: httpx.Client, job_id: str, seconds: float = 60) -> dict[str, Any]:
    """The status of a job once it has ended."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        answer = client.get(f"/jobs/{job_id}")
        if answer.status_code == 200:
            return dict(answer.json())
        assert answer.status_code in (202, 503), answer.text
        time.sleep(0.05)
    raise AssertionError(f"job {job_id} did not end: {answer.text}")


def submit(client: httpx.Client, path: str = "/generate-report", **body: Any) -> str:
    """The id of a new job."""
    answer = client.post(path, json=body)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["jobId"])
