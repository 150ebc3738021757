-- What is asked for with each API key where, so that all processes together keep to its limit.

-- name: share_demand
WITH told AS (
  INSERT INTO demand (key_id, process_id, per_second)
  SELECT key_id, :process_id::text, per_second
  FROM unnest(:key_ids::text[], :per_second::float8[]) AS asked (key_id, per_second) ORDER BY key_id
  ON CONFLICT (key_id, process_id) DO UPDATE SET per_second = excluded.per_second, at = excluded.at)
SELECT key_id, per_second FROM demand
WHERE key_id = ANY(:key_ids::text[]) AND process_id <> :process_id::text
  AND at > (EXTRACT(EPOCH FROM clock_timestamp()) * 1000)::bigint - :told_for::bigint;

-- name: prune_demand
-- What somebody is about to renew is passed over: nobody waits for this.
DELETE FROM demand WHERE (key_id, process_id) IN (
  SELECT key_id, process_id FROM demand
  WHERE at < (EXTRACT(EPOCH FROM clock_timestamp()) * 1000)::bigint - :kept_for::bigint
  FOR UPDATE SKIP LOCKED);
