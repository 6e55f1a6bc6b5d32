"""The bucket: over any time, never more than a minute's worth and what flowed in; and it tells the truth of itself."""

import math

from hypothesis import given
from hypothesis import strategies as st

from todoke.model.limits import Bucket, in_force

COSTS = st.lists(st.tuples(st.floats(0, 30), st.integers(1, 40)), max_size=60)


@given(st.integers(1, 100), COSTS)
def test_never_more_than_a_minutes_worth_and_what_flowed_in(per_minute: int, asked: list[tuple[float, int]]) -> None:
    bucket, now = Bucket(per_minute, 0.0), 0.0
    spent: list[tuple[float, int]] = []
    for pause, cost in asked:
        now += pause
        if not bucket.wait(cost, now):
            bucket.spend(cost, now)
            spent.append((now, cost))
    for index, (begin, _) in enumerate(spent):
        for end_index in range(index, len(spent)):
            span = spent[end_index][0] - begin
            total = sum(cost for _, cost in spent[index : end_index + 1])
            assert total <= per_minute + span * per_minute / 60 + 1e-6


@given(st.integers(1, 100), COSTS)
def test_after_waiting_as_long_as_told_it_can_be_spent(per_minute: int, asked: list[tuple[float, int]]) -> None:
    bucket, now = Bucket(per_minute, 0.0), 0.0
    for pause, cost in asked:
        now += pause
        wait = bucket.wait(cost, now)
        if math.isinf(wait):
            assert cost > per_minute
            continue
        # Whole seconds are told, so there is room for rounding; a little before there is none.
        assert not wait or bucket.wait(cost, now) > 0
        now += math.ceil(wait)
        assert not bucket.wait(cost, now)
        bucket.spend(cost, now)


def test_what_is_left_and_when_all_is() -> None:
    bucket = Bucket(60, 100.0)
    bucket.spend(45, 100.0)
    assert (bucket.remaining(100.0), bucket.full_in(100.0)) == (15, 45.0)
    assert (bucket.remaining(110.5), bucket.wait(30, 110.5)) == (25, 4.5)
    assert (bucket.remaining(1_000.0), bucket.full_in(1_000.0)) == (60, 0.0)


def test_a_clock_that_goes_back_gives_nothing_twice() -> None:
    bucket = Bucket(60, 100.0)
    bucket.spend(60, 100.0)
    assert bucket.remaining(50.0) == 0
    assert bucket.remaining(101.0) == 1


def test_another_limit_forgets_nothing_that_was_spent() -> None:
    bucket = Bucket(60, 0.0)
    bucket.spend(50, 0.0)
    bucket.adjust(100)
    assert bucket.remaining(0.0) == 50
    bucket.adjust(20)
    assert bucket.wait(1, 0.0) > 0


def test_what_is_in_force() -> None:
    assert [in_force(own, 7) for own in (None, 0, 3)] == [7, 0, 3]
