-- name: add_deliveries
INSERT INTO deliveries (
  organization_id, mode, id, endpoint_id, event_id, event_type, state, "trigger", activation, api_version, due_at, created_at)
VALUES [[(?, ?, ?, ?, ?, ?, 'pending', ?, ?, ?, ?, ?)]];

-- name: add_attempts
INSERT INTO attempts (
  organization_id, mode, delivery_id, number, "trigger", started_at, duration_ms, status, error, error_message, url, resent,
  request_headers, response_headers, response_body)
VALUES [[(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)]];

-- name: record_successes
-- From any state: what was answered 2xx is delivered.
UPDATE deliveries SET
  attempt_count = result.column4, scheduled_count = scheduled_count + result.column5, last_status = result.column6,
  last_error = NULL, state = 'delivered', reason = NULL, due_at = NULL,
  finished_at = CASE WHEN state = 'delivered' THEN finished_at ELSE result.column7 END
FROM (VALUES [[(?, ?, ?, ?, ?, ?, ?)]]) AS result
WHERE organization_id = result.column1 AND mode = result.column2 AND id = result.column3;

-- name: record_failures
-- Moves only what is pending and not canceled by definition; `column9` is the state that the attempt leads to. Without
-- INDEXED BY, SQLite walks over all deliveries for each row.
UPDATE deliveries INDEXED BY deliveries_by_id SET
  attempt_count = column4, scheduled_count = scheduled_count + column5, last_status = column6, last_error = column7,
  due_at = CASE WHEN state <> 'pending' THEN NULL WHEN passed THEN due_at WHEN column9 = 'pending' THEN COALESCE(column8, due_at) END,
  reason = CASE WHEN state <> 'pending' OR passed OR column9 = 'pending' THEN reason ELSE column10 END,
  finished_at = CASE WHEN state <> 'pending' OR passed OR column9 = 'pending' THEN finished_at ELSE column11 END,
  state = CASE WHEN state <> 'pending' OR passed THEN state ELSE column9 END
FROM (
  SELECT result.*, d.activation < e.activation AND d.due_at IS NOT NULL AS passed
  FROM (VALUES [[(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)]]) AS result
  CROSS JOIN deliveries AS d ON d.organization_id = column1 AND d.mode = column2 AND d.id = column3
  CROSS JOIN endpoints AS e ON e.id = d.endpoint_id)
WHERE deliveries.organization_id = column1 AND deliveries.mode = column2 AND deliveries.id = column3;

-- name: remove_retry
DELETE FROM retries WHERE id = ?;

-- name: remove_retries_of
-- What is delivered is not sent again for retries that were asked for before.
DELETE FROM retries WHERE delivery_id = ?;

-- name: add_retry
INSERT INTO retries (id, organization_id, mode, endpoint_id, delivery_id)
VALUES (:id, :organization_id, :mode, :endpoint_id, :delivery_id);

-- name: delivery
SELECT * FROM seen_deliveries WHERE organization_id = :organization_id AND mode = :mode AND id = :id;

-- name: deliveries_of_tenant
SELECT * FROM (
  SELECT * FROM seen_deliveries
  WHERE organization_id = :organization_id AND mode = :mode AND id < :below AND id >= :since
  ORDER BY id DESC LIMIT :scan)
WHERE (:endpoint_id IS NULL OR endpoint_id = :endpoint_id) AND (:event_id IS NULL OR event_id = :event_id)
  AND (:event_type IS NULL OR event_type = :event_type) AND (:state IS NULL OR state = :state)
ORDER BY id DESC LIMIT :limit;

-- name: deliveries_of_tenant_scan_end
SELECT id FROM deliveries
WHERE organization_id = :organization_id AND mode = :mode AND id < :below AND id >= :since
ORDER BY id DESC LIMIT 1 OFFSET :scan - 1;

-- name: deliveries_of_endpoint
SELECT * FROM (
  SELECT * FROM seen_deliveries
  WHERE endpoint_id = :endpoint_id AND id < :below AND id >= :since
  ORDER BY id DESC LIMIT :scan)
