-- name: add_key
INSERT INTO api_keys (id, hash, prefix, name, organization_id, mode, permissions, created_at, expires_at)
VALUES (:id, :hash, :prefix, :name, :organization_id, :mode, :permissions, :created_at, :expires_at);

-- name: key
SELECT * FROM api_keys
WHERE id = :id AND revoked_at IS NULL
  AND (:organization_id IS NULL OR (organization_id = :organization_id AND mode = :mode));

-- name: revoke_key
UPDATE api_keys SET revoked_at = :at WHERE id = :id;

-- name: touch_key
UPDATE api_keys SET last_used_at = MAX(COALESCE(last_used_at, 0), ?2) WHERE id = ?1;

-- name: keys_of_tenant
SELECT * FROM api_keys
WHERE organization_id = :organization_id AND mode = :mode AND revoked_at IS NULL AND id < :below
ORDER BY id DESC LIMIT :limit;

-- name: keys_of_everybody
SELECT * FROM api_keys WHERE revoked_at IS NULL AND id < :below ORDER BY id DESC LIMIT :limit;

-- name: all_keys
SELECT * FROM api_keys WHERE revoked_at IS NULL;

-- name: pin_organization
INSERT INTO organizations (id, api_version) VALUES (:id, :api_version)
ON CONFLICT (id) DO UPDATE SET api_version = excluded.api_version;

-- name: organizations
SELECT id, MAX(api_version) FROM (
  SELECT id, api_version FROM organizations
  UNION ALL SELECT organization_id, NULL FROM endpoints
  UNION ALL SELECT organization_id, NULL FROM api_keys WHERE organization_id IS NOT NULL)
GROUP BY id ORDER BY id;

-- name: save_answer
INSERT INTO idempotent_answers (key_hash, request_hash, expires_at, answer)
VALUES (:key_hash, :request_hash, :expires_at, :answer)
ON CONFLICT (key_hash) DO UPDATE SET
  request_hash = excluded.request_hash, expires_at = excluded.expires_at, answer = excluded.answer;

-- name: answer
SELECT key_hash, request_hash, answer, expires_at FROM idempotent_answers WHERE key_hash = :key_hash AND expires_at > :now;

-- name: forget_answers
DELETE FROM idempotent_answers
WHERE rowid IN (SELECT rowid FROM idempotent_answers WHERE expires_at < :expired_before ORDER BY expires_at LIMIT :limit);
