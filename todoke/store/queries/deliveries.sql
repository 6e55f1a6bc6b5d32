-- look: who has deliveries due: from tenant to tenant along the index, after $1, and a few endpoints of each from $3 on
WITH RECURSIVE tenants AS (
    (
        SELECT tenant_id FROM delivery
        WHERE state = 'PENDING' AND standing = 'ready' AND tenant_id > $1
        ORDER BY tenant_id
        LIMIT 1
    )
    UNION ALL
    SELECT (
        SELECT next.tenant_id FROM delivery AS next
        WHERE next.state = 'PENDING' AND next.standing = 'ready' AND next.tenant_id > tenants.tenant_id
        ORDER BY next.tenant_id
        LIMIT 1
    )
    FROM tenants
    WHERE tenants.tenant_id IS NOT NULL
), visited AS (
    SELECT tenant_id FROM tenants WHERE tenant_id IS NOT NULL LIMIT $2
), live AS MATERIALIZED (
    SELECT endpoint_id, count(*) AS leased
    FROM delivery
    WHERE state = 'PENDING' AND standing = 'leased'
    GROUP BY endpoint_id
)
SELECT
    visited.tenant_id, spot.endpoint_id, coalesce(live.leased, 0) AS leased,
    endpoint.cap, coalesce(endpoint.is_open, false) AS is_open, coalesce(endpoint.strain, 0) > 0 AS is_failing,
    coalesce(endpoint.state = 'DISABLED' OR endpoint.blocked_until > clock_timestamp(), false) AS is_blocked
FROM visited
CROSS JOIN LATERAL (
    WITH RECURSIVE far AS (
        (
            SELECT endpoint_id FROM delivery
            WHERE state = 'PENDING' AND standing = 'ready' AND tenant_id = visited.tenant_id AND endpoint_id >= $3
            ORDER BY endpoint_id
            LIMIT 1
        )
        UNION ALL
        SELECT (
            SELECT next.endpoint_id FROM delivery AS next
            WHERE next.state = 'PENDING' AND next.standing = 'ready' AND next.tenant_id = visited.tenant_id
                AND next.endpoint_id > far.endpoint_id
            ORDER BY next.endpoint_id
            LIMIT 1
        )
        FROM far
        WHERE far.endpoint_id IS NOT NULL
    ), near AS (
        (
            SELECT endpoint_id FROM delivery
            WHERE state = 'PENDING' AND standing = 'ready' AND tenant_id = visited.tenant_id AND endpoint_id < $3
            ORDER BY endpoint_id
            LIMIT 1
        )
        UNION ALL
        SELECT (
            SELECT next.endpoint_id FROM delivery AS next
            WHERE next.state = 'PENDING' AND next.standing = 'ready' AND next.tenant_id = visited.tenant_id
                AND next.endpoint_id > near.endpoint_id AND next.endpoint_id < $3
            ORDER BY next.endpoint_id
            LIMIT 1
        )
        FROM near
        WHERE near.endpoint_id IS NOT NULL
    )
    SELECT endpoint_id
    FROM (SELECT endpoint_id FROM far UNION ALL SELECT endpoint_id FROM near) AS around
    WHERE endpoint_id IS NOT NULL
    LIMIT $4
) AS spot
LEFT JOIN live USING (endpoint_id)
LEFT JOIN LATERAL (
    -- A join without the limit may be planned as a reading of all endpoints, once for each tenant.
    SELECT state, cap, is_open, strain, blocked_until FROM endpoint WHERE id = spot.endpoint_id LIMIT 1
) AS endpoint ON true
LIMIT $5

-- claim_in_turn: one claim at a time, so that the next one counts the leases of this one; held until its transaction ends
-- It reads few rows, in an index's order; a plan made for a short backlog would read and sort all of a long one.
SELECT
    pg_advisory_xact_lock($1), set_config('enable_seqscan', 'off', true),
    set_config('enable_bitmapscan', 'off', true), set_config('enable_sort', 'off', true)

