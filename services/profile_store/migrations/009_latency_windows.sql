-- Latencies of the last spans that told them, the newest last: [[p50, p90, p99], ...] in seconds. What the dropped columns
-- held were means of quantiles, which are no quantiles: they are learnt anew.
ALTER TABLE estimate
    ADD COLUMN windows      jsonb NOT NULL DEFAULT '[]',
    ADD COLUMN told_latency double precision,
    DROP COLUMN latency_p50_seconds,
    DROP COLUMN latency_p99_seconds;
