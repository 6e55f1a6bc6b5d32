-- accept: insert jobs; one that is there already, by id or by key, is left out of the answer
WITH asked AS (
    SELECT *, now() + delay * interval '1 second' AS due_at
    FROM unnest(
        $1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[],
        $8::text[], $9::bytea[], $10::int[], $11::float8[], $12::int[], $13::smallint[], $14::float8[], $15::float8[],
        $16::text[], $17::int[], $18::uuid[], $19::text[], $20::uuid[], $21::text[]
    ) AS asked (
        id, tenant_id, type, params, metadata, callback_url, callback_events,
        idempotency_key, request_digest, max_attempts, timeout_seconds, max_losses, priority, delay, expires,
        concurrency_key, concurrency_limit, retry_of, client_ref, batch_id, trace
    )
    -- Two batches that share keys take them in one order, or they would lock each other out.
    ORDER BY tenant_id, type, idempotency_key
)
INSERT INTO job (
    id, tenant_id, type, params, metadata, callback_url, callback_events, idempotency_key, request_digest,
    max_attempts, timeout_seconds, max_losses, priority, concurrency_key, concurrency_limit, retry_of,
    client_ref, batch_id, trace, due_at, rank_at, expires_at, redispatch_at, created_at, updated_at
)
SELECT
    id, tenant_id, type, params::json, metadata::json, callback_url, string_to_array(callback_events, ','),
    idempotency_key, request_digest,
    max_attempts, timeout_seconds, max_losses, priority, concurrency_key, concurrency_limit, retry_of,
    client_ref, batch_id, trace, due_at, due_at - priority * interval '1 minute', due_at + expires * interval '1 second',
    -- A job due now has a hint on its way; for one due later the sweep sends the first.
    due_at + CASE WHEN delay > 0 THEN 0 ELSE $22::float8 END * interval '1 second',
    now(), now()
FROM asked
ON CONFLICT DO NOTHING
RETURNING id, sequence, progress_version

-- holders: the jobs that have these ids or hold these idempotency keys
SELECT job.id, job.tenant_id, job.type, job.idempotency_key, job.request_digest, job.ticket_generation
FROM job
JOIN unnest($1::text[], $2::text[], $3::text[]) AS asked (tenant_id, type, idempotency_key)
    USING (tenant_id, type, idempotency_key)
UNION ALL
SELECT job.id, job.tenant_id, job.type, NULL, NULL, job.ticket_generation
FROM job
WHERE job.id = ANY ($4::uuid[])

-- claim: take what is claimable among the named jobs for one worker, each under its next lease
-- (Here and below `= ANY` beside the join keeps the planner on the primary key, however large the table.)
-- $5: they were admitted within their limits; otherwise those with a limit are left alone.
-- $6: they were chosen by rank; otherwise nothing is taken while a job of another priority than 0 is due, because then
-- rank decides who is next, not what a hint happens to name.
WITH picked AS (
    SELECT job.id, job.lease_expires_at AS lost_at
    FROM job
    WHERE job.id = ANY ($1::uuid[]) AND job.type = ANY ($2::text[]) AND claimable(job)
        AND ($5::boolean OR job.concurrency_limit IS NULL)
        AND (
            $6::boolean
            OR NOT EXISTS (
                SELECT FROM job AS other WHERE other.state = 'PENDING' AND other.priority <> 0 AND other.due_at <= now()
            )
        )
    ORDER BY job.id
    FOR UPDATE OF job SKIP LOCKED
)
UPDATE job
SET state = 'PROCESSING',
    lease = job.lease + 1,
    losses = job.losses + (job.worker_id IS NOT NULL)::int,
    worker_id = $3,
    lease_expires_at = clock_timestamp() + $4::float8 * interval '1 second',
    deadline_at = clock_timestamp() + job.timeout_seconds * interval '1 second',
    redispatch_at = clock_timestamp() + $4::float8 * interval '1 second',
    dispatch_count = 0,
    attempt = job.attempt + 1,
    sequence = job.sequence + 1,
    progress_percent = NULL,
    progress_message = NULL,
    error_code = NULL,
    error = NULL,
    started_at = coalesce(job.started_at, clock_timestamp()),
    updated_at = clock_timestamp()
