-- What running jobs taught. The last span taken of each attempt: what is not newer is a repetition.
CREATE TABLE learnt_run (
    job_id   text COLLATE "C" NOT NULL,
    attempt  integer NOT NULL,
    sequence bigint NOT NULL,
    at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (job_id, attempt)
);
CREATE INDEX learnt_run_at ON learnt_run (at);

-- One estimate for each observed profile; the key is the profile's.
CREATE TABLE estimate (
    workload            text COLLATE "C" NOT NULL,
    accelerator         text COLLATE "C" NOT NULL,
    devices             integer NOT NULL,
    co_located_with     text COLLATE "C" NOT NULL,
    configuration       text COLLATE "C" NOT NULL,
    unit                text NOT NULL DEFAULT '',
    -- Mean and variance of the logarithm of units a second, and how many spans they stand for.
    level               double precision NOT NULL DEFAULT 0 CHECK (level > '-infinity' AND level < 'infinity'),
    variance            double precision NOT NULL DEFAULT 0 CHECK (variance >= 0 AND variance < 'infinity'),
    weight              integer NOT NULL DEFAULT 0,
    learnt              bigint NOT NULL DEFAULT 0,
    unwatched           bigint NOT NULL DEFAULT 0,
    runs                bigint NOT NULL DEFAULT 0,
    -- Spans by reason, and the row of outliers that may become a new level: [[level, job id, attempt], ...].
    set_aside           jsonb NOT NULL DEFAULT '{}',
    outlying            jsonb NOT NULL DEFAULT '[]',
    latency_p50_seconds double precision,
    latency_p99_seconds double precision,
    -- Of the profile that was published last.
    told_throughput     double precision,
    told_uncertainty    double precision,
    last_at             timestamptz,
    PRIMARY KEY (workload, accelerator, devices, co_located_with, configuration)
);
