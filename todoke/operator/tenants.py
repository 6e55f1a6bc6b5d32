"""`todoke tenants`: who there is, what each may ask for, and keeping one out for a while; straight on DATABASE_URL."""

from dataclasses import asdict, replace
from typing import Annotated, Any

import typer

from todoke.model.errors import NotFound
from todoke.model.limits import NO_TENANT_LIMITS, TenantLimits
from todoke.operator.showing import say, show_json, show_table
from todoke.operator.store import carry_out, opened
from todoke.operator.words import AsJson, limit, moment, word
from todoke.runtime.settings import Settings, load_settings
from todoke.store.tenants import Tenant, Tenants

COLUMNS = (
    "tenant",
    "standing",
    "keys",
    "last used",
    "waiting",
    "running",
    "submits/min",
    "reads/min",
    "queue",
    "streams",
)

commands = typer.Typer(help="Tenants: what each may ask for, and who is kept out.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="TENANT", help="A tenant, as its keys name it.")]
Limit = Annotated[str | None, typer.Option(metavar="N", help="A number, 0 for no limit, or `default`.")]


@commands.command("list")
def list_(as_json: AsJson = False) -> None:
    """Every tenant that has a key, a job that has not ended, or limits of its own."""
    settings = load_settings()
    _show(carry_out(_listed(settings)), settings, as_json=as_json)


@commands.command("show")
def show(name: Name, as_json: AsJson = False) -> None:
    """One tenant: its keys and jobs, and the limits in force."""
    settings = load_settings()
    found = carry_out(_listed(settings, name))
    if not found:
        raise NotFound(f"no tenant {name!r} is known of; `todoke tenants list` shows them")
    if as_json:
        show_json(_facts(found[0], settings))
        return
    for key, value in _facts(found[0], settings).items():
        say(f"{key}\t{value}")


@commands.command("set")
def set_(
    name: Name,
    submits_per_minute: Limit = None,
    reads_per_minute: Limit = None,
    queue_depth_max: Limit = None,
    streams_max: Limit = None,
) -> None:
    """Give a tenant limits of its own, instead of the settings'. Those not named stay as they are."""
    typed = {
        "submits_per_minute": submits_per_minute,
        "reads_per_minute": reads_per_minute,
        "queue_depth_max": queue_depth_max,
        "streams_max": streams_max,
    }
    changes = {key: limit("--" + key.replace("_", "-"), value) for key, value in typed.items() if value is not None}
    carry_out(_set(load_settings(), word("TENANT", name), changes))
    say(f"limits of {name} are set; API processes know within seconds")


@commands.command("suspend")
def suspend(name: Name) -> None:
    """Refuse every key of a tenant, and end its streams. Its jobs go on, and so do its webhooks."""
    carry_out(_suspend(load_settings(), word("TENANT", name), is_suspended=True))
    say(f"{name} is suspended; API processes refuse it within seconds")


@commands.command("resume")
def resume(name: Name) -> None:
    """Admit a tenant's keys again."""
    carry_out(_suspend(load_settings(), word("TENANT", name), is_suspended=False))
    say(f"{name} is admitted again; API processes know within seconds")


async def _listed(settings: Settings, tenant_id: str | None = None) -> list[Tenant]:
    async with opened(settings) as database:
        return await Tenants(database).listed(tenant_id)


async def _set(settings: Settings, tenant_id: str, changes: dict[str, int | None]) -> None:
    async with opened(settings) as database:
        found = await Tenants(database).listed(tenant_id)
        limits = found[0].limits if found else NO_TENANT_LIMITS
        await Tenants(database).set(tenant_id, replace(limits, **changes))


async def _suspend(settings: Settings, tenant_id: str, *, is_suspended: bool) -> None:
    async with opened(settings) as database:
        await Tenants(database).suspend(tenant_id, is_suspended=is_suspended)


def _show(tenants: list[Tenant], settings: Settings, *, as_json: bool) -> None:
    facts = [_facts(tenant, settings) for tenant in tenants]
    if as_json:
        show_json(facts)
        return
    rows = []
    for each in facts:
        limits = each["limits"]
        rows.append(
            [
                *(each[name] for name in ("tenant", "standing", "keys", "lastUsedAt", "waiting", "running")),
                *(limits[name] for name in ("submitsPerMinute", "readsPerMinute", "queueDepthMax", "streamsMax")),
            ]
        )
    show_table("Tenants", COLUMNS, rows)
    if not tenants:
        say("there is no tenant: the first is made with its first key, `todoke keys create NAME --tenant TENANT`")


def _facts(tenant: Tenant, settings: Settings) -> dict[str, Any]:
    return {
        "tenant": tenant.id,
        "standing": "suspended" if tenant.suspended_at else "good",
        "suspendedAt": moment(tenant.suspended_at),
        "keys": tenant.keys,
        "lastUsedAt": moment(tenant.last_used_at),
        "waiting": tenant.waiting,
        "running": tenant.running,
        "limits": _in_force(tenant.limits, settings),
        "own": {_camel(name): value for name, value in asdict(tenant.limits).items() if value is not None},
    }


def _in_force(own: TenantLimits, settings: Settings) -> dict[str, int]:
    said = {
        "submits_per_minute": settings.tenant_submits_per_minute,
        "reads_per_minute": settings.tenant_reads_per_minute,
        "queue_depth_max": settings.tenant_queue_depth_max,
        "streams_max": settings.tenant_streams_max,
    }
    return {_camel(name): said[name] if value is None else value for name, value in asdict(own).items()}


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)
