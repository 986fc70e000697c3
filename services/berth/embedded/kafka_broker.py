"""The embedded Kafka broker: librdkafka's in-process broker, in a process of its own.

`python -m berth.embedded.kafka_broker` prints its address, `host:port`, once every topic exists, and
serves until SIGTERM. It keeps its log in memory (some 5 MB a partition) and takes one member a group: it is
for trying Berth out. Rebalances, failures and figures need Apache Kafka.
"""

import signal
import sys
import time

from berth import topics

__all__ = ["main"]


def main() -> None:
    from confluent_kafka import KafkaException, Producer

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    producer = Producer({"test.mock.num.brokers": 1, "log_level": 3})
    for _ in range(200):
        try:
            brokers = producer.list_topics(timeout=1.0).brokers
            break
        except KafkaException:
            time.sleep(0.02)
    else:
        sys.exit("the embedded broker did not start")
    # It knows no create-topics request; asking for a topic's metadata makes the topic, with 4 partitions.
    for topic in topics.SOURCE_TOPICS:
        for name in (topic, topics.dead_letter_topic(topic)):
            producer.list_topics(topic=name, timeout=5.0)
    broker = next(iter(brokers.values()))
    print(f"{broker.host}:{broker.port}", flush=True)
    signal.sigwait({signal.SIGTERM})


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    main()
