"""The way of a message from its record to a receive of this process. Knows nothing of Kafka."""