FROM picked
WHERE job.id = picked.id AND job.id = ANY ($1::uuid[])
RETURNING
    job.id, job.tenant_id, job.type, job.params, job.lease, job.attempt, job.failures, job.max_attempts,
    job.timeout_seconds, job.sequence, job.progress_version, job.trace,
    job.concurrency_limit IS NOT NULL AS is_limited,
    extract(epoch FROM job.updated_at - coalesce(picked.lost_at, job.due_at))::float8 AS waited_seconds,
    picked.lost_at IS NOT NULL AS is_recovered

-- due: name and lock jobs that are due, best rank first
-- (What claimable() says of a PENDING job, in words the planner can count with: it must walk the index of ranks.)
SELECT job.id
FROM job
WHERE job.state = 'PENDING' AND job.due_at <= now() AND coalesce(job.expires_at > now(), true)
    AND job.type = ANY ($2::text[]) AND job.concurrency_limit IS NULL
ORDER BY job.rank_at
LIMIT $1
FOR UPDATE SKIP LOCKED

-- due_again: name and lock jobs that wait for another attempt or whose worker is lost, and that are due
SELECT job.id
FROM job
WHERE job.state = 'PROCESSING' AND job.redispatch_at <= now()
    AND job.type = ANY ($2::text[]) AND job.concurrency_limit IS NULL AND claimable(job)
ORDER BY job.redispatch_at
LIMIT $1
FOR UPDATE SKIP LOCKED

-- due_limited: name due jobs with a concurrency limit, but for those that were put off because of it
SELECT job.id
FROM job
WHERE job.state IN ('PENDING', 'PROCESSING') AND job.redispatch_at <= now()
    AND job.type = ANY ($2::text[])
    AND job.concurrency_key IS NOT NULL AND job.concurrency_limit IS NOT NULL AND claimable(job)
ORDER BY job.redispatch_at
LIMIT $1

-- due_any: name due jobs, but for those that were put off because of a limit
SELECT job.id
FROM job
WHERE job.state IN ('PENDING', 'PROCESSING') AND job.redispatch_at <= now()
    AND job.type = ANY ($2::text[]) AND claimable(job)
ORDER BY job.redispatch_at
LIMIT $1

-- is_ranked: whether a job of another priority than 0 is due, so that rank decides who is next
SELECT EXISTS (
    SELECT FROM job WHERE job.state = 'PENDING' AND job.priority <> 0 AND job.due_at <= now()
) AS is_ranked

-- park: put off jobs over their limit; the end of one that runs frees them sooner
UPDATE job
SET redispatch_at = clock_timestamp() + $2::float8 * interval '1 second'
FROM (SELECT id FROM job WHERE id = ANY ($1::uuid[]) ORDER BY id FOR UPDATE) AS parked
WHERE job.id = parked.id AND job.state IN ('PENDING', 'PROCESSING') AND job.worker_id IS NULL
RETURNING job.id

-- standing: the state of jobs, for deciding what becomes of hints that claimed nothing
SELECT
    id, state, type, lease, worker_id, dispatch_count,
    worker_id IS NOT NULL AS is_held,
    concurrency_limit IS NOT NULL AS is_limited,
    extract(epoch FROM due_at - clock_timestamp())::float8 AS due_seconds
FROM job
WHERE id = ANY ($1::uuid[])

