"""The tables of docs/webhooks.md, read so that page and code cannot drift apart; and what the rules are about."""

import re
import uuid
from typing import Any

from tests.conftest import REPOSITORY
from todoke.model.delivery import Delivery
from todoke.model.endpoint import Endpoint

PAGE = (REPOSITORY / "docs/webhooks.md").read_text(encoding="utf-8")
JOB = uuid.UUID(int=7)
ENDPOINT = uuid.UUID(int=8)
URL = "https://example.com/hook"


def table(first_heading: str) -> list[list[str]]:
    """The cells of the rows of the table whose first column is headed so."""
    [found] = re.findall(rf"^\| {re.escape(first_heading)} \|.*\n\|[-|]+\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in found.splitlines()]


def quoted(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def a_delivery(attempt: int = 1, sequence: int = 3, **changes: Any) -> Delivery:
    values: dict[str, Any] = {"job_id": JOB, "tenant_id": "acme", "endpoint_id": ENDPOINT, "url": URL} | changes
    return Delivery(sequence=sequence, attempt=attempt, lease=attempt, body="{}", **values)


def an_endpoint(**changes: Any) -> Endpoint:
    return Endpoint(ENDPOINT, "acme", URL, **changes)
