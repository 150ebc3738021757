-- name: meta
SELECT value FROM meta WHERE name = :name;

-- name: set_meta
INSERT INTO meta (name, value) VALUES (:name, :value) ON CONFLICT (name) DO UPDATE SET value = excluded.value;

-- name: interrupt_tests
UPDATE deliveries SET state = 'failed', reason = 'interrupted', last_error = 'interrupted', finished_at = :at
WHERE rowid IN (
  SELECT rowid FROM deliveries INDEXED BY pending_tests
  WHERE state = 'pending' AND "trigger" = 'test' AND created_at < :before);

-- name: old_events
-- Rows are in order of age, so the walk ends at the first that is young enough.
SELECT rowid, id, (SELECT COUNT(*) FROM deliveries WHERE event_id = events.id)
FROM events WHERE rowid IN (SELECT rowid FROM events ORDER BY rowid LIMIT :limit) AND created_at < :before ORDER BY rowid;

-- name: newest_delivery
SELECT COALESCE(MAX(rowid), 0) FROM deliveries;

-- name: old_deliveries
SELECT MAX(rowid) FROM (
  SELECT rowid, created_at FROM deliveries WHERE rowid > :after ORDER BY rowid LIMIT :limit)
WHERE created_at < :before;

-- name: expire_deliveries
UPDATE deliveries SET state = 'failed', reason = 'expired', finished_at = :at, due_at = NULL
WHERE rowid > :after AND rowid <= :last AND state = 'pending';

-- name: prune_attempts
DELETE FROM attempts WHERE delivery_id IN (
  SELECT id FROM deliveries WHERE event_id IN (SELECT value FROM json_each(:event_ids)));

-- name: prune_retries
DELETE FROM retries WHERE delivery_id IN (
  SELECT id FROM deliveries WHERE event_id IN (SELECT value FROM json_each(:event_ids)));

-- name: prune_deliveries
DELETE FROM deliveries WHERE event_id IN (SELECT value FROM json_each(:event_ids));

-- name: prune_events
DELETE FROM events WHERE rowid IN (SELECT value FROM json_each(:rowids));
