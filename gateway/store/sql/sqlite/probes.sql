-- name: endpoints_to_probe
SELECT * FROM endpoints INDEXED BY endpoints_to_probe WHERE probe_at IS NOT NULL ORDER BY probe_at LIMIT :limit;

-- name: schedule_probes
UPDATE endpoints SET probe_count = 0, probe_at = :at
WHERE disabled_reason = 'failures' AND NOT is_active AND deleted_at IS NULL AND probe_at IS NULL;

-- name: end_probes
UPDATE endpoints SET probe_count = 0, probe_at = NULL WHERE probe_at IS NOT NULL;
