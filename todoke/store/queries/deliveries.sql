-- claim: take due deliveries; each is due again when its lease runs out, unless it is recorded before
WITH due AS (
    SELECT job_id, sequence
    FROM delivery
    WHERE state = 'PENDING' AND due_at <= clock_timestamp()
    ORDER BY due_at
    LIMIT $1
    FOR UPDATE SKIP LOCKED
), claimed AS (
    UPDATE delivery
    SET attempt = delivery.attempt + 1,
        lease = delivery.lease + 1,
        due_at = clock_timestamp() + $2::float8 * interval '1 second'
    FROM due
    WHERE delivery.job_id = due.job_id AND delivery.sequence = due.sequence
    RETURNING delivery.job_id, delivery.sequence, delivery.tenant_id, delivery.url, delivery.attempt, delivery.lease
)
SELECT claimed.*, event.body
FROM claimed
JOIN event USING (job_id, sequence, tenant_id)

-- record: store what attempts came to; a success counts even when its lease has passed on
WITH asked AS (
    SELECT *
    FROM unnest(
        $1::uuid[], $2::int[], $3::bigint[], $4::text[], $5::smallint[], $6::text[], $7::float8[], $8::boolean[]
    ) AS asked (job_id, sequence, lease, state, status, reason, delay, is_charged)
), held AS (
    SELECT delivery.job_id, delivery.sequence, asked.lease
    FROM delivery
    JOIN asked USING (job_id, sequence)
    WHERE delivery.state <> 'DELIVERED' AND (delivery.lease = asked.lease OR asked.state = 'DELIVERED')
    ORDER BY delivery.job_id, delivery.sequence
    FOR UPDATE OF delivery
)
UPDATE delivery
SET state = asked.state,
    attempt = delivery.attempt - (NOT asked.is_charged)::int,
    last_status = asked.status,
    last_reason = asked.reason,
    due_at = clock_timestamp() + asked.delay * interval '1 second',
    finished_at = CASE WHEN asked.state <> 'PENDING' THEN clock_timestamp() END
FROM asked
JOIN held USING (job_id, sequence, lease)
WHERE delivery.job_id = held.job_id AND delivery.sequence = held.sequence
RETURNING delivery.job_id, delivery.sequence

-- next_due: seconds until the earliest delivery is due; negative when one already is
SELECT extract(epoch FROM min(due_at) - clock_timestamp())::float8 AS seconds
FROM delivery
WHERE state = 'PENDING'
