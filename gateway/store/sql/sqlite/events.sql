-- name: add_events
INSERT INTO events (organization_id, mode, id, type, timestamp, external_id, created_at, revision, data)
VALUES [[(?, ?, ?, ?, ?, ?, ?, ?, ?)]];

-- name: event
SELECT organization_id, mode, id, type, timestamp, external_id, created_at, data FROM events
WHERE organization_id = :organization_id AND mode = :mode AND id = :id;

-- name: events
-- The walk is bounded: a page may end before its limit.
SELECT organization_id, mode, id, type, timestamp, external_id, created_at, X'' FROM (
  SELECT organization_id, mode, id, type, timestamp, external_id, created_at FROM events INDEXED BY events_by_id
  WHERE organization_id = :organization_id AND mode = :mode AND id < :below AND id >= :since
  ORDER BY id DESC LIMIT :scan)
WHERE :type IS NULL OR type = :type
ORDER BY id DESC LIMIT :limit;

-- name: events_scan_end
SELECT id FROM events INDEXED BY events_by_id
WHERE organization_id = :organization_id AND mode = :mode AND id < :below AND id >= :since
ORDER BY id DESC LIMIT 1 OFFSET :scan - 1;

-- name: events_of_external_id
SELECT organization_id, mode, id, type, timestamp, external_id, created_at, X'' FROM events
WHERE organization_id = :organization_id AND mode = :mode AND external_id = :external_id AND id < :below AND id >= :since
  AND (:type IS NULL OR type = :type);

-- name: events_by_external_id
SELECT e.organization_id, e.mode, e.id, e.type, e.timestamp, e.external_id, e.created_at, e.data
FROM json_each(:wanted) AS w CROSS JOIN events AS e
  ON e.organization_id = w.value ->> 0 AND e.mode = w.value ->> 1 AND e.external_id = w.value ->> 2;

-- name: events_by_id
SELECT e.organization_id, e.mode, e.id, e.type, e.timestamp, e.external_id, e.created_at, e.data
FROM json_each(:wanted) AS w CROSS JOIN events AS e
  ON e.organization_id = w.value ->> 0 AND e.mode = w.value ->> 1 AND e.id = w.value ->> 2;
