"""The keys that seal what must not be read: callers' tickets and cursors, signing secrets, signing keys."""

import secrets

from todoke.model.errors import InvalidInput
from todoke.runtime.settings import Settings

UNSEALED = (
    "TODOKE_SECRET_KEYS is not set, and nothing could be sealed, neither what callers carry nor what signs webhooks: "
    "set it to a random text (openssl rand -base64 32), the same for every API and notifier process and for commands"
)


def sealing_keys(settings: Settings) -> tuple[str, ...]:
    """The keys that seal what callers carry. Raises InvalidInput when there are none outside desk mode."""
    if settings.sealing_keys:
        return settings.sealing_keys
    if not settings.desk_mode:
        raise InvalidInput(UNSEALED)
    # A desk started by hand: what this seals does not outlive the process.
    return (secrets.token_hex(32),)


def lasting_keys(settings: Settings) -> tuple[str, ...]:
    """The keys that seal what is kept. Raises InvalidInput when there are none, at a desk too."""
    if not settings.sealing_keys:
        raise InvalidInput(UNSEALED)
    return settings.sealing_keys
