"""What each answer means, row by row as docs/webhooks.md has it: the page is the data of this test."""

import itertools
import re
from collections.abc import Callable, Iterable
from dataclasses import replace

import pytest

from tests.model.pages import PAGE, a_delivery, an_endpoint, quoted, table
from todoke.model import delivery as rules
from todoke.model import endpoint as endpoint_rules
from todoke.model.delivery import Answer, Control, DeliveryState, Reason, Verdict, judge
from todoke.model.endpoint import DisabledReason, Endpoint, EndpointState, after

NOW, CAP, WINDOW = 1_000_000.0, 8, 120 * 3600.0
ROWS = table("Answer")
STATUSES = range(200, 600)
NO_ANSWER = set(Reason) - {
    Reason.DELIVERED,
    Reason.HTTP_STATUS,
    Reason.REDIRECT,
    Reason.LOST_LEASE,
    Reason.GONE,
    Reason.ABORTED,
    Reason.DISABLED,
    Reason.WINDOW,
}

Change = Callable[[Endpoint, Endpoint], None]


def answered(status: int, control: Control | None = None) -> Answer:
    """As the sender makes it of a status."""
    kind = {2: Reason.DELIVERED, 3: Reason.REDIRECT}.get(status // 100, Reason.HTTP_STATUS)
    return Answer(kind, status, control=control)


def answers_of(cell: str) -> Iterable[Answer]:
    """Every answer a cell of the first column speaks of, those of rows above it included."""
    words = quoted(cell)
    if cell.startswith("none:"):
        yield from (Answer(Reason(word)) for word in words)
    elif words[0].startswith("webhook-delivery: "):
        control = Control(words[0].partition(": ")[2])
        is_success = cell.endswith("` with a 2xx")
        assert is_success or cell.endswith(", not with a 2xx")
        yield from (answered(status, control) for status in ((200, 204, 299) if is_success else (301, 400, 500)))
    elif " to " in cell:
        first, last = map(int, words)
        yield from map(answered, range(first, last + 1))
    else:
        yield from (answered(int(word)) for word in words)


def own_answers(place: int) -> list[Answer]:
    """The answers of a row that no row above it has taken."""
    taken = {answer for cell, *_ in ROWS[:place] for answer in answers_of(cell)}
    return [answer for answer in answers_of(ROWS[place][0]) if answer not in taken]


def is_right_for_delivery(cell: str, verdict: Verdict) -> bool:
    delays = 5 <= verdict.delay <= 6.25
    if cell == "delivered":
        return verdict.state is DeliveryState.DELIVERED
    if cell.startswith("parked as "):
        return (verdict.state, [verdict.reason]) == (DeliveryState.PARKED, quoted(cell))
    assert cell in ("tried again", "tried again, no attempt used up")
    is_charged = not cell.endswith("used up")
    return verdict.state is DeliveryState.PENDING and verdict.is_charged is is_charged and delays


def counts(strain: int) -> Change:
    def check(before: Endpoint, stands: Endpoint) -> None:
        assert stands.strain - before.strain == strain
        assert stands.failures - before.failures == 1

    return check


def left_alone(before: Endpoint, stands: Endpoint) -> None:
    assert (before.blocked_until, stands.blocked_until) == (None, NOW + 30)


def cap_halved(before: Endpoint, stands: Endpoint) -> None:
    assert (before.cap, stands.cap) == (None, CAP // 2)


def forgotten(_before: Endpoint, stands: Endpoint) -> None:
    assert replace(stands, blocked_until=None) == an_endpoint()


def nothing(before: Endpoint, stands: Endpoint) -> None:
    assert stands == before


CHANGES: dict[str, list[Change]] = {
    "failures forgotten": [forgotten],
    "counts": [counts(1)],
    "counts twice": [counts(2)],
    "–": [counts(0)],
    "left alone": [left_alone],
    "cap halved": [cap_halved],
    "nothing remembered": [nothing],
}


def check_endpoint(cell: str, answer: Answer) -> None:
    if "disabled as" in cell:
        check_disabled(cell, answer)
        return
    words = cell.split(", ")
    before = an_endpoint(failures=2, failing_since=NOW - 60, strain=2, first_failed="evt_1", failed_several=True)
    stands = after(before, a_delivery(), answer, NOW, CAP)
    assert stands.state is EndpointState.ACTIVE
    for check in itertools.chain(*(CHANGES[word] for word in words)):
        check(before, stands)
    if "left alone" not in words:
        assert stands.blocked_until is None
        assert stands.cap is None
    if not {"counts", "counts twice", "failures forgotten", "nothing remembered"} & set(words):
        assert stands.strain == before.strain


def check_disabled(cell: str, answer: Answer) -> None:
    times = int((re.findall(r"at the (\d+)", cell) or [1])[0])
    stands = an_endpoint()
    for turn in range(times):
        now = NOW + 30 * turn
        assert stands.state is EndpointState.ACTIVE
        assert stands.blocked_until == (now if turn else None)
        stands = after(stands, a_delivery(), answer, now, CAP)
    assert (stands.state, quoted(cell)) == (EndpointState.DISABLED, [stands.disabled_reason])
    assert cell.startswith("left alone") == (times > 1)


@pytest.mark.parametrize("place", range(len(ROWS)), ids=lambda place: f"row{place + 1}")
def test_each_row(place: int) -> None:
    _, delivery, endpoint = ROWS[place]
    answers = own_answers(place)
    assert answers, "the rows above leave this one nothing"
    for answer in answers:
        assert is_right_for_delivery(delivery, judge(a_delivery(), answer, WINDOW)), answer
        check_endpoint(endpoint, answer)


def test_every_answer_is_in_a_row() -> None:
    spoken_of = {answer for cell, *_ in ROWS for answer in answers_of(cell)}
    statuses = [answer.status for answer in spoken_of if answer.status and answer.control is None]
    assert sorted(statuses) == list(STATUSES)
    assert {answer.reason for answer in spoken_of if answer.status is None} == NO_ANSWER
    assert {answer.control for answer in spoken_of} == {None, *Control}
    disabled = {word for _, _, cell in ROWS if "disabled as" in cell for word in quoted(cell)}
    assert disabled | {DisabledReason.FAILING, DisabledReason.OPERATOR} == set(DisabledReason)


def test_the_schedule_of_the_page() -> None:
    rows = [(int(attempt), int(pause.removesuffix(" s")), since) for attempt, pause, since in table("Attempt")]
    assert [pause for _, pause, _ in rows] == [0, *rules.RETRY_SECONDS]
    assert [attempt for attempt, *_ in rows] == list(range(1, rules.ATTEMPTS_MAX + 1))
    sums = itertools.accumulate(pause for _, pause, _ in rows)
    assert [since for *_, since in rows] == [clock(seconds) for seconds in sums]
    total = sum(rules.RETRY_SECONDS)
    assert f"{clock(total)} to {clock(round(total * 1.25))}" in PAGE


def test_the_numbers_of_the_page() -> None:
    found = [int(value.removesuffix(" s")) for _, value in table("Rule")]
    assert found == [
        endpoint_rules.STRAIN_MAX // endpoint_rules.FAILURE_STRAIN,
        -(-endpoint_rules.STRAIN_MAX // endpoint_rules.TIMEOUT_STRAIN),
        endpoint_rules.BREAK_SECONDS,
        endpoint_rules.BREAK_SECONDS_MAX,
        endpoint_rules.COOL_SECONDS,
        endpoint_rules.COOL_SECONDS_MAX,
        endpoint_rules.RECOVERY_SUCCESSES,
        endpoint_rules.DENIALS_MAX,
        endpoint_rules.LONG_SECONDS,
        endpoint_rules.LONG_FAILURES,
    ]
    assert found == [5, 3, 30, 3600, 30, 24 * 3600, 20, 3, 120 * 3600, 20], "as the contract has it"
    for sentence in (
        "after 5 s, or a tenth of the delivery's age up to 300 s",
        "to 24 hours\n  at most",
        "never below 1",
    ):
        assert sentence in PAGE


def clock(seconds: int) -> str:
    return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"
