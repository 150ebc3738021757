-- What is read outside of transactions: lists newest first, each a walk down one index from partition to partition, and
-- single things. What a list filters is bounded in its walk (`scan`), and a page may end before its limit.

-- name: endpoints
SELECT * FROM endpoints
WHERE organization_id = :organization_id AND mode = :mode AND deleted_at IS NULL AND id < :below
ORDER BY id DESC LIMIT :limit;

-- name: revisions
SELECT organization_id, mode, number, endpoint_id, events, is_active, cause, actor, at FROM revisions
WHERE organization_id = :organization_id AND mode = :mode AND number > :after
ORDER BY number LIMIT :limit;

-- name: event
SELECT organization_id, mode, id, type, timestamp, external_id, created_at, data FROM events
WHERE organization_id = :organization_id AND mode = :mode AND id = :id;

-- name: events
SELECT organization_id, mode, id, type, timestamp, external_id, created_at, ''::bytea FROM (
  SELECT organization_id, mode, id, type, timestamp, external_id, created_at FROM events
  WHERE organization_id = :organization_id AND mode = :mode AND id < :below AND id >= :since
  ORDER BY id DESC LIMIT :scan) AS walked
WHERE :type::text IS NULL OR type = :type
ORDER BY id DESC LIMIT :limit;

-- name: events_scan_end
SELECT id FROM events
WHERE organization_id = :organization_id AND mode = :mode AND id < :below AND id >= :since
ORDER BY id DESC LIMIT 1 OFFSET :scan - 1;

-- name: events_of_external_id
-- No data is read: it is stored apart, when it is large.
SELECT e.organization_id, e.mode, e.id, e.type, e.timestamp, e.external_id, e.created_at, ''::bytea
FROM external_ids AS x JOIN events AS e
  ON e.organization_id = x.organization_id AND e.mode = x.mode AND e.id = x.event_id
WHERE x.organization_id = :organization_id AND x.mode = :mode AND x.external_id = :external_id
  AND x.event_id < :below AND x.event_id >= :since AND (:type::text IS NULL OR e.type = :type);

-- name: deliveries_of_tenant
-- Only what passes the filters is looked at as everybody sees it, one by one (LATERAL … LIMIT 1), so that no plan joins before
-- the walk. Seen as canceled are those that are, and some that are pending.
SELECT seen.* FROM (
  SELECT * FROM deliveries
  WHERE organization_id = :organization_id AND mode = :mode AND id < :below AND id >= :since
  ORDER BY id DESC LIMIT :scan) AS walked
CROSS JOIN LATERAL (
  SELECT * FROM seen_deliveries AS s
  WHERE s.organization_id = walked.organization_id AND s.mode = walked.mode AND s.id = walked.id LIMIT 1) AS seen
WHERE (:endpoint_id::text IS NULL OR walked.endpoint_id = :endpoint_id)
  AND (:event_id::text IS NULL OR walked.event_id = :event_id)
  AND (:event_type::text IS NULL OR walked.event_type = :event_type) AND (:state::text IS NULL OR seen.state = :state)
  AND (:state::text IS NULL OR walked.state = :state OR (:state = 'canceled' AND walked.state = 'pending'))
ORDER BY walked.id DESC LIMIT :limit;

-- name: deliveries_of_tenant_scan_end
SELECT id FROM deliveries
WHERE organization_id = :organization_id AND mode = :mode AND id < :below AND id >= :since
ORDER BY id DESC LIMIT 1 OFFSET :scan - 1;

-- name: deliveries_of_endpoint
SELECT seen.* FROM (
  SELECT * FROM deliveries
  WHERE endpoint_id = :endpoint_id AND id < :below AND id >= :since
  ORDER BY id DESC LIMIT :scan) AS walked
CROSS JOIN LATERAL (
  SELECT * FROM seen_deliveries AS s
  WHERE s.organization_id = walked.organization_id AND s.mode = walked.mode AND s.id = walked.id LIMIT 1) AS seen
WHERE walked.organization_id = :organization_id AND walked.mode = :mode
  AND (:event_id::text IS NULL OR walked.event_id = :event_id)
  AND (:event_type::text IS NULL OR walked.event_type = :event_type) AND (:state::text IS NULL OR seen.state = :state)
  AND (:state::text IS NULL OR walked.state = :state OR (:state = 'canceled' AND walked.state = 'pending'))
