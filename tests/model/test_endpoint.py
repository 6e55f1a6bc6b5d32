"""How an endpoint stands after what happened to it: breaker, cool-down, cap, refused addresses, disabling."""

import uuid
from dataclasses import replace

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.model.pages import a_delivery, an_endpoint
from todoke.model.delivery import Answer, Control, Reason
from todoke.model.endpoint import DisabledReason, Endpoint, EndpointState, after, disabled, enabled, warning

CAP, NOW, HOUR = 4, 1_000_000.0, 3600.0
OK = Answer(Reason.DELIVERED, 200)
FAILED = Answer(Reason.HTTP_STATUS, 500)
TIMEOUT = Answer(Reason.TIMEOUT)
DENIED = Answer(Reason.BLOCKED)
BUSY = Answer(Reason.HTTP_STATUS, 429)
AWAY = Answer(Reason.HTTP_STATUS, 503)
OURS = Answer(Reason.SENDER)


def told(*answers: Answer, endpoint: Endpoint | None = None, now: float = NOW, sequence: int = 3) -> Endpoint:
    """After these answers at one moment."""
    stands = endpoint or an_endpoint()
    for answer in answers:
        stands = after(stands, a_delivery(sequence=sequence), answer, now, CAP)
    return stands


def asking(seconds: float, status: int = 429) -> Answer:
    return Answer(Reason.HTTP_STATUS, status, retry_after=seconds)


@pytest.mark.parametrize(
    ("answers", "opens"),
    [
        ([FAILED] * 4, False),
        ([FAILED] * 5, True),
        ([TIMEOUT] * 2, False),
        ([TIMEOUT] * 3, True),
        ([TIMEOUT] * 2 + [FAILED], True),
        ([TIMEOUT, FAILED, FAILED], False),
        ([TIMEOUT, FAILED, FAILED, FAILED], True),
        ([FAILED] * 4 + [OK] + [FAILED] * 4, False),
        ([BUSY] * 50, False),
        ([Answer(Reason.REDIRECT, 301)] * 50, False),
        ([AWAY] * 5, True),
        ([OURS, Answer(Reason.LOST_LEASE)] * 50, False),
    ],
)
def test_when_the_breaker_opens(answers: list[Answer], opens: bool) -> None:
    stands = told(*answers)
    assert stands.is_open is opens
    if opens:
        assert stands.blocked_until == NOW + 30


def test_each_failed_probe_doubles_the_pause_up_to_an_hour() -> None:
    stands, now, pauses = told(*[FAILED] * 5), NOW, []
    for _ in range(40):
        assert stands.blocked_until is not None
        pauses.append(stands.blocked_until - now)
        now = stands.blocked_until
        stands = told(FAILED, endpoint=stands, now=now)
    assert pauses == [min(30 * 2**k, 3600) for k in range(40)]


def test_any_answer_but_a_success_fails_the_probe() -> None:
    for answer in (Answer(Reason.REDIRECT, 301), Answer(Reason.HTTP_STATUS, 408), BUSY, TIMEOUT):
        assert told(answer, endpoint=told(*[FAILED] * 5), now=NOW + 30).blocked_until == NOW + 90


def test_what_was_in_flight_when_it_opened_does_not_open_it_twice() -> None:
    opened = told(*[FAILED] * 5)
    later = told(*[TIMEOUT] * 32, endpoint=opened, now=NOW + 29)
    assert (later.trips, later.blocked_until) == (1, NOW + 30)


def test_a_success_closes_it_and_forgets() -> None:
    closed = told(OK, endpoint=told(*[FAILED] * 5), now=NOW + 31)
    assert closed == an_endpoint(blocked_until=NOW + 31)
    assert told(*[FAILED] * 5, endpoint=closed, now=NOW + 40).blocked_until == NOW + 70, "from the beginning again"


@pytest.mark.parametrize("status", [429, 502, 503, 504])
@pytest.mark.parametrize(("asked", "seconds"), [(None, 30), (1, 1), (7200, 7200), (1e9, 24 * HOUR)])
def test_a_cool_down(status: int, asked: float | None, seconds: float) -> None:
    assert told(Answer(Reason.HTTP_STATUS, status, retry_after=asked)).blocked_until == NOW + seconds


def test_a_shorter_cool_down_does_not_end_a_longer_block() -> None:
    long = told(asking(7200))
    assert told(asking(1), asking(60, 503), *[FAILED] * 5, endpoint=long).blocked_until == NOW + 7200
    assert told(OK, endpoint=long).blocked_until == NOW + 7200, "nor does a success that was in flight"
    broken = told(*[FAILED] * 5, asking(7200))
    assert broken.is_open
    assert told(OK, endpoint=broken).blocked_until == NOW + 7200


def test_only_refusals_for_load_cool_down() -> None:
    for status in (400, 408, 425, 500, 501, 505):
        stands = told(Answer(Reason.HTTP_STATUS, status, retry_after=60))
        assert (stands.blocked_until, stands.cap) == (None, None)


