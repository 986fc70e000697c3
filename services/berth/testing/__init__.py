"""Real servers for tests: a PostgreSQL server and a Kafka broker on free loopback ports."""
