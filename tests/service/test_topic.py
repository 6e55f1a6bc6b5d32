"""The ring of a watched job: contiguous, bounded, and honest about what it no longer holds."""

import asyncio
from uuid import UUID

from service.topic import RING_BYTES_MAX, RING_FRAMES_MAX, RingBudget, Topic
from todoke.model.event import Event, Head
from todoke.runtime import metrics

JOB = UUID(int=1)
EPOCH = "0123abcd"


def event(sequence: int, body: str = "{}") -> Event:
    return Event(JOB, sequence, "job.started", body)


def head(sequence: int, progress_version: int = 0, *, is_terminal: bool = False) -> Head:
    return Head(JOB, sequence, progress_version, is_terminal, '{"p":1}')


def taught(count: int, body: str = "{}") -> Topic:
    topic = Topic(JOB, "default")
    for sequence in range(1, count + 1):
        topic.learn(EPOCH, [event(sequence, body)], head(sequence))
    return topic


def test_frames_come_in_order_from_any_place_the_ring_holds() -> None:
    topic = taught(3)
    chunk, reached = topic.frames_after(1) or (b"", 0)
    assert reached == 3
    assert chunk.index(b".2\n") < chunk.index(b".3\n")
    assert topic.frames_after(3) == (b"", 3)


def test_the_ring_is_bounded_in_frames_and_bytes() -> None:
    topic = taught(RING_FRAMES_MAX + 5)
    assert topic.frames_after(4) is None
    assert topic.frames_after(5) is not None
    large = taught(10, "x" * (RING_BYTES_MAX // 4))
    assert large.ring_bytes <= RING_BYTES_MAX
    assert large.frames_after(5) is None
    huge = taught(2, "x" * 2 * RING_BYTES_MAX)
    assert huge.frames_after(1) is not None, "the newest frame is always there, however large"


def test_a_chunk_is_bounded_and_makes_progress() -> None:
    topic = taught(4, "x" * 20_000)
    sequence, chunks = 1, 0
    while sequence < 4:
        chunk, sequence = topic.frames_after(sequence) or (b"", 0)
        chunks += 1
        assert chunk.count(b"event: ") == 1
    assert chunks == 3


def test_a_jump_over_what_a_read_leaves_out_is_no_gap() -> None:
    topic, before = taught(1), metrics.STREAM_GAPS._value.get()
    far = 1 + RING_FRAMES_MAX * 3
    news = [event(sequence) for sequence in range(far - RING_FRAMES_MAX + 1, far + 1)]
    topic.learn(EPOCH, news, head(far))
    assert topic.last == far
    assert topic.frames_after(1) is None
    assert topic.frames_after(far - RING_FRAMES_MAX) is not None
    assert metrics.STREAM_GAPS._value.get() == before


def test_a_hole_in_the_log_raises_the_alarm() -> None:
    topic, before = taught(1), metrics.STREAM_GAPS._value.get()
    topic.learn(EPOCH, [event(3)], head(3))
    assert metrics.STREAM_GAPS._value.get() == before + 1
    assert topic.frames_after(1) is None, "nobody is carried over the hole"


def test_progress_is_latest_and_never_behind_an_event() -> None:
    topic = taught(1)
    topic.learn(EPOCH, [], head(1, 2))
    assert topic.progress_after(1) is not None
    assert topic.progress_after(2) is None
    topic.learn(EPOCH, [event(2)], head(2, 2))
    assert topic.progress_after(0) is None, "progress of an attempt that has ended is no news"


async def test_waiting_ends_at_a_change_or_in_time() -> None:
    topic = taught(1)
    assert not await topic.changed(0.01)
    waiting = asyncio.create_task(topic.changed(10))
    await asyncio.sleep(0)
    topic.learn(EPOCH, [event(2)], head(2))
    assert await waiting
    assert not topic.is_watched, "who waited has left"


def test_the_rings_of_a_process_stay_within_their_budget() -> None:
    topics = [taught(4, "x" * 250) for _ in range(10)]
    size = topics[0].ring_bytes
    budget = RingBudget(size * 4)
    for topic in topics:
        budget.settle(topic)
    assert budget.used == sum(topic.ring_bytes for topic in topics) == size * 4
    assert topics[0].frames_after(3) is None, "the ring that changed longest ago gave way"
    assert topics[-1].frames_after(0) is not None
    budget.settle(topics[6])
    budget.settle(topics[0])
    for topic in topics:
        budget.release(topic)
    assert budget.used == 0