-- claim: lease due deliveries of these endpoints, so many of each and never more than its cap in all
WITH asked AS (
    SELECT * FROM unnest($1::text[], $2::uuid[], $3::int[]) AS asked (tenant_id, endpoint_id, amount)
), live AS MATERIALIZED (
    SELECT endpoint_id, count(*) AS leased
    FROM delivery
    WHERE state = 'PENDING' AND standing = 'leased'
    GROUP BY endpoint_id
), room AS (
    SELECT
        asked.tenant_id, asked.endpoint_id,
        least(
            asked.amount,
            CASE WHEN endpoint.is_open THEN 1 ELSE least(endpoint.cap, $5) END - coalesce(live.leased, 0)
        ) AS amount
    FROM asked
    LEFT JOIN live USING (endpoint_id)
    LEFT JOIN endpoint ON endpoint.id = asked.endpoint_id
    WHERE endpoint.id IS NULL OR (
        endpoint.state = 'ACTIVE'
        AND (endpoint.blocked_until IS NULL OR endpoint.blocked_until <= clock_timestamp())
    )
), picked AS MATERIALIZED (
    SELECT due.place
    FROM room
    CROSS JOIN LATERAL (
        SELECT delivery.ctid AS place
        FROM delivery
        WHERE delivery.state = 'PENDING' AND delivery.standing = 'ready'
            AND delivery.tenant_id = room.tenant_id AND delivery.endpoint_id = room.endpoint_id
            AND delivery.due_at <= clock_timestamp()
        ORDER BY delivery.due_at
        LIMIT greatest(room.amount, 0)
        FOR UPDATE SKIP LOCKED
    ) AS due
), claimed AS (
    UPDATE delivery
    SET attempt = delivery.attempt + 1,
        lease = delivery.lease + 1,
        standing = 'leased',
        due_at = clock_timestamp() + $4::float8 * interval '1 second'
    -- Locked, so it stays in its place; one that moved just before is claimed another time.
    FROM picked
    WHERE delivery.ctid = picked.place
    RETURNING
        delivery.job_id, delivery.sequence, delivery.tenant_id, delivery.endpoint_id, delivery.url,
        delivery.attempt, delivery.lease,
        extract(epoch FROM clock_timestamp() - delivery.owed_since)::float8 AS owed_seconds
)
SELECT
    claimed.*,
    CASE WHEN claimed.sequence > 0 THEN (
        SELECT event.body FROM event
        WHERE event.job_id = claimed.job_id AND event.sequence = claimed.sequence
    ) ELSE (
        SELECT event_body(job, 'job.progress')
        FROM job
        WHERE job.id = claimed.job_id AND job.progress_version = -claimed.sequence AND job.state = 'PROCESSING'
    ) END AS body,
    (SELECT job.trace FROM job WHERE job.id = claimed.job_id) AS trace
FROM claimed

-- forget: progress that was sent, or that nobody needs any more
DELETE FROM delivery
USING unnest($1::uuid[], $2::int[]) AS done (job_id, sequence)
WHERE delivery.job_id = ANY ($1::uuid[])
    AND delivery.job_id = done.job_id AND delivery.sequence = done.sequence AND done.sequence < 0

-- steady: few rows by index, for the rest of the transaction; a plan made for a short table would read all of a long one
SELECT set_config('enable_seqscan', 'off', true), set_config('enable_bitmapscan', 'off', true)

