"""`todoke workers`: who is there, who is busy, and who went missing."""

from dataclasses import asdict

from todoke.operator.showing import say, show_json, show_table
from todoke.operator.store import opened
from todoke.runtime.settings import Settings
from todoke.store.overview import Overview, Seen

COLUMNS = ("worker", "host", "pid", "busy", "up", "seen", "standing", "job types")
HEARTBEATS_MISSED_MAX = 3


async def list_workers(settings: Settings, *, as_json: bool) -> None:
    """Show every worker that is on the roll; one that stopped in order is not."""
    patience = HEARTBEATS_MISSED_MAX * settings.heartbeat_seconds
    async with opened(settings) as database:
        found = await Overview(database).workers()
    if as_json:
        show_json([{**asdict(seen), "standing": _standing(seen, patience)} for seen in found])
        return
    rows = [
        [
            seen.id,
            seen.host,
            seen.pid,
            f"{seen.busy}/{seen.slots}",
            _ago(seen.up_seconds),
            f"{_ago(seen.seen_seconds)} ago",
            _standing(seen, patience),
            list(seen.types),
        ]
        for seen in found
    ]
    show_table("Workers", COLUMNS, rows)
    if not found:
        say("no worker runs on this database: start one with `todoke worker`, or everything with `todoke dev`")


def _standing(seen: Seen, patience: float) -> str:
    return "lost" if seen.seen_seconds > patience else "alive"


def _ago(seconds: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
