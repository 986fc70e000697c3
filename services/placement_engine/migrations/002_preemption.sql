-- Preemption: a release that ends in waiting again, and what partitions of a device are taken.

ALTER TABLE job
    ADD COLUMN requeue       boolean NOT NULL DEFAULT false,
    ADD COLUMN bind_failures integer NOT NULL DEFAULT 0,
    ADD COLUMN preemptions   integer NOT NULL DEFAULT 0;

-- One row a memory slice of a partitioned device: the key refuses partitions that overlap.
CREATE TABLE claim_slice (
    device_id text     NOT NULL,
    slice     smallint NOT NULL CHECK (slice BETWEEN 0 AND 7),
    job_id    text     NOT NULL REFERENCES job,
    member    integer  NOT NULL,
    PRIMARY KEY (device_id, slice)
);
CREATE INDEX claim_slice_job ON claim_slice (job_id);

-- Past use of each queue in normalised device-seconds, as of `at`: what fair share remembers across a restart.
CREATE TABLE queue_usage (
    pool  text   NOT NULL,
    queue text   NOT NULL,
    value float8 NOT NULL,
    at    float8 NOT NULL,
    PRIMARY KEY (pool, queue)
);
