-- find: keys by their ids, how long each stands by this server's clock, and what its tenant may do
SELECT
    api_key.id, api_key.tenant_id, api_key.digest, api_key.scopes,
    CASE
        WHEN api_key.revoked_at IS NOT NULL THEN 0
        ELSE extract(epoch FROM api_key.expires_at - clock_timestamp())::float8
    END AS seconds_left,
    api_key.submits_per_minute AS key_submits, api_key.reads_per_minute AS key_reads,
    tenant.submits_per_minute, tenant.reads_per_minute, tenant.queue_depth_max, tenant.streams_max,
    tenant.suspended_at IS NOT NULL AS is_suspended
FROM api_key
LEFT JOIN tenant USING (tenant_id)
WHERE api_key.id = ANY ($1::text[])

-- listed: the keys of one tenant or of all, the newest first
SELECT
    id, tenant_id, name, scopes, created_at, expires_at, revoked_at, last_used_at, submits_per_minute, reads_per_minute
FROM api_key
WHERE $1::text IS NULL OR tenant_id = $1
ORDER BY created_at DESC, id

-- create: keep a new key
INSERT INTO api_key (id, tenant_id, name, digest, scopes, expires_at, submits_per_minute, reads_per_minute)
VALUES ($1, $2, $3, $4, $5::text[], clock_timestamp() + $6::float8 * interval '1 second', $7, $8)
RETURNING
    id, tenant_id, name, scopes, created_at, expires_at, revoked_at, last_used_at, submits_per_minute, reads_per_minute

-- revoke: end a key now; one that was revoked stays so
UPDATE api_key
SET revoked_at = coalesce(revoked_at, clock_timestamp())
WHERE id = $1
RETURNING id

-- rotate: a new key in the place of one that stands, which ends after the overlap, or sooner if it was to
WITH old AS (
    UPDATE api_key
    SET expires_at = least(expires_at, clock_timestamp() + $5::float8 * interval '1 second')
    WHERE id = $1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > clock_timestamp())
    RETURNING tenant_id, name, scopes, submits_per_minute, reads_per_minute
)
INSERT INTO api_key (id, tenant_id, name, digest, scopes, expires_at, submits_per_minute, reads_per_minute)
SELECT
    $2, tenant_id, name, $3, scopes, clock_timestamp() + $4::float8 * interval '1 second',
    submits_per_minute, reads_per_minute
FROM old
RETURNING
    id, tenant_id, name, scopes, created_at, expires_at, revoked_at, last_used_at, submits_per_minute, reads_per_minute

-- limit: these limits are the key's own from now on
UPDATE api_key
SET submits_per_minute = $2, reads_per_minute = $3
WHERE id = $1
RETURNING
    id, tenant_id, name, scopes, created_at, expires_at, revoked_at, last_used_at, submits_per_minute, reads_per_minute

-- used: these keys have been used lately; a key's row is written once a minute at most, whoever saw it
UPDATE api_key
SET last_used_at = clock_timestamp()
WHERE id = ANY (
    ARRAY(
        SELECT id
        FROM api_key
        WHERE id = ANY ($1::text[])
            AND (last_used_at IS NULL OR last_used_at < clock_timestamp() - interval '50 seconds')
        ORDER BY id
        FOR UPDATE SKIP LOCKED
    )
)
RETURNING id

-- lapsed: the places, from 1, of those rights that have ended: by time, by their key or tenant, by their job's tickets
-- $5: when a ticket was given, $6: when it ends at the latest, $7: seconds it stays good behind the end of its job.
SELECT asked.place
FROM unnest($1::text[], $2::text[], $3::uuid[], $4::int[], $5::float8[], $6::float8[])
    WITH ORDINALITY AS asked (tenant_id, key_id, job_id, generation, issued_at, ends_at, place)
LEFT JOIN api_key
    ON api_key.id = asked.key_id AND api_key.tenant_id = asked.tenant_id AND api_key.id = ANY ($2::text[])
LEFT JOIN tenant ON tenant.tenant_id = asked.tenant_id
LEFT JOIN job ON job.id = asked.job_id AND job.tenant_id = asked.tenant_id AND job.id = ANY ($3::uuid[])
WHERE to_timestamp(asked.ends_at) <= clock_timestamp()
    OR tenant.suspended_at IS NOT NULL
    OR asked.key_id IS NOT NULL
        AND (api_key.id IS NULL OR api_key.revoked_at IS NOT NULL OR api_key.expires_at <= clock_timestamp())
    OR asked.job_id IS NOT NULL
        AND (
            job.id IS NULL
            OR job.ticket_generation IS DISTINCT FROM asked.generation
            OR job.finished_at IS NOT NULL
                AND greatest(job.finished_at, to_timestamp(asked.issued_at)) + $7::float8 * interval '1 second'
                    <= clock_timestamp()
        )