WHERE organization_id = :organization_id AND mode = :mode AND (:event_id IS NULL OR event_id = :event_id)
  AND (:event_type IS NULL OR event_type = :event_type) AND (:state IS NULL OR state = :state)
ORDER BY id DESC LIMIT :limit;

-- name: deliveries_of_endpoint_scan_end
SELECT id FROM deliveries WHERE endpoint_id = :endpoint_id AND id < :below AND id >= :since
ORDER BY id DESC LIMIT 1 OFFSET :scan - 1;

-- name: deliveries_of_event
-- An event has at most as many deliveries as its organization has endpoints, and those of replays.
SELECT * FROM (
  SELECT * FROM seen_deliveries
  WHERE event_id = :event_id AND id < :below AND id >= :since
  ORDER BY id DESC LIMIT :scan)
WHERE organization_id = :organization_id AND mode = :mode AND (:endpoint_id IS NULL OR endpoint_id = :endpoint_id)
  AND (:event_type IS NULL OR event_type = :event_type) AND (:state IS NULL OR state = :state)
ORDER BY id DESC LIMIT :limit;

-- name: deliveries_of_event_scan_end
SELECT id FROM deliveries WHERE event_id = :event_id AND id < :below AND id >= :since
ORDER BY id DESC LIMIT 1 OFFSET :scan - 1;

-- name: deliveries_failed
SELECT * FROM (
  SELECT s.* FROM deliveries AS f INDEXED BY deliveries_failed CROSS JOIN seen_deliveries AS s
    ON s.organization_id = f.organization_id AND s.mode = f.mode AND s.id = f.id
  WHERE f.organization_id = :organization_id AND f.mode = :mode AND f.state = 'failed' AND f.id < :below AND f.id >= :since
  ORDER BY f.id DESC LIMIT :scan)
WHERE (:endpoint_id IS NULL OR endpoint_id = :endpoint_id) AND (:event_id IS NULL OR event_id = :event_id)
  AND (:event_type IS NULL OR event_type = :event_type) AND (:state IS NULL OR state = :state)
ORDER BY id DESC LIMIT :limit;

-- name: deliveries_failed_scan_end
SELECT id FROM deliveries INDEXED BY deliveries_failed
WHERE organization_id = :organization_id AND mode = :mode AND state = 'failed' AND id < :below AND id >= :since
ORDER BY id DESC LIMIT 1 OFFSET :scan - 1;

-- name: attempts
SELECT delivery_id, number, "trigger", started_at, duration_ms, status, error, error_message, url, request_headers, resent,
  response_headers, response_body
FROM attempts
WHERE organization_id = :organization_id AND mode = :mode AND delivery_id = :delivery_id
ORDER BY number DESC LIMIT 1000;

-- name: claim_first
SELECT d.id, d.event_id, d.api_version, d.activation, d.attempt_count, d.scheduled_count, d.due_at, d.created_at, NULL, d."trigger",
  LENGTH(e.data)
FROM deliveries AS d INDEXED BY due_first CROSS JOIN events AS e
  ON e.organization_id = d.organization_id AND e.mode = d.mode AND e.id = d.event_id
WHERE d.endpoint_id = :endpoint_id AND d.activation = :activation AND d.due_at IS NOT NULL AND d.scheduled_count = 0
  AND d.id NOT IN (SELECT value FROM json_each(:held))
ORDER BY d.rowid LIMIT :limit;

-- name: claim_retries
SELECT d.id, d.event_id, d.api_version, d.activation, d.attempt_count, d.scheduled_count, d.due_at, d.created_at, NULL, d."trigger",
  LENGTH(e.data)
FROM deliveries AS d INDEXED BY due_retries CROSS JOIN events AS e
  ON e.organization_id = d.organization_id AND e.mode = d.mode AND e.id = d.event_id