-- record: store what attempts came to, one of each delivery; a success counts even when its lease has passed on
WITH asked AS (
    SELECT *
    FROM unnest(
        $1::uuid[], $2::int[], $3::bigint[], $4::text[], $5::text[], $6::float8[], $7::boolean[],
        $8::smallint[], $9::text[], $10::float8[], $11::float8[], $12::text[], $13::text[], $14::int[]
    ) AS asked (
        job_id, sequence, lease, state, reason, delay, is_charged,
        status, outcome, started_at, seconds, peer, excerpt, attempt
    )
    ORDER BY job_id, sequence
), found AS MATERIALIZED (
    -- Locked one after the other, in the order of the key.
    SELECT
        asked.*, owed.tenant_id,
        owed.state <> 'DELIVERED' AND (
            asked.state = 'DELIVERED'
            -- Said again because the answer to the commit was lost, it is not leased any more, and counts once.
            OR (
                owed.lease = asked.lease
                AND ((owed.state = 'PENDING' AND owed.standing = 'leased') OR owed.last_reason = 'lost_lease')
            )
        ) AS is_current
    FROM asked
    CROSS JOIN LATERAL (
        SELECT delivery.tenant_id, delivery.state, delivery.standing, delivery.last_reason, delivery.lease
        FROM delivery
        WHERE delivery.job_id = asked.job_id AND delivery.sequence = asked.sequence
        FOR UPDATE
    ) AS owed
    -- All are locked before the first is changed: what this statement has changed, it could not lock again.
    ORDER BY asked.lease
), kept AS (
    INSERT INTO delivery_attempt (
        job_id, sequence, lease, tenant_id, attempt, started_at, seconds, status, reason, peer, excerpt
    )
    SELECT
        job_id, sequence, lease, tenant_id, attempt,
        to_timestamp(started_at), seconds, status, outcome, peer, excerpt
    FROM found
    ON CONFLICT (job_id, sequence, lease) DO UPDATE
    SET started_at = excluded.started_at, seconds = excluded.seconds, status = excluded.status,
        reason = excluded.reason, peer = excluded.peer, excerpt = excluded.excerpt
    WHERE delivery_attempt.reason = 'lost_lease'
)
UPDATE delivery
SET state = found.state,
    standing = 'waiting',
    attempt = delivery.attempt - (NOT found.is_charged)::int,
    last_status = found.status,
    last_reason = found.reason,
    due_at = clock_timestamp() + found.delay * interval '1 second',
    finished_at = CASE WHEN found.state <> 'PENDING' THEN clock_timestamp() END
FROM found
WHERE found.is_current
    AND delivery.job_id = found.job_id AND delivery.sequence = found.sequence
RETURNING delivery.job_id, delivery.sequence, found.lease

-- stage: what has come due moves to where a claim sees it; what was lost with its lease counts as an attempt
WITH due AS MATERIALIZED (
    SELECT
        delivery.job_id, delivery.sequence, delivery.standing = 'leased' AS was_lost,
        CASE
            WHEN endpoint.state = 'DISABLED' THEN 'endpoint_disabled'
            WHEN delivery.standing = 'leased' AND delivery.attempt >= $2 THEN 'lost_lease'
        END AS parking,
        CASE
            WHEN endpoint.blocked_until IS NULL THEN 'ready'
            WHEN NOT endpoint.is_open AND endpoint.blocked_until <= clock_timestamp() THEN 'ready'
            ELSE 'held'
        END AS standing
    FROM delivery
    LEFT JOIN endpoint ON endpoint.id = delivery.endpoint_id
    WHERE delivery.state = 'PENDING' AND delivery.standing IN ('waiting', 'leased')
        AND delivery.due_at <= clock_timestamp()
    ORDER BY delivery.due_at
    LIMIT $1
    FOR UPDATE OF delivery SKIP LOCKED
), dropped AS (
    DELETE FROM delivery
    USING due
    WHERE delivery.job_id = ANY (ARRAY(SELECT job_id FROM due WHERE sequence < 0))
        AND delivery.job_id = due.job_id AND delivery.sequence = due.sequence AND due.sequence < 0
), moved AS (
    UPDATE delivery
    SET state = CASE WHEN due.parking IS NULL THEN 'PENDING' ELSE 'PARKED' END,
        standing = due.standing,
        last_reason = coalesce(due.parking, CASE WHEN due.was_lost THEN 'lost_lease' ELSE delivery.last_reason END),
        due_at = least(delivery.due_at, clock_timestamp()),
        finished_at = CASE WHEN due.parking IS NOT NULL THEN clock_timestamp() END
    FROM due
    WHERE delivery.job_id = ANY (ARRAY(SELECT job_id FROM due))
        AND delivery.job_id = due.job_id AND delivery.sequence = due.sequence AND due.sequence > 0
    RETURNING delivery.job_id, delivery.sequence, delivery.lease, delivery.tenant_id, delivery.attempt, due.was_lost
), lost AS (
    INSERT INTO delivery_attempt (job_id, sequence, lease, tenant_id, attempt, started_at, seconds, reason)
    SELECT job_id, sequence, lease, tenant_id, attempt, clock_timestamp(), 0, 'lost_lease'
    FROM moved
    WHERE was_lost
    ON CONFLICT DO NOTHING
)
SELECT (SELECT count(*) FROM due) AS staged, (SELECT count(*) FROM moved WHERE was_lost) AS lost