-- renew: prolong the leases one worker still holds; a job left out of the answer is lost to it
-- No lease outlives its attempt's deadline by more than what keeping a result may take. One that has expired may be
-- prolonged while nobody has claimed its job, unless it is limited: then its place may be taken already.
WITH held AS (
    SELECT job.id
    FROM job
    JOIN unnest($1::uuid[], $2::bigint[]) AS asked (id, lease) USING (id, lease)
    WHERE job.id = ANY ($1::uuid[]) AND job.state = 'PROCESSING' AND job.worker_id = $3
        AND (job.concurrency_limit IS NULL OR job.lease_expires_at > clock_timestamp())
    ORDER BY job.id
    FOR UPDATE OF job
)
UPDATE job
SET lease_expires_at = least(
    clock_timestamp() + $4::float8 * interval '1 second',
    job.deadline_at + $5::float8 * interval '1 second'
)
FROM held
WHERE job.id = held.id AND job.id = ANY ($1::uuid[])
RETURNING job.id, job.cancel_requested_at IS NOT NULL AS is_cancel_requested

-- report: store the latest progress of attempts still held
WITH asked AS (
    SELECT *
    FROM unnest($1::uuid[], $2::bigint[], $3::float8[], $4::text[]) AS asked (id, lease, percent, message)
), held AS (
    SELECT job.id, job.lease
    FROM job
    JOIN asked USING (id, lease)
    WHERE job.id = ANY ($1::uuid[]) AND job.state = 'PROCESSING' AND job.worker_id = $5
    ORDER BY job.id
    FOR UPDATE OF job
)
UPDATE job
SET progress_percent = greatest(coalesce(job.progress_percent, 0), asked.percent),
    progress_message = asked.message,
    progress_version = job.progress_version + 1,
    updated_at = clock_timestamp()
FROM asked
JOIN held USING (id, lease)
WHERE job.id = held.id AND job.id = ANY ($1::uuid[])
RETURNING job.id, job.sequence, job.progress_version

-- settle: end attempts that are still held, for good or until they are due again, with their artifacts
-- A job that was asked to be canceled gets no further attempt.
WITH asked AS (
    SELECT *
    FROM unnest(
        $1::uuid[], $2::bigint[], $3::text[], $4::text[], $5::text[], $6::float8[], $7::boolean[]
    ) AS asked (id, lease, state, error_code, error, delay, is_charged)
), held AS (
    SELECT
        job.id, job.lease,
        asked.state = 'PROCESSING' AND job.cancel_requested_at IS NOT NULL AS is_canceled
    FROM job
    JOIN asked USING (id, lease)
    WHERE job.id = ANY ($1::uuid[]) AND job.state = 'PROCESSING' AND job.worker_id = $8
    ORDER BY job.id
    FOR UPDATE OF job
), ruled AS (
    SELECT
        id, lease, delay, is_charged,
        CASE WHEN is_canceled THEN 'FAILED' ELSE state END AS state,
        CASE WHEN is_canceled THEN 'CANCELED' ELSE error_code END AS error_code,
        CASE WHEN is_canceled THEN 'the job was canceled' ELSE error END AS error
    FROM asked
    JOIN held USING (id, lease)
), settled AS (
    UPDATE job
    SET state = ruled.state,
        worker_id = CASE WHEN ruled.state <> 'PROCESSING' THEN job.worker_id END,
        lease_expires_at = NULL,
        failures = job.failures + ruled.is_charged::int,
        error_code = ruled.error_code,
        error = ruled.error,
        due_at = clock_timestamp() + ruled.delay * interval '1 second',
        redispatch_at = CASE
            WHEN ruled.state = 'PROCESSING' THEN clock_timestamp() + ruled.delay * interval '1 second'
        END,
        sequence = job.sequence + 1,
        finished_at = CASE WHEN ruled.state <> 'PROCESSING' THEN clock_timestamp() END,
        updated_at = clock_timestamp()
    FROM ruled
    WHERE job.id = ruled.id AND job.id = ANY ($1::uuid[])
    RETURNING
        job.id, job.lease, job.sequence, job.progress_version, job.tenant_id, job.concurrency_limit, job.concurrency_key
), kept AS (
    INSERT INTO artifact (job_id, position, tenant_id, name, media_type, bytes, sha256, content, object_key)
    SELECT
        settled.id, kept.position, settled.tenant_id, kept.name, kept.media_type, kept.bytes, kept.sha256,
        kept.content, kept.object_key
    FROM settled
    JOIN unnest(
        $9::uuid[], $10::smallint[], $11::text[], $12::text[], $13::bigint[], $14::text[], $15::bytea[], $16::text[]
    ) AS kept (job_id, position, name, media_type, bytes, sha256, content, object_key)
        ON kept.job_id = settled.id
)
SELECT
    id, lease, sequence, progress_version, tenant_id,
    CASE WHEN concurrency_limit IS NOT NULL THEN concurrency_key END AS concurrency_key
