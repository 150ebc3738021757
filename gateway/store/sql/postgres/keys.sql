-- name: add_key
INSERT INTO api_keys (id, hash, prefix, name, organization_id, mode, permissions, created_at, expires_at)
VALUES (:id, :hash, :prefix, :name, :organization_id, :mode, :permissions, :created_at, :expires_at);

-- name: revoke_key
UPDATE api_keys SET revoked_at = :at
WHERE id = :id AND revoked_at IS NULL
  AND (:organization_id::text IS NULL OR (organization_id = :organization_id::text AND mode = :mode::text))
RETURNING *;

-- name: touch_keys
UPDATE api_keys SET last_used_at = GREATEST(api_keys.last_used_at, used.at)
FROM (
  SELECT k.id, used.at FROM unnest(:ids::text[], :at::bigint[]) AS used (id, at) JOIN api_keys AS k ON k.id = used.id
  ORDER BY k.id FOR NO KEY UPDATE OF k) AS used
WHERE api_keys.id = used.id;

-- name: pin_organization
INSERT INTO organizations (id, api_version) VALUES (:id, :api_version)
ON CONFLICT (id) DO UPDATE SET api_version = excluded.api_version;

-- name: save_answer
-- In place of this process's own reservation, or of what has expired. No row comes when the key is another's by now.
INSERT INTO idempotent_requests AS r (key_hash, request_hash, process_id, expires_at, answer)
VALUES (:key_hash, :request_hash, :process_id, :expires_at, :answer)
ON CONFLICT (key_hash) DO UPDATE SET
  request_hash = excluded.request_hash, process_id = excluded.process_id, expires_at = excluded.expires_at,
  answer = excluded.answer
WHERE (r.answer IS NULL AND r.process_id = ANY(:process_ids::text[]))
  OR r.expires_at <= (EXTRACT(EPOCH FROM clock_timestamp()) * 1000)::bigint
RETURNING key_hash;

-- name: forget_answers
DELETE FROM idempotent_requests
WHERE key_hash IN (
  SELECT key_hash FROM idempotent_requests WHERE expires_at < :expired_before ORDER BY expires_at LIMIT :limit
  FOR UPDATE SKIP LOCKED)
RETURNING 1;
