-- name: failure_notices
SELECT n.endpoint_id, n.told_at, n.untold, n.delivery_id
FROM json_each(:ids) AS wanted CROSS JOIN failure_notices AS n ON n.endpoint_id = wanted.value;

-- name: untold_failures
SELECT endpoint_id, told_at, untold, delivery_id FROM failure_notices INDEXED BY failure_notices_untold
WHERE untold > 0 AND told_at < :told_before ORDER BY told_at LIMIT :limit;

-- name: save_failure_notices
INSERT INTO failure_notices (endpoint_id, told_at, untold, delivery_id) VALUES [[(?, ?, ?, ?)]]
ON CONFLICT (endpoint_id) DO UPDATE SET
  told_at = excluded.told_at, untold = excluded.untold, delivery_id = excluded.delivery_id;

-- name: forget_failure_notices
DELETE FROM failure_notices WHERE untold = 0 AND told_at < :told_before;
