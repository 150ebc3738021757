-- name: endpoint
SELECT * FROM endpoints WHERE organization_id = :organization_id AND mode = :mode AND id = :id AND deleted_at IS NULL;

-- name: endpoint_by_id
SELECT * FROM endpoints WHERE id = :id;

-- name: endpoints_by_id
SELECT e.* FROM json_each(:ids) AS wanted CROSS JOIN endpoints AS e ON e.id = wanted.value;

-- name: endpoints
SELECT * FROM endpoints
WHERE organization_id = :organization_id AND mode = :mode AND deleted_at IS NULL AND id < :below
ORDER BY id DESC LIMIT :limit;

-- name: count_endpoints
SELECT COUNT(*) FROM endpoints WHERE organization_id = :organization_id AND deleted_at IS NULL;

-- name: active_endpoints
SELECT * FROM endpoints
WHERE organization_id = :organization_id AND mode = :mode AND deleted_at IS NULL AND is_active ORDER BY id;

-- name: last_revision
SELECT MAX(number) FROM revisions WHERE organization_id = :organization_id AND mode = :mode;

-- name: pinned_version
SELECT api_version FROM organizations WHERE id = :organization_id;

-- name: add_endpoint
INSERT INTO endpoints (
  id, organization_id, mode, url, events, description, api_version, secret, is_active, disabled_at, disabled_reason,
  activation, deactivated_at, failed_in_row, paused_until, created_at, deleted_at, revision,
  previous_secret, previous_secret_until, headers, probe_count, probe_at)
VALUES (
  :id, :organization_id, :mode, :url, :events, :description, :api_version, :secret, :is_active, :disabled_at,
  :disabled_reason, :activation, :deactivated_at, :failed_in_row, :paused_until, :created_at, :deleted_at, :revision,
  :previous_secret, :previous_secret_until, :headers, :probe_count, :probe_at);

-- name: save_endpoint
UPDATE endpoints SET
  url = :url, events = :events, description = :description, api_version = :api_version, secret = :secret,
  is_active = :is_active, disabled_at = :disabled_at, disabled_reason = :disabled_reason, activation = :activation,
  deactivated_at = :deactivated_at, failed_in_row = :failed_in_row, paused_until = :paused_until, deleted_at = :deleted_at,
  revision = :revision, previous_secret = :previous_secret, previous_secret_until = :previous_secret_until, headers = :headers,
  probe_count = :probe_count, probe_at = :probe_at
WHERE id = :id;

-- name: add_revision
INSERT INTO revisions (organization_id, mode, number, endpoint_id, events, is_active, cause, actor, at)
VALUES (:organization_id, :mode, :number, :endpoint_id, :events, :is_active, :cause, :actor, :at);

-- name: revisions
SELECT organization_id, mode, number, endpoint_id, events, is_active, cause, actor, at FROM revisions
WHERE organization_id = :organization_id AND mode = :mode AND number > :after
ORDER BY number LIMIT :limit;

-- name: reset_failures
UPDATE endpoints SET failed_in_row = 0 WHERE id = ? AND failed_in_row > 0;

-- name: pause_endpoint
UPDATE endpoints SET paused_until = MAX(COALESCE(paused_until, 0), ?2) WHERE id = ?1;

-- name: unswept_endpoints
SELECT * FROM endpoints WHERE swept_activation < activation;

-- name: mark_swept
UPDATE endpoints SET swept_activation = :activation WHERE id = :id;

-- name: cancel_passed
-- A delivery of an activation before this one waits for nothing: it is canceled.
UPDATE deliveries SET state = 'canceled', reason = :reason, finished_at = :at, due_at = NULL
WHERE rowid IN (
  SELECT rowid FROM (
    SELECT rowid FROM deliveries
    WHERE endpoint_id = :endpoint_id AND activation < :activation AND due_at IS NOT NULL AND scheduled_count = 0
    LIMIT :limit)
  UNION ALL
  SELECT rowid FROM (
    SELECT rowid FROM deliveries
    WHERE endpoint_id = :endpoint_id AND activation < :activation AND due_at IS NOT NULL AND scheduled_count > 0
    LIMIT :limit)
  LIMIT :limit);

-- name: ended_overlaps
SELECT * FROM endpoints WHERE previous_secret_until <= :at ORDER BY previous_secret_until LIMIT :limit;

-- name: sealed_with
-- How many texts are encrypted with which key, whose name each of them bears; NULL: in clear.
SELECT CASE WHEN substr(stored, 1, 7) = 'fernet:' THEN substr(stored, 8, 8) END AS key_name, COUNT(*)
FROM (
  SELECT secret AS stored FROM endpoints WHERE secret <> ''
  UNION ALL SELECT previous_secret FROM endpoints WHERE previous_secret IS NOT NULL
  UNION ALL SELECT headers FROM endpoints WHERE headers IS NOT NULL) AS sealed
GROUP BY 1 ORDER BY 1;

-- name: sealed_texts
SELECT id, secret, previous_secret, headers FROM endpoints WHERE id > :after ORDER BY id LIMIT :limit;

-- name: reseal_endpoint
UPDATE endpoints SET secret = :secret, previous_secret = :previous_secret, headers = :headers WHERE id = :id;
