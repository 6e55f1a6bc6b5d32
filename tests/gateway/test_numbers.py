"""The numbers of the configuration against those of the service behind it."""

import re

from service.connection import HEAD_BYTES_MAX
from service.preferences import WAIT_SECONDS_MAX
from tests.conftest import REPOSITORY
from tests.gateway.front import CONFIGURATION
from todoke.runtime.settings import Settings

TEXT = CONFIGURATION.read_text(encoding="utf-8")
PAGE = (REPOSITORY / "docs/gateway.md").read_text(encoding="utf-8")
SIZES = {"": 1, "k": 2**10, "m": 2**20}


def test_bodies_and_heads() -> None:
    assert _size(r"client_max_body_size (\d+)(m);") == _default("body_bytes_max")
    lines = re.search(r"large_client_header_buffers (\d+) (\d+)k;", TEXT)
    assert lines
    head = int(lines[1]) * int(lines[2]) * 2**10 + _size(r"client_header_buffer_size (\d+)(k);")
    # What is added on the way: the address once more, when the API is asked about a caller.
    assert head + 16 * 2**10 < HEAD_BYTES_MAX


def test_patience() -> None:
    plain, streams = [int(seconds) for seconds in re.findall(r"proxy_read_timeout (\d+)s;", TEXT)]
    assert plain > WAIT_SECONDS_MAX + 5
    assert streams >= 4 * _default("stream_heartbeat_seconds")
    kept = re.search(r"keepalive 64;\s+keepalive_timeout (\d+)s;", TEXT)
    assert kept
    assert int(kept[1]) < _default("keep_alive_seconds")


def test_whoever_keeps_to_the_apis_budgets_meets_no_limit_here() -> None:
    budgets = _default("tenant_reads_per_minute") + _default("tenant_submits_per_minute")
    assert _number(r"zone=keys:\w+ rate=(\d+)r/s") * 60 >= budgets
    assert _number(r"limit_conn open_keys (\d+);") > _default("tenant_streams_max")
    assert _number(r"zone=addresses:\w+ rate=(\d+)r/s") >= _number(r"zone=keys:\w+ rate=(\d+)r/s")


def test_the_page_tells_the_limits() -> None:
    for pattern in (
        r"zone=keys:\w+ rate=(\d+)r/s",
        r"zone=strangers:\w+ rate=(\d+)r/s",
        r"zone=addresses:\w+ rate=(\d+)r/s",
        r"zone=keys burst=(\d+)",
        r"zone=addresses burst=(\d+)",
        r"limit_conn open_keys (\d+)",
        r"limit_conn open_addresses (\d+)",
    ):
        assert f"{_number(pattern):,}" in PAGE, pattern


def _number(pattern: str) -> int:
    found = re.search(pattern, TEXT)
    assert found, pattern
    return int(found[1])


def _size(pattern: str) -> int:
    found = re.search(pattern, TEXT)
    assert found, pattern
    return int(found[1]) * SIZES[found[2]]


def _default(name: str) -> float:
    return float(Settings.model_fields[name].get_default(call_default_factory=True, validated_data={}))
