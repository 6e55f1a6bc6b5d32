"""`todoke keys`: who may call the API, straight on DATABASE_URL."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from todoke.model.access import ApiKey, Scope
from todoke.model.errors import InvalidInput, NotFound, Refused
from todoke.model.limits import KeyLimits
from todoke.operator.showing import say, show_json, show_table
from todoke.operator.store import carry_out, opened
from todoke.operator.words import DEFAULT, AsJson, limit, moment, word
from todoke.runtime.settings import Settings, load_settings
from todoke.store.api_keys import ApiKeys

DAY_SECONDS = 24 * 3600.0
COLUMNS = ("key", "tenant", "name", "scopes", "standing", "created", "expires", "last used")

commands = typer.Typer(help="API keys: who may call the API, and to do what.", no_args_is_help=True)

KeyId = Annotated[str, typer.Argument(metavar="ID", help="A key's id, as `todoke keys list` shows it.")]
Limit = Annotated[str, typer.Option(metavar="N", help="Of this key alone; 0 or `default`: its tenant's only.")]
NewLimit = Annotated[str | None, typer.Option(metavar="N", help="A number; 0 or `default`: its tenant's only.")]
Days = Annotated[float | None, typer.Option("--expires-days", help="It ends after this long. Default: never.", min=0)]


@commands.command("create")
def create(
    name: Annotated[str, typer.Argument(help="What the key is for, in your own words.")],
    tenant: Annotated[str, typer.Option(help="Whose jobs it is for.")] = "default",
    scopes: Annotated[
        str, typer.Option(help="Of submit, read, cancel, admin; comma-separated.")
    ] = "submit,read,cancel",
    expires_days: Days = None,
    submits_per_minute: Limit = DEFAULT,
    reads_per_minute: Limit = DEFAULT,
    as_json: AsJson = False,
) -> None:
    """Make a key. It is shown once: only a digest of it is kept."""
    words = word("NAME", name), word("--tenant", tenant)
    limits = _limits(submits_per_minute, reads_per_minute)
    asked = _create(load_settings(), *words, _scopes(scopes), _seconds(expires_days), limits)
    _show_new(*carry_out(asked), as_json=as_json)


@commands.command("list")
def list_(
    tenant: Annotated[str | None, typer.Option(help="Only keys of this tenant.")] = None, as_json: AsJson = False
) -> None:
    """The keys there are and were, newest first."""
    found = carry_out(_listed(load_settings(), tenant))
    if as_json:
        show_json([_facts(key) for key in found])
        return
    show_table("API keys, newest first", COLUMNS, [list(_facts(key).values())[: len(COLUMNS)] for key in found])
    if not found:
        say("there is no key: make one with `todoke keys create NAME`")


@commands.command("limit")
def limit_(
    id_: KeyId, submits_per_minute: NewLimit = None, reads_per_minute: NewLimit = None, as_json: AsJson = False
) -> None:
    """Give a key limits of its own, besides its tenant's; `default` takes one away. Those not named stay."""
    typed = {"submits_per_minute": submits_per_minute, "reads_per_minute": reads_per_minute}
    changes = {name: limit(f"--{name.replace('_', '-')}", text) for name, text in typed.items() if text is not None}
    key = carry_out(_limited(load_settings(), id_, changes))
    if as_json:
        show_json(_facts(key))
        return
    say(f"limits of key {key.id} are set; API processes know within seconds")


@commands.command("revoke")
def revoke(
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Keys' ids, as `todoke keys list` shows them.")],
) -> None:
    """End keys now, and with them the tickets they gave. Exit code 1: not all of them."""
    raise typer.Exit(bool(carry_out(_revoked(load_settings(), ids))))


@commands.command("rotate")
def rotate(
    id_: KeyId,
    overlap_hours: Annotated[float, typer.Option(help="The old key stays good this long.", min=0)] = 24,
    expires_days: Days = None,
    as_json: AsJson = False,
) -> None:
    """Make a new key for the same tenant, name and scopes; the old one ends after the overlap."""
    asked = _rotated(load_settings(), id_, overlap_hours * 3600, _seconds(expires_days))
    _show_new(*carry_out(asked), as_json=as_json)


