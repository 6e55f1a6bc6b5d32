"""`todoke void-cursors`: when numbers may have been given twice and the database cannot know."""

from todoke.operator.showing import say
from todoke.operator.store import opened
from todoke.runtime.settings import Settings
from todoke.store.reading import Reader


async def begin_epoch(settings: Settings) -> None:
    """Begin a new epoch and say so."""
    async with opened(settings) as database:
        await Reader(database).begin_epoch()
    say("every cursor given so far is void: readers are told so, with a reset, at their next event or connect")
