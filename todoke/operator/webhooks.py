"""`todoke webhooks`: what is owed to callbacks and how they fare, straight on DATABASE_URL."""

from typing import Annotated

import typer

from todoke.model.delivery import Reason
from todoke.model.endpoint import EndpointState
from todoke.runtime.settings import load_settings

commands = typer.Typer(help="Webhooks: what is owed to callbacks, and how they fare.", no_args_is_help=True)
endpoints = typer.Typer(help="How callbacks fare; disabling and enabling them.", no_args_is_help=True)
commands.add_typer(endpoints, name="endpoints")
secrets = typer.Typer(help="Signing secrets of tenants and of single callbacks.", no_args_is_help=True)
commands.add_typer(secrets, name="secrets")
keys = typer.Typer(help="The ed25519 keys with which the service signs for all.", no_args_is_help=True)
commands.add_typer(keys, name="keys")

AsJson = Annotated[bool, typer.Option("--json", help="JSON instead of a table.")]
Job = Annotated[str, typer.Argument(metavar="JOB", help="A jobId.")]
Since = Annotated[str | None, typer.Option(help="Parked at or after this: 2026-01-31 or 2026-01-31T12:00Z, in UTC.")]
Until = Annotated[str | None, typer.Option(help="Parked before this.")]
Why = Annotated[Reason | None, typer.Option(help="Parked for this reason.")]
Url = Annotated[str | None, typer.Option(help="Owed to exactly this URL.")]
Ids = Annotated[
    list[str], typer.Argument(metavar="ID...", help="Endpoints, as `todoke webhooks endpoints list` shows.")
]
SecretIds = Annotated[
    list[str], typer.Argument(metavar="ID...", help="Secrets' ids, as `todoke webhooks secrets list` shows.")
]
Overlap = Annotated[float, typer.Option(help="The one before it signs too for this long, at most 168.", min=0, max=168)]


@commands.command("parked")
def parked(
    tenant: Annotated[str | None, typer.Option(help="Only of this tenant.")] = None,
    reason: Why = None,
    url: Url = None,
    since: Since = None,
    until: Until = None,
    limit: Annotated[int, typer.Option(help="How many at most.", min=1, max=10_000)] = 50,
    as_json: AsJson = False,
) -> None:
    """Deliveries that were given up, the latest first."""
    from todoke.operator.deliveries import list_parked, wanted_of
    from todoke.operator.store import carry_out

    wanted = wanted_of(since, until, reason, url)
    carry_out(list_parked(load_settings(), tenant, wanted, limit, as_json=as_json))


@commands.command("show")
def show(job: Job, as_json: AsJson = False) -> None:
    """The deliveries of a job with every attempt, and which address answered."""
    from todoke.operator.deliveries import show_deliveries
    from todoke.operator.store import carry_out

    carry_out(show_deliveries(load_settings(), job, as_json=as_json))


@commands.command("redeliver")
def redeliver(
    job: Job,
    sequences: Annotated[
        list[int] | None, typer.Argument(metavar="SEQUENCE...", help="Of its events; without, all that are parked.")
    ] = None,
) -> None:
    """Send deliveries of a job once more, delivered or not. Exit code 1: not all of them."""
    from todoke.operator.deliveries import redeliver_some
    from todoke.operator.store import carry_out

    raise typer.Exit(bool(carry_out(redeliver_some(load_settings(), job, sequences or []))))


@commands.command("replay")
def replay(
    tenant: Annotated[str, typer.Option(help="Whose parked deliveries.")] = "default",
    reason: Why = None,
    url: Url = None,
    since: Since = None,
    until: Until = None,
    limit: Annotated[int, typer.Option(help="How many at most.", min=1)] = 1_000_000,
) -> None:
    """Send parked deliveries once more, the longest parked first; not those of disabled endpoints."""
    from todoke.operator.deliveries import replay_parked, wanted_of
    from todoke.operator.store import carry_out

    carry_out(replay_parked(load_settings(), tenant, wanted_of(since, until, reason, url), limit))


