-- The secret before this one, and until when it is in force beside it; headers that go with each delivery: a JSON object.
-- With a key in `secrets.encryption_key` the secrets and the headers are stored encrypted.
ALTER TABLE endpoints
  ADD COLUMN previous_secret text,
  ADD COLUMN previous_secret_until bigint,
  ADD COLUMN headers text,
-- Probes since it was disabled by failures, and when the next one is due.
  ADD COLUMN probe_count bigint NOT NULL DEFAULT 0,
  ADD COLUMN probe_at bigint;
CREATE INDEX endpoints_to_probe ON endpoints (probe_at) WHERE probe_at IS NOT NULL;
CREATE INDEX endpoints_with_previous_secret ON endpoints (previous_secret_until) WHERE previous_secret_until IS NOT NULL;

-- Who changed what, when and from where. Never a secret.
CREATE TABLE audit_log (
  id text COLLATE "C" PRIMARY KEY,
  organization_id text COLLATE "C", -- NULL with mode: concerns no organization, or all of them
  mode text CHECK (mode IN ('live', 'sandbox')),
  at bigint NOT NULL,
  actor text NOT NULL, -- a key's id, "operator", "process" or "gateway"
  address text, -- of the client; NULL: this machine
  action text NOT NULL,
  target_id text NOT NULL,
  changes text NOT NULL -- a JSON object
);
CREATE INDEX audit_log_by_tenant ON audit_log (organization_id, mode, id);

-- Of each endpoint of which deliveries have failed for good: when that was last told to the operator, how many since, and the last of them.
CREATE TABLE failure_notices (
  endpoint_id text COLLATE "C" PRIMARY KEY,
  told_at bigint NOT NULL,
  untold bigint NOT NULL,
  delivery_id text COLLATE "C" NOT NULL
) WITH (fillfactor = 70);
CREATE INDEX failure_notices_untold ON failure_notices (told_at) WHERE untold > 0;
