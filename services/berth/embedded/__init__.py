"""The whole system on one machine, from wheels: PostgreSQL, Kafka, the four services, agent, fleet."""
