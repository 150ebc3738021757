-- Everything on record, forwards, as it is stored.

-- name: next_tenant
SELECT organization_id, mode FROM (
  SELECT * FROM (
    SELECT organization_id, mode FROM events
    WHERE (organization_id, mode) > (:organization_id, :mode) ORDER BY organization_id, mode LIMIT 1)
  UNION ALL
  SELECT * FROM (
    SELECT organization_id, mode FROM deliveries
    WHERE (organization_id, mode) > (:organization_id, :mode) ORDER BY organization_id, mode LIMIT 1)
  UNION ALL
  SELECT * FROM (
    SELECT organization_id, mode FROM revisions
    WHERE (organization_id, mode) > (:organization_id, :mode) ORDER BY organization_id, mode LIMIT 1))
ORDER BY organization_id, mode LIMIT 1;

-- name: recorded_endpoints
SELECT e.id, e.events, e.is_active, e.deleted_at IS NOT NULL, e.activation
FROM json_each(:ids) AS wanted CROSS JOIN endpoints AS e ON e.id = wanted.value
WHERE e.organization_id = :organization_id AND e.mode = :mode;

-- name: recorded_events
-- The index on external ids finds what it holds: there is no other place that could say otherwise.
SELECT id, type, created_at, revision, external_id, TRUE FROM events INDEXED BY events_by_id
WHERE organization_id = :organization_id AND mode = :mode AND id > :after AND id >= :since AND id < :until
ORDER BY id LIMIT :limit;

-- name: recorded_deliveries
SELECT d.id, d.endpoint_id, d.event_id, d.state, d.reason, d."trigger", d.activation, d.attempt_count, d.scheduled_count, d.due_at,
  d.last_status, d.last_error, d.finished_at
FROM json_each(:event_ids) AS wanted CROSS JOIN deliveries AS d INDEXED BY deliveries_by_event ON d.event_id = wanted.value
WHERE d.organization_id = :organization_id AND d.mode = :mode;

-- name: recorded_attempts
SELECT a.delivery_id, a.number, a."trigger", a.status, a.error, FALSE
FROM json_each(:delivery_ids) AS wanted CROSS JOIN attempts AS a INDEXED BY attempts_by_delivery ON a.delivery_id = wanted.value
WHERE a.organization_id = :organization_id AND a.mode = :mode
ORDER BY a.delivery_id, a.number;

-- What belongs to something: the place in the order, the tenant, the row, what it belongs to, and whether that is there.

-- name: links_of_deliveries
SELECT d.id, d.organization_id, d.mode, d.id, d.event_id, EXISTS (
  SELECT 1 FROM events AS e WHERE e.organization_id = d.organization_id AND e.mode = d.mode AND e.id = d.event_id)
FROM deliveries AS d INDEXED BY deliveries_by_id
WHERE d.organization_id = :organization_id AND d.mode = :mode AND d.id > :after AND d.id >= :since AND d.id < :until
ORDER BY d.id LIMIT :limit;

-- name: links_of_attempts
SELECT a.delivery_id, a.organization_id, a.mode, a.delivery_id, a.delivery_id, EXISTS (
  SELECT 1 FROM deliveries AS d WHERE d.organization_id = a.organization_id AND d.mode = a.mode AND d.id = a.delivery_id)
FROM (
  SELECT delivery_id, organization_id, mode FROM attempts INDEXED BY attempts_by_delivery
  WHERE delivery_id > :after AND delivery_id >= :since_delivery AND delivery_id < :until_delivery
  GROUP BY delivery_id ORDER BY delivery_id LIMIT :limit) AS a
ORDER BY a.delivery_id;

-- name: links_of_retries
SELECT r.id, r.organization_id, r.mode, r.id, r.delivery_id, EXISTS (
  SELECT 1 FROM deliveries AS d
  WHERE d.organization_id = r.organization_id AND d.mode = r.mode AND d.id = r.delivery_id AND d.endpoint_id = r.endpoint_id)
FROM retries AS r
WHERE r.id > :after AND r.delivery_id >= :since_delivery AND r.delivery_id < :until_delivery
ORDER BY r.id LIMIT :limit;
