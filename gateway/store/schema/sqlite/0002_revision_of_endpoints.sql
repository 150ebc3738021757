-- The number of the revision that an endpoint is of: of two versions of one, the later is known by it.
ALTER TABLE endpoints ADD COLUMN revision INTEGER NOT NULL DEFAULT 0;
