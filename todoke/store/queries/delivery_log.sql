-- hold: one numbered delivery of a tenant, kept still until the transaction ends
SELECT
    delivery.state, delivery.standing, delivery.attempt,
    coalesce(delivery.endpoint_id, endpoint_key(delivery.tenant_id, delivery.url)) AS endpoint_id,
    coalesce((
        SELECT endpoint.state = 'DISABLED'
        FROM endpoint
        WHERE endpoint.id = endpoint_key(delivery.tenant_id, delivery.url)
    ), false) AS is_disabled
FROM delivery
WHERE delivery.job_id = $1 AND delivery.tenant_id = $2 AND delivery.sequence = $3 AND delivery.sequence > 0
FOR UPDATE

-- pick: a tenant's parked deliveries from $2 to before $3, perhaps of a reason, the longest parked first, where sent to
SELECT delivery.job_id, delivery.sequence
FROM delivery
WHERE delivery.state = 'PARKED' AND delivery.tenant_id = $1
    AND delivery.finished_at >= coalesce($2::timestamptz, '-infinity')
    AND delivery.finished_at < coalesce($3::timestamptz, 'infinity')
    AND ($4::text IS NULL OR delivery.last_reason = $4)
    AND (SELECT state FROM endpoint WHERE endpoint.id = delivery.endpoint_id) IS DISTINCT FROM 'DISABLED'
    AND delivery.sequence > 0
ORDER BY delivery.finished_at, delivery.job_id, delivery.sequence
LIMIT $5
FOR UPDATE OF delivery SKIP LOCKED

-- pick_of: as pick, of one callback
SELECT delivery.job_id, delivery.sequence
FROM delivery
-- An endpoint's deliveries are its tenant's; said so that the planner does not read all of the tenant's instead.
WHERE delivery.state = 'PARKED' AND coalesce(delivery.tenant_id, '') = $1
    AND delivery.endpoint_id = endpoint_key($1, $6)
    AND delivery.finished_at >= coalesce($2::timestamptz, '-infinity')
    AND delivery.finished_at < coalesce($3::timestamptz, 'infinity')
    AND ($4::text IS NULL OR delivery.last_reason = $4)
    AND (SELECT state FROM endpoint WHERE endpoint.id = endpoint_key($1, $6)) IS DISTINCT FROM 'DISABLED'
    AND delivery.sequence > 0
ORDER BY delivery.finished_at, delivery.job_id, delivery.sequence
LIMIT $5
FOR UPDATE OF delivery SKIP LOCKED

-- count_disabled: how many deliveries pick would have taken but for their endpoints, counted up to $5
SELECT count(*) AS found
FROM (
    SELECT
    FROM endpoint
    CROSS JOIN LATERAL (
        SELECT
        FROM delivery
        WHERE delivery.state = 'PARKED' AND coalesce(delivery.tenant_id, '') = $1
            AND delivery.endpoint_id = endpoint.id
            AND delivery.finished_at >= coalesce($2::timestamptz, '-infinity')
            AND delivery.finished_at < coalesce($3::timestamptz, 'infinity')
            AND ($4::text IS NULL OR delivery.last_reason = $4)
            AND delivery.sequence > 0
        LIMIT $5
    ) AS parked
    WHERE endpoint.tenant_id = $1 AND endpoint.state = 'DISABLED'
        AND ($6::text IS NULL OR endpoint.id = endpoint_key($1, $6))
    LIMIT $5
) AS counted

-- pick_disabled: what an endpoint has parked because it was disabled, the longest parked first
SELECT delivery.job_id, delivery.sequence
FROM delivery
WHERE delivery.state = 'PARKED' AND coalesce(delivery.tenant_id, '') = $1 AND delivery.endpoint_id = $2
    AND delivery.last_reason = 'endpoint_disabled'
ORDER BY delivery.finished_at, delivery.job_id, delivery.sequence
LIMIT $3
FOR UPDATE OF delivery SKIP LOCKED

-- owe_again: begin these deliveries anew, to be sent in this order; their locks are held
UPDATE delivery
SET state = 'PENDING',
    -- A claim passes over what a blocked endpoint is owed and has it held.
    standing = 'ready',
    attempt = 0,
    -- So that what an earlier attempt comes to, told late, no longer counts; unless it is a success.
    lease = delivery.lease + 1,
    due_at = statement_timestamp() - (cardinality($1::uuid[]) - asked.place) * interval '1 microsecond',
    owed_since = statement_timestamp(),
    last_status = NULL,
    last_reason = NULL,
    finished_at = NULL,
    endpoint_id = coalesce(delivery.endpoint_id, endpoint_key(delivery.tenant_id, delivery.url))
FROM unnest($1::uuid[], $2::int[]) WITH ORDINALITY AS asked (job_id, sequence, place)
WHERE delivery.job_id = ANY ($1::uuid[])
    AND delivery.job_id = asked.job_id AND delivery.sequence = asked.sequence
