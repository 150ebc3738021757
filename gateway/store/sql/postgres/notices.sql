-- Whoever reads them to change them has locked their endpoints before.

-- name: failure_notices
SELECT endpoint_id, told_at, untold, delivery_id FROM failure_notices WHERE endpoint_id = ANY(:ids::text[]);

-- name: untold_failures
SELECT endpoint_id, told_at, untold, delivery_id FROM failure_notices
WHERE untold > 0 AND told_at < :told_before ORDER BY told_at LIMIT :limit;

-- name: save_failure_notices
INSERT INTO failure_notices (endpoint_id, told_at, untold, delivery_id)
SELECT * FROM unnest(:ids::text[], :told_at::bigint[], :untold::bigint[], :delivery_ids::text[])
ON CONFLICT (endpoint_id) DO UPDATE SET
  told_at = excluded.told_at, untold = excluded.untold, delivery_id = excluded.delivery_id;

-- name: forget_failure_notices
DELETE FROM failure_notices WHERE untold = 0 AND told_at < :told_before;
