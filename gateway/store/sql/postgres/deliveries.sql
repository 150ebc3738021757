-- Statements that a transaction may put off are run together, each as a WITH query under its own name: they all see what was
-- there before the first of them, and one may read what another returns.
-- `lowest` and `highest` bound the ids that a statement looks for: the days that they cannot be in are left out.

-- name: add_deliveries
INSERT INTO deliveries (
  organization_id, mode, id, endpoint_id, event_id, event_type, state, "trigger", activation, api_version, due_at, created_at)
SELECT organization_id, mode, id, endpoint_id, event_id, event_type, 'pending', "trigger", activation, api_version,
  CASE WHEN "trigger" <> 'test' THEN due_at END, created_at
FROM unnest(
  :organization_ids::text[], :modes::text[], :ids::text[], :endpoint_ids::text[], :event_ids::text[], :event_types::text[],
  :triggers::text[], :activations::bigint[], :api_versions::text[], :due_at::bigint[], :created_at::bigint[])
  AS new (organization_id, mode, id, endpoint_id, event_id, event_type, "trigger", activation, api_version, due_at, created_at);

-- name: add_due
INSERT INTO due (
  delivery_id, bucket, endpoint_id, event_id, activation, due_at, created_at, api_version, "trigger", organization_id, mode,
  data_bytes)
SELECT * FROM unnest(
  :ids::text[], :buckets::smallint[], :endpoint_ids::text[], :event_ids::text[], :activations::bigint[], :due_at::bigint[],
  :created_at::bigint[], :api_versions::text[], :triggers::text[], :organization_ids::text[], :modes::text[],
  :data_bytes::bigint[]);

-- name: lock_leases
-- Whoever takes a lease over waits until these results are committed, or they wait and see that it is gone. In the order of
-- the buckets, as everybody locks them.
SELECT bucket, epoch FROM leases
WHERE bucket = ANY(:buckets::smallint[]) AND node_id = ANY(:node_ids::text[])
ORDER BY bucket FOR SHARE;

-- name: add_attempts
INSERT INTO attempts (
  organization_id, mode, delivery_id, number, "trigger", started_at, duration_ms, status, error, error_message, url, resent,
  fenced, request_headers, response_headers, response_body)
SELECT * FROM unnest(
  :organization_ids::text[], :modes::text[], :delivery_ids::text[], :numbers::bigint[], :triggers::text[],
  :started_at::bigint[], :durations::bigint[], :statuses::integer[], :errors::text[], :error_messages::text[], :urls::text[],
  :resent::boolean[], :fenced::boolean[], :request_headers::bytea[], :response_headers::bytea[], :response_bodies::bytea[]);

-- name: record_successes
-- From any state: what was answered 2xx is delivered.
UPDATE deliveries AS d SET
  attempt_count = result.number, scheduled_count = d.scheduled_count + result.counts, last_status = result.status,
  last_error = NULL, state = 'delivered', is_failed = false, reason = NULL, due_at = NULL,
  finished_at = CASE WHEN d.state = 'delivered' THEN d.finished_at ELSE result.ended_at END
FROM unnest(
  :organization_ids::text[], :modes::text[], :ids::text[], :numbers::bigint[], :counts::bigint[], :statuses::integer[],
  :ended_at::bigint[]) AS result (organization_id, mode, id, number, counts, status, ended_at)
WHERE d.organization_id = result.organization_id AND d.mode = result.mode AND d.id = result.id
  AND d.id >= :lowest AND d.id <= :highest;

-- name: end_due
DELETE FROM due WHERE delivery_id = ANY(:ids::text[]);

-- name: record_failures
-- Moves only what is pending and not canceled by definition; `result.state` is the state that the attempt leads to.
UPDATE deliveries AS d SET
  attempt_count = result.number, scheduled_count = d.scheduled_count + result.counts, last_status = result.status,
  last_error = result.error,
  due_at = CASE WHEN d.state <> 'pending' THEN NULL
    WHEN d.due_at IS NOT NULL AND d.activation < e.activation THEN d.due_at
    WHEN result.state = 'pending' THEN COALESCE(result.due_at, d.due_at) END,
  reason = CASE WHEN d.state <> 'pending' OR (d.due_at IS NOT NULL AND d.activation < e.activation)
    OR result.state = 'pending' THEN d.reason ELSE result.reason END,
  finished_at = CASE WHEN d.state <> 'pending' OR (d.due_at IS NOT NULL AND d.activation < e.activation)
    OR result.state = 'pending' THEN d.finished_at ELSE result.ended_at END,
  is_failed = CASE WHEN d.state <> 'pending' OR (d.due_at IS NOT NULL AND d.activation < e.activation)
    THEN d.is_failed ELSE result.state = 'failed' END,
  state = CASE WHEN d.state <> 'pending' OR (d.due_at IS NOT NULL AND d.activation < e.activation)
    THEN d.state ELSE result.state END
