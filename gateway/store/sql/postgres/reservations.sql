-- name: answer
SELECT key_hash, request_hash, answer, expires_at FROM idempotent_requests
WHERE key_hash = :key_hash AND answer IS NOT NULL AND expires_at > :now;

-- name: reserve
-- One row: TRUE when the key is reserved now, else FALSE and what stands in the way; none when that came or went in
-- between. Not synced: should the server lose the reservation in a crash, the commit of the answer finds it gone.
WITH
  taken AS (
    INSERT INTO idempotent_requests AS r (key_hash, request_hash, process_id, expires_at)
    VALUES (:key_hash, :request_hash, :process_id, :expires_at)
    ON CONFLICT (key_hash) DO UPDATE SET
      request_hash = excluded.request_hash, process_id = excluded.process_id, expires_at = excluded.expires_at, answer = NULL
    WHERE CASE WHEN r.answer IS NULL
      THEN r.process_id = ANY(:process_ids::text[]) OR NOT EXISTS (SELECT FROM nodes WHERE nodes.id = r.process_id)
      ELSE r.expires_at <= :now END
    RETURNING key_hash),
  unsynced AS (SELECT set_config('synchronous_commit', 'off', TRUE))
SELECT TRUE, NULL::bytea, NULL::bytea, NULL::bigint FROM taken, unsynced
UNION ALL
SELECT FALSE, request_hash, answer, expires_at FROM idempotent_requests
WHERE key_hash = :key_hash AND NOT EXISTS (SELECT FROM taken);

-- name: release
DELETE FROM idempotent_requests
WHERE key_hash = :key_hash AND request_hash = :request_hash AND answer IS NULL AND process_id = ANY(:process_ids::text[]);
