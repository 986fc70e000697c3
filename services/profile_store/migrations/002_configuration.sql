-- How a workload was run is part of the key: one workload has many batch sizes, precisions and parallelisms.
ALTER TABLE profile
    ADD COLUMN configuration           text COLLATE "C" NOT NULL DEFAULT '',
    ADD COLUMN model                   text NOT NULL DEFAULT '',
    ADD COLUMN batch_size              bigint,
    ADD COLUMN concurrency             bigint,
    ADD COLUMN request_rate            double precision,
    ADD COLUMN tensor_parallel         integer,
    ADD COLUMN pipeline_parallel       integer,
    ADD COLUMN data_parallel           integer,
    ADD COLUMN input_tokens            bigint,
    ADD COLUMN output_tokens           bigint,
    ADD COLUMN power_limit_watts       double precision,
    ADD COLUMN settings                text NOT NULL DEFAULT '',
    ADD COLUMN latency_mean_seconds    double precision,
    ADD COLUMN latency_p90_seconds     double precision,
    ADD COLUMN latency_p95_seconds     double precision,
    ADD COLUMN first_token_p50_seconds double precision,
    ADD COLUMN first_token_p99_seconds double precision,
    ADD COLUMN token_p50_seconds       double precision,
    ADD COLUMN token_p99_seconds       double precision,
    ADD COLUMN energy_joules_per_unit  double precision,
    ADD COLUMN stream_throughput       double precision,
    ADD COLUMN low_confidence          boolean NOT NULL DEFAULT false,
    ADD COLUMN operations              double precision,
    ADD COLUMN bytes_moved             double precision,
    ADD COLUMN busy_seconds            double precision;

-- As the store writes it from now on, so that a profile put again is the same profile.
UPDATE profile SET configuration = 'precision=' || precision WHERE precision <> '';

ALTER TABLE profile DROP CONSTRAINT profile_pkey;
ALTER TABLE profile ADD PRIMARY KEY (workload, accelerator, devices, co_located_with, configuration);
