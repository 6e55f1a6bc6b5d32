"""The command line: the desk, the demo, each part alone, what operators do, and what is in force."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from todoke.model.errors import TodokeError
from todoke.operator import commands, dead_letters, integrators, keys, tenants, webhooks
from todoke.runtime.settings import Settings, load_settings, variable_names

app = typer.Typer(
    help="Todoke: the job API that never loses the answer.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

app.add_typer(commands.jobs, name="jobs")
app.command()(commands.workers)
app.add_typer(keys.commands, name="keys")
app.add_typer(tenants.commands, name="tenants")
app.command()(commands.void_cursors)
app.add_typer(dead_letters.commands, name="dlq")
app.add_typer(webhooks.commands, name="webhooks")
webhooks.commands.command("test")(integrators.try_callback)
webhooks.commands.command("listen")(integrators.listen)

Port = Annotated[int, typer.Option(help="Port of the API; 0 picks a free one.", min=0, max=65535)]
State = Annotated[Path, typer.Option("--state", help="Folder that keeps the data of the embedded parts.")]


def main() -> None:
    """Run one command; an error of ours is one sentence, not a stack trace."""
    try:
        app()
    except TodokeError as error:
        print(f"todoke: {error}", file=sys.stderr)
        sys.exit(2)


@app.command()
def demo(
    data: Annotated[Path | None, typer.Option(help="CSV or JSON file to report on.")] = None,
    out: Annotated[Path, typer.Option(help="Where the report is written.")] = Path("out"),
    once: Annotated[bool, typer.Option("--once", help="Stop after the job.")] = False,
    port: Port = 8080,
    state: State = Path(".todoke/demo"),
    started_at: Annotated[float | None, typer.Option(hidden=True)] = None,
) -> None:
    """Run one real report job on embedded parts and learn of it in all three ways."""
    from todoke.dev.demo import DemoOptions, run_demo

    sys.exit(run_demo(DemoOptions(data=data, out=out, once=once, port=port, state=state, started_at=started_at)))


@app.command()
def dev(
    port: Port = 8080,
    state: State = Path(".todoke"),
    api: Annotated[int, typer.Option(help="API processes.", min=1, max=16)] = 1,
    workers: Annotated[int, typer.Option(help="Worker processes.", min=0, max=16)] = 1,
    notifiers: Annotated[int, typer.Option(help="Notifier processes.", min=0, max=16)] = 1,
    no_restart: Annotated[bool, typer.Option("--no-restart", help="Leave a child that ended alone.")] = False,
    require_keys: Annotated[
        bool, typer.Option("--require-keys", help="Ask for API keys; a first one is in dev.json, as apiKey.")
    ] = False,
) -> None:
    """Run everything on this machine: embedded PostgreSQL, SQS and S3, and the three processes."""
    from todoke.dev import stack

    sys.exit(
        stack.run(
            stack.Options(
                port=port,
                state=state,
                api=api,
                workers=workers,
                notifiers=notifiers,
                restart=not no_restart,
                require_keys=require_keys,
            )
        )
    )


@app.command()
def api() -> None:
    """Run the API process alone."""
    _become("service")


@app.command()
def worker() -> None:
    """Run a worker process alone."""
    _become("worker")


@app.command()
def notifier() -> None:
    """Run a notifier process alone."""
    _become("notifier")


@app.command()
def migrate() -> None:
    """Bring the schema of DATABASE_URL up to date."""
    from todoke.store.migrate import migrate as run_migrations

    run_migrations(load_settings().database_url.get_secret_value())
    print("todoke: the schema is up to date")


@app.command()
def settings() -> None:
    """Show every setting: its variable, the value in force (secrets masked) and what it is for."""
    in_force = load_settings()
    for name, variable in variable_names().items():
        value = getattr(in_force, name)
        print(f"{variable}={','.join(map(str, value)) if isinstance(value, tuple) else value}")
        print(f"    {Settings.model_fields[name].description}")


def _become(package: str) -> None:
    """Each process has its own front door; this one only leads there."""
    os.execv(sys.executable, [sys.executable, "-m", package])  # noqa: S606 - that is the whole point
