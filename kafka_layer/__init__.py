"""A Django Channels channel layer backed by Apache Kafka topics."""

__version__ = "0.1.0"
