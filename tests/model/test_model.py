"""The words and rules that import nothing."""

import uuid

from hypothesis import given
from hypothesis import strategies as st

from todoke.model.event import Cursor
from todoke.model.ids import new_id, parse_id
from todoke.model.job import TERMINAL, TRANSITIONS, State
from todoke.model.retry import MOST_SECONDS, backoff


def test_states_only_lead_forward() -> None:
    assert {State.SUCCESS, State.FAILED} == TERMINAL
    assert State.PENDING not in {onward for reachable in TRANSITIONS.values() for onward in reachable}
    assert set(TRANSITIONS) == set(State)


def test_ids_are_version_7_and_grow_with_time() -> None:
    ids = [new_id() for _ in range(100)]
    assert {item.version for item in ids} == {7}
    assert {item.variant for item in ids} == {uuid.RFC_4122}
    assert len(set(ids)) == 100
    milliseconds = [item.int >> 80 for item in ids]
    assert milliseconds == sorted(milliseconds)


@given(st.text())
def test_only_the_36_characters_of_a_uuid_are_an_id(text: str) -> None:
    parsed = parse_id(text)
    assert parsed is None or str(parsed) == text.lower()


@given(st.uuids())
def test_an_id_comes_back(value: uuid.UUID) -> None:
    assert parse_id(str(value)) == value
    assert parse_id(value.hex) is None
    assert parse_id("{" + str(value)[1:]) is None


@given(st.text())
def test_a_cursor_is_spelled_one_way(text: str) -> None:
    cursor = Cursor.parse(text)
    assert cursor is None or Cursor.parse(str(cursor)) == cursor


def test_cursors() -> None:
    assert Cursor.parse("a1b2.17") == Cursor("a1b2", 17)
    for odd in ("", ".", "a.", ".1", "a.1.2", "A.1", "a.-1", "a.1 ", "a.１", "a." + "9" * 11):
        assert Cursor.parse(odd) is None, odd


@given(st.integers(1, 1000))
def test_backoff_grows_within_its_bounds(failures: int) -> None:
    assert 1.0 <= backoff(failures) <= MOST_SECONDS * 1.5
