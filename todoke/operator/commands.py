"""The commands of operators. Each loads what it needs only when it is called."""

from typing import Annotated

import typer

from todoke.model.job import State
from todoke.runtime.settings import load_settings

jobs = typer.Typer(help="See, cancel and retry jobs of any tenant, straight on DATABASE_URL.", no_args_is_help=True)

Ids = Annotated[list[str], typer.Argument(metavar="ID...", help="Jobs, as a submit answers them in jobId.")]
AsJson = Annotated[bool, typer.Option("--json", help="JSON instead of a table.")]


@jobs.command("list")
def list_(
    state: Annotated[State | None, typer.Option(help="Only jobs in this state.", case_sensitive=False)] = None,
    type_: Annotated[str | None, typer.Option("--type", help="Only jobs of this type.")] = None,
    tenant: Annotated[str | None, typer.Option(help="Only jobs of this tenant.")] = None,
    limit: Annotated[int, typer.Option(help="How many at most.", min=1, max=10_000)] = 50,
    as_json: AsJson = False,
) -> None:
    """The newest jobs, newest first."""
    from todoke.operator.jobs import list_jobs
    from todoke.operator.store import carry_out

    settings = load_settings()
    carry_out(list_jobs(settings, state=state, type_=type_, tenant_id=tenant, rows_max=limit, as_json=as_json))


@jobs.command()
def show(id_: Annotated[str, typer.Argument(metavar="ID", help="A jobId.")], as_json: AsJson = False) -> None:
    """One job: how it stands, its log, its artifacts, its deliveries."""
    from todoke.operator.jobs import show_job
    from todoke.operator.store import carry_out

    carry_out(show_job(load_settings(), id_, as_json=as_json))


@jobs.command()
def cancel(ids: Ids) -> None:
    """Cancel jobs: at once where nobody runs them, otherwise their workers are asked. Exit code 1: not all of them."""
    from todoke.operator.jobs import cancel_jobs
    from todoke.operator.store import carry_out

    raise typer.Exit(bool(carry_out(cancel_jobs(load_settings(), ids))))


@jobs.command()
def retry(ids: Ids) -> None:
    """Run finished jobs again, each as a new job. Exit code 1: not all of them."""
    from todoke.operator.jobs import retry_jobs
    from todoke.operator.store import carry_out

    raise typer.Exit(bool(carry_out(retry_jobs(load_settings(), ids))))


def workers(as_json: AsJson = False) -> None:
    """Who is there to run jobs, how busy, and who has not been heard of for three heartbeats."""
    from todoke.operator.store import carry_out
    from todoke.operator.workers import list_workers

    carry_out(list_workers(load_settings(), as_json=as_json))


def void_cursors() -> None:
    """Have every reader begin anew with a reset. Needed after a copy of the database's files was put back.

    A promotion, a point-in-time restore and a dump read into another server are noticed without it.
    """
    from todoke.operator.epoch import begin_epoch
    from todoke.operator.store import carry_out

    carry_out(begin_epoch(load_settings()))
