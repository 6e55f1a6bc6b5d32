"""What a NOTIFY carries: hints, spelled small enough for PostgreSQL, and the names of the channels."""

from collections.abc import Sequence
from uuid import UUID

from todoke.model.event import Hint

PAYLOAD_BYTES_MAX = 7_900  # PostgreSQL refuses 8,000 and more
PAYLOADS_MAX = 10
EVERYTHING = "1|*"


def payloads(hints: Sequence[Hint]) -> list[str]:
    """Spell hints as few NOTIFY payloads as fit; so many that ten would not do become "look at everything"."""
    texts: list[str] = []
    line = "1|"
    for hint in hints:
        entry = f"{hint.job_id}:{hint.sequence}.{hint.progress_version}"
        if len(line) + len(entry) + 1 > PAYLOAD_BYTES_MAX:
            texts.append(line)
            line = "1|"
        line += entry if line == "1|" else "," + entry
    texts.append(line)
    return texts if len(texts) <= PAYLOADS_MAX else [EVERYTHING]


def parse_payload(payload: str) -> list[Hint] | None:
    """The hints in a payload; None means "look at everything", which is also what a foreign payload means."""
    try:
        version, _, entries = payload.partition("|")
        if version != "1":
            return None
        return [_parse_entry(entry) for entry in entries.split(",")]
    except ValueError:
        return None


def cancel_channel(channel: str) -> str:
    """Where workers hear which running jobs are to be canceled."""
    return f"{channel}_cancel"


def _parse_entry(entry: str) -> Hint:
    job_id, _, numbers = entry.partition(":")
    sequence, _, progress_version = numbers.partition(".")
    return Hint(UUID(job_id), int(sequence), int(progress_version))
