-- letters: dead letters, newest first; those sent again already only when named
SELECT id, body, job_id, verdict, receive_count, sent_at, arrived_at, redriven_at
FROM dead_letter
WHERE CASE WHEN $1::text[] IS NULL THEN redriven_at IS NULL OR $3::boolean ELSE id = ANY ($1::text[]) END
ORDER BY arrived_at DESC, id
LIMIT $2

-- mark_redriven: remember that dead letters were sent to the queue again
UPDATE dead_letter
SET redriven_at = clock_timestamp()
WHERE id = ANY ($1::text[])
