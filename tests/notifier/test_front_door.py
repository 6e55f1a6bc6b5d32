"""What `python -m notifier` starts."""

import asyncio

import pytest

from notifier import __main__ as front_door
from todoke.runtime.settings import Settings, load_settings


def test_the_notifier_runs_on_uvloop(monkeypatch: pytest.MonkeyPatch) -> None:
    loops: list[str] = []

    async def run(_settings: Settings) -> None:
        loops.append(type(asyncio.get_running_loop()).__module__)

    settings = load_settings(database_url="postgresql://nobody@127.0.0.1:1/none")
    monkeypatch.setattr(front_door, "run", run)
    monkeypatch.setattr(front_door, "hide_memory", lambda: None)
    monkeypatch.setattr(front_door, "load_settings", lambda: settings)
    monkeypatch.setattr(front_door, "configure_logging", lambda *_args: None)
    assert front_door.main() == 0
    assert loops == ["uvloop"]