FROM settled

-- landed: those among these outcomes that stand in the rows already, because the answer of their commit was lost
SELECT job.id, job.lease
FROM job
JOIN unnest($1::uuid[], $2::bigint[], $3::text[]) AS asked (id, lease, state) USING (id, lease)
WHERE job.id = ANY ($1::uuid[])
    AND (
        (asked.state = 'PROCESSING' AND job.state = 'PROCESSING' AND job.worker_id IS NULL)
        OR (asked.state = 'PROCESSING' AND job.state = 'FAILED' AND job.error_code = 'CANCELED' AND job.worker_id = $4)
        OR (asked.state <> 'PROCESSING' AND job.state = asked.state AND job.worker_id = $4)
    )

-- cancel: end a job nobody holds, or ask its holder to; answers nothing for a job this tenant does not have
WITH asked AS (
    SELECT job.id,
        job.state IN ('PENDING', 'PROCESSING') AS is_open,
        job.worker_id IS NOT NULL AND job.lease_expires_at > clock_timestamp() AS is_held
    FROM job
    WHERE job.id = $1 AND job.tenant_id = $2
    FOR UPDATE
), ended AS (
    UPDATE job
    SET state = 'FAILED',
        losses = job.losses + (job.worker_id IS NOT NULL)::int,
        worker_id = NULL,
        lease_expires_at = NULL,
        redispatch_at = NULL,
        cancel_requested_at = coalesce(job.cancel_requested_at, clock_timestamp()),
        error_code = 'CANCELED',
        error = 'the job was canceled',
        sequence = job.sequence + 1,
        finished_at = clock_timestamp(),
        updated_at = clock_timestamp()
    FROM asked
    WHERE job.id = asked.id AND job.id = $1 AND asked.is_open AND NOT asked.is_held
    RETURNING job.id, job.sequence, job.progress_version
), requested AS (
    UPDATE job
    SET cancel_requested_at = clock_timestamp(),
        progress_version = job.progress_version + 1,
        updated_at = clock_timestamp()
    FROM asked
    WHERE job.id = asked.id AND job.id = $1 AND asked.is_open AND asked.is_held AND job.cancel_requested_at IS NULL
    RETURNING job.id, job.sequence, job.progress_version
)
SELECT
    coalesce(ended.sequence, requested.sequence) AS sequence,
    coalesce(ended.progress_version, requested.progress_version) AS progress_version,
    asked.is_open AND asked.is_held AS is_held
FROM asked
LEFT JOIN ended USING (id)
LEFT JOIN requested USING (id)

-- revoke_tickets: no ticket or stream cookie given so far opens this job any more
UPDATE job
SET ticket_generation = ticket_generation + 1
WHERE id = $1 AND tenant_id = $2
RETURNING id

-- strays: jobs that stand under this worker
SELECT job.id, job.lease
FROM job
WHERE job.state = 'PROCESSING' AND job.worker_id = $1
-- Nothing is to be locked: a server that takes no writes refuses this, and so is not taken for one to work with.
ORDER BY job.id
FOR UPDATE
