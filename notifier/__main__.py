"""Front door of the notifier: `python -m notifier`."""

import sys

import structlog
import uvloop

from notifier.app import run
from todoke.model.errors import InvalidInput
from todoke.runtime.collector import calm_collector
from todoke.runtime.hiding import hide_memory
from todoke.runtime.metrics import shown_on
from todoke.runtime.settings import load_settings, unknown_variables
from todoke.runtime.telemetry import configure_logging

log = structlog.get_logger()


def main() -> int:
    """Deliver until SIGTERM. Exit code 2: the settings do not allow to start."""
    hide_memory()
    calm_collector()
    try:
        settings = load_settings()
        configure_logging("notifier", settings.log_level)
        for name in unknown_variables():
            log.warning("settings.unknown", variable=name)
        with shown_on(settings.metrics_port):
            uvloop.run(run(settings))
    except InvalidInput as error:
        print(f"todoke notifier: {error}", file=sys.stderr)  # noqa: T201 - logging may not be up yet
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
