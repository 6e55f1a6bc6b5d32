"""Signing secrets of tenants and the signing keys of the service: sealed at rest, rotated with an overlap.

What has ended stays listed, and what it was is forgotten. Every end is by the database's clock.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import groupby

import asyncpg

from todoke.model.errors import InvalidInput
from todoke.model.ids import new_id
from todoke.runtime.sealing_keys import UNSEALED
from todoke.store.database import Connection, Database, queries
from todoke.store.transactions import columns
from todoke.wire.asymmetric import jwk, new_signing_key, public_key
from todoke.wire.sealing import Sealer
from todoke.wire.signing import new_secret, parse_secret

SQL = queries("signing")

SECRET_PURPOSE, KEY_PURPOSE = "signing secret", "signing key"
OVERLAP_SECONDS = 24 * 3600.0
OVERLAP_SECONDS_MAX = 7 * 24 * 3600.0
# Of one callback, so many secrets that have ended stay listed.
ENDED_MAX = 20
RESEAL_MAX = 500
# Any constants will do, as long as every process locks the same.
SECRETS_TURN, KEYS_TURN = 0x73656372, 0x6B657973

Pair = tuple[str, str]


@dataclass(frozen=True)
class NewSecret:
    """A secret at the only time it is shown: `secret` is its `whsec_…`."""

    id: str
    tenant_id: str
    url: str | None
    created_at: datetime
    secret: str = field(repr=False)


@dataclass(frozen=True)
class ListedSecret:
    """A secret as everybody may see it. url: None, it signs for every callback that has none of its own."""

    id: str
    tenant_id: str
    url: str | None
    created_at: datetime
    expires_at: datetime | None
    is_ended: bool

    @property
    def standing(self) -> str:
        """`ending`: its successor signs beside it until it expires."""
        return "ended" if self.is_ended else "ending" if self.expires_at else "live"


@dataclass(frozen=True)
class LiveSecrets:
    """What signs for one callback. secrets: the newest first.

    unreadable: ids of live ones that no key opens. seconds_left: until the first of them ends, None: none does.
    """

    secrets: tuple[bytes, ...] = field(default=(), repr=False)
    unreadable: tuple[str, ...] = ()
    seconds_left: float | None = None


@dataclass(frozen=True)
class PublishedKey:
    """The public half of a signing key, `whpk_…`. id: the `kid` of its JSON Web Key."""

    id: str
    public_key: str
    created_at: datetime
    expires_at: datetime | None


class SigningSecrets:
    """seals: texts of TODOKE_SECRET_KEYS; without any, secrets are listed and ended, not made or read.

    Raises Unavailable when PostgreSQL is away.
    """

    def __init__(self, database: Database, seals: Sequence[str]) -> None:
        self._database, self._sealer = database, _sealer(seals, SECRET_PURPOSE)

    async def create(
        self, tenant_id: str, url: str | None, overlap_seconds: float = OVERLAP_SECONDS, secret: str | None = None
    ) -> NewSecret:
        """A new secret, or the `whsec_…` that was brought, for one callback or for all of the tenant's others.

        The one before it stays live for the overlap; one before that ends now. Raises InvalidInput.
        """
        check_overlap(overlap_seconds)
        made = new_secret() if secret is None else secret
        sealed, id_ = _needed(self._sealer).seal(parse_secret(made)), str(new_id())
        async with self._database.transaction() as connection:
            # A statement of its own: the next one sees what those before us in the queue have made.
            await connection.execute(SQL["in_turn"], SECRETS_TURN, f"{tenant_id} {url or ''}")
            await connection.execute(SQL["succeed"], tenant_id, url, overlap_seconds)
            [row] = await connection.fetch(SQL["create"], id_, tenant_id, url, sealed)
            await connection.execute(SQL["tidy"], tenant_id, url, ENDED_MAX)
        return NewSecret(id_, tenant_id, url, row["created_at"], made)

    async def listed(self, tenant_id: str | None, rows_max: int, after: str | None = None) -> list[ListedSecret]:
        """Secrets of a tenant, or of all, behind one of them, the newest first."""
        rows = await self._database.fetch(SQL["listed"], tenant_id, after, rows_max)
        return [ListedSecret(**row) for row in rows]

    async def end(self, tenant_id: str | None, id_: str) -> bool:
        """End a secret of a tenant, or of any, now; one that has ended stays so. False: there is none."""
        return bool(await self._database.fetch(SQL["end"], tenant_id, id_))

    async def live(self, pairs: Sequence[Pair]) -> dict[Pair, LiveSecrets]:
        """What signs for each (tenant, URL): the secrets of the URL if it has any, else the tenant's."""
        rows = await self._database.fetch(SQL["live"], *_columns(pairs))
        found = {pair: LiveSecrets() for pair in pairs}
        for place, group in groupby(rows, key=lambda row: row["place"]):
            both = list(group)
            own = [row for row in both if row["is_own"]]
            found[pairs[place - 1]] = self._opened(own or both)
        return found

    async def signed(self, pairs: Sequence[Pair]) -> list[bool]:
        """Of each (tenant, URL) whether a live secret signs for it, in the order asked."""
        rows = await self._database.fetch(SQL["signed"], *_columns(pairs))
        places = {row["place"] - 1 for row in rows}
        return [place in places for place in range(len(pairs))]

    async def reseal(self) -> tuple[int, list[str]]:
        """Seal every live secret anew with the first key: how many, and the ids of those that no key opens."""
        sealer = _needed(self._sealer)
        await self._database.fetch(SQL["forget_ended"])
        done, unreadable, place = 0, [], ""
        while rows := await self._database.fetch(SQL["sealed_secrets"], place, RESEAL_MAX):
            anew, closed = _resealed(sealer, rows)
            done += len(await self._database.fetch(SQL["reseal_secrets"], *anew)) if anew else 0
            unreadable += closed
            place = rows[-1]["id"]
        return done, unreadable

    def _opened(self, rows: Sequence[asyncpg.Record]) -> LiveSecrets:
        sealer = _needed(self._sealer)
        opened = [(row["id"], sealer.open(row["sealed"])) for row in rows]
        ends = [row["seconds_left"] for row in rows if row["seconds_left"] is not None]
        return LiveSecrets(
            tuple(secret for _, secret in opened if secret is not None),
            tuple(id_ for id_, secret in opened if secret is None),
            min(ends, default=None),
        )