-- withdraw: take what is ready at these endpoints, blocked or disabled meanwhile, out of the claims' sight
WITH blocked AS (
    SELECT id, tenant_id, state
    FROM endpoint
    WHERE id = ANY ($1::uuid[]) AND (state = 'DISABLED' OR blocked_until > clock_timestamp())
), picked AS MATERIALIZED (
    SELECT ready.job_id, ready.sequence, blocked.state
    FROM blocked
    CROSS JOIN LATERAL (
        SELECT delivery.job_id, delivery.sequence
        FROM delivery
        WHERE delivery.state = 'PENDING' AND delivery.standing = 'ready'
            AND delivery.tenant_id = blocked.tenant_id AND delivery.endpoint_id = blocked.id
        ORDER BY delivery.due_at
        LIMIT $2
        FOR UPDATE SKIP LOCKED
    ) AS ready
    LIMIT $2
), dropped AS (
    DELETE FROM delivery
    USING picked
    WHERE delivery.job_id = ANY (ARRAY(SELECT job_id FROM picked WHERE sequence < 0))
        AND delivery.job_id = picked.job_id AND delivery.sequence = picked.sequence AND picked.sequence < 0
)
UPDATE delivery
SET standing = 'held',
    state = CASE picked.state WHEN 'DISABLED' THEN 'PARKED' ELSE 'PENDING' END,
    last_reason = CASE picked.state WHEN 'DISABLED' THEN 'endpoint_disabled' ELSE delivery.last_reason END,
    finished_at = CASE picked.state WHEN 'DISABLED' THEN clock_timestamp() END
FROM picked
WHERE delivery.job_id = ANY (ARRAY(SELECT job_id FROM picked))
    AND delivery.job_id = picked.job_id AND delivery.sequence = picked.sequence AND picked.sequence > 0

-- visit: endpoints whose block is over, or that were disabled with something held; each is looked at in its turn
UPDATE endpoint
SET blocked_until = clock_timestamp()
WHERE endpoint.id = ANY (
    ARRAY(
        SELECT id FROM endpoint
        WHERE blocked_until <= clock_timestamp()
        ORDER BY blocked_until
        LIMIT $1
        FOR UPDATE SKIP LOCKED
    )
)
RETURNING endpoint.id

