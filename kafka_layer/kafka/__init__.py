"""The layer's Kafka clients; the only package that imports confluent_kafka."""
