"""Who signs for which endpoint: secrets and keys read from the ledger, opened once, kept for a few seconds."""

from notifier.sender import Signer
from todoke.wire.signing import parse_secret, signed_headers


class Signers:
    """For now, one secret for all."""

    def __init__(self, secret: str) -> None:
        parse_secret(secret)
        self._secret = secret

    async def of(self, tenant_id: str, url: str) -> Signer:  # noqa: ARG002
        """The signer of one endpoint."""
        return self

    def headers(self, webhook_id: str, timestamp: int, body: bytes) -> dict[str, str]:
        """The three headers of a signed webhook."""
        return signed_headers(self._secret, webhook_id, timestamp, body)
