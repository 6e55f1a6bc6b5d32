"""Runs tests of callbacks beside the deliveries: few at once, so that a receiver that hangs holds up nobody else."""

import asyncio
import base64
import contextlib
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC
from typing import Protocol

import structlog

from notifier.sender import ATTEMPT_HEADER, Sender, Signer, host_of
from todoke.model.callback_test import (
    PROBES,
    STALE_SECONDS,
    ClaimedTest,
    Finding,
    Grade,
    Kind,
    Probe,
    grade,
    judged,
    report,
    skipped,
)
from todoke.model.errors import Refused
from todoke.model.event import Hint
from todoke.runtime.metrics import CALLBACK_TESTS
from todoke.store.callback_tests import CallbackTests
from todoke.store.endpoints import Endpoints
from todoke.wire.signed import SIGNATURE

log = structlog.get_logger()

TESTS_MAX = 2
# What a test may take beside its requests.
SPARE_SECONDS = 25.0
RELEASE_SECONDS = 2.0
RECORD_PAUSE_SECONDS = 1.0
EVENT_TYPE = "webhook.test"


class Signing(Protocol):
    """Knows who signs for which callback."""

    async def of(self, tenant_id: str, url: str) -> Signer:
        """Raises Refused, with what to do, when there is nothing to sign with."""


class Tester:
    """timeout_seconds: the sender's deadline. What no bell wakes for is found after `sweep_seconds`."""

    def __init__(
        self,
        tests: CallbackTests,
        endpoints: Endpoints,
        signers: Signing,
        sender: Sender,
        *,
        timeout_seconds: float,
        sweep_seconds: float,
    ) -> None:
        self._tests, self._endpoints, self._signers, self._sender = tests, endpoints, signers, sender
        self._lease_seconds = len(Probe) * timeout_seconds + SPARE_SECONDS
        self._sweep_seconds = sweep_seconds
        self._tasks: set[asyncio.Task[None]] = set()
        self._woken = asyncio.Event()

    def heard(self, hints: Iterable[Hint] | None) -> None:
        """The bell. A sequence of 0 is that of a test; None: anything may have come."""
        if hints is None or any(hint.sequence == 0 for hint in hints):
            self._woken.set()

    async def run(self) -> None:
        """Run tests until canceled; those under way are given back then."""
        try:
            while True:
                self._woken.clear()
                await self._take()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._sweep_seconds):
                        await self._woken.wait()
        finally:
            for task in self._tasks:
                task.cancel()
            if self._tasks:
                await asyncio.wait(self._tasks)

    async def _take(self) -> None:
        try:
            await self._tests.give_up()
            while len(self._tasks) < TESTS_MAX:
                # Measured before the claim, so that our end of the lease never lies behind the database's.
                until = time.monotonic() + self._lease_seconds
                claimed = await self._tests.claim(self._lease_seconds)
                if claimed is None:
                    return
                task = asyncio.create_task(self._see_through(claimed, until))
                self._tasks.add(task)
                task.add_done_callback(self._freed)
        except Exception as error:
            log.warning("callback_test.unclaimed", reason=str(error) or repr(error))

    def _freed(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._woken.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("callback_test.lost", reason=repr(error))

    async def _see_through(self, claimed: ClaimedTest, until: float) -> None:
        try:
            findings, advice = await self._find_out(claimed)
            await self._record(claimed, findings, advice, until)
        except asyncio.CancelledError:
            with contextlib.suppress(Exception):
                async with asyncio.timeout(RELEASE_SECONDS):
                    await self._tests.release(claimed)
            raise

    async def _find_out(self, claimed: ClaimedTest) -> tuple[list[Finding], str]:
        try:
            signer = await self._signers.of(claimed.tenant_id, claimed.url)
        except Refused as error:
            return [], str(error)
        findings: list[Finding] = []
        for probe in PROBES[claimed.kind]:
            if findings and findings[0].verdict is not Grade.PASS:
                findings.append(skipped(probe))
            else:
                findings.append(await self._probe(claimed, probe, signer))
        return findings, ""

    async def _probe(self, claimed: ClaimedTest, probe: Probe, signer: Signer) -> Finding:
        body = body_of(claimed, probe)
        attempt = "2" if probe is Probe.DUPLICATE else "1"
        return judged(
            probe,
            await self._sender.post(
                claimed.url, {ATTEMPT_HEADER: attempt}, body, stamp_of(claimed, probe, signer, body)
            ),
        )

    async def _record(self, claimed: ClaimedTest, findings: list[Finding], advice: str, until: float) -> None:
        """Keep the report; while that fails, try again until the lease ends and another notifier tests anew."""
        owed: int | None = None
        while True:
            try:
                owed = await self._enable(claimed, findings) if owed is None else owed
                is_kept = await self._tests.finish(claimed, report(findings, advice, owed))
                break
            except Exception as error:
                if time.monotonic() + RECORD_PAUSE_SECONDS > until:
                    raise
                log.warning("callback_test.unrecorded", reason=str(error) or repr(error))
            await asyncio.sleep(RECORD_PAUSE_SECONDS)
        CALLBACK_TESTS.labels(grade(findings)).inc()
        log.info(
            "callback_test.done",
            test_id=str(claimed.id),
            kind=claimed.kind,
            host=host_of(claimed.url),
            grade=grade(findings),
            is_kept=is_kept,
        )

    async def _enable(self, claimed: ClaimedTest, findings: Sequence[Finding]) -> int | None:
        """Send again to a disabled endpoint that has passed; how many parked deliveries are owed anew, or None."""
        if claimed.kind is not Kind.SELF_TEST or grade(findings) is not Grade.PASS:
            return None
        endpoint_id = await self._tests.disabled(claimed)
        if endpoint_id is None:
            return None
        enabled = await self._endpoints.enable(endpoint_id, claimed.tenant_id)
        return None if enabled is None else enabled[0]


def body_of(claimed: ClaimedTest, probe: Probe) -> bytes:
    """The event: of the duplicate the bytes of the good one, and the same again when the test is run again."""
    said = Probe.GOOD if probe is Probe.DUPLICATE else probe
    moment = claimed.created_at.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    event = {"type": EVENT_TYPE, "timestamp": moment, "data": {"testId": str(claimed.id), "probe": said}}
    return json.dumps(event, separators=(",", ":")).encode()


def stamp_of(claimed: ClaimedTest, probe: Probe, signer: Signer, body: bytes) -> Callable[[], Mapping[str, str]]:
    """What makes the headers of a probe just before it is written."""

    def stamp() -> Mapping[str, str]:
        age = STALE_SECONDS if probe is Probe.STALE else 0
        headers = dict(signer.headers(claimed.webhook_id(probe), int(time.time()) - age, body))
        if probe is Probe.NO_SIGNATURE:
            del headers[SIGNATURE]
        if probe is Probe.BAD_SIGNATURE:
            headers[SIGNATURE] = spoiled(headers[SIGNATURE])
        return headers

    return stamp


def spoiled(signatures: str) -> str:
    """The same entries, of the same form and length, none of which holds."""
    return " ".join(_spoiled_entry(entry) for entry in signatures.split(" "))


def _spoiled_entry(entry: str) -> str:
    version, _, signature = entry.partition(",")
    wrong = bytes(byte ^ 0xFF for byte in base64.b64decode(signature))
    return f"{version},{base64.b64encode(wrong).decode()}"
