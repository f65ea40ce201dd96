"""Worker channels: work queues of which each message has one receiver."""