def test_the_cap_is_halved_once_a_burst_and_never_below_1() -> None:
    stands, caps = an_endpoint(), []
    for turn in range(4):
        stands = told(BUSY, BUSY, BUSY, endpoint=stands, now=NOW + 31 * turn)
        caps.append(stands.cap)
    assert caps == [2, 1, 1, 1]
    assert after(an_endpoint(), a_delivery(), AWAY, NOW, 1).cap == 1


def test_twenty_successes_give_the_cap_one_more() -> None:
    stands, caps = told(BUSY, BUSY, endpoint=told(BUSY), now=NOW + 31), []
    for _ in range(3):
        stands = told(*[OK] * 19, endpoint=stands)
        caps.append(stands.cap)
        stands = told(OK, endpoint=stands)
        caps.append(stands.cap)
    assert caps == [1, 2, 2, 3, 3, None]


def test_a_failure_begins_the_twenty_anew() -> None:
    stands = told(*[OK] * 19, FAILED, *[OK] * 19, endpoint=told(BUSY))
    assert (stands.cap, told(OK, endpoint=stands).cap) == (2, 3)


def test_a_cap_above_the_usual_one_is_halved_from_the_usual() -> None:
    """The operator has lowered it meanwhile."""
    assert told(BUSY, endpoint=an_endpoint(cap=30)).cap == 2


def one_by_one(*answers: Answer) -> Endpoint:
    """After these answers, each as soon as nothing blocks the endpoint any more."""
    stands, now = an_endpoint(), NOW
    for answer in answers:
        now = max(now, stands.blocked_until or 0)
        stands = told(answer, endpoint=stands, now=now)
    return stands


def test_three_refused_addresses_in_a_row_disable() -> None:
    assert one_by_one(DENIED, DENIED, FAILED, DENIED, DENIED).state is EndpointState.ACTIVE
    assert one_by_one(DENIED, OK, DENIED, DENIED).state is EndpointState.ACTIVE
    stands = one_by_one(DENIED, OURS, DENIED, DENIED)
    assert (stands.state, stands.disabled_reason) == (EndpointState.DISABLED, DisabledReason.ADDRESS)


def test_refusals_of_one_moment_are_one() -> None:
    """Attempts at one host share its look-up: one bad answer must not end it."""
    stands = told(*[DENIED] * 32)
    assert (stands.state, stands.denials, stands.blocked_until, stands.cap) == (EndpointState.ACTIVE, 1, NOW + 30, None)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (Answer(Reason.HTTP_STATUS, 410), DisabledReason.GONE),
        (Answer(Reason.HTTP_STATUS, 500, control=Control.DISABLE), DisabledReason.RECEIVER),
        (Answer(Reason.DELIVERED, 200, control=Control.DISABLE), DisabledReason.RECEIVER),
        (Answer(Reason.HTTP_STATUS, 429, control=Control.DISABLE, retry_after=3600), DisabledReason.RECEIVER),
        (Answer(Reason.DELIVERED, 200, control=Control.ABORT), None),
        (Answer(Reason.HTTP_STATUS, 500, control=Control.ABORT), None),
    ],
)
def test_what_disables_at_once(answer: Answer, reason: DisabledReason | None) -> None:
    stands = told(answer)
    assert stands.disabled_reason is reason
    if reason:
        assert stands.blocked_until == NOW, "what it holds is parked at once, whatever it asked for"


def long_failing(hours: float, failures: int, *, several: bool = True) -> Endpoint:
    """Failures from one moment on, the last of them `hours` later."""
    stands = told(*[FAILED] * (failures - 1), sequence=3)
    stands = replace(stands, failed_several=several)
    return told(FAILED, endpoint=stands, now=NOW + hours * HOUR)


@pytest.mark.parametrize(
    ("hours", "failures", "several", "ends"),
    [(120, 20, True, True), (119.99, 20, True, False), (120, 19, True, False), (1000, 500, False, False)],
)
def test_failing_too_long_needs_the_time_and_the_failures_and_several_events(
    hours: float, failures: int, several: bool, ends: bool
) -> None:
    assert (long_failing(hours, failures, several=several).disabled_reason is DisabledReason.FAILING) is ends


def test_a_second_event_makes_several() -> None:
    first = told(FAILED, FAILED, sequence=3)
    assert not first.failed_several
    assert told(FAILED, endpoint=first, sequence=4).failed_several
    other = after(first, a_delivery(job_id=uuid.UUID(int=99)), FAILED, NOW, CAP)
    assert other.failed_several


def test_one_success_in_five_days_is_enough() -> None:
    almost = long_failing(119, 500)
    mended = told(OK, endpoint=almost, now=NOW + 119 * HOUR)
    assert told(*[FAILED] * 30, endpoint=mended, now=NOW + 200 * HOUR).state is EndpointState.ACTIVE


def test_the_first_reason_stays_and_nothing_changes_what_is_disabled() -> None:
    stands = disabled(told(*[FAILED] * 7), DisabledReason.OPERATOR, NOW)
    assert disabled(stands, DisabledReason.GONE, NOW + 1).disabled_reason is DisabledReason.OPERATOR
    for answer in (OK, FAILED, BUSY, asking(7200), Answer(Reason.HTTP_STATUS, 410), DENIED):
        assert told(*[answer] * 6, endpoint=stands, now=NOW + 5) == stands