-- release: of what these endpoints hold, let go a batch, one probe where the breaker is open, or park it
WITH visited AS (
    SELECT endpoint.id, endpoint.state, endpoint.is_open, CASE
        WHEN endpoint.state = 'DISABLED' OR NOT endpoint.is_open THEN $2::int
        -- One question for each index: asked as one, no index would answer it.
        WHEN EXISTS (
            SELECT FROM delivery
            WHERE state = 'PENDING' AND standing = 'ready'
                AND delivery.tenant_id = endpoint.tenant_id AND delivery.endpoint_id = endpoint.id
        ) THEN 0
        WHEN EXISTS (
            SELECT FROM delivery
            WHERE state = 'PENDING' AND standing = 'leased' AND delivery.endpoint_id = endpoint.id
        ) THEN 0
        ELSE 1
    END AS amount
    FROM endpoint
    WHERE endpoint.id = ANY ($1::uuid[])
), picked AS MATERIALIZED (
    SELECT held.job_id, held.sequence, visited.id, visited.state, held.is_over
    FROM visited
    CROSS JOIN LATERAL (
        SELECT
            delivery.job_id, delivery.sequence,
            delivery.owed_since < clock_timestamp() - $3::float8 * interval '1 second' AS is_over
        FROM delivery
        WHERE delivery.state = 'PENDING' AND delivery.standing = 'held' AND delivery.endpoint_id = visited.id
        ORDER BY delivery.due_at
        LIMIT visited.amount
        FOR UPDATE SKIP LOCKED
    ) AS held
), moved AS (
    UPDATE delivery
    SET standing = 'ready',
        state = CASE WHEN picked.state = 'DISABLED' OR picked.is_over THEN 'PARKED' ELSE 'PENDING' END,
        last_reason = CASE
            WHEN picked.state = 'DISABLED' THEN 'endpoint_disabled'
            WHEN picked.is_over THEN 'window_over'
            ELSE delivery.last_reason
        END,
        finished_at = CASE WHEN picked.state = 'DISABLED' OR picked.is_over THEN clock_timestamp() END
    FROM picked
    WHERE delivery.job_id = ANY (ARRAY(SELECT job_id FROM picked))
        AND delivery.job_id = picked.job_id AND delivery.sequence = picked.sequence
), idle AS (
    -- Nothing is held any more: what comes next need not be held either.
    UPDATE endpoint
    SET blocked_until = NULL
    FROM visited
    WHERE endpoint.id = visited.id AND visited.amount > 0
        AND NOT EXISTS (SELECT FROM picked WHERE picked.id = visited.id)
)
SELECT count(*) AS released FROM picked

-- find_strays: endpoints that hold something, after $1 and in order; those nobody would visit are to be visited
-- A delivery may be held by a transaction that still saw the block, and commit when the last visit is over.
WITH RECURSIVE holding AS (
    (
        SELECT endpoint_id FROM delivery
        WHERE state = 'PENDING' AND standing = 'held' AND endpoint_id > $1
        ORDER BY endpoint_id
        LIMIT 1
    )
    UNION ALL
    SELECT (
        SELECT next.endpoint_id FROM delivery AS next
        WHERE next.state = 'PENDING' AND next.standing = 'held' AND next.endpoint_id > holding.endpoint_id
        ORDER BY next.endpoint_id
        LIMIT 1
    )
    FROM holding
    WHERE holding.endpoint_id IS NOT NULL
), walked AS MATERIALIZED (
    SELECT endpoint_id FROM holding WHERE endpoint_id IS NOT NULL LIMIT $2
), mended AS (
    UPDATE endpoint
    SET blocked_until = clock_timestamp()
    WHERE endpoint.id = ANY (ARRAY(SELECT endpoint_id FROM walked)) AND endpoint.blocked_until IS NULL
)
SELECT endpoint_id FROM walked

-- next_due: seconds until something waiting, leased or held wants to be looked at; negative when it already does
SELECT extract(epoch FROM least(
    (SELECT min(due_at) FROM delivery WHERE state = 'PENDING' AND standing IN ('waiting', 'leased')),
    (SELECT min(blocked_until) FROM endpoint WHERE blocked_until IS NOT NULL)
) - clock_timestamp())::float8 AS seconds

