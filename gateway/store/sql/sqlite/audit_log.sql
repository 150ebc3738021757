-- name: add_audit_entry
INSERT INTO audit_log (id, organization_id, mode, at, actor, address, action, target_id, changes)
VALUES (:id, :organization_id, :mode, :at, :actor, :address, :action, :target_id, :changes);

-- name: audit_log_of_tenant
-- The walk is bounded: a page may end before its limit.
SELECT * FROM (
  SELECT * FROM audit_log INDEXED BY audit_log_by_tenant
  WHERE organization_id = :organization_id AND mode = :mode AND id < :below AND id >= :since
  ORDER BY id DESC LIMIT :scan)
WHERE (:actor IS NULL OR actor = :actor) AND (:action IS NULL OR action = :action)
  AND (:target_id IS NULL OR target_id = :target_id)
ORDER BY id DESC LIMIT :limit;

-- name: audit_log_of_tenant_scan_end
SELECT id FROM audit_log INDEXED BY audit_log_by_tenant
WHERE organization_id = :organization_id AND mode = :mode AND id < :below AND id >= :since
ORDER BY id DESC LIMIT 1 OFFSET :scan - 1;

-- name: audit_log_of_everybody
SELECT * FROM (
  SELECT * FROM audit_log WHERE id < :below AND id >= :since ORDER BY id DESC LIMIT :scan)
WHERE (:actor IS NULL OR actor = :actor) AND (:action IS NULL OR action = :action)
  AND (:target_id IS NULL OR target_id = :target_id)
ORDER BY id DESC LIMIT :limit;

-- name: audit_log_of_everybody_scan_end
SELECT id FROM audit_log WHERE id < :below AND id >= :since ORDER BY id DESC LIMIT 1 OFFSET :scan - 1;

-- name: forget_audit_entries
DELETE FROM audit_log WHERE id IN (SELECT id FROM audit_log WHERE id < :below ORDER BY id LIMIT :limit);
