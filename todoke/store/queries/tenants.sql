-- waiting: how many jobs of each tenant wait for their start
SELECT tenant_id, count(*) AS jobs
FROM job
WHERE state = 'PENDING'
GROUP BY tenant_id

-- listed: every tenant that has a key, a job that has not ended, or limits of its own
SELECT
    named.tenant_id, tenant.submits_per_minute, tenant.reads_per_minute, tenant.queue_depth_max, tenant.streams_max,
    tenant.suspended_at,
    (
        SELECT count(*)
        FROM api_key
        WHERE api_key.tenant_id = named.tenant_id AND revoked_at IS NULL
            AND (expires_at IS NULL OR expires_at > clock_timestamp())
    ) AS keys,
    (SELECT max(last_used_at) FROM api_key WHERE api_key.tenant_id = named.tenant_id) AS last_used_at,
    (SELECT count(*) FROM job WHERE job.tenant_id = named.tenant_id AND job.state = 'PENDING') AS waiting,
    (SELECT count(*) FROM job WHERE job.tenant_id = named.tenant_id AND job.state = 'PROCESSING') AS running
FROM (
    SELECT tenant_id FROM tenant
    UNION
    SELECT tenant_id FROM api_key
    UNION
    SELECT tenant_id FROM job WHERE state IN ('PENDING', 'PROCESSING')
) AS named
LEFT JOIN tenant USING (tenant_id)
WHERE $1::text IS NULL OR named.tenant_id = $1
ORDER BY named.tenant_id

-- set: these limits are the tenant's own from now on
INSERT INTO tenant (tenant_id, submits_per_minute, reads_per_minute, queue_depth_max, streams_max)
VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (tenant_id) DO UPDATE
SET submits_per_minute = excluded.submits_per_minute,
    reads_per_minute = excluded.reads_per_minute,
    queue_depth_max = excluded.queue_depth_max,
    streams_max = excluded.streams_max

-- suspend: none of the tenant's keys is good, from now on or ($2 false) no longer
INSERT INTO tenant (tenant_id, suspended_at)
VALUES ($1, CASE WHEN $2::boolean THEN clock_timestamp() END)
ON CONFLICT (tenant_id) DO UPDATE
SET suspended_at = CASE WHEN $2::boolean THEN coalesce(tenant.suspended_at, clock_timestamp()) END