async def _create(
    settings: Settings,
    name: str,
    tenant_id: str,
    scopes: Sequence[Scope],
    lifetime_seconds: float | None,
    limits: KeyLimits,
) -> tuple[ApiKey, str]:
    async with opened(settings) as database:
        return await ApiKeys(database).create(tenant_id, name, scopes, lifetime_seconds, limits)


async def _listed(settings: Settings, tenant_id: str | None) -> list[ApiKey]:
    async with opened(settings) as database:
        return await ApiKeys(database).newest(tenant_id)


async def _revoked(settings: Settings, ids: Sequence[str]) -> int:
    """How many of these there are none of."""
    missing = 0
    async with opened(settings) as database:
        for id_ in ids:
            try:
                if not await ApiKeys(database).revoke(_id_of(id_)):
                    raise NotFound("there is no such key; `todoke keys list` shows them")
                say(f"key {id_} is revoked; API processes refuse it within seconds")
            except Refused as error:
                missing += 1
                say(f"key {id_}: {error}")
    return missing


async def _limited(settings: Settings, id_: str, changes: Mapping[str, int | None]) -> ApiKey:
    async with opened(settings) as database:
        keys = ApiKeys(database)
        held = {key.id: key.limits for key in await keys.newest()}
        key = await keys.limit(id_, replace(held[id_], **changes)) if _id_of(id_) in held else None
    if key is None:
        raise NotFound("there is no such key; `todoke keys list` shows them")
    return key


async def _rotated(
    settings: Settings, id_: str, overlap_seconds: float, lifetime_seconds: float | None
) -> tuple[ApiKey, str]:
    async with opened(settings) as database:
        made = await ApiKeys(database).rotate(_id_of(id_), overlap_seconds, lifetime_seconds)
    if made is None:
        raise NotFound(f"no key {id_} stands: it is unknown, expired or revoked; `todoke keys list` shows them")
    return made


def _show_new(key: ApiKey, text: str, *, as_json: bool) -> None:
    if as_json:
        show_json({**_facts(key), "apiKey": text})
        return
    say(f"key {key.id} of tenant {key.tenant_id}, scopes {', '.join(key.scopes)}; it is shown this once:")
    say(text)


def _facts(key: ApiKey) -> dict[str, Any]:
    return {
        "id": key.id,
        "tenantId": key.tenant_id,
        "name": key.name,
        "scopes": list(key.scopes),
        "standing": _standing(key),
        "createdAt": moment(key.created_at),
        "expiresAt": moment(key.expires_at),
        "lastUsedAt": moment(key.last_used_at),
        "submitsPerMinute": key.limits.submits_per_minute,
        "readsPerMinute": key.limits.reads_per_minute,
        "revokedAt": moment(key.revoked_at),
    }


def _standing(key: ApiKey) -> str:
    """For a person; whether it admits is decided by the database's clock."""
    if key.revoked_at:
        return "revoked"
    return "expired" if key.expires_at and key.expires_at <= datetime.now(UTC) else "good"


def _scopes(text: str) -> list[Scope]:
    words = [word.strip() for word in text.split(",") if word.strip()]
    unknown = sorted(set(words) - set(Scope))
    if unknown or not words:
        raise InvalidInput(f"--scopes {', '.join(unknown) or text!r}: give one or more of {', '.join(Scope)}")
    return [Scope(word) for word in words]


def _limits(submits_per_minute: str, reads_per_minute: str) -> KeyLimits:
    return KeyLimits(limit("--submits-per-minute", submits_per_minute), limit("--reads-per-minute", reads_per_minute))


def _id_of(text: str) -> str:
    """The id; a whole key, pasted by mistake, is not repeated on the terminal."""
    if text.startswith("tdk_"):
        raise InvalidInput("give the key's id, not the key; it is the part between the two underscores")
    return text


def _seconds(days: float | None) -> float | None:
    return None if days is None else days * DAY_SECONDS
