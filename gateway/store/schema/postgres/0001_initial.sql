-- Everything the gateway keeps. Every row is its tenant's first: organization_id, mode.
-- Times are milliseconds since the Unix epoch, UTC. What publishers and receivers send is bytea. Ids are compared byte by
-- byte (COLLATE "C"), so that they sort by age.

-- What belongs to the store itself: `cursor_key`.
CREATE TABLE meta (
  name text PRIMARY KEY,
  value bytea NOT NULL
);

CREATE TABLE organizations (
  id text COLLATE "C" PRIMARY KEY,
  api_version text
);

-- One row for each tenant that has had an endpoint: `revision` is the number of its last revision. Whoever numbers one
-- locks it, and whoever publishes compares it.
CREATE TABLE tenants (
  organization_id text COLLATE "C" NOT NULL,
  mode text NOT NULL,
  revision bigint NOT NULL,
  PRIMARY KEY (organization_id, mode)
) WITH (fillfactor = 70);

CREATE TABLE endpoints (
  id text COLLATE "C" PRIMARY KEY,
  organization_id text COLLATE "C" NOT NULL,
  mode text NOT NULL CHECK (mode IN ('live', 'sandbox')),
  url text NOT NULL,
  events text[] NOT NULL,
  description text,
  api_version text,
  secret text NOT NULL,
  is_active boolean NOT NULL,
  disabled_at bigint,
  disabled_reason text CHECK (disabled_reason IN ('user', 'failures', 'gone')),
  activation bigint NOT NULL,
  deactivated_at bigint,
  swept_activation bigint NOT NULL DEFAULT 0, -- no pending delivery of a lower activation is left
  failed_in_row bigint NOT NULL,
  paused_until bigint,
  created_at bigint NOT NULL,
  deleted_at bigint,
  revision bigint NOT NULL DEFAULT 0 -- the number of its last one
) WITH (fillfactor = 70);
CREATE INDEX endpoints_by_tenant ON endpoints (organization_id, mode, id) WHERE deleted_at IS NULL;
CREATE INDEX endpoints_unswept ON endpoints (id) WHERE swept_activation < activation;

-- Each change of an endpoint, numbered within the tenant. An event names the number that it was matched against.
CREATE TABLE revisions (
  organization_id text COLLATE "C" NOT NULL,
  mode text NOT NULL,
  number bigint NOT NULL,
  endpoint_id text COLLATE "C" NOT NULL,
  events text[] NOT NULL,
  is_active boolean NOT NULL,
  cause text NOT NULL CHECK (cause IN ('created', 'updated', 'enabled', 'disabled', 'deleted')),
  actor text NOT NULL,
  at bigint NOT NULL,
  PRIMARY KEY (organization_id, mode, number)
);

-- Events, deliveries and attempts have a partition for each day (UTC) of the id that is the key: see `partitions.py`.
CREATE TABLE events (
  organization_id text COLLATE "C" NOT NULL,
  mode text NOT NULL,
  id text COLLATE "C" NOT NULL,
  type text NOT NULL,
  timestamp bigint NOT NULL,
  external_id text COLLATE "C",
  created_at bigint NOT NULL,
  revision bigint NOT NULL,
  data bytea NOT NULL
) PARTITION BY RANGE (id);
CREATE UNIQUE INDEX events_by_id ON events (organization_id, mode, id);

-- Which event has an external id. A table of its own: an index over all days of events cannot be unique.
CREATE TABLE external_ids (
  organization_id text COLLATE "C" NOT NULL,
  mode text NOT NULL,
  external_id text COLLATE "C" NOT NULL,
  event_id text COLLATE "C" NOT NULL,
  PRIMARY KEY (organization_id, mode, external_id)
);
CREATE INDEX external_ids_by_event ON external_ids (event_id);

