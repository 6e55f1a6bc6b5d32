"""What a child says, taken with distrust: its words may be those of job code. Nonsense raises BrokenFrame."""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worker.artifact import ARTIFACTS_MAX, RESULT_NAME, check_artifact
from worker.ending import JOB_ERROR, MESSAGE_CHARACTERS_MAX, Ending, Errored, Failed, Made, Returned, clean, seconds
from worker.frames import BrokenFrame, Frame

# A child sends progress ten times a second for each attempt and little else but the ends of its attempts.
FRAMES_AT_ONCE = 2000.0
FRAMES_PER_SECOND = 200.0


@dataclass(frozen=True)
class Kind:
    """A job type as the supervisor knows it."""

    isolation: str
    memory_mb: int | None


class Patience:
    """How many frames that end nothing may still come; grows with time and with the attempts in work."""

    def __init__(self) -> None:
        self._left = FRAMES_AT_ONCE
        self._seen_at = time.monotonic()

    def spend(self, attempts: int) -> None:
        """One more frame. Raises BrokenFrame when it is one of far too many."""
        now = time.monotonic()
        gained = (now - self._seen_at) * FRAMES_PER_SECOND * max(1, attempts)
        self._left = min(FRAMES_AT_ONCE, self._left + gained) - 1
        self._seen_at = now
        if self._left < 0:
            raise BrokenFrame("a flood of frames")


def job_types(frame: Frame) -> dict[str, Kind]:
    """The types a child has loaded, by name."""
    return {str(name): Kind(str(kind["isolation"]), kind["memoryMb"]) for name, kind in frame["types"].items()}


def progress(frame: Frame) -> tuple[float, str]:
    """Percent 0 to 100 and a short message."""
    percent = float(frame["percent"])
    if math.isnan(percent):
        raise BrokenFrame("progress that is no number")
    return min(max(percent, 0.0), 100.0), clean(str(frame["message"]), MESSAGE_CHARACTERS_MAX)


def ending(folder: Path, frame: Frame) -> Ending:
    """How an attempt with this folder ended: Returned, Failed or Errored."""
    match frame["how"]:
        case "returned":
            return Returned(_all_made(folder, frame["made"]))
        case "failed":
            return Failed(str(frame["code"]), str(frame["message"]))
    after = frame["after"]
    return Errored(JOB_ERROR, str(frame["message"]), None if after is None else seconds(after))


def _all_made(folder: Path, items: list[Mapping[str, Any]]) -> tuple[Made, ...]:
    made = tuple(_made(folder, place, item) for place, item in enumerate(items))
    names = [item.name for item in made]
    if len(made) > ARTIFACTS_MAX + 1 or len(set(names)) < len(names) or names[-1] != RESULT_NAME:
        raise BrokenFrame("a result that job code cannot have made in the ordinary way")
    return made


def _made(folder: Path, position: int, item: Mapping[str, Any]) -> Made:
    name, media_type, text = str(item["name"]), str(item["mediaType"]), item.get("text")
    check_artifact(name, media_type)
    content = folder / "out" / str(position) if text is None else str(text).encode()
    return Made(name, media_type, content)
