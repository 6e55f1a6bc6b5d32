"""Who signs for which endpoint: secrets and keys read from the ledger, opened once, kept for a few seconds."""

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog

from todoke.model.access import DEFAULT_TENANT
from todoke.model.errors import InvalidInput, Unavailable
from todoke.runtime.batcher import Batcher
from todoke.store.signing import LiveSecrets, Pair, SigningKeys, SigningSecrets
from todoke.wire.asymmetric import SigningKey
from todoke.wire.signing import Signer, parse_secret

log = structlog.get_logger()

# A secret or key that was made or ended is known this long after at the latest.
KEEP_SECONDS = 5.0
KEPT_MAX = 10_000
ASK_MAX = 500


@dataclass(frozen=True)
class _Kept:
    """A signer, or why there is none, good until a moment of the clock."""

    signer: Signer | InvalidInput
    until: float


class Signers:
    """fallback: `whsec_…` that signs for the default tenant while it has no secret of its own; None: nothing does.

    `clock` counts seconds. Raises InvalidInput for a fallback that is no secret.
    """

    def __init__(
        self,
        secrets: SigningSecrets,
        keys: SigningKeys,
        fallback: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._secrets, self._keys, self._clock = secrets, keys, clock
        self._fallback = (parse_secret(fallback),) if fallback else ()
        self._signing_keys: dict[str, SigningKey] = {}
        self._keys_until = -float("inf")
        self._kept: OrderedDict[Pair, _Kept] = OrderedDict()
        self._batcher: Batcher[Pair, _Kept] = Batcher(self._find, ASK_MAX, "signers")
        self._told: set[str] = set()

    async def start(self) -> None:
        """Read the signing keys, or make the first. Raises InvalidInput, with what to do, when one cannot be opened."""
        try:
            await self._refresh(self._clock())
        except Unavailable as error:
            # Whatever there is to deliver is read from the same database, and asks for the keys then.
            log.warning("signing_keys.unread", reason=str(error))

    async def of(self, tenant_id: str, url: str) -> Signer:
        """The signer of one endpoint. Raises InvalidInput while what should sign cannot be opened, and Unavailable."""
        pair = (tenant_id, url)
        kept = self._kept.get(pair)
        if kept is None or kept.until <= self._clock():
            kept = await self._batcher.put(pair)
        if isinstance(kept.signer, InvalidInput):
            raise InvalidInput(str(kept.signer))
        return kept.signer

    async def _find(self, pairs: Sequence[Pair]) -> list[_Kept]:
        # Taken before the question, so that the way there and back shortens what is kept, never lengthens it.
        now = self._clock()
        try:
            if self._keys_until <= now:
                await self._refresh(now)
        except InvalidInput as error:
            self._tell("signing_key.unreadable", str(error))
            return [self._keep(pair, error, now + KEEP_SECONDS) for pair in pairs]
        found = await self._secrets.live(list(dict.fromkeys(pairs)))
        return [self._keep_live(pair, found[pair], now) for pair in pairs]

    async def _refresh(self, now: float) -> None:
        texts = await self._keys.ensure()
        self._signing_keys = {text: self._signing_keys.get(text) or SigningKey.parse(text) for text in texts}
        self._keys_until = now + KEEP_SECONDS

    def _keep_live(self, pair: Pair, live: LiveSecrets, now: float) -> _Kept:
        left = KEEP_SECONDS if live.seconds_left is None else min(KEEP_SECONDS, live.seconds_left)
        return self._keep(pair, self._signer(pair[0], live), now + left)

    def _keep(self, pair: Pair, signer: Signer | InvalidInput, until: float) -> _Kept:
        kept = self._kept[pair] = _Kept(signer, until)
        self._kept.move_to_end(pair)
        if len(self._kept) > KEPT_MAX:
            self._kept.popitem(last=False)
        return kept

    def _signer(self, tenant_id: str, live: LiveSecrets) -> Signer | InvalidInput:
        if live.unreadable:
            # Not signed by what is left: a receiver that knows only the other secret would take it for a forgery.
            return self._unreadable(tenant_id, live.unreadable)
        secrets = live.secrets or (self._fallback if tenant_id == DEFAULT_TENANT else ())
        return Signer(secrets, list(self._signing_keys.values()))

    def _unreadable(self, tenant_id: str, ids: Sequence[str]) -> InvalidInput:
        for id_ in ids:
            self._tell("signing_secret.unreadable", id_, secret_id=id_, tenant=tenant_id)
        return InvalidInput(
            f"signing secret {ids[0]} was sealed with a key that TODOKE_SECRET_KEYS does not hold: put that one back "
            "behind the first, or end this secret and make a new one"
        )

    def _tell(self, event: str, about: str, **facts: str) -> None:
        """Log a fault of ours once."""
        if about not in self._told:
            log.error(event, **(facts or {"reason": about}))
            self._told.add(about)
