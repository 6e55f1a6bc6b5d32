"""Settings: clear words for every mistake, and nothing open by default."""

import pytest

from todoke.model.errors import InvalidInput
from todoke.runtime.settings import load_settings, unknown_variables, variable_names


def test_defaults_are_those_of_the_design() -> None:
    settings = load_settings()
    assert (settings.lease_seconds, settings.heartbeat_seconds, settings.sweep_seconds) == (15, 5, 5)
    assert (settings.visibility_seconds, settings.inline_result_bytes) == (60, 65536)
    assert settings.host == "127.0.0.1"
    assert not settings.desk_mode


def test_a_shorter_lease_brings_a_faster_heartbeat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TODOKE_LEASE_SECONDS", "3")
    assert load_settings().heartbeat_seconds == 1


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("TODOKE_PORT", "seventy"),
        ("TODOKE_LEASE_SECONDS", "0"),
        ("TODOKE_WEBHOOK_TIMEOUT_SECONDS", "31"),
        ("TODOKE_PUBLIC_URL", "jobs.example.com"),
        ("TODOKE_NOTIFY_CHANNEL", "a; DROP"),
    ],
)
def test_a_bad_value_is_named(monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(InvalidInput, match=variable):
        load_settings()


def test_a_bad_value_is_told_without_what_follows_from_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TODOKE_LEASE_SECONDS", "x")
    with pytest.raises(InvalidInput, match=r"^TODOKE_LEASE_SECONDS: .*[^\n]$"):
        load_settings()


@pytest.mark.parametrize("overrides", [{"host": "0.0.0.0"}, {"public_url": "https://x.example"}])
def test_desk_mode_serves_this_machine_only(overrides: dict[str, str]) -> None:
    with pytest.raises(InvalidInput, match="desk mode"):
        load_settings(desk_mode=True, **overrides)


def test_a_heartbeat_slower_than_the_lease_allows_is_refused() -> None:
    with pytest.raises(InvalidInput, match="TODOKE_HEARTBEAT_SECONDS"):
        load_settings(lease_seconds=10, heartbeat_seconds=6)


def test_misspelt_variables_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TODOKE_LEASE_SECOND", "3")
    assert unknown_variables() == ["TODOKE_LEASE_SECOND"]


def test_secrets_are_not_shown() -> None:
    settings = load_settings(database_url="postgresql://u:hush@h/d", signing_secret="whsec_hush")
    assert "hush" not in repr(settings)


def test_the_names_of_the_original_are_kept() -> None:
    assert {"DATABASE_URL", "SQS_QUEUE_URL", "AWS_REGION"} <= set(variable_names().values())


def test_ports_are_split_and_bounded() -> None:
    assert load_settings(callback_ports="443, 9443").callback_ports == (443, 9443)
    for bad in ("0", "65536", "https"):
        with pytest.raises(InvalidInput, match="TODOKE_CALLBACK_PORTS"):
            load_settings(callback_ports=bad)


@pytest.mark.parametrize(
    "url", ["jobs.example.com", "ftp://jobs.example.com", "https://", "https://[::1", "https://ü.de"]
)
def test_a_public_url_has_a_host(url: str) -> None:
    with pytest.raises(InvalidInput, match="TODOKE_PUBLIC_URL: give an http"):
        load_settings(public_url=url)
