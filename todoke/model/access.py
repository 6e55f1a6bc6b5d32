"""Who may do what: scopes, API keys, and how the text of a key is made and taken apart."""

import hashlib
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from todoke.model.limits import NO_KEY_LIMITS, KeyLimits

# Shown once and then known by its digest alone. The prefix lets scanners of leaked secrets find one.
KEY = re.compile(r"tdk_([0-9a-f]{16})_([0-9a-f]{48})")

# Whose jobs are those of a desk without keys.
DEFAULT_TENANT = "default"


class Scope(StrEnum):
    """What a key may be used for; `admin` stands for all of them."""

    SUBMIT = "submit"
    READ = "read"
    CANCEL = "cancel"
    ADMIN = "admin"


EVERY_SCOPE = frozenset(Scope)


@dataclass(frozen=True)
class ApiKey:
    """A key as it is kept: never its secret. Moments are of the database's clock, None: never."""

    id: str
    tenant_id: str
    name: str
    scopes: tuple[Scope, ...]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None = None
    limits: KeyLimits = NO_KEY_LIMITS


def granted(scopes: Iterable[str]) -> frozenset[Scope]:
    """What a key with these scopes may do; a scope of a later version grants nothing."""
    known = frozenset(Scope(scope) for scope in scopes if scope in EVERY_SCOPE)
    return EVERY_SCOPE if Scope.ADMIN in known else known


def new_key() -> tuple[str, str]:
    """A fresh id and secret, of 8 and 24 random bytes."""
    return secrets.token_hex(8), secrets.token_hex(24)


def spell_key(key_id: str, secret: str) -> str:
    """The text a caller sends."""
    return f"tdk_{key_id}_{secret}"


def split_key(text: str) -> tuple[str, str] | None:
    """Id and secret of a key's text, or None when it is no such text."""
    found = KEY.fullmatch(text)
    return (found[1], found[2]) if found else None


def secret_digest(secret: str) -> bytes:
    """What is kept of a secret, 32 bytes. It is random enough that a plain SHA-256 cannot be searched."""
    return hashlib.sha256(secret.encode()).digest()