FROM unnest(
  :organization_ids::text[], :modes::text[], :ids::text[], :endpoint_ids::text[], :numbers::bigint[], :counts::bigint[],
  :statuses::integer[], :errors::text[], :due_at::bigint[], :states::text[], :reasons::text[], :ended_at::bigint[])
  AS result (organization_id, mode, id, endpoint_id, number, counts, status, error, due_at, state, reason, ended_at)
JOIN endpoints AS e ON e.id = result.endpoint_id
WHERE d.organization_id = result.organization_id AND d.mode = result.mode AND d.id = result.id
  AND d.id >= :lowest AND d.id <= :highest
RETURNING d.id, d.state, d.due_at, d.attempt_count, d.scheduled_count;

-- name: move_due
-- After record_failures: what is to be tried again.
UPDATE due SET
  due_at = COALESCE(moved.due_at, due.due_at), attempt_count = moved.attempt_count, scheduled_count = moved.scheduled_count
FROM record_failures AS moved WHERE due.delivery_id = moved.id AND moved.state = 'pending';

-- name: end_due_of_failures
-- After record_failures: what is not.
DELETE FROM due USING record_failures AS moved WHERE due.delivery_id = moved.id AND moved.state <> 'pending';

-- name: remove_retries
-- Those that are done with, and those of deliveries that are delivered, which are not sent again for retries that were asked
-- for before.
DELETE FROM retries WHERE id = ANY(:ids::text[]) OR delivery_id = ANY(:delivery_ids::text[]);

-- name: add_retry
INSERT INTO retries (id, organization_id, mode, bucket, endpoint_id, delivery_id, event_id, data_bytes)
SELECT :id, :organization_id, :mode, :bucket, :endpoint_id, :delivery_id, e.id, octet_length(e.data)
FROM events AS e WHERE e.organization_id = :organization_id AND e.mode = :mode AND e.id = :event_id;

-- name: drop_retries
DELETE FROM retries WHERE bucket = :bucket AND endpoint_id = :endpoint_id;

-- name: delivery
SELECT * FROM seen_deliveries WHERE organization_id = :organization_id AND mode = :mode AND id = :id;

-- name: deliveries_by_id
SELECT d.id, d.api_version, d.activation, d.attempt_count, d.scheduled_count, COALESCE(d.due_at, d.created_at) AS due_at,
  d.created_at, d."trigger"
FROM unnest(:organization_ids::text[], :modes::text[], :ids::text[]) AS wanted (organization_id, mode, id)
JOIN deliveries AS d ON d.organization_id = wanted.organization_id AND d.mode = wanted.mode AND d.id = wanted.id
WHERE d.id >= :lowest AND d.id <= :highest;

-- What a claim asks for is asked for all lanes in one statement, the kinds joined by UNION ALL; nothing is promised about
-- the order of rows.

-- name: claim_first
SELECT 'first' AS kind, lane.place, d.delivery_id, d.event_id, d.organization_id, d.mode, d.api_version, d.activation,
  d.attempt_count, d.scheduled_count, d.due_at, d.created_at, NULL::text AS retry_id, d."trigger", d.data_bytes
FROM unnest(
  :places::integer[], :buckets::smallint[], :endpoint_ids::text[], :activations::bigint[], :limits::integer[],
  :first::boolean[]) AS lane (place, bucket, endpoint_id, activation, most, is_wanted)
CROSS JOIN LATERAL (
  SELECT * FROM due
  WHERE lane.is_wanted AND bucket = lane.bucket AND endpoint_id = lane.endpoint_id AND activation = lane.activation
    AND scheduled_count = 0 AND delivery_id NOT IN (SELECT unnest(:held::text[]))
  ORDER BY created_at, delivery_id LIMIT lane.most) AS d;

-- name: claim_retries
-- Earliest due first, and one more than is wanted, which tells when to ask again: also those that are not due yet.
SELECT 'retry' AS kind, lane.place, d.delivery_id, d.event_id, d.organization_id, d.mode, d.api_version, d.activation,
  d.attempt_count, d.scheduled_count, d.due_at, d.created_at, NULL::text AS retry_id, d."trigger", d.data_bytes
FROM unnest(
  :places::integer[], :buckets::smallint[], :endpoint_ids::text[], :activations::bigint[], :limits::integer[],
  :retries::boolean[]) AS lane (place, bucket, endpoint_id, activation, most, is_wanted)
