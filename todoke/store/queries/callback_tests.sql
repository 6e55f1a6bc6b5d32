-- in_turn: have tests of one tenant made one after another, so that they can be counted
SELECT pg_advisory_xact_lock($1, hashtext($2))

-- make_room: forget all but the newest $2 reports of a tenant
DELETE FROM callback_test
WHERE callback_test.id = ANY (
    ARRAY(
        SELECT id
        FROM callback_test
        WHERE tenant_id = $1 AND state = 'DONE'
        ORDER BY created_at DESC
        OFFSET $2
    )
)

-- create: keep a test of a callback, unless the tenant has $5 open ones
INSERT INTO callback_test (id, tenant_id, url, kind)
SELECT $1, $2, $3, $4
WHERE (SELECT count(*) FROM callback_test WHERE tenant_id = $2 AND state = 'PENDING') < $5
RETURNING id, kind, url, state, created_at, finished_at, report

-- find: a test of this tenant
SELECT id, kind, url, state, created_at, finished_at, report
FROM callback_test
WHERE id = $1 AND tenant_id = $2

-- claim: take the oldest test that is due, of a tenant none of whose tests is running; due again when its lease ends
UPDATE callback_test
SET tries = callback_test.tries + 1,
    due_at = clock_timestamp() + $1::float8 * interval '1 second'
WHERE callback_test.id = (
    SELECT test.id
    FROM callback_test AS test
    WHERE test.state = 'PENDING' AND test.due_at <= now() AND NOT EXISTS (
        SELECT FROM callback_test AS other
        WHERE other.tenant_id = test.tenant_id AND other.state = 'PENDING' AND other.due_at > now()
    )
    ORDER BY test.due_at
    LIMIT 1
    FOR UPDATE SKIP LOCKED
)
RETURNING id, tenant_id, url, kind, tries, created_at

-- release: give back a test that was not run to its end, as if nobody had taken it
UPDATE callback_test
SET tries = tries - 1, due_at = clock_timestamp()
WHERE id = $1 AND tries = $2 AND state = 'PENDING'

-- finish: keep what a test came to, unless its lease has passed on
UPDATE callback_test
SET state = 'DONE', finished_at = clock_timestamp(), report = $3::json
WHERE id = $1 AND tries = $2 AND state = 'PENDING'
RETURNING id

-- disabled: the endpoint of a callback, if it was disabled, and not by hand
SELECT id
FROM endpoint
WHERE id = endpoint_key($1, $2) AND state = 'DISABLED' AND disabled_reason IS DISTINCT FROM 'disabled_by_api'

-- give_up: end tests that nobody took in $2 seconds, or that were lost with $1 notifiers
UPDATE callback_test
SET state = 'DONE', finished_at = clock_timestamp(), report = CASE WHEN tries >= $1 THEN $4::json ELSE $3::json END
WHERE callback_test.id = ANY (
    ARRAY(
        SELECT test.id
        FROM callback_test AS test
        WHERE test.state = 'PENDING' AND test.due_at <= now()
            AND (test.tries >= $1 OR test.created_at <= now() - $2::float8 * interval '1 second')
            AND ($5::text IS NULL OR test.tenant_id = $5)
        ORDER BY test.due_at
        LIMIT 100
        FOR UPDATE SKIP LOCKED
    )
)
RETURNING callback_test.id
