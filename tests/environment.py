"""The environment in which tests start Todoke's own processes."""

import os
from typing import Any

from todoke.runtime.settings import Settings, variable_names

KEPT = (
    "PATH",
    "HOME",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "COVERAGE_PROCESS_START",
    "COVERAGE_PROCESS_CONFIG",
)


def environment_of(settings: Settings) -> dict[str, str]:
    """What a process needs of ours, and the variables that make these settings."""
    names = variable_names()
    values = {names[name]: _spelled(value) for name, value in settings if value is not None}
    return {name: os.environ[name] for name in KEPT if name in os.environ} | values


def _spelled(value: Any) -> str:
    if hasattr(value, "get_secret_value"):
        return str(value.get_secret_value())
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