-- measure: how endpoints and deliveries stand, each counted up to $1; the oldest due of the first $2 endpoints with any
WITH RECURSIVE spots AS (
    (
        SELECT tenant_id, endpoint_id, due_at FROM delivery
        WHERE state = 'PENDING' AND standing = 'ready'
        ORDER BY tenant_id, endpoint_id, due_at
        LIMIT 1
    )
    UNION ALL
    SELECT next.tenant_id, next.endpoint_id, next.due_at
    FROM spots
    CROSS JOIN LATERAL (
        SELECT delivery.tenant_id, delivery.endpoint_id, delivery.due_at FROM delivery
        WHERE delivery.state = 'PENDING' AND delivery.standing = 'ready'
            AND (delivery.tenant_id, delivery.endpoint_id) > (spots.tenant_id, spots.endpoint_id)
        ORDER BY delivery.tenant_id, delivery.endpoint_id, delivery.due_at
        LIMIT 1
    ) AS next
), oldest AS (
    SELECT least(
        (SELECT min(due_at) FROM (SELECT due_at FROM spots LIMIT $2) AS ready),
        (SELECT min(due_at) FROM delivery WHERE state = 'PENDING' AND standing IN ('waiting', 'leased'))
    ) AS due_at
), disabled AS (
    SELECT FROM endpoint WHERE state = 'DISABLED' LIMIT $1
), open AS (
    SELECT FROM endpoint WHERE state = 'ACTIVE' AND is_open LIMIT $1
), cooling AS (
    SELECT FROM endpoint
    WHERE blocked_until > clock_timestamp() AND state = 'ACTIVE' AND NOT is_open
    ORDER BY blocked_until DESC
    LIMIT $1
), parked AS (
    -- In the order of an index: parked ones may all lie behind the delivered ones of a month.
    SELECT FROM delivery WHERE state = 'PARKED' ORDER BY tenant_id, finished_at LIMIT $1
)
SELECT
    (SELECT count(*) FROM disabled) AS disabled,
    (SELECT count(*) FROM open) AS open,
    (SELECT count(*) FROM cooling) AS cooling,
    (SELECT count(*) FROM parked) AS parked,
    greatest(0, coalesce(extract(epoch FROM clock_timestamp() - oldest.due_at), 0))::float8 AS oldest_due_seconds
FROM oldest

-- know_endpoints: have a row for each of these endpoints
INSERT INTO endpoint (id, tenant_id, url, updated_at)
SELECT id, tenant_id, url, clock_timestamp()
FROM unnest($1::uuid[], $2::text[], $3::text[]) AS failed (id, tenant_id, url)
ORDER BY id
ON CONFLICT DO NOTHING

-- lock_endpoints: those of $1 that failed, and those of $2 that have something to mend
SELECT
    id, tenant_id, url, state, disabled_reason, failures, first_failed, failed_several, strain, trips, is_open,
    denials, cap, successes,
    extract(epoch FROM failing_since)::float8 AS failing_since,
    extract(epoch FROM blocked_until)::float8 AS blocked_until,
    extract(epoch FROM updated_at)::float8 AS stored_at,
    extract(epoch FROM clock_timestamp())::float8 AS now
FROM endpoint
WHERE id = ANY ($1::uuid[]) OR (id = ANY ($2::uuid[]) AND (failures > 0 OR cap IS NOT NULL OR is_open))
ORDER BY id
FOR UPDATE

-- store_endpoints: how these endpoints stand now
UPDATE endpoint
SET state = stands.state,
    disabled_reason = stands.disabled_reason,
    disabled_at = CASE WHEN stands.state = 'DISABLED' THEN coalesce(endpoint.disabled_at, clock_timestamp()) END,
    failures = stands.failures,
    failing_since = to_timestamp(stands.failing_since),
    first_failed = stands.first_failed,
    failed_several = stands.failed_several,
    strain = stands.strain,
    trips = stands.trips,
    is_open = stands.is_open,
    blocked_until = to_timestamp(stands.blocked_until),
    denials = stands.denials,
    cap = stands.cap,
    successes = stands.successes,
    updated_at = clock_timestamp()
FROM unnest(
    $1::uuid[], $2::text[], $3::text[], $4::int[], $5::float8[], $6::text[], $7::boolean[], $8::int[], $9::int[],
    $10::boolean[], $11::float8[], $12::int[], $13::int[], $14::int[]
) AS stands (
    id, state, disabled_reason, failures, failing_since, first_failed, failed_several, strain, trips,
    is_open, blocked_until, denials, cap, successes
)
WHERE endpoint.id = stands.id AND endpoint.id = ANY ($1::uuid[])
