-- Attempts that are asked how fast they are: from their start until they have ended and were read to the end.
CREATE TABLE report (
    job_id   text    NOT NULL,
    attempt  integer NOT NULL,
    executor text    NOT NULL,
    -- The executor's own: up to where it was read.
    mark     text    NOT NULL DEFAULT '',
    -- Observations told; the version of the next is one more.
    sequence bigint  NOT NULL DEFAULT 0,
    -- End of the span told last, seconds since the epoch.
    reached  double precision NOT NULL,
    PRIMARY KEY (job_id, attempt)
);
CREATE INDEX report_executor ON report (executor, job_id, attempt);
