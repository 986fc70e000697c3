-- Byte order of the key's texts, so that pages and locks have one order everywhere.
CREATE TABLE profile (
    workload             text COLLATE "C" NOT NULL,
    accelerator          text COLLATE "C" NOT NULL,
    devices              integer NOT NULL CHECK (devices >= 1),
    co_located_with      text COLLATE "C" NOT NULL,
    task                 text NOT NULL,
    precision            text NOT NULL,
    software_stack       text NOT NULL,
    throughput           double precision CHECK (throughput > 0 AND throughput < 'infinity'),
    throughput_unit      text NOT NULL,
    latency_p50_seconds  double precision,
    latency_p99_seconds  double precision,
    memory_bytes         bigint CHECK (memory_bytes > 0),
    power_watts          double precision,
    peak_power_watts     double precision,
    price_per_hour       double precision,
    provenance           integer NOT NULL CHECK (provenance > 0),
    relative_uncertainty double precision,
    source               text NOT NULL,
    measured_at          timestamptz,
    samples              bigint NOT NULL,
    version              bigint NOT NULL DEFAULT 1,
    updated_at           timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (workload, accelerator, devices, co_located_with)
);

CREATE INDEX profile_accelerator ON profile (accelerator);