-- `due_at` is set while an automatic attempt is to come; a test, which its tester sends, is pending without one.
-- No index holds a column that a success changes, so that it is stored in place (HOT): hence `is_failed`.
CREATE TABLE deliveries (
  organization_id text COLLATE "C" NOT NULL,
  mode text NOT NULL,
  id text COLLATE "C" NOT NULL,
  endpoint_id text COLLATE "C" NOT NULL,
  event_id text COLLATE "C" NOT NULL,
  event_type text NOT NULL,
  state text NOT NULL CHECK (state IN ('pending', 'delivered', 'failed', 'canceled')),
  reason text,
  "trigger" text NOT NULL CHECK ("trigger" IN ('event', 'test', 'replay')),
  activation bigint NOT NULL,
  api_version text NOT NULL,
  attempt_count bigint NOT NULL DEFAULT 0,
  scheduled_count bigint NOT NULL DEFAULT 0,
  due_at bigint,
  last_status integer,
  last_error text,
  created_at bigint NOT NULL,
  finished_at bigint,
  is_failed boolean NOT NULL DEFAULT false,
  CHECK (due_at IS NULL OR state = 'pending'),
  CHECK (is_failed = (state = 'failed'))
) PARTITION BY RANGE (id);
CREATE UNIQUE INDEX deliveries_by_id ON deliveries (organization_id, mode, id);
CREATE INDEX deliveries_by_endpoint ON deliveries (endpoint_id, id);
CREATE INDEX deliveries_by_event ON deliveries (event_id, id);
CREATE INDEX deliveries_failed ON deliveries (organization_id, mode, id) WHERE is_failed;

