-- pages: the feeds of tenants, each behind a known place, in order, up to the horizon; at least one row for each tenant
-- The horizon is that of this statement's own snapshot: whoever has an id below it has ended, and is seen if it
-- committed. `reached`: right behind the tenant's last event below it. A place never stands further: after a crash of the
-- server transaction ids that left no trace on its disk are given once more. $4: rows for each tenant. $5: the page ends with the row that reaches this many bytes.
WITH horizon AS MATERIALIZED (
    SELECT
        current_epoch() AS epoch,
        xid_base + pg_snapshot_xmin(pg_current_snapshot())::text::bigint AS xid,
        xid_base + pg_snapshot_xmax(pg_current_snapshot())::text::bigint AS next_xid,
        extract(epoch FROM clock_timestamp())::float8 AS read_at
    FROM epoch
    LIMIT 1
)
SELECT
    asked.tenant_id, horizon.epoch, horizon.xid AS horizon, horizon.next_xid, horizon.read_at,
    coalesce((
        SELECT event.xid + 1
        FROM event
        WHERE event.tenant_id = asked.tenant_id AND event.xid IS NOT NULL AND event.xid < horizon.xid
        ORDER BY event.xid DESC, event.position DESC
        LIMIT 1
    ), 0) AS reached,
    coalesce(horizon.xid <= (
        SELECT event.xid
        FROM event
        WHERE event.tenant_id = asked.tenant_id AND event.xid IS NOT NULL
        ORDER BY event.xid DESC, event.position DESC
        LIMIT 1
    ), false) AS is_held_back,
    page.*,
    (SELECT job.type FROM job WHERE job.id = page.job_id) AS job_type
FROM unnest($1::text[], $2::bigint[], $3::bigint[]) AS asked (tenant_id, xid, position)
CROSS JOIN horizon
LEFT JOIN LATERAL (
    SELECT first.*, count(*) OVER () AS found
    FROM (
        SELECT
            chosen.*,
            sum(octet_length(chosen.body)) OVER (ORDER BY chosen.xid, chosen.position) AS bytes
        FROM (
            SELECT
                event.xid, event.position, event.job_id, event.sequence, event.type, event.body,
                extract(epoch FROM event.at)::float8 AS at
            FROM event
            WHERE event.tenant_id = asked.tenant_id AND event.xid < horizon.xid
                AND (event.xid, event.position) > (asked.xid, asked.position)
            ORDER BY event.xid, event.position
            LIMIT $4
        ) AS chosen
    ) AS first
) AS page ON page.bytes - octet_length(page.body) < $5::bigint
ORDER BY asked.tenant_id, page.xid, page.position

-- snapshot: the newest jobs of a tenant, newest first, and the horizon of the same look
-- $2: only those whose latest event is of these types. $3: only these job types. $5: how far back it looks for them.
SELECT
    current_epoch() AS epoch,
    xid_base + pg_snapshot_xmin(pg_current_snapshot())::text::bigint AS horizon,
    xid_base + pg_snapshot_xmax(pg_current_snapshot())::text::bigint AS next_xid,
    extract(epoch FROM clock_timestamp())::float8 AS read_at,
    coalesce((
        SELECT event.xid + 1
        FROM event
        WHERE event.tenant_id = $1 AND event.xid IS NOT NULL
            AND event.xid < xid_base + pg_snapshot_xmin(pg_current_snapshot())::text::bigint
        ORDER BY event.xid DESC, event.position DESC
        LIMIT 1
    ), 0) AS reached,
    utc(clock_timestamp()) AS taken_at,
    (
        SELECT coalesce(string_agg(job_story(newest.job)::text, ',' ORDER BY newest.id DESC), '')
        FROM (
            SELECT recent.job, recent.id
            FROM (SELECT job, job.id FROM job WHERE job.tenant_id = $1 ORDER BY job.id DESC LIMIT $5) AS recent
            WHERE ($2::text[] IS NULL OR event_type(recent.job) = ANY ($2::text[]))
                AND ($3::text[] IS NULL OR (recent.job).type = ANY ($3::text[]))
            ORDER BY recent.id DESC
            LIMIT $4
        ) AS newest
    ) AS jobs
FROM epoch

-- progress: the latest progress of those of these jobs that run and belong to these tenants
SELECT
    job.id, job.tenant_id, job.type, job.sequence, job.progress_version,
    event_body(job, 'job.progress') AS body
FROM job
WHERE job.id = ANY ($1::uuid[]) AND job.tenant_id = ANY ($2::text[])
    AND job.state = 'PROCESSING' AND job.progress_percent IS NOT NULL

-- erased: whether a job of a tenant that ended after a time has been erased since another; both in Unix seconds
SELECT EXISTS (
    SELECT
    FROM tombstone
    WHERE tombstone.erased_at >= to_timestamp($2::float8) AND tombstone.tenant_id = $1
        AND tombstone.finished_at >= to_timestamp($3::float8)
) AS is_any