ORDER BY walked.id DESC LIMIT :limit;

-- name: deliveries_of_endpoint_scan_end
SELECT id FROM deliveries
WHERE endpoint_id = :endpoint_id AND id < :below AND id >= :since
ORDER BY id DESC LIMIT 1 OFFSET :scan - 1;

-- name: deliveries_of_event
-- An event has at most as many deliveries as its organization has endpoints, and those of replays.
SELECT seen.* FROM (
  SELECT * FROM deliveries
  WHERE event_id = :event_id AND id < :below AND id >= :since
  ORDER BY id DESC LIMIT :scan) AS walked
CROSS JOIN LATERAL (
  SELECT * FROM seen_deliveries AS s
  WHERE s.organization_id = walked.organization_id AND s.mode = walked.mode AND s.id = walked.id LIMIT 1) AS seen
WHERE walked.organization_id = :organization_id AND walked.mode = :mode
  AND (:endpoint_id::text IS NULL OR walked.endpoint_id = :endpoint_id)
  AND (:event_type::text IS NULL OR walked.event_type = :event_type) AND (:state::text IS NULL OR seen.state = :state)
  AND (:state::text IS NULL OR walked.state = :state OR (:state = 'canceled' AND walked.state = 'pending'))
ORDER BY walked.id DESC LIMIT :limit;

-- name: deliveries_of_event_scan_end
SELECT id FROM deliveries
WHERE event_id = :event_id AND id < :below AND id >= :since
ORDER BY id DESC LIMIT 1 OFFSET :scan - 1;

-- name: deliveries_failed
SELECT seen.* FROM (
  SELECT * FROM deliveries
  WHERE organization_id = :organization_id AND mode = :mode AND is_failed AND id < :below AND id >= :since
  ORDER BY id DESC LIMIT :scan) AS walked
CROSS JOIN LATERAL (
  SELECT * FROM seen_deliveries AS s
  WHERE s.organization_id = walked.organization_id AND s.mode = walked.mode AND s.id = walked.id LIMIT 1) AS seen
WHERE (:endpoint_id::text IS NULL OR walked.endpoint_id = :endpoint_id)
  AND (:event_id::text IS NULL OR walked.event_id = :event_id)
  AND (:event_type::text IS NULL OR walked.event_type = :event_type) AND (:state::text IS NULL OR seen.state = :state)
  AND (:state::text IS NULL OR walked.state = :state OR (:state = 'canceled' AND walked.state = 'pending'))
ORDER BY walked.id DESC LIMIT :limit;

-- name: deliveries_failed_scan_end
SELECT id FROM deliveries
WHERE organization_id = :organization_id AND mode = :mode AND is_failed AND id < :below AND id >= :since
ORDER BY id DESC LIMIT 1 OFFSET :scan - 1;

-- name: attempts
-- Several may have one number: the one that counts, and those that are fenced.
SELECT delivery_id, number, "trigger", started_at, duration_ms, status, error, error_message, url, request_headers, resent,
  response_headers, response_body, fenced
FROM attempts
WHERE organization_id = :organization_id AND mode = :mode AND delivery_id = :delivery_id
ORDER BY number DESC, started_at DESC LIMIT 1000;

-- name: keys_of_tenant
SELECT * FROM api_keys
WHERE organization_id = :organization_id AND mode = :mode AND revoked_at IS NULL AND id < :below
ORDER BY id DESC LIMIT :limit;

-- name: keys_of_everybody
SELECT * FROM api_keys WHERE revoked_at IS NULL AND id < :below ORDER BY id DESC LIMIT :limit;

-- name: all_keys
SELECT * FROM api_keys WHERE revoked_at IS NULL;

-- name: organizations
SELECT id, MAX(api_version) FROM (
  SELECT id, api_version FROM organizations
  UNION ALL SELECT organization_id, NULL FROM endpoints
  UNION ALL SELECT organization_id, NULL FROM api_keys WHERE organization_id IS NOT NULL) AS known
GROUP BY id ORDER BY id;