class SigningKeys:
    """The ed25519 keys with which this service signs for everybody. seals: as of SigningSecrets.

    Raises Unavailable when PostgreSQL is away.
    """

    def __init__(self, database: Database, seals: Sequence[str]) -> None:
        self._database, self._sealer = database, _sealer(seals, KEY_PURPOSE)

    async def ensure(self) -> list[str]:
        """The live keys, `whsk_…`, the newest first; the first one is made here.

        Raises InvalidInput, with what to do, when one cannot be opened.
        """
        rows = await self._database.fetch(SQL["live_keys"])
        if not rows:
            rows = await self._first()
        return self._opened(rows)

    async def rotate(self, overlap_seconds: float = OVERLAP_SECONDS) -> PublishedKey:
        """A new key. The one before it signs beside it for the overlap; one before that ends now.

        Raises InvalidInput; also when one that would go on signing cannot be opened, which hints at a wrong setting.
        """
        check_overlap(overlap_seconds)
        async with self._database.transaction() as connection:
            await connection.execute(SQL["in_turn"], KEYS_TURN, "")
            if overlap_seconds:
                self._opened(await connection.fetch(SQL["live_keys"]))
            await connection.execute(SQL["succeed_keys"], overlap_seconds)
            return _published(await self._create(connection))

    async def published(self) -> list[PublishedKey]:
        """The public halves of the live keys, the newest first."""
        return [_published(row) for row in await self._database.fetch(SQL["live_keys"])]

    async def reseal(self) -> tuple[int, list[str]]:
        """Seal every live key anew with the first key: how many, and the ids of those that no key opens."""
        rows = await self._database.fetch(SQL["live_keys"])
        anew, unreadable = _resealed(_needed(self._sealer), rows)
        done = await self._database.fetch(SQL["reseal_keys"], *anew) if anew else []
        return len(done), unreadable

    async def _first(self) -> list[asyncpg.Record]:
        """The live keys; made by this process or, when it came first, by another."""
        async with self._database.transaction() as connection:
            await connection.execute(SQL["in_turn"], KEYS_TURN, "")
            if not await connection.fetch(SQL["live_keys"]):
                await self._create(connection)
            return list(await connection.fetch(SQL["live_keys"]))

    async def _create(self, connection: Connection) -> asyncpg.Record:
        made = new_signing_key()
        public = public_key(made)
        sealed = _needed(self._sealer).seal(made.encode())
        [row] = await connection.fetch(SQL["create_key"], jwk(public)["kid"], public, sealed)
        return row

    def _opened(self, rows: Sequence[asyncpg.Record]) -> list[str]:
        sealer = _needed(self._sealer)
        opened = [(row["id"], sealer.open(row["sealed"])) for row in rows]
        closed = [id_ for id_, key in opened if key is None]
        if closed:
            raise InvalidInput(
                f"signing key {closed[0]} was sealed with a key that TODOKE_SECRET_KEYS does not hold: put that one "
                "back behind the first, or run `todoke webhooks keys rotate --overlap-hours 0`, after which receivers "
                "that verify by the public key must fetch the new one"
            )
        return [key.decode() for _, key in opened if key is not None]


def check_overlap(seconds: float) -> None:
    """Raises InvalidInput for an overlap that is none."""
    if not 0 <= seconds <= OVERLAP_SECONDS_MAX:
        raise InvalidInput(f"an overlap lasts 0 to {OVERLAP_SECONDS_MAX:.0f} seconds (7 days)")


def _sealer(seals: Sequence[str], purpose: str) -> Sealer | None:
    return Sealer(seals, purpose) if seals else None


def _needed(sealer: Sealer | None) -> Sealer:
    if sealer is None:
        raise InvalidInput(UNSEALED)
    return sealer


def _columns(pairs: Sequence[Pair]) -> list[list[object]]:
    return columns(pairs, tuple) if pairs else [[], []]


def _resealed(sealer: Sealer, rows: Sequence[asyncpg.Record]) -> tuple[list[list[object]], list[str]]:
    """Columns of id, text before and text now; and the ids of what no key opens."""
    opened = [(row["id"], row["sealed"], sealer.open(row["sealed"])) for row in rows]
    anew = [(id_, before, sealer.seal(content)) for id_, before, content in opened if content is not None]
    return (columns(anew, tuple) if anew else []), [id_ for id_, _, content in opened if content is None]


def _published(row: asyncpg.Record) -> PublishedKey:
    return PublishedKey(row["id"], row["public_key"], row["created_at"], row["expires_at"])
