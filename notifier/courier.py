"""Sees one claimed delivery through: signed, sent, judged, recorded."""

import time
from collections.abc import Callable

import structlog

from notifier.recorder import Recorder
from notifier.sender import Sender, host_of
from notifier.signers import Signers
from todoke.model.delivery import Answer, Delivery, Reason, Verdict, judge
from todoke.runtime.metrics import DELIVERY_LAG
from todoke.wire import traceparent

log = structlog.get_logger()


class Courier:
    """timeout_seconds: the sender's deadline. window_seconds: how long a delivery is owed."""

    def __init__(
        self, signers: Signers, sender: Sender, recorder: Recorder, *, timeout_seconds: float, window_seconds: float
    ) -> None:
        self._signers = signers
        self._sender = sender
        self._recorder = recorder
        self._timeout_seconds = timeout_seconds
        self._window_seconds = window_seconds

    async def deliver(self, delivery: Delivery, until: float, sent: Callable[[bool], None]) -> None:
        """Deliver within the lease, which ends at `until` (monotonic seconds).

        `sent` is called before the record, with whether it was a success.
        """
        if time.monotonic() + self._timeout_seconds > until:
            # The claim itself took so long that another notifier may soon hold this one.
            log.warning("delivery.late", job_id=str(delivery.job_id), sequence=delivery.sequence)
            return
        if delivery.attempt == 1 and not delivery.is_progress:
            DELIVERY_LAG.observe(delivery.owed_seconds)
        verdict = judge(delivery, await self._answer(delivery), self._window_seconds)
        _tell(verdict)
        sent(verdict.answer.is_success)
        await self._recorder.record(verdict, until)

    async def _answer(self, delivery: Delivery) -> Answer:
        try:
            signer = await self._signers.of(delivery.tenant_id, delivery.url)
        except Exception as error:
            # Ours, and soon mended or loudly told elsewhere; the receiver must not pay for it.
            log.warning("delivery.unsigned", job_id=str(delivery.job_id), reason=str(error))
            return Answer(Reason.SENDER, started_at=time.time())
        return await self._sender.send(delivery, signer)


def _tell(verdict: Verdict) -> None:
    delivery, answer = verdict.delivery, verdict.answer
    log.info(
        "delivery.attempted",
        job_id=str(delivery.job_id),
        sequence=delivery.sequence,
        host=host_of(delivery.url),
        attempt=delivery.attempt,
        state=verdict.state,
        status=answer.status,
        reason=verdict.reason,
        seconds=round(answer.seconds, 3),
        **traceparent.told(delivery.trace),
    )
