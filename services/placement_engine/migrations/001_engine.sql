-- The placement engine's authority: jobs, claims, and the ledger of what is used.
-- Times are seconds since the epoch.

CREATE TABLE pool (
    name          text PRIMARY KEY,
    -- Raised at each take-over. Read FOR SHARE in every decision's transaction: a planner that was paused and
    -- wakes up finds another epoch and cannot commit.
    epoch         bigint NOT NULL DEFAULT 0,
    planner       text   NOT NULL DEFAULT '',
    seen_at       float8 NOT NULL DEFAULT 0,
    record        bytea  NOT NULL DEFAULT ''
);
INSERT INTO pool (name) VALUES ('default');

CREATE TABLE queue (
    name   text  PRIMARY KEY,
    record bytea NOT NULL
);

CREATE TABLE node (
    name            text   PRIMARY KEY,
    pool            text   NOT NULL,
    version         bigint NOT NULL,
    record          bytea  NOT NULL,
    cpu_capacity    bigint NOT NULL,
    cpu_used        bigint NOT NULL DEFAULT 0,
    memory_capacity bigint NOT NULL,
    memory_used     bigint NOT NULL DEFAULT 0,
    CONSTRAINT node_cpu_within_capacity CHECK (0 <= cpu_used AND cpu_used <= cpu_capacity),
    CONSTRAINT node_memory_within_capacity CHECK (0 <= memory_used AND memory_used <= memory_capacity)
) WITH (fillfactor = 50);

CREATE TABLE device (
    device_id      text    PRIMARY KEY,
    node           text    NOT NULL,
    capacity_milli integer NOT NULL,
    used_milli     integer NOT NULL DEFAULT 0,
    CONSTRAINT device_within_capacity CHECK (0 <= used_milli AND used_milli <= capacity_milli)
) WITH (fillfactor = 50);
CREATE INDEX device_node ON device (node);

CREATE TABLE job (
    job_id            text     PRIMARY KEY,
    tenant            text     NOT NULL,
    name              text     NOT NULL,
    idempotency_key   text     NOT NULL,
    digest            bytea    NOT NULL,
    spec              bytea    NOT NULL,
    queue             text     NOT NULL,
    pool              text     NOT NULL,
    traceparent       text     NOT NULL,
    submitted_at      float8   NOT NULL,
    accepted_at       float8   NOT NULL,
    state             smallint NOT NULL DEFAULT 1,
    message           text     NOT NULL DEFAULT '',
    attempt           integer  NOT NULL DEFAULT 0,
    version           bigint   NOT NULL DEFAULT 1,
    placed_at         float8,
    bound_at          float8,
    started_at        float8,
    finished_at       float8,
    not_before        float8   NOT NULL DEFAULT 0,
    settled_version   bigint   NOT NULL DEFAULT 0,
    lifecycle_version bigint   NOT NULL DEFAULT 0,
    members           bytea    NOT NULL DEFAULT '',
    UNIQUE (tenant, idempotency_key)
) WITH (fillfactor = 60);
CREATE INDEX job_name ON job (tenant, name);
CREATE INDEX job_open ON job (pool, state) WHERE state IN (1, 2, 3, 4, 8);
CREATE INDEX job_order ON job (accepted_at, job_id);

-- One row a device of a member, and one a member for CPU and memory of its node.
CREATE TABLE claim (
    job_id       text    NOT NULL REFERENCES job,
    attempt      integer NOT NULL,
    member       integer NOT NULL,
    device_id    text    NOT NULL,
    milli        integer NOT NULL CHECK (milli > 0),
    memory_bytes bigint  NOT NULL,
    PRIMARY KEY (job_id, member, device_id)
);
CREATE INDEX claim_device ON claim (device_id);
CREATE TABLE host_claim (
    job_id       text    NOT NULL REFERENCES job,
    attempt      integer NOT NULL,
    member       integer NOT NULL,
    node         text    NOT NULL,
    cpu_milli    bigint  NOT NULL CHECK (cpu_milli >= 0),
    memory_bytes bigint  NOT NULL CHECK (memory_bytes >= 0),
    PRIMARY KEY (job_id, member)
);
CREATE INDEX host_claim_node ON host_claim (node);

CREATE TABLE decision (
    sequence   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    job_id     text   NOT NULL,
    attempt    integer NOT NULL,
    record     bytea  NOT NULL,
    UNIQUE (job_id, attempt)
);

-- The latest answer to "why": of the last decision, or of the last look at a waiting job.
CREATE TABLE explanation (
    job_id text  PRIMARY KEY,
    record bytea NOT NULL
);
