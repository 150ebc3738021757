-- Changes lock what they read, so that two nodes that change the same endpoint do so one after the other.

-- name: endpoint
SELECT * FROM endpoints WHERE organization_id = :organization_id AND mode = :mode AND id = :id AND deleted_at IS NULL;

-- name: endpoint_to_change
SELECT * FROM endpoints
WHERE organization_id = :organization_id AND mode = :mode AND id = :id AND deleted_at IS NULL
FOR NO KEY UPDATE;

-- name: endpoints_to_change
SELECT * FROM endpoints WHERE id = ANY(:ids::text[]) ORDER BY id FOR NO KEY UPDATE;

-- name: lock_organization
-- 0x77656268 keeps clear of others' locks. Held until the transaction ends; two organizations that share a number wait for
-- each other for nothing.
SELECT pg_advisory_xact_lock(2003133032, :number::integer);

-- name: pinned_version
SELECT api_version FROM organizations WHERE id = :organization_id;

-- name: count_endpoints
SELECT COUNT(*) FROM endpoints WHERE organization_id = :organization_id AND deleted_at IS NULL;

-- name: active_endpoints
-- One row at least: the revision and the pinned version, with each endpoint, or with none. All as of one moment.
SELECT COALESCE(t.revision, 0) AS last_revision, o.api_version AS pinned_version, e.*
FROM (VALUES (:organization_id::text, :mode::text)) AS wanted (organization_id, mode)
LEFT JOIN tenants AS t ON t.organization_id = wanted.organization_id AND t.mode = wanted.mode
LEFT JOIN organizations AS o ON o.id = wanted.organization_id
LEFT JOIN endpoints AS e ON e.organization_id = wanted.organization_id AND e.mode = wanted.mode AND e.deleted_at IS NULL
  AND e.is_active
ORDER BY e.id;

-- name: outdated
SELECT known.organization_id, known.mode
FROM unnest(:organization_ids::text[], :modes::text[], :revisions::bigint[], :versions::text[])
  AS known (organization_id, mode, revision, version)
LEFT JOIN tenants AS t ON t.organization_id = known.organization_id AND t.mode = known.mode
LEFT JOIN organizations AS o ON o.id = known.organization_id
WHERE COALESCE(t.revision, 0) > known.revision OR o.api_version IS DISTINCT FROM known.version;

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

-- name: next_revision
INSERT INTO tenants (organization_id, mode, revision) VALUES (:organization_id, :mode, 1)
ON CONFLICT (organization_id, mode) DO UPDATE SET revision = tenants.revision + 1
RETURNING revision;

-- name: add_revision
INSERT INTO revisions (organization_id, mode, number, endpoint_id, events, is_active, cause, actor, at)
VALUES (:organization_id, :mode, :number, :endpoint_id, :events, :is_active, :cause, :actor, :at);

-- name: reset_failures
UPDATE endpoints SET failed_in_row = 0
FROM (SELECT id FROM endpoints WHERE id = ANY(:ids::text[]) AND failed_in_row > 0 ORDER BY id FOR NO KEY UPDATE) AS failing
WHERE endpoints.id = failing.id;

-- name: pause_endpoints
UPDATE endpoints SET paused_until = GREATEST(endpoints.paused_until, pause.until)
FROM (
  SELECT e.id, pause.until
  FROM unnest(:ids::text[], :until::bigint[]) AS pause (id, until) JOIN endpoints AS e ON e.id = pause.id
  ORDER BY e.id FOR NO KEY UPDATE OF e) AS pause
WHERE endpoints.id = pause.id;

-- name: unswept_endpoints
SELECT * FROM endpoints WHERE swept_activation < activation;

-- name: mark_swept
-- Not within a minute of its deactivation: another node may be storing a delivery that it matched before.
UPDATE endpoints SET swept_activation = :activation
WHERE id = :id AND swept_activation < :activation
  AND COALESCE(deactivated_at, 0) < (EXTRACT(EPOCH FROM clock_timestamp()) * 1000)::bigint - 60000;

-- name: passed_deliveries
-- First and later attempts have an index each, whose order keeps the walk to it.
(SELECT delivery_id, organization_id, mode FROM due
 WHERE bucket = :bucket AND endpoint_id = :endpoint_id AND activation < :activation AND scheduled_count = 0
 ORDER BY activation LIMIT :limit)
UNION ALL
(SELECT delivery_id, organization_id, mode FROM due
 WHERE bucket = :bucket AND endpoint_id = :endpoint_id AND activation < :activation AND scheduled_count > 0
 ORDER BY activation LIMIT :limit)
LIMIT :limit;

-- name: cancel_passed
-- A delivery of an activation before this one waits for nothing: it is canceled.
UPDATE deliveries AS d SET state = 'canceled', reason = :reason, finished_at = :at, due_at = NULL
FROM unnest(:organization_ids::text[], :modes::text[], :ids::text[]) AS passed (organization_id, mode, id)
WHERE d.organization_id = passed.organization_id AND d.mode = passed.mode AND d.id = passed.id AND d.state = 'pending'
  AND d.id >= :lowest AND d.id <= :highest;

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
SELECT id, secret, previous_secret, headers FROM endpoints WHERE id > :after ORDER BY id LIMIT :limit
FOR NO KEY UPDATE;

-- name: reseal_endpoint
UPDATE endpoints SET secret = :secret, previous_secret = :previous_secret, headers = :headers WHERE id = :id;
