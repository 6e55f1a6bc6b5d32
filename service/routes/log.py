"""The log of a job as a JSON list: all of it, or what is behind a place the caller names."""

from collections.abc import Mapping

from fastapi.responses import Response

from service.stream import unusable
from todoke.model.errors import CursorLost, InvalidInput
from todoke.model.event import Cursor
from todoke.store.reading import Reader, Status

EVENTS_MAX = 1_000
SEQUENCE_DIGITS_MAX = 9

SENTENCES = {
    "epoch": "after: the numbering this cursor belongs to has ended; read the log from its beginning",
    "job": "after: this cursor belongs to another job",
    "ahead": "after: the log does not reach that far; read it from its beginning",
}


async def listed(reader: Reader, status: Status, after: str | None, limit: int, extra: Mapping[str, str]) -> Response:
    """At most `limit` events behind `after`: a cursor, or a bare sequence number; None: from the first one.

    extra: more headers.

    Raises InvalidInput for what is neither, CursorLost for a place that is not in this log.
    """
    events = await reader.page(status.job_id, status.tenant_id, _place(after, status), limit)
    headers = {"Cache-Control": "private, no-cache", "Vary": "Accept", **extra}
    text = "[" + ",".join(item.body for item in events) + "]"
    return Response(text, media_type="application/json", headers=headers)


def _place(after: str | None, status: Status) -> int:
    if after is None:
        return 0
    if after.isascii() and after.isdigit() and len(after) <= SEQUENCE_DIGITS_MAX:
        cursor: Cursor | None = Cursor(status.epoch, int(after))
    else:
        cursor = Cursor.parse(after)
    if cursor is None:
        raise InvalidInput("after: give a cursor (epoch.sequence) or a sequence number")
    if reason := unusable(cursor, status):
        raise CursorLost(SENTENCES[reason], {"reason": reason, "sequence": status.sequence})
    return cursor.sequence
