"""A `traceparent` is read as the W3C says, and ignored where it says so."""

import pytest

from todoke.wire.traceparent import parse, trace_id_of

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
GOOD = f"00-{TRACE}-{SPAN}-01"


@pytest.mark.parametrize("flags", ["00", "01", "ff"])
def test_a_good_one_stays_what_it_is(flags: str) -> None:
    text = f"00-{TRACE}-{SPAN}-{flags}"
    assert parse(text) == text
    assert trace_id_of(text) == TRACE


@pytest.mark.parametrize(
    "text", [f"01-{TRACE}-{SPAN}-01", f"cc-{TRACE}-{SPAN}-01-more-to-come", f"01-{TRACE}-{SPAN}-01-"]
)
def test_a_later_version_is_read_as_far_as_it_is_known(text: str) -> None:
    assert parse(text) == GOOD


BAD = [
    None,
    "",
    "x",
    f"00-{'0' * 32}-{SPAN}-01",
    f"00-{TRACE}-{'0' * 16}-01",
    f"ff-{TRACE}-{SPAN}-01",
    f"00-{TRACE.upper()}-{SPAN}-01",
    f"00-{TRACE}-{SPAN}-01-more",
    f"00-{TRACE}-{SPAN}-1",
    f"00-{TRACE}-{SPAN}",
    f"00-{TRACE[:-1]}-{SPAN}-01",
    f"00_{TRACE}_{SPAN}_01",
    f" {GOOD}",
    f"{GOOD}\n",
    f"{GOOD},{GOOD}",
    GOOD.replace("4", "٤"),
    f"01-{TRACE}-{SPAN}-01-" + "x" * 300,
]


@pytest.mark.parametrize("text", BAD, ids=range(len(BAD)))
def test_anything_else_is_none(text: str | None) -> None:
    assert parse(text) is None
