-- lead: let one sweep at a time work, until its transaction ends
SELECT pg_try_advisory_xact_lock($1) AS is_leader

-- end_doomed: end jobs that nobody holds and nobody may run any more
WITH found AS (
    (
        SELECT job.id
        FROM job
        WHERE job.state = 'PENDING' AND job.expires_at <= now()
        LIMIT $1
    )
    UNION ALL
    (
        SELECT job.id
        FROM job
        WHERE job.state = 'PROCESSING' AND job.lease_expires_at <= now() AND doom(job) IS NOT NULL
        LIMIT $1
    )
), doomed AS (
    SELECT job.id, doom(job) AS code
    FROM job
    WHERE job.id = ANY (ARRAY(SELECT id FROM found)) AND doom(job) IS NOT NULL
    ORDER BY job.id
    FOR UPDATE SKIP LOCKED
)
UPDATE job
SET state = 'FAILED',
    losses = job.losses + (job.worker_id IS NOT NULL)::int,
    worker_id = NULL,
    lease_expires_at = NULL,
    redispatch_at = NULL,
    error_code = doomed.code,
    error = CASE doomed.code
        WHEN 'EXPIRED' THEN 'the job was not started before it expired'
        WHEN 'CANCELED' THEN 'the job was canceled'
        ELSE 'the job was running on ' || (job.losses + 1) || ' workers that were lost'
    END,
    sequence = job.sequence + 1,
    finished_at = clock_timestamp(),
    updated_at = clock_timestamp()
FROM doomed
WHERE job.id = doomed.id AND job.id = ANY (ARRAY(SELECT id FROM doomed))
RETURNING job.id, job.sequence, job.progress_version, job.error_code

-- count_overdue: how many jobs that were never started are due to be named, counted up to a bound
SELECT count(*) AS overdue
FROM (
    SELECT FROM job WHERE job.state = 'PENDING' AND job.redispatch_at <= now() AND job.due_at <= now() LIMIT $1
) AS counted

-- count_due: how many jobs that were never started are due, counted up to a bound
SELECT count(*) AS due
FROM (SELECT FROM job WHERE job.state = 'PENDING' AND job.rank_at <= now() AND job.due_at <= now() LIMIT $1) AS counted

-- redispatch: name due jobs nobody has come for, and put off the next time they are named
-- $3: also those that were never started; without it only those whose hint is surely gone: they wait for another
-- attempt, lost their worker, or were put off because of a concurrency limit.
WITH found AS (
    (
        SELECT job.id
        FROM job
        WHERE job.state = 'PROCESSING' AND job.redispatch_at <= now() AND claimable(job)
        ORDER BY job.redispatch_at
        LIMIT $1
    )
    UNION ALL
    (
        -- What claimable() says of a PENDING job, in words the planner can count with; so below.
        SELECT job.id
        FROM job
        WHERE $3::boolean AND job.state = 'PENDING' AND job.redispatch_at <= now()
            AND job.due_at <= now() AND coalesce(job.expires_at > now(), true)
        ORDER BY job.redispatch_at
        LIMIT $1
    )
    UNION ALL
    (
        SELECT job.id
        FROM job
        WHERE NOT $3::boolean AND job.state = 'PENDING' AND job.concurrency_key IS NOT NULL
            AND job.redispatch_at <= now() AND job.due_at <= now() AND coalesce(job.expires_at > now(), true)
        LIMIT $1
    )
), overdue AS (
    SELECT job.id
    FROM job
    WHERE job.id = ANY (ARRAY(SELECT id FROM found)) AND job.redispatch_at <= now() AND claimable(job)
    ORDER BY job.id
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
RETURNING job.id

-- put_off: have a later sweep name these jobs, because the worker that got their hints cannot run them
UPDATE job
SET redispatch_at = clock_timestamp() + $2::float8 * interval '1 second'
FROM (SELECT id FROM job WHERE id = ANY ($1::uuid[]) ORDER BY id FOR UPDATE) AS unknown
WHERE job.id = unknown.id AND job.state IN ('PENDING', 'PROCESSING') AND job.worker_id IS NULL
RETURNING job.id

-- bury: end the jobs of dead letters that nobody came for in spite of several hints; name the other open ones again
WITH open AS (
    SELECT job.id, claimable(job) AND job.worker_id IS NULL AND job.dispatch_count >= $2 AS is_dead
    FROM job
    WHERE job.id = ANY ($1::uuid[]) AND job.state IN ('PENDING', 'PROCESSING')
    ORDER BY job.id
    FOR UPDATE
), ended AS (
    UPDATE job
    SET state = 'FAILED',
        redispatch_at = NULL,
        error_code = 'DEAD_LETTERED',
        error = 'no worker could take up the job, however often the queue offered it',
        sequence = job.sequence + 1,
        finished_at = clock_timestamp(),
        updated_at = clock_timestamp()
    FROM open
    WHERE job.id = open.id AND job.id = ANY ($1::uuid[]) AND open.is_dead
    RETURNING job.id, job.sequence, job.progress_version
), named AS (
    UPDATE job
    SET redispatch_at = least(job.redispatch_at, clock_timestamp())
    FROM open
    WHERE job.id = open.id AND job.id = ANY ($1::uuid[]) AND NOT open.is_dead AND job.worker_id IS NULL
)
SELECT id, sequence, progress_version
FROM ended

-- keep_letters: keep dead letters for a person to see; one that is kept already stays as it is
INSERT INTO dead_letter (id, body, job_id, verdict, receive_count, sent_at, arrived_at)
SELECT id, body, job_id, verdict, receive_count, sent_at, clock_timestamp()
FROM unnest($1::text[], $2::text[], $3::uuid[], $4::text[], $5::int[], $6::timestamptz[])
    AS kept (id, body, job_id, verdict, receive_count, sent_at)
ON CONFLICT (id) DO UPDATE SET arrived_at = clock_timestamp(), redriven_at = NULL
RETURNING id

-- enroll: say that a worker lives, and how busy it is
INSERT INTO worker (id, host, pid, slots, busy, types, started_at, seen_at)
VALUES ($1, $2, $3, $4, $5, $6, clock_timestamp(), clock_timestamp())
ON CONFLICT (id) DO UPDATE SET busy = excluded.busy, seen_at = excluded.seen_at

-- retire: strike out a worker that stops, and those not heard of for an hour
DELETE FROM worker WHERE id = $1 OR seen_at < clock_timestamp() - interval '1 hour'
