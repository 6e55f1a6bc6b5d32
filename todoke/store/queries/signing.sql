-- in_turn: have secrets of one tenant and callback, or signing keys, made one after another
SELECT pg_advisory_xact_lock($1, hashtext($2))

-- succeed: end what is live for a callback: the newest after the overlap, or sooner if it was to, any other now
WITH ranked AS (
    SELECT id, row_number() OVER (ORDER BY created_at DESC) AS rank, clock_timestamp() AS at
    FROM signing_secret
    WHERE tenant_id = $1 AND url IS NOT DISTINCT FROM $2::text AND (expires_at IS NULL OR expires_at > clock_timestamp())
)
UPDATE signing_secret
SET expires_at = least(
    expires_at,
    CASE ranked.rank WHEN 1 THEN ranked.at + $3::float8 * interval '1 second' ELSE ranked.at END
)
FROM ranked
WHERE signing_secret.id = ranked.id

-- create: keep a new secret, newer than all before it whatever the clock does
INSERT INTO signing_secret (id, tenant_id, url, sealed, created_at)
SELECT $1, $2, $3, $4, greatest(clock_timestamp(), max(created_at) + interval '1 microsecond')
FROM signing_secret
WHERE tenant_id = $2 AND url IS NOT DISTINCT FROM $3::text
RETURNING id, created_at

-- tidy: of a callback's secrets that have ended keep the newest $3, and of none what it was
WITH ended AS (
    SELECT id, row_number() OVER (ORDER BY created_at DESC) AS rank
    FROM signing_secret
    WHERE tenant_id = $1 AND url IS NOT DISTINCT FROM $2::text AND expires_at <= clock_timestamp()
), forgotten AS (
    DELETE FROM signing_secret USING ended WHERE signing_secret.id = ended.id AND ended.rank > $3
)
UPDATE signing_secret
SET sealed = ''
FROM ended
WHERE signing_secret.id = ended.id AND ended.rank <= $3 AND signing_secret.sealed <> ''

-- listed: secrets of one tenant or of all behind $2, the newest first
SELECT
    id, tenant_id, url, created_at, expires_at,
    expires_at IS NOT NULL AND expires_at <= clock_timestamp() AS is_ended
FROM signing_secret
WHERE ($1::text IS NULL OR tenant_id = $1)
    AND (
        $2::text IS NULL
        OR (created_at, id) < (
            SELECT place.created_at, place.id
            FROM signing_secret AS place
            WHERE place.id = $2 AND ($1::text IS NULL OR place.tenant_id = $1)
        )
    )
ORDER BY created_at DESC, id DESC
LIMIT $3

-- end: end a secret of one tenant or of any now, and forget what it was
UPDATE signing_secret
SET expires_at = least(expires_at, clock_timestamp()), sealed = ''
WHERE id = $2 AND ($1::text IS NULL OR tenant_id = $1)
RETURNING id

-- live: of each (tenant, URL) the live secrets, those of the URL and those of the tenant, the newest first
SELECT asked.place, found.id, found.is_own, found.sealed, found.seconds_left
FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS asked (tenant_id, url, place)
CROSS JOIN LATERAL (
    SELECT
        id, true AS is_own, sealed, created_at,
        extract(epoch FROM expires_at - clock_timestamp())::float8 AS seconds_left
    FROM signing_secret
    WHERE tenant_id = asked.tenant_id AND url = asked.url AND (expires_at IS NULL OR expires_at > clock_timestamp())
    UNION ALL
    SELECT
        id, false, sealed, created_at,
        extract(epoch FROM expires_at - clock_timestamp())::float8
    FROM signing_secret
    WHERE tenant_id = asked.tenant_id AND url IS NULL AND (expires_at IS NULL OR expires_at > clock_timestamp())
) AS found
ORDER BY asked.place, found.created_at DESC

-- signed: the places, from 1, of those (tenant, URL) that have a live secret
SELECT asked.place
FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS asked (tenant_id, url, place)
WHERE EXISTS (
    SELECT
    FROM signing_secret
    WHERE tenant_id = asked.tenant_id AND url IS NULL AND (expires_at IS NULL OR expires_at > clock_timestamp())
) OR EXISTS (
    SELECT
    FROM signing_secret
    WHERE tenant_id = asked.tenant_id AND url = asked.url AND (expires_at IS NULL OR expires_at > clock_timestamp())
)

-- sealed_secrets: what is sealed of the secrets behind $1, in the order of their ids
SELECT id, sealed
FROM signing_secret
WHERE id > $1 AND sealed <> '' AND (expires_at IS NULL OR expires_at > clock_timestamp())
ORDER BY id
LIMIT $2

-- reseal_secrets: put newly sealed texts in the place of those that were read, unless they changed meanwhile
UPDATE signing_secret
SET sealed = anew.sealed
FROM unnest($1::text[], $2::text[], $3::text[]) AS anew (id, before, sealed)
WHERE signing_secret.id = anew.id AND signing_secret.sealed = anew.before
RETURNING signing_secret.id

-- forget_ended: forget what secrets and keys were that have ended
WITH forgotten AS (
    UPDATE signing_secret SET sealed = '' WHERE sealed <> '' AND expires_at <= clock_timestamp()
)
UPDATE signing_key SET sealed = '' WHERE sealed <> '' AND expires_at <= clock_timestamp()

-- live_keys: the live signing keys, the newest first
SELECT id, public_key, sealed, created_at, expires_at
FROM signing_key
WHERE expires_at IS NULL OR expires_at > clock_timestamp()
ORDER BY created_at DESC

-- succeed_keys: end the live signing keys: the newest after the overlap, or sooner if it was to, any other now
WITH ranked AS (
    SELECT id, row_number() OVER (ORDER BY created_at DESC) AS rank, clock_timestamp() AS at
    FROM signing_key
    WHERE expires_at IS NULL OR expires_at > clock_timestamp()
)
UPDATE signing_key
SET expires_at = least(
    expires_at,
    CASE ranked.rank WHEN 1 THEN ranked.at + $1::float8 * interval '1 second' ELSE ranked.at END
)
FROM ranked
WHERE signing_key.id = ranked.id

-- create_key: keep a new signing key, newer than all before it whatever the clock does
INSERT INTO signing_key (id, public_key, sealed, created_at)
SELECT $1, $2, $3, greatest(clock_timestamp(), max(created_at) + interval '1 microsecond')
FROM signing_key
RETURNING id, public_key, created_at, expires_at

-- reseal_keys: put newly sealed texts in the place of those that were read
UPDATE signing_key
SET sealed = anew.sealed
FROM unnest($1::text[], $2::text[], $3::text[]) AS anew (id, before, sealed)
WHERE signing_key.id = anew.id AND signing_key.sealed = anew.before
RETURNING signing_key.id
