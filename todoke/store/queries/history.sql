-- ended: how long the newest jobs of a type waited and ran, among the newest of their tenant
-- (rank_at less its priority is when a job was first due; due_at moves with every retry.)
SELECT
    greatest(extract(epoch FROM started_at - rank_at - priority * interval '1 minute'), 0)::float8 AS waited,
    greatest(extract(epoch FROM finished_at - started_at), 0)::float8 AS ran
FROM (
    SELECT type, state, error_code, priority, rank_at, started_at, finished_at
    FROM job
    WHERE tenant_id = $1
    ORDER BY id DESC
    LIMIT $3
) AS newest
WHERE type = $2 AND finished_at IS NOT NULL AND started_at IS NOT NULL AND error_code IS DISTINCT FROM 'CANCELED'
LIMIT $4
