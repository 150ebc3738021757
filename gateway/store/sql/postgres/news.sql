-- What transactions of one process tell the others, a row for each. A row is new to a reader when its transaction was not
-- over yet in the snapshot of the reader's last look: so one that commits late is not missed, and none is read twice.

-- name: news_start
SELECT pg_current_snapshot()::text;

-- name: news
-- Of its own rows a process reads those about changes: what it has read of a thing may be older than what it did to it
-- meanwhile, and the next look puts that right.
-- Numbers that are yet to come are those of another server, which this database was dumped from: they tell nothing.
-- Always at least one row: the snapshot of this look, and whether the reader could see everything: nothing that it had not
-- seen was pruned, and the server does not count from further back than it did (it was restored from a backup, say).
SELECT look.snapshot, look.is_complete, told.endpoints, told.retried, told.keys, told.organizations, told.work
FROM (
  SELECT pg_current_snapshot()::text AS snapshot,
    pg_snapshot_xmax(pg_current_snapshot()) >= pg_snapshot_xmax(:seen::text::pg_snapshot)
    AND NOT EXISTS (
      SELECT FROM meta
      WHERE name = 'news_pruned'
        AND convert_from(value, 'UTF8')::xid8 < pg_snapshot_xmax(pg_current_snapshot())
        AND NOT pg_visible_in_snapshot(convert_from(value, 'UTF8')::xid8, :seen::text::pg_snapshot)) AS is_complete) AS look
LEFT JOIN (
  SELECT endpoints, retried, keys, organizations, work FROM news
  WHERE xid >= pg_snapshot_xmin(:seen::text::pg_snapshot) AND NOT pg_visible_in_snapshot(xid, :seen::text::pg_snapshot)
    AND xid < pg_snapshot_xmax(pg_current_snapshot())
    AND (cardinality(endpoints) + cardinality(keys) + cardinality(organizations) > 0
      OR (process_id <> ALL(:own_ids::text[]) AND (buckets & :held <> 0 OR cardinality(retried) > 0)))
) AS told ON TRUE;

-- name: news_endpoints
SELECT * FROM endpoints WHERE id = ANY(:ids::text[]);

-- name: news_keys
SELECT * FROM api_keys WHERE id = ANY(:ids::text[]);

-- name: news_organizations
SELECT id, api_version FROM organizations WHERE id = ANY(:ids::text[]);

-- name: prune_news
-- Remembers the newest that is deleted, so that a reader who has not seen it learns of that; how many it was.
WITH
  old AS MATERIALIZED (
    SELECT xid FROM (SELECT xid, at FROM news ORDER BY xid LIMIT :limit) AS oldest
    WHERE at < (EXTRACT(EPOCH FROM clock_timestamp()) * 1000)::bigint - :kept_for::bigint),
  pruned AS (DELETE FROM news USING old WHERE news.xid = old.xid RETURNING news.xid),
  remembered AS (
    INSERT INTO meta (name, value) SELECT 'news_pruned', convert_to(xid::text, 'UTF8') FROM pruned ORDER BY xid DESC LIMIT 1
    ON CONFLICT (name) DO UPDATE SET value = excluded.value
    WHERE convert_from(meta.value, 'UTF8')::xid8 < convert_from(excluded.value, 'UTF8')::xid8)
SELECT count(*) FROM pruned;
