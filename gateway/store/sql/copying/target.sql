-- How far a copy into this database has come: the row `copying` of `meta` while it is unfinished, `copied` once it is done.

-- name: copies
SELECT name, value FROM meta WHERE name IN ('copying', 'copied');

-- name: live_node
-- Whoever is in the cluster, or was when it died.
SELECT name FROM nodes ORDER BY id LIMIT 1;

-- name: holds_data
SELECT EXISTS (SELECT FROM organizations) OR EXISTS (SELECT FROM tenants) OR EXISTS (SELECT FROM endpoints)
  OR EXISTS (SELECT FROM revisions) OR EXISTS (SELECT FROM events) OR EXISTS (SELECT FROM external_ids)
  OR EXISTS (SELECT FROM deliveries) OR EXISTS (SELECT FROM attempts) OR EXISTS (SELECT FROM due)
  OR EXISTS (SELECT FROM retries) OR EXISTS (SELECT FROM api_keys) OR EXISTS (SELECT FROM idempotent_requests)
  OR EXISTS (SELECT FROM audit_log);

-- name: begin_copy
INSERT INTO meta (name, value) VALUES ('copying', :progress) ON CONFLICT (name) DO NOTHING RETURNING name;

-- name: advance_copy
-- No row comes when another copy has gone on from the same place, or a node has started meanwhile.
UPDATE meta SET value = :progress
WHERE name = 'copying' AND value = :before AND NOT EXISTS (SELECT FROM nodes)
RETURNING name;

-- name: set_cursor_key
INSERT INTO meta (name, value) VALUES ('cursor_key', :value) ON CONFLICT (name) DO UPDATE SET value = excluded.value;

-- name: lock_nodes_out
LOCK TABLE nodes IN SHARE ROW EXCLUSIVE MODE;

-- name: end_copy
UPDATE meta SET name = 'copied', value = :record
WHERE name = 'copying' AND value = :before AND NOT EXISTS (SELECT FROM nodes)
RETURNING name;

-- name: analyze
-- The server does so by itself for the partitions only.
ANALYZE organizations, tenants, endpoints, revisions, events, external_ids, deliveries, attempts, api_keys, idempotent_requests, audit_log;
