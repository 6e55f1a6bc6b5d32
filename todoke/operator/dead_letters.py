"""`todoke dlq`: what the queue set aside, and sending it again."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from typing import Annotated

import typer

from todoke.model.dead_letter import LetterVerdict
from todoke.model.errors import InvalidInput
from todoke.queue.port import BATCH_MAX, Queue
from todoke.runtime.settings import load_settings
from todoke.store.database import Database
from todoke.store.dead_letters import KeptLetter, KeptLetters

LETTERS_MAX = 1000
BODY_CHARACTERS = 80

commands = typer.Typer(help="Dead letters: messages nobody could take.", no_args_is_help=True)


@commands.command("list")
def list_letters(
    is_json: Annotated[bool, typer.Option("--json", help="Print a JSON array instead of lines.")] = False,
    is_everything: Annotated[bool, typer.Option("--all", help="Show those that were sent again, too.")] = False,
) -> None:
    """Show the dead letters that were kept, newest first."""
    letters = asyncio.run(_listed(is_everything))
    if is_json:
        print(json.dumps([_facts(letter) for letter in letters], indent=2))
        return
    for letter in letters:
        print(_line(letter))
    print(f"todoke: {len(letters)} dead letters")


@commands.command("redrive")
def redrive_letters(
    ids: Annotated[list[str] | None, typer.Argument(help="Dead letters to send again.")] = None,
    is_everything: Annotated[bool, typer.Option("--all", help="All that were not sent again yet.")] = False,
    is_dry: Annotated[bool, typer.Option("--dry-run", help="Only show what would be sent.")] = False,
) -> None:
    """Send dead letters to the queue again, as they were. A job that has ended stays so: retry it instead."""
    if bool(ids) == is_everything:
        raise InvalidInput("name the dead letters to send again, or pass --all")
    count, refused = asyncio.run(_redriven(ids or [], is_dry))
    print(f"todoke: {count} dead letters {'would be sent' if is_dry else 'sent'} again")
    if refused:
        print(f"todoke: the queue did not take {refused}; they are still listed")
        raise typer.Exit(1)


async def redrive(letters: Sequence[KeptLetter], queue: Queue, kept: KeptLetters) -> int:
    """Send these again; the answer counts those the queue took.

    Each is marked after it was sent: what happens in between only sends it twice.
    """
    count = 0
    for start in range(0, len(letters), BATCH_MAX):
        batch = letters[start : start + BATCH_MAX]
        taken = await queue.send_bodies([letter.body for letter in batch])
        sent = [letter.id for letter, is_taken in zip(batch, taken, strict=True) if is_taken]
        await kept.mark_redriven(sent)
        count += len(sent)
    return count


async def _listed(is_everything: bool) -> list[KeptLetter]:
    async with _kept() as kept:
        return await kept.newest(LETTERS_MAX, is_redriven_too=is_everything)


async def _redriven(ids: Sequence[str], is_dry: bool) -> tuple[int, int]:
    """How many were sent, and how many the queue did not take."""
    from todoke.queue.sqs import SqsQueue

    async with _kept() as kept:
        letters = await kept.named(ids) if ids else await kept.newest(LETTERS_MAX)
        if missing := sorted(set(ids) - {letter.id for letter in letters}):
            raise InvalidInput(f"no such dead letter: {', '.join(missing)}")
        for letter in letters:
            print(_line(letter))
        if is_dry or not letters:
            return len(letters), 0
        with contextlib.closing(SqsQueue.from_settings(load_settings())) as queue:
            count = await redrive(letters, queue, kept)
        return count, len(letters) - count


@contextlib.asynccontextmanager
async def _kept() -> AsyncIterator[KeptLetters]:
    async with Database(load_settings().database_url.get_secret_value()) as database:
        yield KeptLetters(database)


def _facts(letter: KeptLetter) -> dict[str, object]:
    return {
        "id": letter.id,
        "verdict": letter.verdict,
        "jobId": str(letter.job_id) if letter.job_id else None,
        "body": letter.body,
        "receiveCount": letter.receive_count,
        "sentAt": letter.sent_at.isoformat() if letter.sent_at else None,
        "arrivedAt": letter.arrived_at.isoformat(),
        "redrivenAt": letter.redriven_at.isoformat() if letter.redriven_at else None,
    }


def _line(letter: KeptLetter) -> str:
    body = letter.body if len(letter.body) <= BODY_CHARACTERS else letter.body[: BODY_CHARACTERS - 1] + "…"
    # Whoever sent it chose the text; a terminal gets no control characters of theirs.
    words = [letter.id, letter.arrived_at.isoformat(timespec="seconds"), str(letter.verdict), ascii(body)]
    if letter.redriven_at:
        words.append(f"sent again {letter.redriven_at.isoformat(timespec='seconds')}")
    elif letter.verdict is LetterVerdict.FAILED:
        words.append("its job has ended")
    return "  ".join(words)
