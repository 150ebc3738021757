-- Those that change many endpoints lock them in the order of their ids, as everybody does.

-- name: endpoints_to_probe
SELECT * FROM endpoints WHERE probe_at IS NOT NULL ORDER BY probe_at LIMIT :limit;

-- name: schedule_probes
UPDATE endpoints SET probe_count = 0, probe_at = :at
FROM (
  SELECT id FROM endpoints
  WHERE disabled_reason = 'failures' AND NOT is_active AND deleted_at IS NULL AND probe_at IS NULL
  ORDER BY id FOR NO KEY UPDATE) AS failing
WHERE endpoints.id = failing.id;

-- name: end_probes
UPDATE endpoints SET probe_count = 0, probe_at = NULL
FROM (SELECT id FROM endpoints WHERE probe_at IS NOT NULL ORDER BY id FOR NO KEY UPDATE) AS probed
WHERE endpoints.id = probed.id;
