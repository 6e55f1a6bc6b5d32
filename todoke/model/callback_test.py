"""A test of a callback: which requests a receiver is sent, what each answer is worth, and what to change."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from todoke.model.delivery import Answer, Reason

OPEN_MAX = 5
# Reports of a tenant.
KEPT_MAX = 100
TRIES_MAX = 3
# A test that nobody took by then is given up: its owner has long gone, and the receiver would wonder.
WAIT_SECONDS = 600.0
STALE_SECONDS = 600


class Kind(StrEnum):
    """PING: one good event. SELF_TEST: every probe."""

    PING = "ping"
    SELF_TEST = "self_test"


class Probe(StrEnum):
    """One request of a test."""

    GOOD = "good"
    DUPLICATE = "duplicate"
    BAD_SIGNATURE = "bad_signature"
    NO_SIGNATURE = "no_signature"
    STALE = "stale"


class Grade(StrEnum):
    """PASS, WEAK (something to mend), FAIL (not to be trusted with money), UNTESTED (nothing was learned)."""

    PASS = "pass"  # noqa: S105 - a grade
    WEAK = "weak"
    FAIL = "fail"
    UNTESTED = "untested"


PROBES = {Kind.PING: (Probe.GOOD,), Kind.SELF_TEST: tuple(Probe)}
TO_BE_TAKEN = (Probe.GOOD, Probe.DUPLICATE)

NOBODY = "no notifier took the test in time: start one with `todoke notifier`, then test again"
LOST = "the notifiers that ran the test were lost again and again: read their logs, then test again"


@dataclass(frozen=True)
class CallbackTest:
    """A test as its owner sees it. `report`: None until it is done."""

    id: UUID
    kind: Kind
    url: str
    is_done: bool
    created_at: datetime
    finished_at: datetime | None
    report: dict[str, Any] | None


@dataclass(frozen=True)
class ClaimedTest:
    """A test to be run now. `tries` counts from 1 and guards its record."""

    id: UUID
    tenant_id: str
    url: str
    kind: Kind
    tries: int
    created_at: datetime

    def webhook_id(self, probe: Probe) -> str:
        """The duplicate has that of the good one; the same again when another notifier takes the test over."""
        return f"test_{self.id.hex}_{Probe.GOOD if probe is Probe.DUPLICATE else probe}"


@dataclass(frozen=True)
class Finding:
    """What a probe showed. advice: what to change; empty when nothing is."""

    probe: Probe
    answer: Answer | None
    verdict: Grade
    advice: str = ""

    @property
    def expected(self) -> str:
        """The kind of status a good receiver answers."""
        return "2xx" if self.probe in TO_BE_TAKEN else "4xx"

    def spelled(self) -> dict[str, object]:
        """As public JSON. seconds: from the name's lookup to the last byte."""
        answer = self.answer
        return {
            "probe": self.probe,
            "expected": self.expected,
            "status": answer and answer.status,
            "reason": answer and answer.reason,
            "seconds": answer and round(answer.seconds, 3),
            "verdict": self.verdict,
            "advice": self.advice,
        }


def judged(probe: Probe, answer: Answer) -> Finding:
    """What an answer to a probe is worth."""
    if answer.reason is Reason.SENDER:
        return Finding(probe, answer, Grade.UNTESTED, "the fault was on the sending side: test again")
    if probe is Probe.GOOD:
        return _judged_good(answer)
    if probe is Probe.DUPLICATE:
        if answer.is_success:
            return Finding(probe, answer, Grade.PASS)
        return Finding(probe, answer, Grade.WEAK, DUPLICATE_ADVICE)
    return _judged_forgery(probe, answer)


def skipped(probe: Probe) -> Finding:
    """A probe that was not sent, because the good event was not taken: a refusal would prove nothing."""
    return Finding(probe, None, Grade.UNTESTED, "not sent: have the good event taken first")


def report(findings: Sequence[Finding], advice: str = "", owed: int | None = None) -> dict[str, object]:
    """The graded report, as public JSON. advice: about the test as a whole.

    owed: how many parked deliveries are sent once more, because the endpoint was enabled again; None: it was not.
    """
    return {
        "grade": grade(findings),
        "advice": advice,
        "probes": [finding.spelled() for finding in findings],
        "endpointEnabled": owed is not None,
        "redelivered": owed or 0,
    }


def grade(findings: Sequence[Finding]) -> Grade:
    """The worst finding decides; what was left untested makes the whole weak, or untested when nothing was learned."""
    verdicts = {finding.verdict for finding in findings}
    if Grade.FAIL in verdicts:
        return Grade.FAIL
    if verdicts <= {Grade.UNTESTED}:
        return Grade.UNTESTED
    return Grade.PASS if verdicts == {Grade.PASS} else Grade.WEAK


def _judged_good(answer: Answer) -> Finding:
    if answer.is_success:
        return Finding(Probe.GOOD, answer, Grade.PASS)
    advice = _status_advice(answer.status) if answer.status is not None else REASON_ADVICE.get(answer.reason, OTHER)
    return Finding(Probe.GOOD, answer, Grade.FAIL, advice)


def _judged_forgery(probe: Probe, answer: Answer) -> Finding:
    status = answer.status
    if status is None:
        return Finding(probe, answer, Grade.WEAK, "it did not answer: refuse with 401, at once and before any work")
    if answer.is_success:
        # An old event that is taken once more does no harm to a receiver that drops the ids it has seen.
        verdict = Grade.WEAK if probe is Probe.STALE else Grade.FAIL
        return Finding(probe, answer, verdict, FORGERY_ADVICE[probe])
    if status == 429:
        return Finding(probe, answer, Grade.WEAK, "its rate limit answered, which proves nothing: test again later")
    if 400 <= status < 500:
        return Finding(probe, answer, Grade.PASS)
    return Finding(probe, answer, Grade.WEAK, f"it was refused, but by {status}: answer 401 before any work is done")


def _status_advice(status: int | None) -> str:
    if status in (401, 403):
        return (
            "it refused a good signature: verify with the secret that signs this callback, over the bytes of the body "
            "as they came, and look at this machine's clock"
        )
    if status is not None and 300 <= status < 400:
        return "redirects are not followed: give the URL it leads to as callbackUrl"
    if status in (404, 405):
        return "the URL takes no POST: check its path"
    if status == 410:
        return "410 says that nothing is wanted here any more: to a real event it disables the endpoint"
    return "answer any 2xx as soon as the event is kept, and do the work afterwards"


DUPLICATE_ADVICE = (
    "the same event may come twice: answer 2xx to a webhook-id that was seen before, or it is sent again for days"
)
FORGERY_ADVICE = {
    Probe.BAD_SIGNATURE: "anybody can forge events: verify webhook-signature before reading the body, answer 401",
    Probe.NO_SIGNATURE: "anybody can forge events: answer 401 to a request without webhook-signature",
    Probe.STALE: "a recorded event can be played again: refuse a webhook-timestamp more than five minutes off",
}
OTHER = "it was not understood as HTTP: see `reason`"
REASON_ADVICE = {
    Reason.TIMEOUT: "answer within the deadline: keep the event, answer 2xx, and do the work afterwards",
    Reason.DNS: "its host name has no address: check the spelling, or its DNS",
    Reason.CONNECT: "nothing listens there: check host, port and firewall",
    Reason.TLS: "its certificate was not accepted: it must be valid, for this host name, with its whole chain",
    Reason.DISCONNECTED: "it hung up without an answer: look into its log, or that of a proxy before it",
    Reason.BLOCKED: "its host leads to an address that callbacks may not reach: it must be a public one",
}
