"""JobContext as the child gives it to job code."""

import math
import os
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from todoke.jobs.context import Json
from worker.artifact import ARTIFACTS_MAX, RESULT_NAME, check_artifact
from worker.ending import MESSAGE_CHARACTERS_MAX, clean
from worker.stopping import Stop

PAUSE_SECONDS = 0.1

Send = Callable[[dict[str, Any]], None]
Ask = Callable[[str, str], Sequence[Mapping[str, Json]]]


class Ticker:
    """Sends the latest progress of every attempt of this child at most ten times a second, from its own thread."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._latest: dict[str, tuple[float, str]] = {}
        self._changed = threading.Condition()
        # Held while taking and sending, so that nothing taken earlier is sent after a flush.
        self._sending = threading.Lock()
        self._is_started = False

    def tell(self, key: str, percent: float, message: str) -> None:
        """Remember the latest; never waits for the supervisor."""
        with self._changed:
            self._latest[key] = (percent, message)
            if not self._is_started:
                self._is_started = True
                threading.Thread(target=self._run, name="progress", daemon=True).start()
            self._changed.notify()

    def flush(self, key: str) -> None:
        """Send what one attempt said last, now."""
        with self._sending:
            with self._changed:
                latest = self._latest.pop(key, None)
            if latest is not None:
                self._send_one(key, latest)

    def _run(self) -> None:
        pause = threading.Event()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._latest)
            with self._sending:
                with self._changed:
                    latest, self._latest = self._latest, {}
                for key, said in latest.items():
                    self._send_one(key, said)
            pause.wait(PAUSE_SECONDS)

    def _send_one(self, key: str, said: tuple[float, str]) -> None:
        self._send({"kind": "progress", "attempt": key, "percent": said[0], "message": said[1]})


class Context:
    """One attempt's JobContext. `ask` puts a question to the supervisor and waits for its answer."""

    def __init__(self, frame: Mapping[str, Any], ticker: Ticker, ask: Ask, stop: Stop) -> None:
        self._key: str = frame["attempt"]
        self._job_id: str = frame["jobId"]
        self._number: int = frame["number"]
        self._trace: str | None = frame.get("trace")
        self._root = Path(frame["folder"])
        self._ticker = ticker
        self._ask = ask
        self._stop = stop
        self._lock = threading.Lock()
        self._asking = threading.Lock()
        self._attached: dict[str, tuple[str, Path]] = {}

    @property
    def job_id(self) -> str:
        """UUID of the job, 36 characters."""
        return self._job_id

    @property
    def attempt(self) -> int:
        """1 for the first attempt; grows with each one started."""
        return self._number

    @property
    def trace(self) -> str | None:
        """The `traceparent` for calls that job code makes."""
        return self._trace

    @property
    def folder(self) -> Path:
        """An empty directory of this attempt's own, removed when the attempt ends."""
        return self._made("work")

    @property
    def canceled(self) -> bool:
        """Whether the attempt is to stop."""
        return self._stop.is_asked

    def progress(self, percent: float, message: str = "") -> None:
        """Never waits. Raises ValueError when `percent` is no number, Canceled once the attempt is to stop."""
        self._stop.check()
        value = float(percent)
        if math.isnan(value):
            raise ValueError("progress: percent is not a number")
        said = clean(str(message), MESSAGE_CHARACTERS_MAX)
        with self._stop.hold:
            self._ticker.tell(self._key, min(max(value, 0.0), 100.0), said)
        self._stop.check()

    def attach(self, name: str, content: bytes | Path, media_type: str) -> None:
        """Raises ValueError for a name or media type that cannot be kept, TypeError for other content."""
        check_artifact(name, media_type)
        if name == RESULT_NAME:
            raise ValueError(f"artifact name {name!r} is kept for what the job function returns")
        with self._lock:
            if name in self._attached:
                raise ValueError(f"artifact {name!r} is attached already")
            if len(self._attached) >= ARTIFACTS_MAX:
                raise ValueError(f"a job keeps at most {ARTIFACTS_MAX} artifacts")
            self._attached[name] = (media_type, self._content(content, len(self._attached)))

    def activity(self) -> Sequence[Mapping[str, Json]]:
        """The newest jobs of this job's own tenant; see JobContext. Raises Canceled like `progress`."""
        self._stop.check()
        # The supervisor takes one question of an attempt at a time.
        with self._asking:
            return self._ask(self._key, "activity")

    def hand_over(self, result: bytes, inline_bytes_max: int) -> list[dict[str, Any]]:
        """Put everything made where the supervisor reads it; the descriptions are in order. Raises OSError."""
        made: list[dict[str, Any]] = []
        for position, (name, (media_type, source)) in enumerate(self._attached.items()):
            _settle(source, self._place(position))
            made.append({"name": name, "mediaType": media_type})
        last: dict[str, Any] = {"name": RESULT_NAME, "mediaType": "application/json"}
        if len(result) <= inline_bytes_max:
            last["text"] = result.decode()
        else:
            self._place(len(made)).write_bytes(result)
        return [*made, last]

    def _content(self, content: bytes | Path, position: int) -> Path:
        if isinstance(content, Path):
            return content.absolute()
        if not isinstance(content, bytes | bytearray | memoryview):
            raise TypeError(f"attach takes bytes or a Path, not {type(content).__name__}")
        place = self._place(position)
        place.write_bytes(content)
        return place

    def _place(self, position: int) -> Path:
        return self._made("out") / str(position)

    def _made(self, name: str) -> Path:
        folder = self._root / name
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return folder


def _settle(source: Path, place: Path) -> None:
    """Move a file of the job's to where the supervisor reads it, by link where the disk allows."""
    if source == place:
        return
    source = source.resolve(strict=True)
    if not source.is_file():
        raise OSError(f"{source.name} is not a file")
    try:
        os.link(source, place)
    except OSError:
        shutil.copyfile(source, place)
