"""From a checked submission to a job that is kept: alone, in one commit with others, or a whole batch at once."""

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from uuid import UUID

from service.admission import Admission
from service.callbacks import CallbackSecrets, CallbackWarnings
from service.dispatcher import Dispatcher
from service.submission import Submission
from todoke.jobs.catalog import JobType
from todoke.jobs.terms import Extras, Terms, new_job, once_more
from todoke.model.errors import KeyReused
from todoke.model.job import Accepted, NewJob
from todoke.model.limits import TenantLimits
from todoke.runtime.batcher import Batcher
from todoke.runtime.settings import Settings
from todoke.runtime.tracing import Attributes, Kind, Span
from todoke.store.ledger import Ledger
from todoke.store.reading import Original
from todoke.wire.destination import Rules, check_url

ACCEPT_BATCH_MAX = 100


@dataclass(frozen=True)
class Marks:
    """What a submit carries beside its body. digest: of the body, where there is a key."""

    idempotency_key: str | None = None
    digest: bytes | None = None
    batch_id: UUID | None = None


class Intake:
    """Every job enters here. Raises Unavailable when PostgreSQL is away."""

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        dispatcher: Dispatcher,
        warnings: CallbackWarnings,
        secrets: CallbackSecrets,
        admission: Admission,
    ) -> None:
        self._losses_max, self._redispatch_seconds = settings.losses_max, settings.redispatch_seconds
        self._rules = Rules.of(settings)
        self._ledger, self._dispatcher, self._warnings, self._secrets = ledger, dispatcher, warnings, secrets
        self._admission = admission
        self._batcher: Batcher[NewJob, Accepted | KeyReused] = Batcher(self._accept, ACCEPT_BATCH_MAX, "accept")

    def job(self, job_type: JobType, tenant_id: str, submission: Submission, marks: Marks) -> NewJob:
        """The job a submission asks for, not kept yet."""
        params = getattr(submission, "params")  # noqa: B009 - a field each type's own model adds
        terms = Terms(
            submission.delay_seconds, submission.timeout_seconds, submission.priority, submission.expires_seconds
        )
        metadata = submission.metadata
        extras = Extras(
            metadata=None if metadata is None else json.dumps(metadata, ensure_ascii=False, separators=(",", ":")),
            callback_url=submission.callback_url,
            callback_events=submission.callback_events,
            client_ref=submission.client_ref,
            idempotency_key=marks.idempotency_key,
            request_digest=marks.digest,
            batch_id=marks.batch_id,
        )
        return new_job(job_type, tenant_id, params, terms, extras, losses_max=self._losses_max)

    def retry(self, catalog: Mapping[str, JobType], original: Original, key: str | None) -> NewJob:
        """The job a finished one leads to. Raises NotFinished, TypeUnknown, InvalidInput; see `once_more`."""
        return once_more(catalog, original, losses_max=self._losses_max, idempotency_key=key)

    def check_url(self, url: str | None) -> None:
        """Raises InvalidInput for a callback URL this service does not call."""
        if url is not None:
            check_url(url, self._rules)

    async def check_callback(self, tenant_id: str, url: str | None) -> None:
        """Raises InvalidInput for a callback URL that is not called for this tenant."""
        self.check_url(url)
        if url is not None:
            await self._secrets.check(tenant_id, url)

    async def keep(self, job: NewJob, limits: TenantLimits, span: Span) -> Accepted:
        """Keep one job, in one commit with others of the same time. `span`: of its request. limits: its tenant's.

        Raises KeyReused, and ProblemError 429 and 503 while too many wait.
        """
        self._admission.check(job.tenant_id, limits)
        [job] = _of_trace([job], span)
        with _accepting(span, {"todoke.job_id": str(job.id), "todoke.job_type": job.type}):
            answer = await self._batcher.put(job)
        if isinstance(answer, KeyReused):
            raise answer
        self._enter([job], [answer])
        return answer

    async def keep_all(self, jobs: Sequence[NewJob], limits: TenantLimits, span: Span) -> list[Accepted | KeyReused]:
        """Keep all of these jobs of one tenant in one commit, or none where one of the answers is KeyReused.

        Raises ProblemError 429 and 503 while too many wait.
        """
        self._admission.check(jobs[0].tenant_id, limits, len(jobs))
        jobs = _of_trace(jobs, span)
        with _accepting(span, {"todoke.jobs": len(jobs)}):
            answers = await self._ledger.accept(jobs, self._redispatch_seconds, together=True)
        accepted = [answer for answer in answers if isinstance(answer, Accepted)]
        if len(accepted) == len(jobs):
            self._enter(jobs, accepted)
        return answers

    async def warnings(self, job: NewJob) -> Sequence[Mapping[str, str]]:
        """What the answer warns of."""
        return await self._warnings.about(job.tenant_id, job.callback_url)

    async def _accept(self, jobs: Sequence[NewJob]) -> list[Accepted | KeyReused]:
        return await self._ledger.accept(jobs, self._redispatch_seconds)

    def _enter(self, jobs: Sequence[NewJob], answers: Sequence[Accepted]) -> None:
        """Count what is new, and tell workers of it. The first hint of a job that is due later comes from the sweep."""
        for job, answer in zip(jobs, answers, strict=True):
            if answer.is_replay:
                continue
            self._admission.took(job.tenant_id)
            if not job.delay_seconds:
                self._dispatcher.hint(answer.id)


def _of_trace(jobs: Sequence[NewJob], span: Span) -> Sequence[NewJob]:
    trace = span.traceparent
    return jobs if trace is None else [replace(job, trace=trace) for job in jobs]


@contextlib.contextmanager
def _accepting(span: Span, attributes: Attributes) -> Iterator[None]:
    part = span.begin("accept", Kind.INTERNAL, attributes)
    try:
        yield
    finally:
        part.end()
