"""The key with which a person starts at a desk that asks for keys."""

from todoke.dev.state import StateFolder
from todoke.model.access import Scope, split_key
from todoke.store.api_keys import ApiKeys
from todoke.store.database import Database

TENANT = "default"
NAME = "the desk's own"


async def first_key(database_url: str, folder: StateFolder) -> str:
    """The key the folder keeps, while it stands; otherwise a new one that may do everything, kept there."""
    async with Database(database_url, 1) as database:
        keys = ApiKeys(database)
        kept = folder.secrets().api_key
        parts = split_key(kept or "")
        if kept and parts and await _stands(keys, parts[0]):
            return kept
        _, text = await keys.create(TENANT, NAME, [Scope.ADMIN])
    folder.keep_api_key(text)
    return text


async def _stands(keys: ApiKeys, key_id: str) -> bool:
    found = (await keys.find([key_id])).get(key_id)
    return found is not None and (found.seconds_left is None or found.seconds_left > 0)