def test_enabling_forgets_everything() -> None:
    stands = enabled(told(*[TIMEOUT] * 9, BUSY, Answer(Reason.HTTP_STATUS, 410)), NOW + 9)
    assert stands == an_endpoint(blocked_until=NOW + 9)


def test_warnings() -> None:
    day = 24 * HOUR
    assert [warning(seconds) for seconds in (0, day - 1, day, 3 * day - 1, 3 * day, 1e9)] == [
        None,
        None,
        "failing_for_24_hours",
        "failing_for_24_hours",
        "failing_for_72_hours",
        "failing_for_72_hours",
    ]


ANSWERS = st.builds(
    Answer,
    st.sampled_from([Reason.HTTP_STATUS, Reason.TIMEOUT, Reason.DNS, Reason.BLOCKED, Reason.SENDER, Reason.LOST_LEASE]),
    st.sampled_from([400, 404, 408, 410, 425, 429, 500, 502, 503, 504]),
    st.none() | st.floats(0.1, 1e6),
    st.sampled_from([None, None, None, *Control]),
).map(lambda answer: answer if answer.reason is Reason.HTTP_STATUS else Answer(answer.reason))


class Endpoints(RuleBasedStateMachine):
    """Two tenants' endpoints of one URL, whatever happens to them in whatever order."""

    @initialize(usual_cap=st.integers(1, 32))
    def begin(self, usual_cap: int) -> None:
        self.usual_cap, self.now = usual_cap, NOW
        self.events: set[int] = set()
        self.failed_at: float | None = None
        self.failures = 0
        self.ours = an_endpoint()
        self.theirs = Endpoint(uuid.UUID(int=9), "other", self.ours.url)

    @rule(seconds=st.floats(0, 1e5))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(answer=ANSWERS, sequence=st.integers(1, 3))
    def fails(self, answer: Answer, sequence: int) -> None:
        before = self.ours
        self.ours = after(before, a_delivery(sequence=sequence), answer, self.now, self.usual_cap)
        if self.ours == before:
            return
        self.events.add(sequence)
        self.failures += 1
        self.failed_at = self.now if self.failed_at is None else self.failed_at
        if self.ours.state is EndpointState.ACTIVE:
            assert (self.ours.blocked_until or 0) >= (before.blocked_until or 0)
        was_blocked = (before.blocked_until or 0) > self.now
        assert self.ours.trips == before.trips or not (before.is_open and was_blocked), "tripped twice"
        if self.ours.disabled_reason is DisabledReason.FAILING:
            assert len(self.events) > 1
            assert self.failures >= 20
            assert self.now - self.failed_at >= 120 * HOUR

    @rule(answer=st.sampled_from([FAILED, TIMEOUT, BUSY, AWAY]), times=st.integers(5, 25))
    def fails_often(self, answer: Answer, times: int) -> None:
        for turn in range(times):
            self.fails(answer, turn % 2 + 1)

    @rule(times=st.integers(1, 21))
    def succeeds(self, times: int) -> None:
        before = self.ours
        for _ in range(times):
            self.ours = after(self.ours, a_delivery(), OK, self.now, self.usual_cap)
        if before.state is EndpointState.ACTIVE:
            assert (self.ours.is_open, self.ours.strain, self.ours.failures, self.ours.trips) == (False, 0, 0, 0)
            assert self.ours.failing_since is None
            assert (self.ours.cap or self.usual_cap) >= (before.cap or self.usual_cap)
        self._forget()

    @precondition(lambda self: self.ours.state is EndpointState.DISABLED)
    @rule()
    def is_enabled(self) -> None:
        self.ours = enabled(self.ours, self.now)
        self._forget()

    def _forget(self) -> None:
        if self.ours.state is EndpointState.ACTIVE:
            self.events, self.failures, self.failed_at = set(), 0, None

    @invariant()
    def the_other_tenant_is_untouched(self) -> None:
        assert self.theirs == Endpoint(uuid.UUID(int=9), "other", self.ours.url)

    @invariant()
    def a_disabled_endpoint_stays_so(self) -> None:
        if self.ours.state is EndpointState.DISABLED:
            assert self.ours.disabled_reason is not None
            for answer in (OK, FAILED, BUSY):
                assert after(self.ours, a_delivery(), answer, self.now, self.usual_cap) == self.ours

    @invariant()
    def bounds_hold(self) -> None:
        assert self.ours.cap is None or 1 <= self.ours.cap <= self.usual_cap
        assert 0 <= self.ours.denials <= 3
        assert self.ours.is_open or self.ours.strain < 5 or self.ours.state is EndpointState.DISABLED
        assert (self.ours.failures > 0) == (self.ours.failing_since is not None)
        assert (self.ours.blocked_until or 0) <= self.now + 24 * HOUR


TestEndpoints = Endpoints.TestCase
