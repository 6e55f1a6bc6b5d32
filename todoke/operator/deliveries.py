"""What `todoke webhooks` does with deliveries of any tenant."""

from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import UUID

from todoke.model.delivery import DeliveryState, Reason
from todoke.model.errors import InvalidInput, NotFound, Refused
from todoke.model.ids import parse_id
from todoke.operator.showing import say, show_json, show_table
from todoke.operator.store import opened
from todoke.runtime.settings import Settings
from todoke.store.announcing import announcer_of
from todoke.store.delivery_log import REPLAY_MAX, DeliveryLog, Wanted
from todoke.store.delivery_rows import Kept
from todoke.store.overview import Overview

COLUMNS = ("job", "event", "tenant", "callback", "reason", "status", "attempts", "parked")
ATTEMPT_COLUMNS = ("event", "attempt", "at", "seconds", "status", "reason", "peer", "excerpt")
SEQUENCE_MAX = 2**31 - 1


def wanted_of(since: str | None, until: str | None, reason: Reason | None, url: str | None) -> Wanted:
    """The filter an operator spelled. Raises InvalidInput."""
    return Wanted(_moment("--since", since), _moment("--until", until), reason, url)


async def list_parked(
    settings: Settings, tenant_id: str | None, wanted: Wanted, rows_max: int, *, as_json: bool
) -> None:
    """Show parked deliveries, the latest first."""
    async with opened(settings) as database:
        part = await DeliveryLog(database, settings.notify_channel).parked(tenant_id, wanted, None, rows_max)
    if as_json:
        show_json([each.public(is_for_operators=True) for each in part.deliveries])
        return
    rows = [
        [each.job_id, each.sequence, each.tenant_id, each.url, each.reason, each.status, each.attempt, each.finished_at]
        for each in part.deliveries
    ]
    show_table("Parked deliveries, the latest first", COLUMNS, rows)
    if part.end is not None:
        say(f"there are more than {rows_max}: narrow the list, or raise --limit")


async def show_deliveries(settings: Settings, job: str, *, as_json: bool) -> None:
    """Show a job's deliveries with every attempt. Raises NotFound."""
    async with opened(settings) as database:
        job_id, tenant_id = await _found(Overview(database), job)
        found = await DeliveryLog(database, settings.notify_channel).of_job(job_id, tenant_id)
    if as_json:
        show_json([each.public(is_for_operators=True) for each in found])
        return
    rows = [[each.sequence, each.event_type, each.url, _standing(each), each.next_attempt_at] for each in found]
    show_table("Deliveries", ("event", "type", "callback", "standing", "next attempt"), rows)
    names = ("attempt", "startedAt", "seconds", "status", "reason", "peer", "excerpt")
    made = [[each.sequence, *map(attempt.get, names)] for each in found for attempt in each.attempts or ()]
    show_table("Attempts", ATTEMPT_COLUMNS, made)


async def redeliver_some(settings: Settings, job: str, sequences: Sequence[int]) -> int:
    """Owe deliveries of a job once more; the answer is how many could not be. Without sequences: all parked ones."""
    refused = 0
    url = settings.database_url.get_secret_value()
    async with opened(settings) as database, announcer_of(settings.notify_mode, url) as announcer:
        job_id, tenant_id = await _found(Overview(database), job)
        log = DeliveryLog(database, settings.notify_channel, announcer)
        if not sequences:
            found = await log.of_job(job_id, tenant_id)
            sequences = [each.sequence for each in found if each.state == DeliveryState.PARKED]
        for sequence in sequences:
            try:
                if not (0 < sequence <= SEQUENCE_MAX and await log.redeliver(job_id, sequence, tenant_id)):
                    raise NotFound("there is no such delivery; `todoke webhooks show JOB` shows them")
                say(f"delivery {sequence} of job {job_id} is owed again")
            except Refused as error:
                refused += 1
                say(f"delivery {sequence} of job {job_id}: {error}")
    if not sequences:
        say("none of its deliveries is parked")
    return refused


async def replay_parked(settings: Settings, tenant_id: str, wanted: Wanted, deliveries_max: int) -> None:
    """Owe a tenant's parked deliveries once more, in parts."""
    url, count, is_more = settings.database_url.get_secret_value(), 0, True
    async with opened(settings) as database, announcer_of(settings.notify_mode, url) as announcer:
        log = DeliveryLog(database, settings.notify_channel, announcer)
        # What is parked anew meanwhile is not taken twice.
        wanted = Wanted(wanted.since, wanted.until or await log.now(), wanted.reason, wanted.url)
        while is_more and count < deliveries_max:
            done = await log.replay(tenant_id, wanted, min(REPLAY_MAX, deliveries_max - count))
            count, is_more = count + done.count, done.is_more
    say(f"{count} deliveries of tenant {tenant_id} are owed again" + (", and there are more" if is_more else ""))
    if done.disabled:
        more = " or more" if done.disabled >= REPLAY_MAX else ""
        say(f"{done.disabled}{more} stay parked: their endpoints are disabled; `todoke webhooks endpoints list`")


async def _found(overview: Overview, job: str) -> tuple[UUID, str]:
    job_id = parse_id(job.strip())
    if job_id is None:
        raise InvalidInput(f"{job!r} is no job id: give the 36 characters that a submit answers as jobId")
    tenant_id = await overview.tenant_of(job_id)
    if tenant_id is None:
        raise NotFound(f"there is no job {job} in this database; `todoke jobs list` shows the newest")
    return job_id, tenant_id


def _standing(each: Kept) -> str:
    words = each.public()
    return " ".join(str(word) for word in (words["state"], words["standing"], words["reason"]) if word)


def _moment(option: str, text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise InvalidInput(f"{option} {text!r}: give a date or a moment, as 2026-01-31 or 2026-01-31T12:00Z") from None
