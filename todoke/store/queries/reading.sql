-- statuses: jobs as their tenant sees them, and what they left behind
SELECT
    job.id, job.state, job.sequence, job.progress_version,
    current_epoch() AS epoch,
    (
        SELECT coalesce(
            json_agg(
                json_build_object('name', name, 'mediaType', media_type, 'bytes', bytes, 'sha256', sha256)
                ORDER BY position
            ),
            '[]'
        )
        FROM artifact
        WHERE artifact.job_id = job.id AND artifact.tenant_id = job.tenant_id
    )::text AS artifacts,
    event_body(job, 'snapshot') AS snapshot,
    CASE WHEN job.callback_url IS NOT NULL THEN (
        SELECT json_build_object(
            'state', lower(delivery.state),
            'attempt', delivery.attempt,
            'reason', delivery.last_reason,
            'nextAttemptAt', CASE WHEN delivery.state = 'PENDING' THEN utc(CASE delivery.standing
                WHEN 'held' THEN greatest(delivery.due_at, (
                    SELECT endpoint.blocked_until FROM endpoint WHERE endpoint.id = delivery.endpoint_id
                ))
                WHEN 'leased' THEN NULL
                ELSE delivery.due_at
            END) END
        )::text
        FROM delivery
        WHERE delivery.job_id = job.id AND delivery.tenant_id = job.tenant_id AND delivery.sequence > 0
        ORDER BY delivery.sequence DESC
        LIMIT 1
    ) END AS delivery,
    CASE job.state WHEN 'SUCCESS' THEN utc(job.results_expired_at) END AS result_expired_at,
    extract(epoch FROM clock_timestamp() - job.due_at)::float8 AS due_age,
    extract(epoch FROM clock_timestamp() - job.started_at)::float8 AS start_age
FROM job
WHERE job.id = ANY ($1::uuid[]) AND job.tenant_id = $2

-- original: what a job was submitted with
SELECT id, tenant_id, type, state, params, metadata, callback_url, callback_events
FROM job
WHERE id = $1 AND tenant_id = $2

-- ticket_generation: how often the tickets of a job were taken back
SELECT ticket_generation
FROM job
WHERE id = $1 AND tenant_id = $2

-- tombstone: what is known of a job that was erased
SELECT
    json_build_object(
        'jobId', job_id,
        'jobType', type,
        'jobStatus', CASE state WHEN 'SUCCESS' THEN 'success' ELSE 'failed' END,
        'finishedAt', utc(finished_at),
        'erasedAt', utc(erased_at)
    )::text AS story
FROM tombstone
WHERE job_id = $1 AND tenant_id = $2

-- artifacts: what a job left behind, in the order it was attached
SELECT name, media_type, bytes AS size, sha256, content, object_key
FROM artifact
WHERE job_id = $1 AND tenant_id = $2
ORDER BY position

-- news: where jobs stand, and the newest of their log after a known sequence, all from one snapshot
SELECT
    job.id, job.sequence, job.progress_version, job.state IN ('SUCCESS', 'FAILED') AS is_terminal,
    CASE WHEN job.progress_version > asked.version THEN event_body(job, 'job.progress') ELSE '' END AS progress,
    fresh.sequences, fresh.types, fresh.bodies,
    extract(epoch FROM clock_timestamp() - fresh.at)::float8 AS age,
    (SELECT current_epoch()) AS epoch
FROM unnest($1::uuid[], $2::text[], $3::int[], $4::int[]) AS asked (id, tenant_id, after, version)
JOIN job ON job.id = asked.id AND job.tenant_id = asked.tenant_id AND job.id = ANY ($1::uuid[])
CROSS JOIN LATERAL (
    SELECT
        array_agg(event.sequence ORDER BY event.sequence) AS sequences,
        array_agg(event.type ORDER BY event.sequence) AS types,
        array_agg(event.body ORDER BY event.sequence) AS bodies,
        max(event.at) AS at
    FROM event
    WHERE event.job_id = job.id AND event.tenant_id = job.tenant_id
        AND event.sequence > greatest(asked.after, job.sequence - $5::int)
) AS fresh

-- page: a piece of one job's log after a known sequence, in order
SELECT job_id, sequence, type, body
FROM event
WHERE job_id = $1 AND tenant_id = $2 AND sequence > $3
ORDER BY sequence
LIMIT $4

-- events: the log of jobs, each after a known sequence, in order
SELECT event.job_id, event.sequence, event.type, event.body
FROM event
JOIN unnest($1::uuid[], $2::text[], $3::int[]) AS asked (job_id, tenant_id, after)
    ON event.job_id = asked.job_id AND event.tenant_id = asked.tenant_id AND event.sequence > asked.after
ORDER BY event.job_id, event.sequence

-- epoch: the value that changes when the numbering of this database may have been lost
SELECT current_epoch() AS value

-- renew_epoch: begin a new epoch when these rows have come to another server
SELECT renew_epoch()

-- begin_epoch: void every cursor given so far
UPDATE epoch SET value = left(md5(gen_random_uuid()::text), 8)
