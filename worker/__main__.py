"""Front door of the worker process: `python -m worker`."""

import asyncio
import sys

import structlog

from todoke.model.errors import InvalidInput
from todoke.runtime.collector import calm_collector
from todoke.runtime.hiding import hide_memory
from todoke.runtime.metrics import shown_on
from todoke.runtime.settings import load_settings, unknown_variables
from todoke.runtime.telemetry import configure_logging
from worker.app import run
from worker.process import StartFailed
from worker.processes import adopt_orphans

log = structlog.get_logger()


def main() -> int:
    """Work until SIGTERM. Exit code 2: the settings or the job modules do not allow to start."""
    hide_memory()
    adopt_orphans()
    calm_collector()
    try:
        settings = load_settings()
        configure_logging("worker", settings.log_level)
        for name in unknown_variables():
            log.warning("settings.unknown", variable=name)
        with shown_on(settings.metrics_port):
            asyncio.run(run(settings))
    except (InvalidInput, StartFailed) as error:
        print(f"todoke worker: {error}", file=sys.stderr)  # noqa: T201 - one line for whoever started it
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
