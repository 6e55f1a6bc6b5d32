"""Sealing small secrets into text a stranger may carry: unreadable, unforgeable, good wherever the keys are."""

import base64
from collections.abc import Sequence

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

SEALED_LETTERS_MAX = 2_000


class Sealer:
    """Seals for one purpose; what was sealed for another does not open.

    keys: texts of TODOKE_SECRET_KEYS, at least one. The first seals, all open, so that a key can be replaced: put the
    new one first, and drop the old one when all that it sealed has expired.
    """

    def __init__(self, keys: Sequence[str], purpose: str) -> None:
        self._fernet = MultiFernet([Fernet(_derive(key, purpose)) for key in keys])

    def seal(self, content: bytes) -> str:
        """Letters, digits, `-` and `_`, about 100 more than `content` has bytes."""
        return self._fernet.encrypt(content).decode().rstrip("=")

    def open(self, text: str) -> bytes | None:
        """What was sealed, or None when this is not ours, was changed, or is of a key that was dropped."""
        if len(text) > SEALED_LETTERS_MAX or not text.isascii():
            return None
        try:
            return self._fernet.decrypt(text + "=" * (-len(text) % 4))
        except InvalidToken:
            return None


def _derive(key: str, purpose: str) -> bytes:
    derived = HKDF(SHA256(), length=32, salt=None, info=f"todoke {purpose}".encode()).derive(key.encode())
    return base64.urlsafe_b64encode(derived)
