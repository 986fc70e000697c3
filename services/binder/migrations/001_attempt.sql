-- One row an attempt to bind: the intent, what was learnt, and what was told. Times are seconds since the epoch.
CREATE TABLE attempt (
    job_id         text    NOT NULL,
    attempt        integer NOT NULL CHECK (attempt > 0),
    -- Of the newest record of placements.decided that was applied.
    version        bigint  NOT NULL,
    state          text    NOT NULL
        CHECK (state IN ('INTENT', 'UNKNOWN', 'BOUND', 'RUNNING', 'SUCCEEDED', 'FAILED', 'RELEASED')),
    executor       text    NOT NULL,
    tenant         text    NOT NULL,
    traceparent    text    NOT NULL,
    -- The Bind as it came; empty where a Release came first.
    bind           bytea   NOT NULL,
    members        integer NOT NULL,
    decided_at     double precision NOT NULL,
    intended_at    double precision NOT NULL,
    -- When the worker looks at it next, while it is not ended and something is to be done.
    next_try_at    double precision NOT NULL,
    -- Calls begun for it. 0: the executor has never heard of it.
    tries          integer NOT NULL DEFAULT 0,
    release_wanted boolean NOT NULL DEFAULT false,
    release_reason text    NOT NULL DEFAULT '',
    bound_at       double precision,
    started_at     double precision,
    ended_at       double precision,
    told_unknown   boolean NOT NULL DEFAULT false,
    -- Events published; the version of an event is made from it.
    published      integer NOT NULL DEFAULT 0,
    message        text    NOT NULL DEFAULT '',
    exit_code      integer,
    PRIMARY KEY (job_id, attempt)
) WITH (fillfactor = 70);

CREATE INDEX attempt_due ON attempt (executor, next_try_at)
    WHERE state IN ('INTENT', 'UNKNOWN') OR (release_wanted AND state IN ('BOUND', 'RUNNING'));
CREATE INDEX attempt_held ON attempt (executor, job_id, attempt) WHERE state IN ('BOUND', 'RUNNING');
