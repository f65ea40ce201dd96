"""A market whose prices go up and down: a program of its own, which knows Kafka and no Django.

    python -m demo_project.market

It writes each new price into the topic that the board shows. The key is what is sold, and the
value is JSON. The topic is compacted: Kafka keeps the last price of each. Any other program may
write there as well, such as Kafka's own console producer.
"""

import json
import os
import random
import time

from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

SERVERS = os.environ.get("KAFKA_BOOTSTRAP_SERVERS", "localhost:9092")
TOPIC = f"{os.environ.get('DEMO_PREFIX', 'demo')}.prices"

PRICES = {
    "cocoa": 7.85,
    "coffee": 6.4,
    "copper": 9.1,
    "cotton": 1.72,
    "honey": 11.3,
    "pepper": 8.2,
    "saffron": 1640.0,
    "silver": 982.5,
    "tea": 4.15,
    "vanilla": 212.0,
}
"""What is sold, and the price of a kilogram when the market opens."""

CHANGES_PER_SECOND = 3

_TOPIC_CONFIG = {
    "cleanup.policy": "compact",
    # A browser that comes back within ten minutes finds each change that it missed.
    "min.compaction.lag.ms": "600000",
    # Kafka compacts no segment that it still writes to; by default it does so for a week.
    "segment.ms": "600000",
}


def create_topic() -> None:
    """Create the topic, unless it is there."""
    topic = NewTopic(TOPIC, num_partitions=3, config=_TOPIC_CONFIG)
    admin = AdminClient({"bootstrap.servers": SERVERS})
    # The embedded broker creates no topic on request, but each one that a producer asks for.
    fine = (KafkaError.TOPIC_ALREADY_EXISTS, KafkaError._UNSUPPORTED_FEATURE)
    try:
        admin.create_topics([topic])[TOPIC].result()
    except KafkaException as error:
        if error.args[0].code() not in fine:
            raise


def main() -> None:
    """Open the market; it never closes."""
    create_topic()
    # Java's partitioner, so that all prices of one key share a partition, whoever writes them. The
    # workers tell of an outage; this program does not.
    producer = Producer(
        {"bootstrap.servers": SERVERS, "partitioner": "murmur2_random", "log_level": 0}
    )
    prices = dict(PRICES)
    for name in prices:
        producer.produce(TOPIC, json.dumps({"price": prices[name]}), name)
    while True:
        producer.poll(0)
        time.sleep(random.expovariate(CHANGES_PER_SECOND))
        name, usual = random.choice(list(PRICES.items()))
        # A random walk, with a pull towards the usual price.
        prices[name] += 0.02 * (usual - prices[name]) + random.gauss(0, 0.006 * usual)
        producer.produce(TOPIC, json.dumps({"price": round(prices[name], 2)}), name)


if __name__ == "__main__":
    main()
