-- lead: let one worker at a time prune, until its transaction ends
SELECT pg_try_advisory_xact_lock($1) AS is_leader

-- old_results: the jobs whose results are over, held until the transaction ends
SELECT job.id
FROM job
WHERE job.finished_at IS NOT NULL AND job.results_expired_at IS NULL
    AND job.finished_at <= now() - $1::float8 * interval '1 day'
ORDER BY job.finished_at
LIMIT $2
FOR UPDATE SKIP LOCKED

-- expire: take the results of these jobs from the ledger; objects of theirs become orphans
-- A success that was claimed once and kept all it made inline has no objects; a failed job that ran may have some.
-- $2: whether there is an object store; without one only what the ledger itself names can be an orphan.
WITH expired AS (
    UPDATE job
    SET results_expired_at = clock_timestamp()
    WHERE job.id = ANY ($1::uuid[]) AND job.finished_at IS NOT NULL AND job.results_expired_at IS NULL
    RETURNING job.id, job.tenant_id, job.lease, job.state
), removed AS (
    DELETE FROM artifact
    WHERE artifact.job_id = ANY ($1::uuid[])
    RETURNING artifact.job_id, artifact.object_key
), orphaned AS (
    INSERT INTO orphan (prefix, tenant_id, due_at)
    SELECT expired.tenant_id || '/' || expired.id || '/', expired.tenant_id, clock_timestamp()
    FROM expired
    WHERE ($2::boolean AND (expired.lease > 1 OR (expired.lease > 0 AND expired.state = 'FAILED')))
        OR EXISTS (SELECT FROM removed WHERE removed.job_id = expired.id AND removed.object_key IS NOT NULL)
    ON CONFLICT (prefix) DO NOTHING
)
SELECT id FROM expired

-- asked: the job a tenant wants erased, held until the transaction ends
SELECT job.id, job.state IN ('SUCCESS', 'FAILED') AS has_ended
FROM job
WHERE job.id = $1 AND job.tenant_id = $2
FOR UPDATE

-- old_jobs: the jobs whose time is over, held until the transaction ends
SELECT job.id
FROM job
WHERE job.results_expired_at IS NOT NULL
    AND job.finished_at <= now() - $1::float8 * interval '1 day'
    AND NOT EXISTS (SELECT FROM delivery WHERE delivery.job_id = job.id AND delivery.state = 'PENDING')
ORDER BY job.finished_at
LIMIT $2
FOR UPDATE SKIP LOCKED

-- owed: hold the deliveries of these jobs, and tell which are still to be made after all
SELECT delivery.job_id, delivery.state
FROM delivery
WHERE delivery.job_id = ANY ($1::uuid[])
ORDER BY delivery.job_id, delivery.sequence
FOR UPDATE

-- bury: put tombstones in the place of these jobs and all that belongs to them
WITH events AS (
    DELETE FROM event WHERE event.job_id = ANY ($1::uuid[])
), deliveries AS (
    DELETE FROM delivery WHERE delivery.job_id = ANY ($1::uuid[])
), attempts AS (
    DELETE FROM delivery_attempt WHERE delivery_attempt.job_id = ANY ($1::uuid[])
), artifacts AS (
    DELETE FROM artifact WHERE artifact.job_id = ANY ($1::uuid[])
), jobs AS (
    DELETE FROM job
    WHERE job.id = ANY ($1::uuid[])
    RETURNING job.id, job.tenant_id, job.type, job.state, job.finished_at
)
INSERT INTO tombstone (job_id, tenant_id, type, state, finished_at, erased_at, reason)
SELECT jobs.id, jobs.tenant_id, jobs.type, jobs.state, jobs.finished_at, clock_timestamp(), $2
FROM jobs
RETURNING tombstone.job_id

-- take_orphans: prefixes whose objects are to be removed, each again later unless it is reported removed by then
UPDATE orphan
SET due_at = clock_timestamp() + least(3600, 60 * 2 ^ least(orphan.tries, 16)) * interval '1 second',
    tries = orphan.tries + 1
WHERE orphan.prefix = ANY (
    ARRAY(
        SELECT prefix FROM orphan WHERE due_at <= now() ORDER BY due_at LIMIT $1 FOR UPDATE SKIP LOCKED
    )
)
RETURNING orphan.prefix

-- drop_orphans: these prefixes hold no objects any more
DELETE FROM orphan WHERE orphan.prefix = ANY ($1::text[])

-- drop_tombstones: what was erased so long ago that it need not be known any more
DELETE FROM tombstone
WHERE tombstone.job_id = ANY (
    ARRAY(
        SELECT job_id
        FROM tombstone
        WHERE erased_at <= now() - $1::float8 * interval '1 day'
        ORDER BY erased_at
        LIMIT $2
        FOR UPDATE SKIP LOCKED
    )
)
RETURNING tombstone.job_id

-- drop_callback_tests: tests of callbacks that were asked for long ago; ids grow with time
DELETE FROM callback_test
WHERE callback_test.id = ANY (
    ARRAY(
        SELECT oldest.id
        FROM (SELECT id, created_at FROM callback_test ORDER BY id LIMIT $2) AS oldest
        WHERE oldest.created_at <= now() - $1::float8 * interval '1 day'
    )
)
RETURNING callback_test.id
