-- name: meta
SELECT value FROM meta WHERE name = :name;

-- name: add_meta
INSERT INTO meta (name, value) VALUES (:name, :value) ON CONFLICT (name) DO NOTHING;

-- name: add_news
INSERT INTO news (process_id, buckets, work, endpoints, retried, keys, organizations)
VALUES (
  :process_id, :buckets::bigint, :work::text[], :endpoints::text[], :retried::text[], :keys::text[], :organizations::text[]);

-- name: mark_commit
INSERT INTO commits AS c (process_id, slot, token) VALUES (:process_id, :slot, :token)
ON CONFLICT (process_id, slot) DO UPDATE SET token = excluded.token, at = (extract(epoch FROM clock_timestamp()) * 1000)::bigint;

-- name: last_commit
SELECT token FROM commits WHERE process_id = :process_id AND slot = :slot;

-- name: forget_commits
-- Of processes that have ended: one that lives marks each of its commits anew.
DELETE FROM commits WHERE at < (extract(epoch FROM clock_timestamp()) * 1000)::bigint - :kept_for::bigint;

-- name: transaction_status
SELECT pg_xact_status(:xid::text::xid8);

-- name: database_time
SELECT (EXTRACT(EPOCH FROM clock_timestamp()) * 1000)::bigint;

-- name: pending_tests
SELECT delivery_id, organization_id, mode FROM due WHERE bucket IS NULL AND created_at < :before ORDER BY delivery_id;

-- name: interrupt_tests
UPDATE deliveries AS d SET
  state = 'failed', is_failed = true, reason = 'interrupted', last_error = 'interrupted', finished_at = :at
FROM unnest(:organization_ids::text[], :modes::text[], :ids::text[]) AS test (organization_id, mode, id)
WHERE d.organization_id = test.organization_id AND d.mode = test.mode AND d.id = test.id AND d.state = 'pending'
  AND d.id >= :lowest AND d.id <= :highest
RETURNING d.id;

-- name: old_deliveries
SELECT delivery_id, organization_id, mode FROM due WHERE delivery_id < :below ORDER BY delivery_id LIMIT :limit;

-- name: deliveries_of_old_events
-- Pending, although their event is about to go: made at midnight, or by a replay.
SELECT delivery_id, organization_id, mode FROM (
  SELECT delivery_id, organization_id, mode FROM due WHERE delivery_id < :below AND event_id < :events_below
  UNION
  SELECT delivery_id, organization_id, mode FROM due WHERE "trigger" = 'replay' AND event_id < :events_below) AS old
LIMIT :limit;

-- name: expire_deliveries
UPDATE deliveries AS d SET state = 'failed', is_failed = true, reason = 'expired', finished_at = :at, due_at = NULL
FROM unnest(:organization_ids::text[], :modes::text[], :ids::text[]) AS old (organization_id, mode, id)
WHERE d.organization_id = old.organization_id AND d.mode = old.mode AND d.id = old.id AND d.state = 'pending'
  AND d.id >= :lowest AND d.id <= :highest;

-- name: prune_external_ids
DELETE FROM external_ids
WHERE (organization_id, mode, external_id) IN (
  SELECT organization_id, mode, external_id FROM external_ids WHERE event_id < :events_below
  ORDER BY event_id LIMIT :limit)
RETURNING 1;

-- name: prune_retries
DELETE FROM retries WHERE delivery_id < :deliveries_below OR event_id < :events_below;

-- name: partitions
-- The days of history: the partitions of a table, by name.
SELECT c.relname FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid WHERE i.inhparent = :parent::text::regclass;
