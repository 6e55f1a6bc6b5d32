"""`todoke webhooks`: what is owed to callbacks and how they fare, straight on DATABASE_URL."""

import typer

commands = typer.Typer(help="Webhooks: what is owed to callbacks, and how they fare.", no_args_is_help=True)
