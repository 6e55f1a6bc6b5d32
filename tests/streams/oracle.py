"""What a stream may have shown, given what the log holds."""

from collections.abc import Sequence

from todoke.model.event import PROGRESS, TERMINAL
from todoke.wire.sse import Frame

PICTURES = ("snapshot", "reset")


def check(frames: Sequence[Frame], log: Sequence[int], what: object = "") -> None:
    """1..final, in order, once; or an explicit picture of the job over whatever is missing."""
    position, told = 0, [(frame.event, frame.last_event_id) for frame in frames]
    for frame in frames:
        if frame.event in (PROGRESS, "reconnect"):
            continue
        sequence = int(frame.last_event_id.rpartition(".")[2])
        if frame.event in PICTURES:
            # Of a finished job, its terminal event follows under the same number.
            position = sequence - ('"status":"running"' not in frame.data.replace(" ", ""))
        else:
            assert sequence == position + 1, f"{what}: {sequence} after {position} in {told}"
            position = sequence
    assert position == len(log), f"{what}: ended at {position} of {len(log)}: {told}"
    assert [event in TERMINAL for event, _ in told].count(True) == 1, f"{what}: {told}"
