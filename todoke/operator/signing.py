"""What `todoke webhooks secrets` and `todoke webhooks keys` do, straight on DATABASE_URL."""

import sys
from collections.abc import Sequence
from typing import Any

from todoke.model.errors import InvalidInput, NotFound, Refused
from todoke.model.ids import parse_id
from todoke.operator.showing import say, show_json, show_table
from todoke.operator.store import opened
from todoke.operator.words import moment
from todoke.runtime.sealing_keys import lasting_keys
from todoke.runtime.settings import Settings
from todoke.store.signing import ListedSecret, PublishedKey, SigningKeys, SigningSecrets
from todoke.wire.destination import Rules, check_url

COLUMNS = ("secret", "tenant", "callback", "standing", "created", "expires")
KEY_COLUMNS = ("key", "public key", "created", "expires")
HOUR_SECONDS = 3600.0
SECRET_LETTERS_MAX = 1_000


async def create_secret(
    settings: Settings, tenant_id: str, url: str | None, overlap_hours: float, *, is_brought: bool, as_json: bool
) -> None:
    """Make a secret and show it this once; is_brought: it is the first line of standard input."""
    seals = lasting_keys(settings)
    if url is not None:
        check_url(url, Rules.of(settings))
    brought = sys.stdin.readline(SECRET_LETTERS_MAX).strip() if is_brought else None
    async with opened(settings) as database:
        made = await SigningSecrets(database, seals).create(tenant_id, url, overlap_hours * HOUR_SECONDS, brought)
    listed = ListedSecret(made.id, made.tenant_id, made.url, made.created_at, None, is_ended=False)
    if as_json:
        show_json({**_facts(listed), "secret": made.secret})
        return
    whose = f"callback {url} of tenant {tenant_id}" if url else f"tenant {tenant_id}"
    say(f"signing secret {made.id} of {whose}; it is shown this once:")
    say(made.secret)


async def list_secrets(settings: Settings, tenant_id: str | None, rows_max: int, *, as_json: bool) -> None:
    """Show secrets that are or were, the newest first, never the secrets themselves."""
    async with opened(settings) as database:
        found = await SigningSecrets(database, ()).listed(tenant_id, rows_max)
    if as_json:
        show_json([_facts(secret) for secret in found])
        return
    show_table("Signing secrets, newest first", COLUMNS, [list(_facts(secret).values()) for secret in found])
    if not found:
        say("there is no secret: make one with `todoke webhooks secrets create`")


async def end_secrets(settings: Settings, ids: Sequence[str]) -> int:
    """End secrets now; the answer is how many of these there are none of."""
    missing = 0
    async with opened(settings) as database:
        for id_ in ids:
            try:
                if not await SigningSecrets(database, ()).end(None, _id_of(id_)):
                    raise NotFound("there is no such secret; `todoke webhooks secrets list` shows them")
                say(f"secret {id_} is ended; notifiers stop signing with it within seconds")
            except Refused as error:
                missing += 1
                say(f"secret {'' if isinstance(error, InvalidInput) else id_}: {error}")
    return missing


async def reseal(settings: Settings) -> bool:
    """Seal secrets and keys anew with the first of TODOKE_SECRET_KEYS. False: some could not be opened."""
    seals = lasting_keys(settings)
    async with opened(settings) as database:
        secrets, closed_secrets = await SigningSecrets(database, seals).reseal()
        keys, closed_keys = await SigningKeys(database, seals).reseal()
    for what, closed in (("secret", closed_secrets), ("key", closed_keys)):
        for id_ in closed:
            say(f"signing {what} {id_}: none of TODOKE_SECRET_KEYS opens it; it is as it was")
    say(f"sealed with the first key now: {secrets} signing secrets and {keys} signing keys")
    return not closed_secrets and not closed_keys


async def list_keys(settings: Settings, *, as_json: bool) -> None:
    """Show the public halves of the live signing keys."""
    async with opened(settings) as database:
        found = await SigningKeys(database, ()).published()
    if as_json:
        show_json([_key_facts(key) for key in found])
        return
    show_table("Signing keys, newest first", KEY_COLUMNS, [list(_key_facts(key).values()) for key in found])
    if not found:
        say("there is no key yet: the first notifier to start makes one")


async def rotate_keys(settings: Settings, overlap_hours: float, *, as_json: bool) -> None:
    """Make a new signing key; the one before it signs beside it for the overlap."""
    seals = lasting_keys(settings)
    async with opened(settings) as database:
        made = await SigningKeys(database, seals).rotate(overlap_hours * HOUR_SECONDS)
    if as_json:
        show_json(_key_facts(made))
        return
    say(f"signing key {made.id} signs from now on; receivers find it in /.well-known/webhook-keys:")
    say(made.public_key)


def _id_of(text: str) -> str:
    """The id; a whole secret, pasted by mistake, is not repeated on the terminal."""
    parsed = parse_id(text.strip())
    if parsed is None:
        raise InvalidInput("give ids, as `todoke webhooks secrets list` shows them; this is none")
    return str(parsed)


def _facts(secret: ListedSecret) -> dict[str, Any]:
    return {
        "id": secret.id,
        "tenantId": secret.tenant_id,
        "callbackUrl": secret.url,
        "standing": secret.standing,
        "createdAt": moment(secret.created_at),
        "expiresAt": moment(secret.expires_at),
    }


def _key_facts(key: PublishedKey) -> dict[str, Any]:
    return {
        "id": key.id,
        "publicKey": key.public_key,
        "createdAt": moment(key.created_at),
        "expiresAt": moment(key.expires_at),
    }