WHERE d.endpoint_id = :endpoint_id AND d.activation = :activation AND d.due_at IS NOT NULL AND d.scheduled_count > 0
  AND d.due_at <= :now AND d.id NOT IN (SELECT value FROM json_each(:held))
ORDER BY d.due_at LIMIT :limit;

-- name: next_retry_at
SELECT MIN(d.due_at) FROM deliveries AS d INDEXED BY due_retries
WHERE d.endpoint_id = :endpoint_id AND d.activation = :activation AND d.due_at IS NOT NULL AND d.scheduled_count > 0
  AND d.id NOT IN (SELECT value FROM json_each(:held));

-- name: claim_manual
-- Oldest first; a delivery has one attempt at a time, so of several retries of one the oldest alone is handed out. A
-- test that is under way is its tester's.
SELECT d.id, d.event_id, d.api_version, d.activation, d.attempt_count, d.scheduled_count, COALESCE(d.due_at, d.created_at), d.created_at,
  r.id, d."trigger", LENGTH(e.data)
FROM retries AS r CROSS JOIN deliveries AS d
  ON d.organization_id = r.organization_id AND d.mode = r.mode AND d.id = r.delivery_id
  CROSS JOIN events AS e ON e.organization_id = d.organization_id AND e.mode = d.mode AND e.id = d.event_id
WHERE r.endpoint_id = :endpoint_id AND r.delivery_id NOT IN (SELECT value FROM json_each(:under_way))
  AND NOT (d.state = 'pending' AND d."trigger" = 'test')
  AND NOT EXISTS (SELECT 1 FROM retries AS older WHERE older.delivery_id = r.delivery_id AND older.id < r.id)
ORDER BY r.id LIMIT :limit;

-- name: count_manual
SELECT COUNT(*) FROM retries WHERE endpoint_id = :endpoint_id;

-- name: drop_retries
DELETE FROM retries WHERE endpoint_id = :endpoint_id;

-- name: lane_work
-- Jumps from endpoint to endpoint along each index, so the time it takes grows with the endpoints and not with what waits.
WITH RECURSIVE
  first_lanes (id) AS (
    SELECT MIN(endpoint_id) FROM deliveries INDEXED BY due_first WHERE due_at IS NOT NULL AND scheduled_count = 0
    UNION ALL
    SELECT (SELECT MIN(endpoint_id) FROM deliveries INDEXED BY due_first
            WHERE due_at IS NOT NULL AND scheduled_count = 0 AND endpoint_id > first_lanes.id)
    FROM first_lanes WHERE id IS NOT NULL),
  retry_lanes (id) AS (
    SELECT MIN(endpoint_id) FROM deliveries INDEXED BY due_retries WHERE due_at IS NOT NULL AND scheduled_count > 0
    UNION ALL
    SELECT (SELECT MIN(endpoint_id) FROM deliveries INDEXED BY due_retries
            WHERE due_at IS NOT NULL AND scheduled_count > 0 AND endpoint_id > retry_lanes.id)
    FROM retry_lanes WHERE id IS NOT NULL),
  manual_lanes (id) AS (SELECT DISTINCT endpoint_id FROM retries),
  lanes (id) AS (SELECT id FROM first_lanes UNION SELECT id FROM retry_lanes UNION SELECT id FROM manual_lanes)
SELECT e.*,
  EXISTS (SELECT 1 FROM deliveries AS d INDEXED BY due_first WHERE d.endpoint_id = e.id AND d.activation = e.activation
          AND d.due_at IS NOT NULL AND d.scheduled_count = 0),
  (SELECT MIN(d.due_at) FROM deliveries AS d INDEXED BY due_retries WHERE d.endpoint_id = e.id AND d.activation = e.activation
   AND d.due_at IS NOT NULL AND d.scheduled_count > 0),
  EXISTS (SELECT 1 FROM retries AS r WHERE r.endpoint_id = e.id)
FROM lanes CROSS JOIN endpoints AS e ON e.id = lanes.id;
