-- limited: the claimable ones among the named jobs whose number at once is limited, best rank first
SELECT job.id, job.tenant_id, job.concurrency_key, job.concurrency_limit
FROM job
WHERE job.id = ANY ($1::uuid[]) AND job.type = ANY ($2::text[]) AND claimable(job)
ORDER BY job.rank_at, job.id

-- lock_limits: let one claim at a time count within these limits, until its transaction ends
SELECT pg_advisory_xact_lock(hashtextextended(name, 0))
FROM unnest($1::text[]) AS name

-- held_by_key: how many jobs of each concurrency key run now
SELECT asked.tenant_id, asked.concurrency_key, count(job.id) AS held
FROM unnest($1::text[], $2::text[]) AS asked (tenant_id, concurrency_key)
LEFT JOIN job
    ON job.tenant_id = asked.tenant_id AND job.concurrency_key = asked.concurrency_key
    AND job.state = 'PROCESSING' AND job.lease_expires_at > clock_timestamp()
GROUP BY asked.tenant_id, asked.concurrency_key

-- held_by_tenant: how many jobs of each tenant run now
SELECT asked.tenant_id, count(job.id) AS held
FROM unnest($1::text[]) AS asked (tenant_id)
LEFT JOIN job
    ON job.tenant_id = asked.tenant_id
    AND job.state = 'PROCESSING' AND job.lease_expires_at > clock_timestamp()
GROUP BY asked.tenant_id

-- unpark_keys: have the next sweep name as many waiting jobs of each concurrency key as have just ended
UPDATE job
SET redispatch_at = clock_timestamp(), dispatch_count = 0
WHERE job.id = ANY (ARRAY(
    SELECT next.id
    FROM unnest($1::text[], $2::text[], $3::int[]) AS ended (tenant_id, concurrency_key, jobs)
    CROSS JOIN LATERAL (
        SELECT waiting.id
        FROM job AS waiting
        WHERE waiting.tenant_id = ended.tenant_id AND waiting.concurrency_key = ended.concurrency_key
            AND waiting.state IN ('PENDING', 'PROCESSING') AND claimable(waiting)
        ORDER BY waiting.rank_at
        LIMIT ended.jobs
        FOR UPDATE SKIP LOCKED
    ) AS next
))
RETURNING job.id

-- unpark_tenants: have the next sweep name as many waiting jobs of each tenant as have just ended
UPDATE job
SET redispatch_at = clock_timestamp(), dispatch_count = 0
WHERE job.id = ANY (ARRAY(
    SELECT next.id
    FROM unnest($1::text[], $2::int[]) AS ended (tenant_id, jobs)
    CROSS JOIN LATERAL (
        SELECT waiting.id
        FROM job AS waiting
        WHERE waiting.tenant_id = ended.tenant_id AND waiting.state = 'PENDING'
            AND waiting.due_at <= now() AND coalesce(waiting.expires_at > now(), true)
        ORDER BY waiting.rank_at
        LIMIT ended.jobs
        FOR UPDATE SKIP LOCKED
    ) AS next
))
RETURNING job.id
