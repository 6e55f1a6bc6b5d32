"""The commands of integrators: they speak to an API over HTTP, not to its database."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from todoke.model.event import TERMINAL

ApiUrl = Annotated[str, typer.Option("--api", envvar="TODOKE_PUBLIC_URL", help="Where the API is reached.")]
Key = Annotated[
    str | None, typer.Option("--key", envvar="TODOKE_API_KEY", help="An API key, where one is needed.", metavar="tdk_…")
]


def try_callback(
    url: Annotated[str, typer.Argument(metavar="URL", help="The callback, as a submit would name it.")],
    self_test: Annotated[
        bool, typer.Option("--self-test", help="Send forged, old and repeated events too, and grade the answers.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The whole report as JSON.")] = False,
    api: ApiUrl = "http://127.0.0.1:8080",
    key: Key = None,
) -> None:
    """Have the notifier send a signed test event to a callback. Exit code 0: the grade is pass; 1: any other."""
    from todoke.operator.callback_test import show_test

    raise typer.Exit(asyncio.run(show_test(api, key, url, is_self_test=self_test, as_json=as_json)))


def listen(  # noqa: PLR0913, PLR0917 - options
    forward_to: Annotated[str, typer.Option("--forward-to", metavar="URL", help="The receiver, e.g. on localhost.")],
    api: ApiUrl = "http://127.0.0.1:8080",
    key: Key = None,
    secret: Annotated[
        str | None,
        typer.Option(
            "--secret", envvar="TODOKE_SIGNING_SECRET", metavar="whsec_…", help="Signs. Default: a new one, shown once."
        ),
    ] = None,
    events: Annotated[
        list[str] | None, typer.Option("--event", metavar="TYPE", help="Repeatable. Default: the end of each job.")
    ] = None,
    job_types: Annotated[
        list[str] | None, typer.Option("--job-type", metavar="TYPE", help="Repeatable. Default: all.")
    ] = None,
    begin: Annotated[
        str, typer.Option("--from", metavar="now|earliest|CURSOR", help="Where to begin, without a state file.")
    ] = "now",
    state_file: Annotated[
        Path | None, typer.Option("--state-file", metavar="FILE", help="Remembers the cursor, for the next time.")
    ] = None,
    stop: Annotated[
        bool, typer.Option("--stop-on-refusal", help="End, with exit code 1, when an event is refused for good.")
    ] = False,
) -> None:
    """Forward the events of all jobs of your tenant to a receiver, signed as webhooks, until Ctrl-C."""
    from todoke.operator.listen import Options, forward_events

    asked = Options(
        forward_to, api, key, secret, events or TERMINAL, job_types or (), begin, state_file, is_strict=stop
    )
    raise typer.Exit(asyncio.run(forward_events(asked)))