@endpoints.command("list")
def list_endpoints(
    tenant: Annotated[str | None, typer.Option(help="Only of this tenant.")] = None,
    state: Annotated[EndpointState | None, typer.Option(help="Only in this state.", case_sensitive=False)] = None,
    limit: Annotated[int, typer.Option(help="How many at most.", min=1, max=10_000)] = 1_000,
    as_json: AsJson = False,
) -> None:
    """Callbacks that failed, or were disabled, at least once."""
    from todoke.operator.endpoints import show_endpoints
    from todoke.operator.store import carry_out

    carry_out(show_endpoints(load_settings(), tenant, state, limit, as_json=as_json))


@endpoints.command("disable")
def disable_endpoints(
    ids: Annotated[list[str] | None, typer.Argument(metavar="ID...", help="Endpoints, as `list` shows them.")] = None,
    url: Annotated[str | None, typer.Option(help="A callback's URL instead; it need not have failed yet.")] = None,
    tenant: Annotated[str, typer.Option(help="Whose URL.")] = "default",
) -> None:
    """Send nothing more to these callbacks; what is owed to them is parked. Exit code 1: not all of them."""
    from todoke.operator.endpoints import disable_some
    from todoke.operator.store import carry_out

    raise typer.Exit(bool(carry_out(disable_some(load_settings(), ids or [], url, tenant))))


@endpoints.command("enable")
def enable_endpoints(ids: Ids) -> None:
    """Send to these callbacks again, also what was parked because they were disabled. Exit code 1: not all of them."""
    from todoke.operator.endpoints import enable_some
    from todoke.operator.store import carry_out

    raise typer.Exit(bool(carry_out(enable_some(load_settings(), ids))))


@secrets.command("create")
def create_secret(
    tenant: Annotated[str, typer.Option(help="Whose webhooks it signs.")] = "default",
    url: Annotated[str | None, typer.Option(help="Of this callback alone. Default: all without their own.")] = None,
    overlap_hours: Overlap = 24,
    stdin: Annotated[
        bool, typer.Option("--stdin", help="Bring your own whsec_…: read it from standard input.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make a secret, shown once. The one before it ends after the overlap; one before that ends now."""
    from todoke.operator import signing
    from todoke.operator.store import carry_out

    asked = signing.create_secret(load_settings(), tenant, url, overlap_hours, is_brought=stdin, as_json=as_json)
    carry_out(asked)


@secrets.command("list")
def list_secrets(
    tenant: Annotated[str | None, typer.Option(help="Only of this tenant.")] = None,
    limit: Annotated[int, typer.Option(help="How many at most.", min=1, max=10_000)] = 1_000,
    as_json: AsJson = False,
) -> None:
    """Which secrets there are and were, newest first; never the secrets themselves."""
    from todoke.operator import signing
    from todoke.operator.store import carry_out

    carry_out(signing.list_secrets(load_settings(), tenant, limit, as_json=as_json))


@secrets.command("end")
def end_secrets(ids: SecretIds) -> None:
    """End secrets now. Exit code 1: not all of them."""
    from todoke.operator import signing
    from todoke.operator.store import carry_out

    raise typer.Exit(bool(carry_out(signing.end_secrets(load_settings(), ids))))


@secrets.command("reseal")
def reseal() -> None:
    """Encrypt all secrets and keys anew with the first of TODOKE_SECRET_KEYS. Exit code 1: not all of them."""
    from todoke.operator import signing
    from todoke.operator.store import carry_out

    raise typer.Exit(not carry_out(signing.reseal(load_settings())))


@keys.command("list")
def list_keys(as_json: AsJson = False) -> None:
    """The public keys receivers may verify with, newest first."""
    from todoke.operator import signing
    from todoke.operator.store import carry_out

    carry_out(signing.list_keys(load_settings(), as_json=as_json))


@keys.command("rotate")
def rotate_keys(overlap_hours: Overlap = 24, as_json: AsJson = False) -> None:
    """Make a new key. The one before it signs too for the overlap; one before that ends now."""
    from todoke.operator import signing
    from todoke.operator.store import carry_out

    carry_out(signing.rotate_keys(load_settings(), overlap_hours, as_json=as_json))
