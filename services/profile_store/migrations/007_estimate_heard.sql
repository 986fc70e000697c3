-- When the last span of it came, of whatever worth: what never became a profile is forgotten.
ALTER TABLE estimate ADD COLUMN heard_at timestamptz NOT NULL DEFAULT clock_timestamp();
