-- Everything the gateway keeps. Every row is its tenant's first: organization_id, mode.
-- Times are milliseconds since the Unix epoch, UTC. What publishers and receivers send is BLOB.

-- What belongs to the store itself: `cursor_key`, and `last_batch`, by which a commit with an unknown end is recognized.
CREATE TABLE meta (
  name TEXT PRIMARY KEY,
  value ANY NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE organizations (
  id TEXT PRIMARY KEY,
  api_version TEXT
) STRICT, WITHOUT ROWID;

CREATE TABLE endpoints (
  id TEXT PRIMARY KEY,
  organization_id TEXT NOT NULL,
  mode TEXT NOT NULL CHECK (mode IN ('live', 'sandbox')),
  url TEXT NOT NULL,
  events TEXT NOT NULL, -- a JSON array
  description TEXT,
  api_version TEXT,
  secret TEXT NOT NULL,
  is_active INTEGER NOT NULL,
  disabled_at INTEGER,
  disabled_reason TEXT CHECK (disabled_reason IN ('user', 'failures', 'gone')),
  activation INTEGER NOT NULL,
  deactivated_at INTEGER,
  swept_activation INTEGER NOT NULL DEFAULT 0, -- no pending delivery of a lower activation is left
  failed_in_row INTEGER NOT NULL,
  paused_until INTEGER,
  created_at INTEGER NOT NULL,
  deleted_at INTEGER
) STRICT;
CREATE INDEX endpoints_by_tenant ON endpoints (organization_id, mode, id) WHERE deleted_at IS NULL;
CREATE INDEX endpoints_unswept ON endpoints (id) WHERE swept_activation < activation;

-- Each change of an endpoint, numbered within the tenant. An event names the number that it was matched against.
CREATE TABLE revisions (
  organization_id TEXT NOT NULL,
  mode TEXT NOT NULL,
  number INTEGER NOT NULL,
  endpoint_id TEXT NOT NULL,
  events TEXT NOT NULL, -- a JSON array
  is_active INTEGER NOT NULL,
  cause TEXT NOT NULL CHECK (cause IN ('created', 'updated', 'enabled', 'disabled', 'deleted')),
  actor TEXT NOT NULL,
  at INTEGER NOT NULL,
  PRIMARY KEY (organization_id, mode, number)
) STRICT, WITHOUT ROWID;

-- Rows are added in the order of their ids, so the rowid tells the age. `data` comes last: what does not ask for it
-- does not read its pages.
CREATE TABLE events (
  organization_id TEXT NOT NULL,
  mode TEXT NOT NULL,
  id TEXT NOT NULL,
  type TEXT NOT NULL,
  timestamp INTEGER NOT NULL,
  external_id TEXT,
  created_at INTEGER NOT NULL,
  revision INTEGER NOT NULL,
  data BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX events_by_id ON events (organization_id, mode, id);
CREATE UNIQUE INDEX events_by_external_id ON events (organization_id, mode, external_id) WHERE external_id IS NOT NULL;

-- `due_at` is set while an automatic attempt is to come; a test, which its tester sends, is pending without one.
CREATE TABLE deliveries (
  organization_id TEXT NOT NULL,
  mode TEXT NOT NULL,
  id TEXT NOT NULL,
  endpoint_id TEXT NOT NULL,
  event_id TEXT NOT NULL,
  event_type TEXT NOT NULL,
  state TEXT NOT NULL CHECK (state IN ('pending', 'delivered', 'failed', 'canceled')),
  reason TEXT,
  "trigger" TEXT NOT NULL CHECK ("trigger" IN ('event', 'test', 'replay')),
  activation INTEGER NOT NULL,
  api_version TEXT NOT NULL,
  attempt_count INTEGER NOT NULL DEFAULT 0,
  scheduled_count INTEGER NOT NULL DEFAULT 0,
  due_at INTEGER,
  last_status INTEGER,
  last_error TEXT,
  created_at INTEGER NOT NULL,
  finished_at INTEGER,
  CHECK (due_at IS NULL OR state = 'pending')
) STRICT;
CREATE UNIQUE INDEX deliveries_by_id ON deliveries (organization_id, mode, id);
CREATE INDEX deliveries_by_endpoint ON deliveries (endpoint_id, id);
CREATE INDEX deliveries_by_event ON deliveries (event_id);
CREATE INDEX deliveries_failed ON deliveries (organization_id, mode, id) WHERE state = 'failed';
-- The queue of due work: first attempts by age (the rowid), later ones by due time.
CREATE INDEX due_first ON deliveries (endpoint_id, activation) WHERE due_at IS NOT NULL AND scheduled_count = 0;
CREATE INDEX due_retries ON deliveries (endpoint_id, activation, due_at) WHERE due_at IS NOT NULL AND scheduled_count > 0;
CREATE INDEX pending_tests ON deliveries (id) WHERE state = 'pending' AND "trigger" = 'test';

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
  CASE WHEN d.activation < e.activation THEN NULL ELSE MAX(d.due_at, COALESCE(e.paused_until, 0)) END AS due_at,
  d.last_status, d.last_error, d.created_at,
  CASE WHEN d.due_at IS NOT NULL AND d.activation < e.activation THEN e.deactivated_at ELSE d.finished_at END AS finished_at
FROM deliveries AS d CROSS JOIN endpoints AS e ON e.id = d.endpoint_id;

-- Retries by hand that wait for their lane.
CREATE TABLE retries (
  id TEXT PRIMARY KEY,
  organization_id TEXT NOT NULL,
  mode TEXT NOT NULL,
  endpoint_id TEXT NOT NULL,
  delivery_id TEXT NOT NULL
) STRICT;
CREATE INDEX retries_by_endpoint ON retries (endpoint_id, id);
CREATE INDEX retries_by_delivery ON retries (delivery_id);

CREATE TABLE attempts (
  organization_id TEXT NOT NULL,
  mode TEXT NOT NULL,
  delivery_id TEXT NOT NULL,
  number INTEGER NOT NULL,
  "trigger" TEXT NOT NULL CHECK ("trigger" IN ('automatic', 'manual')),
  started_at INTEGER NOT NULL,
  duration_ms INTEGER NOT NULL,
  status INTEGER,
  error TEXT,
  error_message TEXT,
  url TEXT NOT NULL,
  resent INTEGER NOT NULL,
  request_headers BLOB NOT NULL,
  response_headers BLOB,
  response_body BLOB
) STRICT;
CREATE UNIQUE INDEX attempts_by_delivery ON attempts (delivery_id, number);

CREATE TABLE api_keys (
  id TEXT PRIMARY KEY,
  hash BLOB NOT NULL UNIQUE,
  prefix TEXT NOT NULL,
  name TEXT,
  organization_id TEXT, -- NULL with mode: a service key
  mode TEXT CHECK (mode IN ('live', 'sandbox')),
  permissions TEXT, -- a JSON array; NULL: everything
  created_at INTEGER NOT NULL,
  expires_at INTEGER,
  last_used_at INTEGER,
  revoked_at INTEGER
) STRICT;
CREATE INDEX api_keys_by_tenant ON api_keys (organization_id, mode, id) WHERE revoked_at IS NULL;

CREATE TABLE idempotent_answers (
  key_hash BLOB PRIMARY KEY,
  request_hash BLOB NOT NULL,
  expires_at INTEGER NOT NULL,
  answer BLOB NOT NULL
) STRICT;
CREATE INDEX idempotent_answers_by_expiry ON idempotent_answers (expires_at);
