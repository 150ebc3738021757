-- The secret before this one, and until when it is in force beside it; headers that go with each delivery: a JSON object.
-- With a key in `secrets.encryption_key` the secrets and the headers are stored encrypted.
ALTER TABLE endpoints ADD COLUMN previous_secret TEXT;
ALTER TABLE endpoints ADD COLUMN previous_secret_until INTEGER;
ALTER TABLE endpoints ADD COLUMN headers TEXT;
-- Probes since it was disabled by failures, and when the next one is due.
ALTER TABLE endpoints ADD COLUMN probe_count INTEGER NOT NULL DEFAULT 0;
ALTER TABLE endpoints ADD COLUMN probe_at INTEGER;
CREATE INDEX endpoints_to_probe ON endpoints (probe_at) WHERE probe_at IS NOT NULL;
CREATE INDEX endpoints_with_previous_secret ON endpoints (previous_secret_until) WHERE previous_secret_until IS NOT NULL;

-- Who changed what, when and from where. Never a secret.
CREATE TABLE audit_log (
  id TEXT PRIMARY KEY,
  organization_id TEXT, -- NULL with mode: concerns no organization, or all of them
  mode TEXT CHECK (mode IN ('live', 'sandbox')),
  at INTEGER NOT NULL,
  actor TEXT NOT NULL, -- a key's id, "operator", "process" or "gateway"
  address TEXT, -- of the client; NULL: this machine
  action TEXT NOT NULL,
  target_id TEXT NOT NULL,
  changes TEXT NOT NULL -- a JSON object
) STRICT, WITHOUT ROWID;
CREATE INDEX audit_log_by_tenant ON audit_log (organization_id, mode, id);

-- Of each endpoint of which deliveries have failed for good: when that was last told to the operator, how many since, and the last of them.
CREATE TABLE failure_notices (
  endpoint_id TEXT PRIMARY KEY,
  told_at INTEGER NOT NULL,
  untold INTEGER NOT NULL,
  delivery_id TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX failure_notices_untold ON failure_notices (told_at) WHERE untold > 0;