-- What is pending, with all that a claim hands out: small, so that its churn costs little. First attempts are taken by
-- age (the delivery's id), later ones by due time. A test is in no bucket: no lane is handed it.
CREATE TABLE due (
  delivery_id text COLLATE "C" PRIMARY KEY,
  bucket smallint CHECK (bucket BETWEEN 0 AND 63),
  endpoint_id text COLLATE "C" NOT NULL,
  event_id text COLLATE "C" NOT NULL,
  activation bigint NOT NULL,
  attempt_count bigint NOT NULL DEFAULT 0,
  scheduled_count bigint NOT NULL DEFAULT 0,
  due_at bigint NOT NULL,
  created_at bigint NOT NULL,
  api_version text NOT NULL,
  "trigger" text NOT NULL,
  organization_id text COLLATE "C" NOT NULL,
  mode text NOT NULL,
  data_bytes bigint NOT NULL, -- of the event
  CHECK ((bucket IS NULL) = ("trigger" = 'test'))
) WITH (
  fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0,
  autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 10000);
-- Not by the id alone: the primary key could be walked in that order, too, past everybody else's rows.
CREATE INDEX due_first ON due (bucket, endpoint_id, activation, created_at, delivery_id) WHERE scheduled_count = 0;
CREATE INDEX due_retries ON due (bucket, endpoint_id, activation, due_at) WHERE scheduled_count > 0;
CREATE INDEX due_tests ON due (delivery_id) WHERE bucket IS NULL;
CREATE INDEX due_replays ON due (event_id) WHERE "trigger" = 'replay';

-- Deliveries as everybody sees them: one whose endpoint's activation has passed is canceled, whether or not that is
-- stored yet.
CREATE VIEW seen_deliveries AS
SELECT
  d.organization_id, d.mode, d.id, d.endpoint_id, d.event_id, d.event_type,
  CASE WHEN d.due_at IS NOT NULL AND d.activation < e.activation THEN 'canceled' ELSE d.state END AS state,
  CASE WHEN d.due_at IS NOT NULL AND d.activation < e.activation
    THEN CASE WHEN e.deleted_at IS NULL THEN 'endpoint_disabled' ELSE 'endpoint_deleted' END
    ELSE d.reason END AS reason,
  d."trigger", d.activation, d.api_version, d.attempt_count, d.scheduled_count,
  -- Not before its endpoint's pause ends.
  CASE WHEN d.due_at IS NULL OR d.activation < e.activation THEN NULL
    ELSE GREATEST(d.due_at, e.paused_until) END AS due_at,
  d.last_status, d.last_error, d.created_at,
  CASE WHEN d.due_at IS NOT NULL AND d.activation < e.activation THEN e.deactivated_at ELSE d.finished_at END AS finished_at
FROM deliveries AS d JOIN endpoints AS e ON e.id = d.endpoint_id;

-- Retries by hand that wait for their lane.
CREATE TABLE retries (
  id text COLLATE "C" PRIMARY KEY,
  organization_id text COLLATE "C" NOT NULL,
  mode text NOT NULL,
  bucket smallint NOT NULL CHECK (bucket BETWEEN 0 AND 63),
  endpoint_id text COLLATE "C" NOT NULL,
  delivery_id text COLLATE "C" NOT NULL,
  event_id text COLLATE "C" NOT NULL,
  data_bytes bigint NOT NULL -- of the event
) WITH (
  fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX retries_by_endpoint ON retries (bucket, endpoint_id, id);
CREATE INDEX retries_by_delivery ON retries (delivery_id);
CREATE INDEX retries_by_event ON retries (event_id);

-- `number` counts the delivery's attempts. One that is fenced was made by a node that had lost its lease, and may have
-- the number of one that counts.
CREATE TABLE attempts (
  organization_id text COLLATE "C" NOT NULL,
  mode text NOT NULL,
  delivery_id text COLLATE "C" NOT NULL,
  number bigint NOT NULL,
  "trigger" text NOT NULL CHECK ("trigger" IN ('automatic', 'manual')),
  started_at bigint NOT NULL,
  duration_ms bigint NOT NULL,
  status integer,
  error text,
  error_message text,
  url text NOT NULL,
  resent boolean NOT NULL,
  fenced boolean NOT NULL,
  request_headers bytea NOT NULL,
  response_headers bytea,
  response_body bytea
) PARTITION BY RANGE (delivery_id);
CREATE UNIQUE INDEX attempts_by_delivery ON attempts (delivery_id, number, fenced, started_at);

CREATE TABLE api_keys (
  id text COLLATE "C" PRIMARY KEY,
  hash bytea NOT NULL UNIQUE,
  prefix text NOT NULL,
  name text,
  organization_id text COLLATE "C", -- NULL with mode: a service key
  mode text CHECK (mode IN ('live', 'sandbox')),
  permissions text[], -- NULL: everything
  created_at bigint NOT NULL,
  expires_at bigint,
  last_used_at bigint,
  revoked_at bigint
) WITH (fillfactor = 70);
CREATE INDEX api_keys_by_tenant ON api_keys (organization_id, mode, id) WHERE revoked_at IS NULL;

-- Idempotent requests: under way in the process `process_id` while `answer` is NULL.
CREATE TABLE idempotent_requests (
  key_hash bytea PRIMARY KEY,
  request_hash bytea NOT NULL,
  process_id text NOT NULL,
  expires_at bigint NOT NULL,
  answer bytea
);
CREATE INDEX idempotent_requests_by_expiry ON idempotent_requests (expires_at);

-- What each process committed last on each of its connections that write: `token` tells the transaction. It is how one whose end
-- is unknown is recognized: its number alone says nothing, since a server that crashed gives the same one out again.
CREATE TABLE commits (
  process_id text COLLATE "C" NOT NULL,
  slot smallint NOT NULL,
  token bigint NOT NULL,
  at bigint NOT NULL DEFAULT (extract(epoch FROM clock_timestamp()) * 1000)::bigint,
  PRIMARY KEY (process_id, slot)
) WITH (fillfactor = 20, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);

-- The processes that share this store. One whose `renewals` stand still loses its leases.
CREATE TABLE nodes (
  id text COLLATE "C" PRIMARY KEY,
  name text NOT NULL,
  version text NOT NULL,
  started_at bigint NOT NULL,
  renewals bigint NOT NULL DEFAULT 0,
  renewed_at bigint NOT NULL DEFAULT (extract(epoch FROM clock_timestamp()) * 1000)::bigint, -- for people to look at
  lease_seconds double precision -- how long the others wait for it
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 200);

-- Who starts the attempts of the endpoints in each bucket. `epoch` is raised whenever a lease changes hands.
CREATE TABLE leases (
  bucket smallint PRIMARY KEY CHECK (bucket BETWEEN 0 AND 63),
  node_id text COLLATE "C",
  epoch bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 200);
INSERT INTO leases (bucket) SELECT generate_series(0, 63);

-- What a transaction did that other processes hold in memory, or have to act on. Read in the order of the transactions'
-- numbers, below the oldest that is still open.
CREATE TABLE news (
  xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
  process_id text NOT NULL,
  buckets bigint NOT NULL DEFAULT 0, -- one bit for each bucket that `work` is in
  work text[] NOT NULL DEFAULT '{}', -- ids of endpoints that have new deliveries
  endpoints text[] NOT NULL DEFAULT '{}', -- ids of those that were added or saved
  retried text[] NOT NULL DEFAULT '{}', -- ids of endpoints that have new retries by hand
  keys text[] NOT NULL DEFAULT '{}', -- ids of those that were added or revoked
  organizations text[] NOT NULL DEFAULT '{}', -- ids of those that were pinned
  at bigint NOT NULL DEFAULT (extract(epoch FROM clock_timestamp()) * 1000)::bigint
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX news_by_xid ON news (xid);

-- How many requests a second each process is asked for with an API key. Of no use after a crash: not logged.
CREATE UNLOGGED TABLE demand (
  key_id text COLLATE "C" NOT NULL,
  process_id text NOT NULL,
  per_second double precision NOT NULL,
  at bigint NOT NULL DEFAULT (extract(epoch FROM clock_timestamp()) * 1000)::bigint,
  PRIMARY KEY (key_id, process_id)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);
