"""NOTIFY payloads: small, parseable, and harmless when foreign."""

from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from todoke.model.event import Hint
from todoke.model.ids import new_id
from todoke.wire.notice import EVERYTHING, PAYLOAD_BYTES_MAX, PAYLOADS_MAX, parse_payload, payloads

HINTS = st.builds(Hint, st.uuids(), st.integers(1, 2**31 - 1), st.integers(0, 2**31 - 1))


@given(st.lists(HINTS, min_size=1, max_size=60))
def test_hints_come_back(hints: list[Hint]) -> None:
    assert [hint for text in payloads(hints) for hint in parse_payload(text) or []] == hints


def test_payloads_fit_and_too_many_become_everything() -> None:
    few = payloads([Hint(new_id(), 1, 0) for _ in range(1000)])
    assert 1 < len(few) <= PAYLOADS_MAX
    assert all(len(text.encode()) <= PAYLOAD_BYTES_MAX for text in few)
    assert payloads([Hint(new_id(), 1, 0) for _ in range(5000)]) == [EVERYTHING]


def test_the_form_is_the_one_of_the_design() -> None:
    job_id = UUID("019ab7f2-0000-7000-8000-000000000000")
    assert payloads([Hint(job_id, 2, 5), Hint(job_id, 3, 5)]) == [f"1|{job_id}:2.5,{job_id}:3.5"]


@given(st.text())
def test_anything_else_means_look_at_everything(text: str) -> None:
    hints = parse_payload(text)
    assert hints is None or all(isinstance(hint, Hint) for hint in hints)


def test_everything() -> None:
    assert parse_payload(EVERYTHING) is None
    assert parse_payload("2|x") is None
    assert parse_payload("") is None
