-- `lowest` and `highest` bound the ids that a statement looks for: the days that they cannot be in are left out.

-- name: add_events
INSERT INTO events (organization_id, mode, id, type, timestamp, external_id, created_at, revision, data)
SELECT * FROM unnest(
  :organization_ids::text[], :modes::text[], :ids::text[], :types::text[], :timestamps::bigint[], :external_ids::text[],
  :created_at::bigint[], :revisions::bigint[], :data::bytea[]);

-- name: take_external_ids
-- In the order of the key, so that two that take the same ids wait for each other one way only.
INSERT INTO external_ids (organization_id, mode, external_id, event_id)
SELECT * FROM unnest(:organization_ids::text[], :modes::text[], :external_ids::text[], :ids::text[])
  AS taken (organization_id, mode, external_id, event_id)
ORDER BY organization_id COLLATE "C", mode, external_id COLLATE "C"
ON CONFLICT DO NOTHING
RETURNING event_id;

-- name: events_by_external_id
SELECT x.organization_id, x.mode, x.event_id
FROM unnest(:organization_ids::text[], :modes::text[], :external_ids::text[]) AS wanted (organization_id, mode, external_id)
JOIN external_ids AS x USING (organization_id, mode, external_id);

-- name: events_by_id
SELECT e.organization_id, e.mode, e.id, e.type, e.timestamp, e.external_id, e.created_at, e.data
FROM unnest(:organization_ids::text[], :modes::text[], :ids::text[]) AS wanted (organization_id, mode, id)
JOIN events AS e ON e.organization_id = wanted.organization_id AND e.mode = wanted.mode AND e.id = wanted.id
WHERE e.id >= :lowest AND e.id <= :highest;
