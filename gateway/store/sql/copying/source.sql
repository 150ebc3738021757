-- The embedded store, read from beginning to end. Each statement is named for the table that its rows go into, and ends in a
-- condition, so that the place to go on from and the order can follow it. The first columns are that place (`Table.place`),
-- the others those of the table that is written (`Table.columns`).

-- name: organizations
SELECT id, id, api_version FROM organizations WHERE TRUE;

-- name: tenants
SELECT organization_id, mode, organization_id, mode, revision
FROM (SELECT organization_id, mode, MAX(number) AS revision FROM revisions GROUP BY organization_id, mode) WHERE TRUE;

-- name: endpoints
SELECT rowid, id, organization_id, mode, url, events, description, api_version, secret, is_active, disabled_at, disabled_reason,
  activation, deactivated_at, swept_activation, failed_in_row, paused_until, created_at, deleted_at,
  revision, previous_secret, previous_secret_until, headers, probe_count, probe_at
FROM endpoints WHERE TRUE;

-- name: revisions
SELECT organization_id, mode, number, organization_id, mode, number, endpoint_id, events, is_active, cause, actor, at
FROM revisions WHERE TRUE;

-- name: events
SELECT rowid, organization_id, mode, id, type, timestamp, external_id, created_at, revision, data FROM events WHERE TRUE;

-- name: external_ids
SELECT rowid, organization_id, mode, external_id, id AS event_id FROM events WHERE external_id IS NOT NULL;

-- name: deliveries
SELECT rowid, organization_id, mode, id, endpoint_id, event_id, event_type, state, reason, "trigger", activation, api_version,
  attempt_count, scheduled_count, due_at, last_status, last_error, created_at, finished_at, state = 'failed' AS is_failed
FROM deliveries WHERE TRUE;

-- name: attempts
SELECT rowid, organization_id, mode, delivery_id, number, "trigger", started_at, duration_ms, status, error, error_message, url,
  resent, FALSE AS fenced, request_headers, response_headers, response_body
FROM attempts WHERE TRUE;

-- name: api_keys
SELECT rowid, id, hash, prefix, name, organization_id, mode, permissions, created_at, expires_at, last_used_at, revoked_at
FROM api_keys WHERE TRUE;

-- name: audit_log
SELECT id, id, organization_id, mode, at, actor, address, action, target_id, changes FROM audit_log WHERE TRUE;

-- name: failure_notices
SELECT endpoint_id, endpoint_id, told_at, untold, delivery_id FROM failure_notices WHERE TRUE;

-- name: idempotent_requests
-- All of them have been answered: whoever was at one is gone.
SELECT rowid, key_hash, request_hash, '' AS process_id, expires_at, answer FROM idempotent_answers WHERE TRUE;

-- name: due
-- A test waits for its tester, in no bucket.
SELECT d.rowid, d.id AS delivery_id, CASE WHEN d."trigger" <> 'test' THEN d.endpoint_id END AS bucket, d.endpoint_id, d.event_id,
  d.activation, d.attempt_count, d.scheduled_count, COALESCE(d.due_at, d.created_at) AS due_at, d.created_at, d.api_version,
  d."trigger", d.organization_id AS organization_id, d.mode AS mode, length(e.data) AS data_bytes
FROM deliveries AS d
JOIN events AS e ON e.organization_id = d.organization_id AND e.mode = d.mode AND e.id = d.event_id
WHERE (d.due_at IS NOT NULL OR (d.state = 'pending' AND d."trigger" = 'test'));

-- name: retries
SELECT r.rowid, r.id AS id, r.organization_id, r.mode, r.endpoint_id AS bucket, r.endpoint_id, r.delivery_id, d.event_id,
  length(e.data) AS data_bytes
FROM retries AS r
JOIN deliveries AS d ON d.organization_id = r.organization_id AND d.mode = r.mode AND d.id = r.delivery_id
JOIN events AS e ON e.organization_id = d.organization_id AND e.mode = d.mode AND e.id = d.event_id
WHERE TRUE;
