"""Which endpoints have shown that they answer: to all others this notifier sends one delivery at a time."""

from uuid import UUID

ENDPOINTS_MAX = 10_000


class Proven:
    """Endpoints whose last answer was a success; of very many, those heard of last.

    Any other may hang, and would hold as many slots as an endpoint may have, each for the length of the deadline.
    """

    def __init__(self) -> None:
        self._endpoints: dict[UUID, None] = {}

    def __contains__(self, endpoint_id: UUID) -> bool:
        return endpoint_id in self._endpoints

    def learn(self, endpoint_id: UUID, *, is_success: bool) -> None:
        """One more answer, or none at all."""
        self._endpoints.pop(endpoint_id, None)
        if is_success:
            self._endpoints[endpoint_id] = None
            if len(self._endpoints) > ENDPOINTS_MAX:
                del self._endpoints[next(iter(self._endpoints))]
