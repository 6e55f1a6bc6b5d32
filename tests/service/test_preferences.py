"""`Prefer` and `If-None-Match` as callers really spell them; garbage is no reason to fail."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import Headers

from service.preferences import WAIT_SECONDS_MAX, applied, holds, seen, wait_seconds


def headers(name: str, *values: str) -> Headers:
    return Headers(raw=[(name.encode(), value.encode("latin-1")) for value in values])


@pytest.mark.parametrize(
    ("values", "seconds"),
    [
        ((), 0),
        (("wait=10",), 10),
        (("WAIT = 10",), 10),
        (('wait="10"',), 10),
        (("respond-async, wait=10",), 10),
        (("respond-async", "wait=10"), 10),
        (("wait=10; foo=bar",), 10),
        (('foo="a, wait=5", wait=7',), 7),
        (('foo="a\\", wait=5", wait=7',), 7),
        (("wait=10, wait=20",), 10),
        (("wait=31",), 30),
        (("wait=" + "9" * 5000,), 30),
        (("wait=007",), 7),
        (("wait=0",), 0),
        (("wait",), 0),
        (("wait=",), 0),
        (("wait=-1",), 0),
        (("wait=1.5",), 0),
        (("wait=x, wait=5",), 0),
        (("wait=\xb2",), 0),
        (("=5",), 0),
        (('wait="5',), 0),
        ((",,, ,wait=5,,",), 5),
        (("waiting=5",), 0),
    ],
)
def test_wait(values: tuple[str, ...], seconds: int) -> None:
    assert wait_seconds(headers("prefer", *values)) == seconds


@given(st.text(st.characters(max_codepoint=255)))
def test_anything_may_come(text: str) -> None:
    assert 0 <= wait_seconds(headers("prefer", text)) <= WAIT_SECONDS_MAX
    seen(headers("if-none-match", text))


def test_what_was_applied() -> None:
    assert applied(0) == {}
    assert applied(5) == {"Preference-Applied": "wait=5"}


@pytest.mark.parametrize(
    ("values", "is_held"),
    [
        ((), False),
        (('"a"',), True),
        (('W/"a"',), True),
        (('"b", "a"',), True),
        (('"b"', 'W/"a"'), True),
        (("*",), True),
        ((" * ",), True),
        (("a",), False),
        (('"b,a"',), False),
        (('"A"',), False),
        (("",), False),
    ],
)
def test_tags(values: tuple[str, ...], *, is_held: bool) -> None:
    assert holds(seen(headers("if-none-match", *values)), '"a"') is is_held