CROSS JOIN LATERAL (
  SELECT * FROM due
  WHERE lane.is_wanted AND bucket = lane.bucket AND endpoint_id = lane.endpoint_id AND activation = lane.activation
    AND scheduled_count > 0 AND delivery_id NOT IN (SELECT unnest(:held::text[]))
  ORDER BY due_at LIMIT lane.most) AS d;

-- name: claim_manual
-- Oldest first; a delivery has one attempt at a time, so of several retries of one the oldest alone is handed out. A test
-- that is under way, which is due in no bucket, is its tester's.
SELECT 'manual' AS kind, lane.place, r.delivery_id, r.event_id, r.organization_id, r.mode, NULL::text AS api_version,
  NULL::bigint AS activation, NULL::bigint AS attempt_count, NULL::bigint AS scheduled_count, NULL::bigint AS due_at,
  NULL::bigint AS created_at, r.id AS retry_id, NULL::text AS "trigger", r.data_bytes
FROM unnest(:places::integer[], :buckets::smallint[], :endpoint_ids::text[], :limits::integer[], :manual::boolean[])
  AS lane (place, bucket, endpoint_id, most, is_wanted)
CROSS JOIN LATERAL (
  SELECT * FROM retries AS retry
  WHERE lane.is_wanted AND bucket = lane.bucket AND endpoint_id = lane.endpoint_id
    AND delivery_id NOT IN (SELECT unnest(:under_way::text[]))
    AND NOT EXISTS (SELECT FROM due WHERE due.delivery_id = retry.delivery_id AND due.bucket IS NULL)
    AND NOT EXISTS (SELECT FROM retries AS older WHERE older.delivery_id = retry.delivery_id AND older.id < retry.id)
  ORDER BY id LIMIT lane.most) AS r;

-- name: count_manual
SELECT 'waiting' AS kind, lane.place, NULL::text, NULL::text, NULL::text, NULL::text, NULL::text, NULL::bigint, NULL::bigint,
  NULL::bigint, NULL::bigint, NULL::bigint, NULL::text, NULL::text, r.waiting
FROM unnest(:places::integer[], :buckets::smallint[], :endpoint_ids::text[], :manual::boolean[])
  AS lane (place, bucket, endpoint_id, is_wanted)
CROSS JOIN LATERAL (
  SELECT count(*) AS waiting FROM retries
  WHERE lane.is_wanted AND bucket = lane.bucket AND endpoint_id = lane.endpoint_id) AS r
WHERE r.waiting > 0;

-- name: lane_work
-- Jumps from endpoint to endpoint along each index, so the time it takes grows with the endpoints and not with what waits.
-- MIN, not EXISTS or LIMIT 1: only the index can tell it, so nobody thinks of looking for one row among all that wait.
WITH RECURSIVE
  first_lanes (bucket, id) AS (
    SELECT b, (SELECT MIN(endpoint_id) FROM due WHERE bucket = b AND scheduled_count = 0)
    FROM unnest(:buckets::smallint[]) AS b
    UNION ALL
    SELECT bucket, (SELECT MIN(endpoint_id) FROM due
                    WHERE due.bucket = lane.bucket AND scheduled_count = 0 AND endpoint_id > lane.id)
    FROM first_lanes AS lane WHERE id IS NOT NULL),
  retry_lanes (bucket, id) AS (
    SELECT b, (SELECT MIN(endpoint_id) FROM due WHERE bucket = b AND scheduled_count > 0)
    FROM unnest(:buckets::smallint[]) AS b
    UNION ALL
    SELECT bucket, (SELECT MIN(endpoint_id) FROM due
                    WHERE due.bucket = lane.bucket AND scheduled_count > 0 AND endpoint_id > lane.id)
    FROM retry_lanes AS lane WHERE id IS NOT NULL),
  lanes (bucket, id) AS (
    SELECT bucket, id FROM first_lanes WHERE id IS NOT NULL
    UNION SELECT bucket, id FROM retry_lanes WHERE id IS NOT NULL
    UNION SELECT bucket, endpoint_id FROM retries WHERE bucket = ANY(:buckets::smallint[]))
SELECT e.*,
  (SELECT MIN(d.created_at) FROM due AS d WHERE d.bucket = lanes.bucket AND d.endpoint_id = lanes.id
   AND d.activation = e.activation AND d.scheduled_count = 0) IS NOT NULL AS has_first_attempts,
  (SELECT MIN(d.due_at) FROM due AS d WHERE d.bucket = lanes.bucket AND d.endpoint_id = lanes.id
   AND d.activation = e.activation AND d.scheduled_count > 0) AS next_retry_at,
  (SELECT MIN(r.id) FROM retries AS r WHERE r.bucket = lanes.bucket AND r.endpoint_id = lanes.id) IS NOT NULL AS has_manual
FROM lanes JOIN endpoints AS e ON e.id = lanes.id;
