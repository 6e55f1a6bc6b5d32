-- accept: insert jobs with their first event; a job whose idempotency key is taken is left out of the answer
WITH asked AS (
    SELECT *
    FROM unnest(
        $1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[],
        $8::text[], $9::bytea[], $10::int[], $11::float8[]
    ) AS asked (
        id, tenant_id, type, params, metadata, callback_url, callback_events,
        idempotency_key, request_digest, max_attempts, timeout_seconds
    )
    -- Two batches that share keys take them in one order, or they would lock each other out.
    ORDER BY tenant_id, type, idempotency_key
), accepted AS (
    INSERT INTO job (
        id, tenant_id, type, params, metadata, callback_url, callback_events, idempotency_key, request_digest,
        max_attempts, timeout_seconds, due_at, redispatch_at, created_at, updated_at
    )
    SELECT
        id, tenant_id, type, params::json, metadata::json, callback_url, string_to_array(callback_events, ','),
        idempotency_key, request_digest, max_attempts, timeout_seconds,
        now(), now() + $12::float8 * interval '1 second', now(), now()
    FROM asked
    ON CONFLICT (tenant_id, type, idempotency_key) WHERE idempotency_key IS NOT NULL DO NOTHING
    RETURNING job
)
SELECT (job).id, (job).sequence, (job).progress_version, append_event(job, 'job.accepted')
FROM accepted

-- by_key: the jobs that hold these idempotency keys
SELECT job.id, job.tenant_id, job.type, job.idempotency_key, job.request_digest
FROM job
JOIN unnest($1::text[], $2::text[], $3::text[]) AS asked (tenant_id, type, idempotency_key)
    USING (tenant_id, type, idempotency_key)

-- claim: take what is claimable among the named jobs for one worker, each under its next lease
-- (Here and below `= ANY` beside the join keeps the planner on the primary key, however large the table.)
WITH picked AS (
    SELECT job.id
    FROM job
    WHERE job.id = ANY ($1::uuid[]) AND job.type = ANY ($2::text[]) AND claimable(job)
    ORDER BY job.id
    FOR UPDATE SKIP LOCKED
), claimed AS (
    UPDATE job
    SET state = 'PROCESSING',
        lease = job.lease + 1,
        losses = job.losses + (job.worker_id IS NOT NULL)::int,
        worker_id = $3,
        lease_expires_at = clock_timestamp() + $4::float8 * interval '1 second',
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
    RETURNING job
)
SELECT
    (job).id, (job).tenant_id, (job).type, (job).params, (job).lease, (job).attempt, (job).failures,
    (job).max_attempts, (job).timeout_seconds, (job).sequence, (job).progress_version,
    append_event(job, 'job.started')
FROM claimed

-- standing: the state of jobs, for deciding what becomes of hints that claimed nothing
SELECT id, state, type, worker_id IS NOT NULL AS is_held, due_at <= clock_timestamp() AS is_due
FROM job
WHERE id = ANY ($1::uuid[])

-- renew: prolong the leases one worker still holds; a job left out of the answer is lost to it
WITH held AS (
    SELECT job.id
    FROM job
    JOIN unnest($1::uuid[], $2::bigint[]) AS asked (id, lease) USING (id, lease)
    WHERE job.id = ANY ($1::uuid[]) AND job.state = 'PROCESSING' AND job.worker_id = $3
    ORDER BY job.id
    FOR UPDATE OF job
)
UPDATE job
SET lease_expires_at = clock_timestamp() + $4::float8 * interval '1 second'
FROM held
WHERE job.id = held.id AND job.id = ANY ($1::uuid[])
RETURNING job.id

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

-- settle: end attempts that are still held, for good or until they are due again, with event and artifacts
WITH asked AS (
    SELECT *
    FROM unnest(
        $1::uuid[], $2::bigint[], $3::text[], $4::text[], $5::text[], $6::float8[], $7::boolean[]
    ) AS asked (id, lease, state, error_code, error, delay, is_charged)
), held AS (
    SELECT job.id, job.lease
    FROM job
    JOIN asked USING (id, lease)
    WHERE job.id = ANY ($1::uuid[]) AND job.state = 'PROCESSING' AND job.worker_id = $8
    ORDER BY job.id
    FOR UPDATE OF job
), settled AS (
    UPDATE job
    SET state = asked.state,
        worker_id = CASE WHEN asked.state <> 'PROCESSING' THEN job.worker_id END,
        lease_expires_at = NULL,
        failures = job.failures + asked.is_charged::int,
        error_code = asked.error_code,
        error = asked.error,
        due_at = clock_timestamp() + asked.delay * interval '1 second',
        redispatch_at = CASE
            WHEN asked.state = 'PROCESSING' THEN clock_timestamp() + asked.delay * interval '1 second'
        END,
        sequence = job.sequence + 1,
        finished_at = CASE WHEN asked.state <> 'PROCESSING' THEN clock_timestamp() END,
        updated_at = clock_timestamp()
    FROM asked
    JOIN held USING (id, lease)
    WHERE job.id = held.id AND job.id = ANY ($1::uuid[])
    RETURNING job
), kept AS (
    INSERT INTO artifact (job_id, position, tenant_id, name, media_type, bytes, sha256, content, object_key)
    SELECT
        (job).id, kept.position, (job).tenant_id, kept.name, kept.media_type, kept.bytes, kept.sha256,
        kept.content, kept.object_key
    FROM settled
    JOIN unnest(
        $9::uuid[], $10::smallint[], $11::text[], $12::text[], $13::bigint[], $14::text[], $15::bytea[], $16::text[]
    ) AS kept (job_id, position, name, media_type, bytes, sha256, content, object_key)
        ON kept.job_id = (job).id
)
SELECT
    (job).id, (job).sequence, (job).progress_version,
    append_event(
        job,
        CASE (job).state WHEN 'SUCCESS' THEN 'job.succeeded' WHEN 'FAILED' THEN 'job.failed' ELSE 'job.retrying' END
    )
FROM settled

-- redispatch: name due jobs nobody has come for, and put off the next time they are named
WITH overdue AS (
    SELECT job.id
    FROM job
    WHERE job.state IN ('PENDING', 'PROCESSING') AND job.redispatch_at <= now() AND claimable(job)
    ORDER BY job.redispatch_at
    LIMIT $1
    FOR UPDATE SKIP LOCKED
)
UPDATE job
SET dispatch_count = job.dispatch_count + 1,
    redispatch_at = clock_timestamp()
        + least(900, $2::float8 * 2 ^ least(job.dispatch_count, 16)) * interval '1 second'
WHERE job.id = ANY (ARRAY(SELECT id FROM overdue))
RETURNING job.id

-- dispatch_soon: have the next sweep name these jobs, because their hints could not be sent
UPDATE job
SET redispatch_at = clock_timestamp(),
    -- A hint that never left does not count as one nobody came for.
    dispatch_count = greatest(0, job.dispatch_count - 1)
FROM (SELECT id FROM job WHERE id = ANY ($1::uuid[]) ORDER BY id FOR UPDATE) AS unsent
WHERE job.id = unsent.id AND job.state IN ('PENDING', 'PROCESSING')

-- put_off: have a later sweep name these jobs, because the worker that got their hints cannot run them
UPDATE job
SET redispatch_at = clock_timestamp() + $2::float8 * interval '1 second'
FROM (SELECT id FROM job WHERE id = ANY ($1::uuid[]) ORDER BY id FOR UPDATE) AS unknown
WHERE job.id = unknown.id AND job.state IN ('PENDING', 'PROCESSING') AND job.worker_id IS NULL
