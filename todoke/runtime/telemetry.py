"""How every process logs: JSON lines on standard error, one event a line, never a secret."""

import json
import logging
import sys

import structlog

# Made once: json.dumps makes one for each line.
ENCODER = json.JSONEncoder(default=repr)


def configure_logging(process: str, level: str) -> None:
    """Send structlog and the standard library through one JSON renderer. `process`: api, worker or notifier.

    structlog's own lines take the short way to standard error: through the standard library they cost twice as much.
    """
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[*shared, _render],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level]),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                _render,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    # boto3 and aiohttp narrate every request at INFO and below.
    for chatty in ("boto3", "botocore", "urllib3", "aiohttp", "httpx", "httpcore", "asyncio", "alembic", "matplotlib"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    structlog.contextvars.bind_contextvars(process=process)


def _render(_logger: object, _method: str, line: structlog.typing.EventDict) -> str:
    return ENCODER.encode(line)
