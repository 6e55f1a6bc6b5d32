"""Something that changes, and those who are to be called then."""

from collections.abc import Callable


class Watched:
    """Calls, does not queue: who is called looks for itself."""

    __slots__ = ("_wakes",)

    def __init__(self) -> None:
        self._wakes: set[Callable[[], None]] = set()

    @property
    def is_watched(self) -> bool:
        """Whether anybody is here."""
        return bool(self._wakes)

    def join(self, wake: Callable[[], None]) -> None:
        """Have `wake` called at every change. It must not wait."""
        self._wakes.add(wake)

    def leave(self, wake: Callable[[], None]) -> None:
        """Undo `join`."""
        self._wakes.discard(wake)

    def wake(self) -> None:
        """Call everybody who waits."""
        for wake in tuple(self._wakes):
            wake()
