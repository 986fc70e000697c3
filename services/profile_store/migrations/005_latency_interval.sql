-- A predicted latency comes with the upper end of its interval: a target must hold for that.
ALTER TABLE profile ADD COLUMN latency_p99_high_seconds double precision;
