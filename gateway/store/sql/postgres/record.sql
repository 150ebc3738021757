-- Everything on record, forwards, as it is stored. What is looked up for each row is so in its own turn (LATERAL … LIMIT 1): no
-- plan reads a whole table for a page.

-- name: next_tenant
SELECT organization_id, mode FROM (
  (SELECT organization_id, mode FROM events
   WHERE (organization_id, mode) > (:organization_id::text, :mode::text) ORDER BY organization_id, mode LIMIT 1)
  UNION ALL
  (SELECT organization_id, mode FROM deliveries
   WHERE (organization_id, mode) > (:organization_id::text, :mode::text) ORDER BY organization_id, mode LIMIT 1)
  UNION ALL
  (SELECT organization_id, mode FROM revisions
   WHERE (organization_id, mode) > (:organization_id::text, :mode::text) ORDER BY organization_id, mode LIMIT 1)) AS first
ORDER BY organization_id, mode LIMIT 1;

-- name: last_number
SELECT revision FROM tenants WHERE organization_id = :organization_id AND mode = :mode;

-- name: recorded_endpoints
SELECT id, events, is_active, deleted_at IS NOT NULL, activation FROM endpoints
WHERE id = ANY(:ids::text[]) AND organization_id = :organization_id AND mode = :mode;

-- name: recorded_events
SELECT e.id, e.type, e.created_at, e.revision, e.external_id, e.external_id IS NULL OR x.event_id IS NOT DISTINCT FROM e.id
FROM (
  SELECT * FROM events
  WHERE organization_id = :organization_id AND mode = :mode AND id > :after AND id >= :since AND id < :until
  ORDER BY id LIMIT :limit) AS e
LEFT JOIN LATERAL (
  SELECT event_id FROM external_ids AS x
  WHERE x.organization_id = e.organization_id AND x.mode = e.mode AND x.external_id = e.external_id LIMIT 1) AS x ON true
ORDER BY e.id;

-- name: recorded_deliveries
SELECT id, endpoint_id, event_id, state, reason, "trigger", activation, attempt_count, scheduled_count, due_at, last_status,
  last_error, finished_at
FROM deliveries
WHERE event_id = ANY(:event_ids::text[]) AND id >= :lowest AND organization_id = :organization_id AND mode = :mode;

-- name: recorded_attempts
SELECT delivery_id, number, "trigger", status, error, fenced FROM attempts
WHERE delivery_id = ANY(:delivery_ids::text[]) AND delivery_id >= :lowest AND delivery_id <= :highest
  AND organization_id = :organization_id AND mode = :mode
ORDER BY delivery_id, number;

-- name: recorded_due
SELECT delivery_id, bucket, endpoint_id, event_id, activation, attempt_count, scheduled_count, due_at FROM due
WHERE delivery_id = ANY(:delivery_ids::text[]);

-- What belongs to something: the place in the order, the tenant, the row, what it belongs to, and whether that is there.

-- name: links_of_deliveries
SELECT d.id, d.organization_id, d.mode, d.id, d.event_id, e.id IS NOT NULL
FROM (
  SELECT * FROM deliveries
  WHERE organization_id = :organization_id AND mode = :mode AND id > :after AND id >= :since AND id < :until
  ORDER BY id LIMIT :limit) AS d
LEFT JOIN LATERAL (
  SELECT id FROM events AS e
  WHERE e.organization_id = d.organization_id AND e.mode = d.mode AND e.id = d.event_id LIMIT 1) AS e ON true
ORDER BY d.id;

-- name: links_of_attempts
SELECT a.delivery_id, a.organization_id, a.mode, a.delivery_id, a.delivery_id, d.id IS NOT NULL
FROM (
  SELECT DISTINCT ON (delivery_id) delivery_id, organization_id, mode FROM attempts
  WHERE delivery_id > :after AND delivery_id >= :since_delivery AND delivery_id < :until_delivery
  ORDER BY delivery_id LIMIT :limit) AS a
LEFT JOIN LATERAL (
  SELECT id FROM deliveries AS d
  WHERE d.organization_id = a.organization_id AND d.mode = a.mode AND d.id = a.delivery_id LIMIT 1) AS d ON true
ORDER BY a.delivery_id;

-- name: links_of_retries
SELECT r.id, r.organization_id, r.mode, r.id, r.delivery_id, d.id IS NOT NULL
FROM (
  SELECT * FROM retries
  WHERE id > :after AND delivery_id >= :since_delivery AND delivery_id < :until_delivery
  ORDER BY id LIMIT :limit) AS r
LEFT JOIN LATERAL (
  SELECT id FROM deliveries AS d
  WHERE d.organization_id = r.organization_id AND d.mode = r.mode AND d.id = r.delivery_id AND d.endpoint_id = r.endpoint_id
  LIMIT 1) AS d ON true
ORDER BY r.id;

-- name: links_of_due
SELECT q.delivery_id, q.organization_id, q.mode, q.delivery_id, q.delivery_id, d.id IS NOT NULL
FROM (
  SELECT * FROM due
  WHERE delivery_id > :after AND delivery_id >= :since_delivery AND delivery_id < :until_delivery
  ORDER BY delivery_id LIMIT :limit) AS q
LEFT JOIN LATERAL (
  SELECT id FROM deliveries AS d
  WHERE d.organization_id = q.organization_id AND d.mode = q.mode AND d.id = q.delivery_id AND d.state = 'pending' LIMIT 1) AS d
  ON true
ORDER BY q.delivery_id;

-- name: links_of_external_ids
SELECT x.event_id, x.organization_id, x.mode, x.external_id, x.organization_id, x.mode, x.external_id, x.event_id, e.id IS NOT NULL
FROM (
  SELECT * FROM external_ids
  WHERE (event_id, organization_id, mode, external_id) > (:after::text, :after_organization::text, :after_mode::text, :after_external_id::text)
    AND event_id >= :since_event AND event_id < :until_event
  ORDER BY event_id, organization_id, mode, external_id LIMIT :limit) AS x
LEFT JOIN LATERAL (
  SELECT id FROM events AS e
  WHERE e.organization_id = x.organization_id AND e.mode = x.mode AND e.id = x.event_id AND e.external_id = x.external_id
  LIMIT 1) AS e ON true
ORDER BY x.event_id, x.organization_id, x.mode, x.external_id;
