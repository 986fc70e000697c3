-- Delivery, the same in each service's schema.

-- The next record to handle, written in the transaction of the effect. `log` names the broker's log.
CREATE TABLE consumer_offset (
    log         text    NOT NULL,
    topic       text    NOT NULL,
    partition   integer NOT NULL,
    next_offset bigint  NOT NULL,
    PRIMARY KEY (log, topic, partition)
);

-- Records to publish, written in the transaction of the effect and deleted once the broker has them.
CREATE TABLE outbox (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    topic      text  NOT NULL,
    key        bytea,
    value      bytea,
    headers    text  NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
