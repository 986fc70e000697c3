-- Latencies of the last spans that told them, the newest last: [[p50, p90, p99], ...] in seconds. latency_p50_seconds and
-- latency_p99_seconds are read no more: they held means of quantiles, which are no quantiles, so latencies are learnt anew.
-- They stay, nullable as they are, for a replica of the last release that runs beside this one still selects them.
ALTER TABLE estimate
    ADD COLUMN windows      jsonb NOT NULL DEFAULT '[]',
    ADD COLUMN told_latency double precision;
