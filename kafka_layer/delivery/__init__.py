"""From a record to the receives of this process. Knows nothing of Kafka."""
