-- known: have a row for a callback of a tenant, and say which
INSERT INTO endpoint (id, tenant_id, url, updated_at)
VALUES (endpoint_key($1, $2), $1, $2, clock_timestamp())
ON CONFLICT (id) DO UPDATE
SET updated_at = endpoint.updated_at
RETURNING endpoint.id

-- hold: an endpoint of a tenant, kept still until the transaction ends
SELECT
    id, tenant_id, url, state, disabled_reason, failures, first_failed, failed_several, strain, trips, is_open,
    denials, cap, successes,
    extract(epoch FROM failing_since)::float8 AS failing_since,
    extract(epoch FROM blocked_until)::float8 AS blocked_until,
    extract(epoch FROM clock_timestamp())::float8 AS now
FROM endpoint
WHERE id = $1 AND tenant_id = $2
FOR UPDATE

-- disabled: which of these callbacks nothing is sent to
SELECT asked.place
FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS asked (tenant_id, url, place)
WHERE (
    SELECT endpoint.state
    FROM endpoint
    WHERE endpoint.id = endpoint_key(asked.tenant_id, asked.url)
) = 'DISABLED'
