-- Who takes part, and who holds which bucket. Leases are locked in the order of their buckets, as results lock them: so
-- nobody waits in a circle.

-- name: join_cluster
-- Asked again after an answer got lost, it has happened already.
INSERT INTO nodes (id, name, version, started_at, lease_seconds) VALUES (:id, :name, :version, :started_at, :lease_seconds)
ON CONFLICT (id) DO NOTHING;

-- name: cluster_view
SELECT (EXTRACT(EPOCH FROM clock_timestamp()) * 1000)::bigint,
  (SELECT array_agg(ROW(id, name, version, started_at, renewals, renewed_at, lease_seconds) ORDER BY id) FROM nodes),
  (SELECT array_agg(ROW(bucket, node_id, epoch) ORDER BY bucket) FROM leases);

-- name: renew_node
-- The view is of before: the count of the node itself is one behind. No row comes when the node is gone.
WITH renewed AS (
  UPDATE nodes SET renewals = renewals + 1, renewed_at = (EXTRACT(EPOCH FROM clock_timestamp()) * 1000)::bigint
  WHERE id = :id RETURNING id)
SELECT (EXTRACT(EPOCH FROM clock_timestamp()) * 1000)::bigint,
  (SELECT array_agg(ROW(id, name, version, started_at, renewals, renewed_at, lease_seconds) ORDER BY id) FROM nodes),
  (SELECT array_agg(ROW(bucket, node_id, epoch) ORDER BY bucket) FROM leases)
FROM renewed;

-- name: take_buckets
-- The node's own row is locked against being deleted, and read as it is by then: whoever evicts it waits until these leases
-- are in place and frees them, too, or was first, and nothing is taken. Renewals are let pass.
WITH
  taker AS MATERIALIZED (SELECT id FROM nodes WHERE id = :node_id FOR KEY SHARE),
  free AS MATERIALIZED (
    SELECT bucket FROM leases WHERE node_id IS NULL AND EXISTS (SELECT FROM taker)
    ORDER BY bucket LIMIT :limit FOR UPDATE SKIP LOCKED)
UPDATE leases SET node_id = :node_id, epoch = epoch + 1 FROM free WHERE leases.bucket = free.bucket
RETURNING leases.bucket, leases.epoch;

-- name: give_back_buckets
WITH held AS MATERIALIZED (
  SELECT bucket FROM leases WHERE node_id = :node_id AND bucket = ANY(:buckets::smallint[]) ORDER BY bucket FOR UPDATE)
UPDATE leases SET node_id = NULL, epoch = epoch + 1 FROM held WHERE leases.bucket = held.bucket;

-- name: evict_node
DELETE FROM nodes WHERE id = :id AND renewals = :renewals RETURNING id;

-- name: remove_node
DELETE FROM nodes WHERE id = :id;

-- name: node_exists
SELECT FROM nodes WHERE id = :id;

-- name: free_buckets_of
-- A statement of its own, after the node's row was deleted: so it sees what the node took while that was waited for.
WITH held AS MATERIALIZED (SELECT bucket FROM leases WHERE node_id = :node_id ORDER BY bucket FOR UPDATE)
UPDATE leases SET node_id = NULL, epoch = epoch + 1 FROM held WHERE leases.bucket = held.bucket;

-- name: wake_others
SELECT pg_notify(:channel, :process_id);

-- name: tell_keys
INSERT INTO meta (name, value) VALUES ('keys of ' || :node_id::text, convert_to(:key_names, 'UTF8'))
ON CONFLICT (name) DO UPDATE SET value = excluded.value;

-- name: forget_keys
-- Of nodes that are gone.
DELETE FROM meta WHERE name LIKE 'keys of %' AND NOT EXISTS (SELECT FROM nodes WHERE 'keys of ' || nodes.id = meta.name);

-- name: keys_of_nodes
-- The names of the keys of each node that lives: its lease has not ended yet.
SELECT n.name, COALESCE(convert_from(m.value, 'UTF8'), '')
FROM nodes AS n LEFT JOIN meta AS m ON m.name = 'keys of ' || n.id
WHERE n.renewed_at + COALESCE(n.lease_seconds, 60) * 1000 > EXTRACT(EPOCH FROM clock_timestamp()) * 1000
ORDER BY n.id;
